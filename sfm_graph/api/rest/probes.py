"""Routes for probes and Prometheus: of a server, and of a follower of the change log in a process of its own."""

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from sfm_graph.api.problems import RETRY_AFTER_SECONDS
from sfm_graph.api.rest import components
from sfm_graph.api.rest.answers import JsonResponse
from sfm_graph.api.rest.call import services_of
from sfm_graph.api.rest.documented import documented
from sfm_graph.domain.access import Scope
from sfm_graph.ports.policy import Action
from sfm_graph.services.access.guard import caller

router = APIRouter(tags=["operations"])
_HEALTH = documented(
    "The state of each dependency; 503 while a required one is down", components.HEALTH, status=(200, 503)
)
_READING_METRICS = Action("operations.metrics", Scope.METRICS, None)
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
    await caller().require(_READING_METRICS)
    return Response(await request.app.state.metrics.exposition(), media_type=CONTENT_TYPE_LATEST)
