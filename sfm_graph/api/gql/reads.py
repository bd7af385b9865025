"""What several fields read: a page, a ranking or a path, counted against the request's bounds."""

from collections.abc import Sequence

from sfm_graph.api.gql import connections, types, walks
from sfm_graph.api.gql.context import SEARCH_NODES, Context, LinksOf
from sfm_graph.api.gql.where import MemoryWhere, where_of
from sfm_graph.domain import inputs, validate
from sfm_graph.domain.identity import MemoryId, MemoryRef
from sfm_graph.domain.link import Direction
from sfm_graph.domain.memory import Memory
from sfm_graph.domain.page import Page, decode_cursor, encode_cursor, fingerprint, page_size
from sfm_graph.domain.recall import RecallQuery
from sfm_graph.domain.walk import MAX_HOPS, MAX_PATH_HOPS, WalkFilter
from sfm_graph.errors import InvalidCursor, MemoryNotFound


async def end_of_link(context: Context, namespace: str, row: MemoryId) -> Memory:
    """A memory that a link holds on to. Raises MemoryNotFound when it was forgotten since the link was written."""
    found = await context.memories.load((namespace, row))
    await context.spend(1)
    if found is None:
        raise MemoryNotFound("the memory was forgotten meanwhile", namespace=namespace)
    return found


async def links(
    context: Context,
    memory: "types.Memory",
    direction: Direction,
    link_types: Sequence[str] | None,
    first: int,
    after: str | None,
) -> "connections.LinkConnection":
    """A page of a memory's links; the pages of many memories are read together."""
    walk = WalkFilter(direction, inputs.link_types(link_types))
    wanted = LinksOf(memory.namespace, walk, page_size(first), after, memory.row)
    return await connections.LinkConnection.of(context, await context.link_pages.load(wanted), after)


async def neighbors(
    context: Context,
    namespace: str,
    ref: MemoryRef,
    direction: Direction,
    link_types: Sequence[str] | None,
    where: MemoryWhere | None,
    hops: int,
    first: int,
    after: str | None,
) -> "connections.NeighborConnection":
    """A page of the memories around one. Its cursor holds the hops and the link of the last neighbour seen."""
    walk, kept = WalkFilter(direction, inputs.link_types(link_types)), where_of(where)
    size = page_size(first)
    validate.integer(hops, "hops", low=1, high=MAX_HOPS)
    query = fingerprint("neighbors", namespace, ref, walk, hops, kept)
    place = _place(decode_cursor(query, after))
    await context.spend(SEARCH_NODES)
    async with context.reading() as view:
        found = await context.services.traversal.neighbours(
            view, namespace, ref, walk, hops=hops, limit=size, where=kept, after=place
        )
    cursors = tuple(encode_cursor(query, [one.hops, one.link.id]) for one in found.neighbours)
    page = Page(found.neighbours, cursors, found.truncated and bool(cursors))
    return await connections.NeighborConnection.of(context, page, after)


def _place(place: Sequence[object] | None) -> tuple[int, int] | None:
    if place is None:
        return None
    if len(place) != 2:
        raise InvalidCursor("the cursor is damaged; start without one")
    hops, link = (validate.integer(one, "cursor", low=0, high=2**63 - 1) for one in place)
    return hops, link


async def recall(
    context: Context, namespace: str, query: RecallQuery, *, explain: bool
) -> "connections.RecallConnection":
    """The hits of a recall."""
    await context.spend(SEARCH_NODES)
    async with context.reading() as view:
        found = await context.services.recalls.recall(view, namespace, query)
    return await connections.RecallConnection.of(context, found.hits, explain=explain)


async def similar(context: Context, memory: "types.Memory", first: int) -> "connections.RecallConnection":
    """What a memory's own text recalls, without itself."""
    size = page_size(first)
    text = f"{memory.title or ''} {memory.content}"[: validate.MAX_QUERY_CHARS]
    await context.spend(SEARCH_NODES)
    async with context.reading() as view:
        found = await context.services.recalls.recall(view, memory.namespace, RecallQuery(text, size + 1))
    others = tuple(hit for hit in found.hits if hit.memory.id != memory.row)
    return await connections.RecallConnection.of(context, others[:size], explain=True)


async def path(
    context: Context,
    namespace: str,
    ends: tuple[MemoryRef, MemoryRef],
    direction: Direction,
    link_types: Sequence[str] | None,
    weighted: bool,
    max_hops: int,
) -> "walks.Path | None":
    """The shortest path between two memories, or None."""
    walk = WalkFilter(direction, inputs.link_types(link_types))
    validate.integer(max_hops, "maxHops", low=1, high=MAX_PATH_HOPS)
    await context.spend(SEARCH_NODES)
    async with context.reading() as view:
        found = await context.services.traversal.shortest_path(
            view, namespace, *ends, walk, weighted=weighted, max_hops=max_hops
        )
    return walks.Path.from_domain(found) if found else None
