"""Rate limits of requests: which class each route is of, and what answers say of the limit."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from starlette.datastructures import Headers, QueryParams
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sfm_graph.api import sse
from sfm_graph.api.refusals import GRAPHQL_PATH, refuse
from sfm_graph.ports.rate_limiter import Limit, Taken
from sfm_graph.services.limits import Limits, whole_seconds

FREE: Final = "free"
LIMIT_HEADERS: Final = ("RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset", "RateLimit-Policy")
# What is no route, or takes no such method, costs as much as finding that out.
_OTHERS: Final = "read"

# Class -> `METHOD template` of its routes. `GET /changes` is a stream when it is asked as such. Whether /graphql is,
# its document says: a subscription is counted as a stream as well, where it begins.
_CLASSES: Final[Mapping[str, tuple[str, ...]]] = {
    FREE: (
        "GET /", "GET /docs", "GET /openapi.json", "GET /static/operations.json", "GET /static/{path:path}",
        "GET /ping", "GET /healthz", "GET /health", "GET /readyz", "GET /metrics",
    ),
    "read": (
        "GET /memories", "GET /memories/{coordinate:path}", "GET /memories/{coordinate:path}/accesses",
        "GET /copies", "GET /memories/{coordinate:path}/history", "GET /memories/{coordinate:path}/diff",
        "GET /link/history", "GET /range", "POST /payloads_by_coords", "GET /namespaces",
        "GET /namespaces/{name:path}", "GET /export", "GET /changes", "GET /stats", "GET /jobs",
    ),
    "write": (
        "POST /store", "POST /memories", "POST /remember", "POST /store_bulk", "PATCH /memories/{coordinate:path}",
        "DELETE /memories/{coordinate:path}", "POST /delete_many", "POST /memories/restore", "POST /link/restore",
        "POST /graph/link", "POST /link", "DELETE /link", "POST /import", "POST /copies", "DELETE /copies/{id}",
        "POST /outcomes", "POST /consolidate", "POST /merge",
    ),
    "search": (
        "POST /memories/search", "POST /recall", "POST /recall_with_scores", "POST /recall_with_context",
        "POST /recall_batch", "POST /keyword_search", "GET /graph/neighbors", "GET /neighbors", "GET /graph/path",
        "GET /shortest_path", "GET /traverse", "GET /rank", "POST /predict", "POST /reflect", "GET /duplicates",
    ),
    "graphql": (
        "POST /graphql", "GET /graphql",
    ),
    "admin": (
        "POST /hold", "POST /release", "POST /decay", "PUT /namespaces/{name:path}",
        "DELETE /namespaces/{name:path}",
    ),
}  # fmt: skip
CLASS_OF_ROUTE: Final = MappingProxyType({route: name for name, routes in _CLASSES.items() for route in routes})
_STREAMED: Final = "GET /changes"
_PARAMETER: Final = "{"
# `GET /memories/`, for those whose last part is anything; the longest first, though none begins with another now.
_BY_PREFIX: Final = tuple(
    sorted(
        ((route.partition(_PARAMETER)[0], name) for route, name in CLASS_OF_ROUTE.items() if _PARAMETER in route),
        key=lambda found: -len(found[0]),
    )
)


class Limiting:
    """ASGI middleware that counts each request of its caller, whom `Authenticate` has found before.

    Answers of limited classes have `RateLimit-*`; a request beyond its limit is 429 with `Retry-After`. Operations on
    a WebSocket are counted where they begin, since only its first message says who it is.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        route_class = route_class_of(scope) if scope["type"] == "http" else FREE
        if route_class == FREE:
            await self._app(scope, receive, send)
            return
        limits: Limits = scope["app"].state.services.limits
        limit, taken = limits.limit_of(route_class), await limits.take(route_class)
        if limit is None or taken is None:
            await self._app(scope, receive, send)
        elif taken.allowed:
            await self._app(scope, receive, _with_headers(send, limit_headers(limit, taken)))
        else:
            headers = limit_headers(limit, taken)
            if scope["method"] == "GET":
                # No body follows that would have to be read, and connecting anew costs us more than answering.
                headers["Connection"] = "keep-alive"
            await refuse(scope, receive, send, limits.refusal(route_class, taken), headers)


def route_class_of(scope: Scope) -> str:
    """The class of an HTTP request: one of `settings.ROUTE_CLASSES`, or FREE."""
    method, path = scope["method"], scope["path"]
    route = f"{'GET' if method == 'HEAD' else method} {path}"
    found = CLASS_OF_ROUTE.get(route) or _by_prefix(route)
    if route == _STREAMED and sse.accepted(_accept(scope)):
        return "stream"
    if path == GRAPHQL_PATH and method == "GET" and _wants_graphiql(scope):
        return FREE
    return found


def limit_headers(limit: Limit, taken: Taken) -> dict[str, str]:
    """What an answer says of its limit; times are whole seconds, rounded up."""
    reset, window = whole_seconds(taken.reset_seconds), whole_seconds(limit.window_seconds)
    values = (limit.most, taken.remaining, reset, f"{limit.most};w={window}")
    return {name: str(value) for name, value in zip(LIMIT_HEADERS, values, strict=True)}


def _by_prefix(route: str) -> str:
    return next((name for prefix, name in _BY_PREFIX if route.startswith(prefix)), _OTHERS)


def _wants_graphiql(scope: Scope) -> bool:
    return "text/html" in _accept(scope) and "query" not in QueryParams(scope["query_string"])


def _accept(scope: Scope) -> str:
    # As the routes read it: the first one, however many there are.
    return Headers(scope=scope).get("accept", "")


def _with_headers(send: Send, headers: Mapping[str, str]) -> Send:
    added = [(name.lower().encode(), value.encode()) for name, value in headers.items()]

    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], *added]
        await send(message)

    return with_headers
