"""Routes for those who run the service."""

from fastapi import APIRouter, Request, Response

from sfm_graph.api.rest import components, schemas
from sfm_graph.api.rest.answers import JsonResponse, model_json, next_cursor, statistics_json
from sfm_graph.api.rest.call import Call, query_call
from sfm_graph.api.rest.documented import documented
from sfm_graph.domain.page import Page
from sfm_graph.services.namespaces import NamespaceStatistics

router = APIRouter(tags=["operations"])


@router.get(
    "/stats",
    **documented("What the service holds, by namespace", components.STATS, query=schemas.STATS),
)
async def stats(request: Request) -> Response:
    """One namespace where it is named, else all, page by page."""
    call = query_call(request, schemas.STATS)
    page = await _statistics(call, named="namespace" in request.query_params)
    body = {"namespaces": [statistics_json(one) for one in page.items], "next": next_cursor(page)}
    report = await call.services.health.report()
    backends = {"database": report.parts["database"], "embedder": model_json(call.services.recalls.model)}
    return JsonResponse({**body, "backends": backends, "version": request.app.version})


async def _statistics(call: Call, *, named: bool) -> Page[NamespaceStatistics]:
    namespaces = call.services.namespaces
    async with call.view() as view:
        if named:
            return Page((await namespaces.statistics(view, call.namespace),), ("",), has_next=False)
        page = await namespaces.list(view, first=call.first(), after=call.after())
        found = [await namespaces.statistics(view, one.name) for one in page.items]
    return Page(tuple(found), page.cursors, page.has_next)
