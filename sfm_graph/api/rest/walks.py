"""Routes that follow links."""

import asyncio

from fastapi import APIRouter, Request, Response

from sfm_graph.api.rest import components, walk_schemas
from sfm_graph.api.rest.answers import JsonResponse
from sfm_graph.api.rest.call import Call, query_call
from sfm_graph.api.rest.documented import documented
from sfm_graph.api.rest.walk_answers import neighbours_json, path_json, paths_json, ranking_json
from sfm_graph.api.walks import subgraph_columns
from sfm_graph.domain import inputs, validate
from sfm_graph.domain.walk import (
    MAX_HOPS,
    MAX_PATH_HOPS,
    MAX_PATHS,
    MAX_RANKED,
    MAX_WALK_RESULTS,
    PathMode,
    RankBy,
    RankQuery,
    WalkFilter,
)

router = APIRouter(tags=["walks"])
_NEIGHBOURS = documented(
    "Memories within some links of one", components.NEIGHBOURS, query=walk_schemas.NEIGHBOURS, required=("coord",)
)
_PATH = documented(
    "Shortest paths between two memories", components.PATH, query=walk_schemas.PATH, required=("frm", "to")
)


@router.get("/neighbors", **_NEIGHBOURS)
@router.get("/graph/neighbors", **_NEIGHBOURS)
async def neighbours(request: Request) -> Response:
    """Each once, in order of hops, then link; with the link by which it was first reached."""
    call = query_call(request, walk_schemas.NEIGHBOURS)
    start, walk = call.ref("coord"), _walk(call)
    hops = call.integer("hops", 1, high=MAX_HOPS)
    limit = call.integer("limit", 100, high=walk_schemas.MAX_NEIGHBOURS)
    async with call.view() as view:
        found = await call.services.traversal.neighbour_page(
            view, call.namespace, start, walk, hops=hops, first=limit, after=call.after()
        )
    return JsonResponse(neighbours_json(found))


@router.get("/shortest_path", **_PATH)
@router.get("/graph/path", **_PATH)
async def shortest_path(request: Request) -> Response:
    """`found` is false when there is none. `cost` is the number of links, or with `weighted` their weights' sum.

    With `k` or `mode` there are `paths`, of which the other fields show the first.
    """
    call = query_call(request, walk_schemas.PATH)
    source, target, walk = call.ref("frm"), call.ref("to"), _walk(call)
    weighted, most = call.flag("weighted"), call.integer("max_hops", MAX_PATH_HOPS, high=MAX_PATH_HOPS)
    traversal = call.services.traversal
    if call.get("k") is None and call.get("mode") is None:
        async with call.view() as view:
            path = await traversal.shortest_path(
                view, call.namespace, source, target, walk, weighted=weighted, max_hops=most
            )
        return JsonResponse(path_json(path))
    count = call.integer("k", 3, high=MAX_PATHS)
    mode = validate.choice(call.get("mode", PathMode.SHORTEST_K.value), PathMode, "mode")
    async with call.view() as view:
        paths = await traversal.paths(
            view, call.namespace, (source, target), walk, mode=mode, count=count, weighted=weighted, max_hops=most
        )
    return JsonResponse(paths_json(paths))


@router.get(
    "/traverse",
    **documented(
        "What lies around memories, as columns", components.SUBGRAPH, query=walk_schemas.TRAVERSE, required=("start",)
    ),
)
async def traverse(request: Request) -> Response:
    """The memories within `depth` links of any start, and every link between them that the walk follows, by age."""
    call = query_call(request, walk_schemas.TRAVERSE)
    starts, walk = call.refs("start", most=walk_schemas.MAX_STARTS), _walk(call)
    depth = call.integer("depth", 1, low=0, high=MAX_HOPS)
    limit = call.integer("limit", 100, high=MAX_WALK_RESULTS)
    traversal = call.services.traversal
    async with call.view() as view:
        found = await traversal.subgraph(view, call.namespace, starts, walk, depth=depth, limit=limit)
        outlines = await traversal.outlines_of(view, call.namespace, found)
    columns = await asyncio.to_thread(subgraph_columns, call.namespace, found, outlines)
    return JsonResponse({**columns, "truncated": found.truncated, "hot": found.hot})


@router.get("/rank", **documented("Memories ranked by their links", components.RANKING, query=walk_schemas.RANK))
async def rank(request: Request) -> Response:
    """By falling score, ties by age. Components and communities: by falling size, numbered in `group`."""
    call = query_call(request, walk_schemas.RANK)
    by = validate.choice(call.get("by", RankBy.PAGERANK.value), RankBy, "by")
    seeds = call.refs("seed", most=walk_schemas.MAX_STARTS) if call.get("seed") else []
    query = RankQuery(by, _walk(call), call.integer("limit", 20, high=MAX_RANKED), call.flag("unlinked"))
    async with call.view() as view:
        ranking = await call.services.traversal.rank(view, call.namespace, seeds, query)
    return JsonResponse(ranking_json(ranking))


def _walk(call: Call) -> WalkFilter:
    return inputs.walk_filter(call.get("direction"), call.get("type"), call.json("where"))
