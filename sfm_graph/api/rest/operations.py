"""Routes for those who run the service."""

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from sfm_graph.api.problems import RETRY_AFTER_SECONDS
from sfm_graph.api.rest import components, schemas
from sfm_graph.api.rest.answers import JsonResponse, model_json, next_cursor, statistics_json
from sfm_graph.api.rest.call import Call, query_call, services_of
from sfm_graph.api.rest.documented import documented
from sfm_graph.domain.page import Page
from sfm_graph.services.namespaces import NamespaceStatistics

router = APIRouter(tags=["operations"])
_HEALTH = documented(
    "The state of each dependency; 503 while a required one is down", components.HEALTH, status=(200, 503)
)
_ALIVE = documented("That the process answers", components.ALIVE)


@router.get("/healthz", **_ALIVE)
@router.get("/ping", **_ALIVE)
async def alive(request: Request) -> Response:
    """Asks nothing of anything else."""
    return JsonResponse({"status": "ok"})


@router.get("/readyz", **_HEALTH)
@router.get("/health", **_HEALTH)
async def health(request: Request) -> Response:
    """One round trip to each dependency."""
    report = await services_of(request).health.report()
    status = "up" if report.ready else "down"
    headers = {} if report.ready else {"Retry-After": str(RETRY_AFTER_SECONDS)}
    return JsonResponse({"status": status, "parts": report.parts}, 200 if report.ready else 503, headers)


@router.get("/metrics", include_in_schema=False)
async def metrics(request: Request) -> Response:
    """For Prometheus."""
    return Response(generate_latest(request.app.state.metrics.registry), media_type=CONTENT_TYPE_LATEST)


@router.get(
    "/stats",
    **documented("What the service holds, by namespace", components.STATS, query=schemas.NAMESPACES),
)
async def stats(request: Request) -> Response:
    """One namespace where it is named, else all, page by page."""
    call = query_call(request, schemas.NAMESPACES)
    page = await _statistics(call, named="namespace" in request.query_params)
    body = {"namespaces": [statistics_json(one) for one in page.items], "next": next_cursor(page)}
    report = await call.services.health.report()
    backends = {"database": report.parts["database"], "embedder": model_json(call.services.recalls.model)}
    return JsonResponse({**body, "backends": backends, "version": request.app.version})


async def _statistics(call: Call, *, named: bool) -> Page[NamespaceStatistics]:
    namespaces = call.services.namespaces
    async with call.services.views.open() as view:
        if named:
            return Page((await namespaces.statistics(view, call.namespace),), ("",), has_next=False)
        page = await namespaces.list(view, first=call.first(), after=call.after())
        found = [await namespaces.statistics(view, one.name) for one in page.items]
    return Page(tuple(found), page.cursors, page.has_next)
