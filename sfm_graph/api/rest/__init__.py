"""The REST face. Each route reads a call, asks a service and shows its answer."""

from fastapi import APIRouter

from sfm_graph.api.rest import links, listings, memories, namespaces, operations, recall, transfer, walks
from sfm_graph.api.rest.components import COMPONENTS

__all__ = ["COMPONENTS", "rest_router"]


def rest_router() -> APIRouter:
    """Every route. They find the services in `app.state.services`, the metrics in `app.state.metrics`."""
    router = APIRouter()
    for subject in (listings, recall, memories, links, walks, namespaces, transfer, operations):
        router.include_router(subject.router)
    return router
