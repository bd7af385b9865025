"""What the fields that follow links read, counted against the request's bounds."""

from collections.abc import Sequence

from sfm_graph.api.gql import types, walk_connections, walks
from sfm_graph.api.gql.context import SEARCH_NODES, Context
from sfm_graph.api.gql.inputs import MemoryRef as RefInput
from sfm_graph.domain import validate
from sfm_graph.domain.as_of import AsOf
from sfm_graph.domain.identity import MemoryRef
from sfm_graph.domain.page import MAX_PAGE, Page, page_size
from sfm_graph.domain.walk import (
    MAX_HOPS,
    MAX_PATH_HOPS,
    MAX_PATHS,
    MAX_RANKED,
    MAX_WALK_RESULTS,
    NeighbourPage,
    PathMode,
    RankQuery,
    WalkFilter,
)
from sfm_graph.domain.where import Where
from sfm_graph.errors import InvalidInput, MemoryNotFound


async def neighbors(
    context: Context,
    as_of: AsOf,
    namespace: str,
    ref: MemoryRef,
    walk: WalkFilter,
    where: Where,
    hops: int,
    first: int,
    after: str | None,
) -> "walk_connections.NeighborConnection":
    """A page of the memories around one that `where` keeps."""
    size = page_size(first)
    validate.integer(hops, "hops", low=1, high=MAX_HOPS)
    await context.spend(SEARCH_NODES)
    async with context.reading(as_of) as view:
        found = await context.services.traversal.neighbour_page(
            view, namespace, ref, walk, hops=hops, first=size, where=where, after=after
        )
    around = walk_connections.Around(namespace, ref, walk, hops, as_of)
    return await walk_connections.NeighborConnection.of(context, around, found, after)


async def neighbors_of(
    context: Context, as_of: AsOf, memory: "types.Memory", walk: WalkFilter, where: Where, hops: int, first: int,
    after: str | None,
) -> "walk_connections.NeighborConnection":  # fmt: skip
    """As above of a memory that was read, perhaps as of another moment: none where it is not there."""
    ref = MemoryRef(id=memory.row)
    try:
        return await neighbors(context, as_of, memory.namespace, ref, walk, where, hops, first, after)
    except MemoryNotFound:
        nothing = NeighbourPage(Page((), (), False), cut=False, hot=True)
        return await walk_connections.NeighborConnection.of(context, None, nothing, after)


async def counts(context: Context, around: "walk_connections.Around | None") -> list[int]:
    """How many memories are first reached at each hop, up to the last one that reaches any."""
    if around is None:
        return []
    await context.spend(SEARCH_NODES)
    async with context.reading(around.as_of) as view:
        found = await context.services.walks.reach_count(
            view, around.namespace, around.ref, around.walk, hops=around.hops
        )
    return found.answer


async def path(
    context: Context,
    as_of: AsOf,
    namespace: str,
    ends: tuple[MemoryRef, MemoryRef],
    walk: WalkFilter,
    weighted: bool,
    max_hops: int,
) -> "walks.Path | None":
    """The shortest path between two memories, or None."""
    validate.integer(max_hops, "maxHops", low=1, high=MAX_PATH_HOPS)
    await context.spend(SEARCH_NODES)
    async with context.reading(as_of) as view:
        found = await context.services.traversal.shortest_path(
            view, namespace, *ends, walk, weighted=weighted, max_hops=max_hops
        )
    return await walks.Path.of(context, as_of, found) if found else None


async def path_from(
    context: Context, as_of: AsOf, memory: "types.Memory", goal: MemoryRef, walk: WalkFilter, weighted: bool,
    max_hops: int,
) -> "walks.Path | None":  # fmt: skip
    """The shortest path from a memory that was read, perhaps as of another moment: None where it is not there."""
    start = MemoryRef(id=memory.row)
    try:
        return await path(context, as_of, memory.namespace, (start, goal), walk, weighted, max_hops)
    except MemoryNotFound:
        if await context.loaders(as_of).memories.load((memory.namespace, memory.row)) is None:
            return None
        raise


async def paths(
    context: Context,
    as_of: AsOf,
    namespace: str,
    ends: tuple[MemoryRef, MemoryRef],
    walk: WalkFilter,
    mode: PathMode,
    k: int,
    weighted: bool,
    max_hops: int,
) -> "list[walks.Path]":
    """Several paths between two memories, in order."""
    validate.integer(k, "k", low=1, high=MAX_PATHS)
    validate.integer(max_hops, "maxHops", low=1, high=MAX_PATH_HOPS)
    await context.spend(SEARCH_NODES)
    async with context.reading(as_of) as view:
        found = await context.services.traversal.paths(
            view, namespace, ends, walk, mode=mode, count=k, weighted=weighted, max_hops=max_hops
        )
    return [await walks.Path.of(context, as_of, one) for one in found]


async def subgraph(
    context: Context, as_of: AsOf, namespace: str, start: Sequence[RefInput], walk: WalkFilter, depth: int, limit: int
) -> "walks.Subgraph":
    """What lies around some memories."""
    if not start:
        raise InvalidInput(f"a walk starts from 1 to {MAX_PAGE} memories", field="start")
    refs = _refs(namespace, start, "start")
    validate.integer(depth, "depth", low=0, high=MAX_HOPS)
    validate.integer(limit, "limit", low=1, high=MAX_WALK_RESULTS)
    await context.spend(SEARCH_NODES)
    async with context.reading(as_of) as view:
        found = await context.services.traversal.subgraph(view, namespace, refs, walk, depth=depth, limit=limit)
    return walks.Subgraph.from_domain(namespace, as_of, found)


async def rank(
    context: Context, as_of: AsOf, namespace: str, seeds: Sequence[RefInput] | None, query: RankQuery
) -> "walk_connections.RankConnection":
    """The best memories of a namespace, or around seeds."""
    validate.namespace(namespace)
    refs = _refs(namespace, seeds or (), "seeds")
    validate.integer(query.first, "first", low=1, high=MAX_RANKED)
    await context.spend(SEARCH_NODES)
    async with context.reading(as_of) as view:
        found = await context.services.traversal.rank(view, namespace, refs, query)
    return await walk_connections.RankConnection.of(context, as_of, found)


def _refs(namespace: str, given: Sequence[RefInput], field: str) -> list[MemoryRef]:
    if len(given) > MAX_PAGE:
        raise InvalidInput(f"{field} names at most {MAX_PAGE} memories", field=field)
    return [one.within(namespace) for one in given]
