"""What the faces share of walks: pages of neighbours with their cursors, and subgraphs as columns."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sfm_graph.domain import validate
from sfm_graph.domain.identity import Entity, MemoryRef, encode_global_id
from sfm_graph.domain.page import Page, decode_cursor, encode_cursor, fingerprint
from sfm_graph.domain.walk import Neighbour, Subgraph, WalkFilter
from sfm_graph.domain.where import EVERYTHING, Where
from sfm_graph.errors import InvalidCursor
from sfm_graph.services.registry import Services
from sfm_graph.services.view import View
from sfm_graph.store.memories import Outline


@dataclass(frozen=True, slots=True)
class NeighbourPage:
    """A page of neighbours. `cut`: the walk met its bounds, so memories may be missing behind the last one.

    `hot`: walked in memory.
    """

    page: Page[Neighbour]
    cut: bool
    hot: bool


async def neighbour_page(
    services: Services,
    view: View,
    namespace: str,
    ref: MemoryRef,
    walk: WalkFilter,
    *,
    hops: int,
    first: int,
    where: Where = EVERYTHING,
    after: str | None = None,
) -> NeighbourPage:
    """At most `first` memories around one. A cursor holds the hops and the link of the last one seen.

    It belongs to all that is asked but the page's size, the times of the view as they were given. Raises
    InvalidCursor.
    """
    query = fingerprint("neighbors", namespace, ref, walk, hops, where, view.as_of)
    place = _place(decode_cursor(query, after))
    found = await services.traversal.neighbours(
        view, namespace, ref, walk, hops=hops, limit=first, where=where, after=place
    )
    cursors = tuple(encode_cursor(query, [one.hops, one.link.id]) for one in found.neighbours)
    # A walk that is cut has not found more than fits: on a full page the next one tells.
    full = len(cursors) == first
    page = Page(found.neighbours, cursors, found.truncated and full)
    return NeighbourPage(page, found.truncated and not full, found.hot)


def _place(place: Sequence[object] | None) -> tuple[int, int] | None:
    if place is None:
        return None
    if len(place) != 2:
        raise InvalidCursor("the cursor is damaged; start without one")
    hops, link = (validate.integer(one, "cursor", low=0, high=2**63 - 1) for one in place)
    return hops, link


def subgraph_columns(namespace: str, found: Subgraph, outlines: Sequence[Outline]) -> dict[str, Any]:
    """A subgraph as columns: `nodes` in its order, `links` with the places of their ends.

    100,000 links take about 0.1 s: to be called in a thread.
    """
    return {
        "nodes": {
            "id": [encode_global_id(Entity.MEMORY, namespace, one.id) for one in outlines],
            "key": [one.key for one in outlines],
            "kind": [one.kind for one in outlines],
            "title": [one.title for one in outlines],
            "importance": [one.importance for one in outlines],
        },
        "links": {
            "id": [encode_global_id(Entity.LINK, namespace, one) for one in found.links.tolist()],
            "source": found.sources.tolist(),
            "target": found.targets.tolist(),
            "type": [found.type_names[place] for place in found.types.tolist()],
            "weight": found.weights.tolist(),
        },
    }
