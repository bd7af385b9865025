"""What the faces share of changes: their JSON, and following them."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass

import orjson

from sfm_graph.domain.change_filter import ChangeFilter
from sfm_graph.errors import NamespaceNotFound
from sfm_graph.services.changes.changes import FROM_NOW
from sfm_graph.services.changes.pages import ChangePage, StreamedChange
from sfm_graph.services.registry import Services


def change_json(one: StreamedChange) -> bytes:
    """A change as one line of JSON. The states are JSON already, and are not read for it."""
    change = one.change
    return orjson.dumps(
        {
            "cursor": one.cursor,
            "entity": change.entity,
            "operation": change.operation,
            "id": change.global_id,
            "entity_id": change.entity_id,
            "namespace": change.namespace,
            "at": change.at,
            "before": orjson.Fragment(change.before_json) if change.before_json else None,
            "after": orjson.Fragment(change.after_json) if change.after_json else None,
        }
    )


@dataclass(frozen=True, slots=True)
class Followed:
    """A stream under way: where it begins, its first page, and the rest, which whoever has it closes."""

    start: str
    first: ChangePage
    rest: AsyncGenerator[ChangePage]


async def followed(services: Services, namespace: str, after: str | None, wanted: ChangeFilter) -> Followed:
    """A stream with its first page, which comes at once.

    Raises NamespaceNotFound, InvalidCursor, CursorExpired, MemoryNotFound, Unavailable.
    """
    if after is None or after == FROM_NOW:
        # Whoever is cut off before the first change comes back to this moment, not to another now.
        async with services.views.open() as view:
            after = await services.changes.now(view, namespace)
    pages = services.changes.follow(namespace, after, wanted)
    first = await anext(pages, None)
    if first is None:
        raise NamespaceNotFound(f"there is no namespace {namespace!r}", namespace=namespace)
    return Followed(after, first, pages)
