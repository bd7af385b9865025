"""Routes that follow links."""

from fastapi import APIRouter, Request, Response

from sfm_graph.api.rest import components, schemas
from sfm_graph.api.rest.answers import JsonResponse, neighbours_json, path_json
from sfm_graph.api.rest.call import Call, query_call
from sfm_graph.api.rest.documented import documented
from sfm_graph.domain import inputs, validate
from sfm_graph.domain.link import Direction
from sfm_graph.domain.walk import MAX_HOPS, MAX_PATH_HOPS, WalkFilter

router = APIRouter(tags=["walks"])
_NEIGHBOURS = documented(
    "Memories within some links of one", components.NEIGHBOURS, query=schemas.NEIGHBOURS, required=("coord",)
)
_PATH = documented(
    "A shortest path between two memories", components.PATH, query=schemas.PATH, required=("frm", "to")
)


@router.get("/neighbors", **_NEIGHBOURS)
@router.get("/graph/neighbors", **_NEIGHBOURS)
async def neighbours(request: Request) -> Response:
    """Each once, in order of hops, then link; with the link by which it was first reached."""
    call = query_call(request, schemas.NEIGHBOURS)
    start, walk = call.ref("coord"), _walk(call)
    hops = call.integer("hops", 1, high=MAX_HOPS)
    limit = call.integer("limit", 100, high=schemas.MAX_NEIGHBOURS)
    async with call.services.views.open() as view:
        found = await call.services.traversal.neighbours(view, call.namespace, start, walk, hops=hops, limit=limit)
    return JsonResponse(neighbours_json(found))


@router.get("/shortest_path", **_PATH)
@router.get("/graph/path", **_PATH)
async def shortest_path(request: Request) -> Response:
    """`found` is false when there is none. `cost` is the number of links, or with `weighted` their weights' sum."""
    call = query_call(request, schemas.PATH)
    source, target, walk = call.ref("frm"), call.ref("to"), _walk(call)
    weighted, most = call.flag("weighted"), call.integer("max_hops", MAX_PATH_HOPS, high=MAX_PATH_HOPS)
    async with call.services.views.open() as view:
        path = await call.services.traversal.shortest_path(
            view, call.namespace, source, target, walk, weighted=weighted, max_hops=most
        )
    return JsonResponse(path_json(path))


def _walk(call: Call) -> WalkFilter:
    direction = validate.choice(call.get("direction", Direction.BOTH.value), Direction, "direction")
    return WalkFilter(direction, inputs.link_types(call.get("type")))
