"""What the fields that follow links read, counted against the request's bounds."""

from collections.abc import Sequence

from sfm_graph.api.gql import walk_connections, walks
from sfm_graph.api.gql.context import SEARCH_NODES, Context
from sfm_graph.api.gql.inputs import MemoryRef as RefInput
from sfm_graph.api.walks import neighbour_page
from sfm_graph.domain import validate
from sfm_graph.domain.as_of import AsOf
from sfm_graph.domain.identity import MemoryRef
from sfm_graph.domain.page import MAX_PAGE, page_size
from sfm_graph.domain.walk import (
    MAX_HOPS,
    MAX_PATH_HOPS,
    MAX_PATHS,
    MAX_RANKED,
    MAX_WALK_RESULTS,
    PathMode,
    RankQuery,
    WalkFilter,
)
from sfm_graph.domain.where import Where
from sfm_graph.errors import InvalidInput


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
        found = await neighbour_page(
            context.services, view, namespace, ref, walk, hops=hops, first=size, where=where, after=after
        )
    around = walk_connections.Around(namespace, ref, walk, hops, as_of)
    return await walk_connections.NeighborConnection.of(context, around, found, after)


async def counts(context: Context, around: "walk_connections.Around") -> list[int]:
    """How many memories are first reached at each hop, up to the last one that reaches any."""
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
