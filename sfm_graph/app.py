"""The ASGI app: every face over the services of one process."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute

from sfm_graph.api.admission import TIMEOUT_HEADER, Admission
from sfm_graph.api.authentication import Authenticate
from sfm_graph.api.gql.router import graphql_router
from sfm_graph.api.guard import Guard
from sfm_graph.api.limiting import LIMIT_HEADERS, Limiting
from sfm_graph.api.metered import MeteredApp
from sfm_graph.api.metrics import Metrics
from sfm_graph.api.pages import pages_router, read_texts
from sfm_graph.api.problems import add_problem_handlers
from sfm_graph.api.rest import COMPONENTS, probe_routes, rest_routes
from sfm_graph.api.rest.documented import describe_access
from sfm_graph.runtime import open_runtime
from sfm_graph.services.access.agents import HEADER as AGENT_HEADER
from sfm_graph.services.registry import Services
from sfm_graph.settings import Settings
from sfm_graph.telemetry import request_ids

_DESCRIPTION = (
    "A graph memory for AI agents: recall, walk and explain. Everything here is also one GraphQL query away."
)

# What pages of other origins may send and see, once they are let in.
_ALLOWED_HEADERS = (
    "Authorization", "Content-Type", "Idempotency-Key", "If-Match", "Last-Event-ID", AGENT_HEADER, TIMEOUT_HEADER,
    request_ids.HEADER, "traceparent", "tracestate",
)  # fmt: skip
_EXPOSED_HEADERS = (
    "ETag", "Retry-After", "WWW-Authenticate", "X-Changes-Cursor", request_ids.HEADER, *LIMIT_HEADERS,
)  # fmt: skip


def create_app(settings: Settings) -> FastAPI:
    """An app that opens what the settings ask for when it starts, and closes it when it stops.

    Starting raises DatabaseUnavailable.
    """
    return _app(settings, lambda: open_runtime(settings))


def app_for(services: Services, *, as_local: bool = False) -> FastAPI:
    """An app over services that the caller opened and closes. It must be started, as any ASGI app.

    `as_local`: it answers this process only, so that no request needs a token.
    """

    @asynccontextmanager
    async def lent() -> AsyncIterator[Services]:
        yield services

    return _app(services.settings, lent, as_local=as_local)


def operations_app(services: Services) -> FastAPI:
    """An app that only tells how this process does: health, readiness, metrics. For who has no other to answer.

    The caller opens and closes the services, and starts the app.
    """
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.services = services
        async with metrics.observing(services):
            yield

    app = FastAPI(title="sfm_graph", version=_version(), lifespan=lifespan, openapi_url=None)
    _protect(app, services.settings, metrics)
    app.router.routes.extend(probe_routes())
    return app


def _app(
    settings: Settings, runtime: Callable[[], AbstractAsyncContextManager[Services]], *, as_local: bool = False
) -> FastAPI:
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with runtime() as services:
            app.state.services = services
            async with metrics.observing(services):
                with _served(app, graphql_router(services).routes):
                    yield

    app = _Documented(
        title="sfm_graph", version=_version(), description=_DESCRIPTION,
        lifespan=lifespan, docs_url=None, redoc_url=None,
    )  # fmt: skip
    _protect(app, settings, metrics, as_local=as_local)
    app.router.routes.extend(rest_routes())
    operations = operations_folder()
    app.include_router(pages_router(read_texts(operations, ".graphql"), read_texts(operations, ".json")))
    return app


def _protect(app: FastAPI, settings: Settings, metrics: Metrics, *, as_local: bool = False) -> None:
    """Add what every request passes, and how errors are answered."""
    app.state.metrics = metrics
    add_problem_handlers(app)
    # The last one added is the first to see a request.
    app.add_middleware(Limiting)
    app.add_middleware(Authenticate, as_local=as_local)
    app.add_middleware(
        Admission,
        max_requests=settings.max_requests,
        max_transfers=settings.max_transfers,
        request_timeout_ms=settings.request_timeout_ms,
        patience_seconds=settings.subscriber_patience_seconds,
    )
    if settings.cors_origin_names:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origin_names,
            allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=_ALLOWED_HEADERS,
            expose_headers=_EXPOSED_HEADERS,
        )
    app.add_middleware(
        Guard,
        host_names=settings.host_names,
        max_body_bytes=settings.max_body_bytes,
        origins=settings.cors_origin_names,
    )
    app.add_middleware(MeteredApp, metrics=metrics, access_log=settings.access_log)


@contextmanager
def _served(app: FastAPI, routes: list[BaseRoute]) -> Iterator[None]:
    """Serve routes that exist only while the services do."""
    app.router.routes[:0] = routes
    try:
        yield
    finally:
        for route in routes:
            app.router.routes.remove(route)


def operations_folder() -> Path:
    """The example operations of GraphiQL: inside the package when installed from a wheel, else in the checkout."""
    shipped = Path(__file__).parent / "graphql_operations"
    return shipped if shipped.is_dir() else Path(__file__).parents[1] / "graphql" / "operations"


class _Documented(FastAPI):
    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document, with the named schemas that the routes refer to, and who may call them."""
        if self.openapi_schema is None:
            document = get_openapi(
                title=self.title, version=self.version, description=self.description, routes=self.routes
            )
            document.setdefault("components", {}).setdefault("schemas", {}).update(COMPONENTS)
            describe_access(document)
            self.openapi_schema = document
        return self.openapi_schema


def _version() -> str:
    try:
        return version("sfm-graph")
    except PackageNotFoundError:  # imported from a folder that was never installed
        return "0"
