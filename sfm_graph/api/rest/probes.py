"""Routes for probes and Prometheus: of a server, and of a follower of the change log in a process of its own."""

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from sfm_graph.api.problems import RETRY_AFTER_SECONDS
from sfm_graph.api.rest import components
from sfm_graph.api.rest.answers import JsonResponse
from sfm_graph.api.rest.call import services_of
from sfm_graph.api.rest.documented import documented
from sfm_graph.api.rest.shared_report import SharedReport
from sfm_graph.domain.access import ANONYMOUS, Scope
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
    """One round trip to each dependency, shared by who asks within half a second; what is the matter in words only
    for callers with a token, where the service requires one."""
    found = await _shared_report(request).look()
    report, is_known = found.report, caller().principal != ANONYMOUS
    parts = report.parts if is_known or not found.is_closed else _statuses(report.parts)
    status = "up" if report.ready else "down"
    headers = {} if report.ready else {"Retry-After": str(RETRY_AFTER_SECONDS)}
    return JsonResponse({"status": status, "parts": parts}, 200 if report.ready else 503, headers)


@router.get("/metrics", include_in_schema=False)
async def metrics(request: Request) -> Response:
    """For Prometheus."""
    await caller().require(_READING_METRICS)
    return Response(await request.app.state.metrics.exposition(), media_type=CONTENT_TYPE_LATEST)


def _statuses(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    # Not all but some members: another one may tell addresses, too.
    return {name: {"status": part["status"]} for name, part in parts.items()}


def _shared_report(request: Request) -> SharedReport:
    services, state = services_of(request), request.app.state
    shared: SharedReport | None = getattr(state, "report", None)
    if shared is None or not shared.is_of(services):
        shared = state.report = SharedReport(services)
    return shared
