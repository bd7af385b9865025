"""Routes of whole namespaces."""

from fastapi import APIRouter, Request, Response

from sfm_graph.api.rest import components, schemas
from sfm_graph.api.rest.answers import JsonResponse, namespace_json, next_cursor, statistics_json
from sfm_graph.api.rest.call import body_call, query_call
from sfm_graph.api.rest.documented import documented

router = APIRouter(tags=["namespaces"])


@router.get("/namespaces", **documented("Namespaces by name", components.NAMESPACES, query=schemas.NAMESPACES))
async def list_namespaces(request: Request) -> Response:
    """Page by page."""
    call = query_call(request, schemas.NAMESPACES)
    async with call.services.views.open() as view:
        page = await call.services.namespaces.list(view, first=call.first(), after=call.after())
    return JsonResponse({"namespaces": [namespace_json(one) for one in page.items], "next": next_cursor(page)})


@router.get(
    "/namespaces/{name:path}",
    **documented("What is in a namespace", components.STATISTICS, path="name", query=schemas.ONE),
)
async def get_namespace(request: Request) -> Response:
    """Memories by kind and links by type."""
    call = query_call(request, schemas.ONE)
    async with call.view() as view:
        found = await call.services.namespaces.statistics(view, request.path_params["name"])
    return JsonResponse(statistics_json(found))


@router.put(
    "/namespaces/{name:path}",
    **documented(
        "Make a namespace, or change its settings", components.NAMESPACE, path="name", body=schemas.NAMESPACE_PUT
    ),
)
async def put_namespace(request: Request) -> Response:
    """A model can be declared until the first vector is stored."""
    call = await body_call(request, schemas.NAMESPACE_PUT)
    stored = await call.services.namespaces.put(
        request.path_params["name"], settings=call.get("settings"), model=call.get("model")
    )
    return JsonResponse(namespace_json(stored))


@router.delete(
    "/namespaces/{name:path}",
    **documented(
        "Delete a namespace with all that is in it",
        components.DELETED, path="name", query=schemas.NAMESPACE_DELETE, required=("confirm",),
    ),
)  # fmt: skip
async def delete_namespace(request: Request) -> Response:
    """`confirm` repeats its name."""
    call = query_call(request, schemas.NAMESPACE_DELETE)
    await call.services.namespaces.delete(request.path_params["name"], confirm=call.get("confirm"))
    return JsonResponse({"deleted": True})
