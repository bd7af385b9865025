"""Which memories of a namespace are copied: a walk from some of them, or all that a filter keeps."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sfm_graph.domain import inputs, validate
from sfm_graph.domain.identity import MemoryRef
from sfm_graph.domain.walk import WalkFilter
from sfm_graph.domain.where import EVERYTHING, Where, parse_where
from sfm_graph.errors import InvalidInput, TooLarge
from sfm_graph.services.memory_reads import require_declared
from sfm_graph.services.traversal import Traversal
from sfm_graph.services.view import View
from sfm_graph.store import search

MAX_STARTS = 100
MAX_DEPTH = 10
_KNOWN = frozenset({"start", "depth", "limit", "direction", "types", "where"})


@dataclass(frozen=True, slots=True)
class Selection:
    """`starts` and what is within `depth` links of them, or what `where` keeps; at most `limit` memories."""

    starts: tuple[MemoryRef, ...]
    walk: WalkFilter
    depth: int
    where: Where
    limit: int
    # As it was asked for, to be shown.
    shown: Mapping[str, Any]


def selection(source: str, given: Mapping[str, Any]) -> Selection:
    """A checked selection: `start` (references), `depth` 0 to 10, `direction`, `types`; or `where`; `limit` up to
    10,000, which is the default. Raises InvalidInput, MemoryNotFound for an id of another namespace."""
    asked = {name: value for name, value in given.items() if value is not None}
    if asked.keys() - _KNOWN:
        raise InvalidInput(f"a copy takes {', '.join(sorted(_KNOWN))}", field=min(asked.keys() - _KNOWN))
    if ("start" in asked) == ("where" in asked):
        raise InvalidInput("name either the memories to `start` from or a `where`", field="start")
    starts = asked.get("start", [])
    if not isinstance(starts, list | tuple) or len(starts) > MAX_STARTS or ("start" in asked and not starts):
        raise InvalidInput(f"start must be a list of 1 to {MAX_STARTS} references", field="start")
    most = validate.MAX_BULK_ITEMS
    return Selection(
        tuple(inputs.memory_ref(source, one) for one in starts),
        inputs.walk_filter(asked.get("direction"), asked.get("types")),
        validate.integer(asked.get("depth", 0), "depth", low=0, high=MAX_DEPTH),
        parse_where(asked.get("where")) if "where" in asked else EVERYTHING,
        validate.integer(asked.get("limit", most), "limit", low=1, high=most),
        asked,
    )


async def selected(view: View, source: str, chosen: Selection, traversal: Traversal) -> list[int]:
    """The ids of the memories that are to be copied, ascending. Raises TooLarge for more than the limit."""
    scope = await view.existing_namespace(source)
    if chosen.starts:
        found = await traversal.subgraph(
            view, source, chosen.starts, chosen.walk, depth=chosen.depth, limit=chosen.limit + 1
        )
        ids: list[int] = found.ids.tolist()
        truncated = found.truncated
    else:
        require_declared(chosen.where, scope.settings.payload_paths)
        ids = (await search.matching_ids(view.session, scope.id, chosen.where, chosen.limit + 1)).tolist()
        truncated = False
    if truncated or len(ids) > chosen.limit:
        raise TooLarge(
            f"more than {chosen.limit} memories are selected; narrow it, or raise the limit", field="limit"
        )
    return ids
