"""The outermost middleware: each request is counted, timed, traced, and has an id in the log."""

import logging
import time
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sfm_graph.api.authentication import PRINCIPAL, client_of
from sfm_graph.api.metrics import Metrics
from sfm_graph.telemetry import request_ids, tracing
from sfm_graph.telemetry.logs import FIELDS
from sfm_graph.telemetry.request_ids import RequestIds

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_SERVER_ERROR: Final = 500
# A WebSocket's: it was opened, or refused.
_SOCKET_STATUS: Final = {"websocket.accept": 101, "websocket.close": 403}

log = logging.getLogger("sfm_graph.access")


class MeteredApp:
    """ASGI middleware for HTTP requests and WebSockets."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, access_log: bool = False) -> None:
        """`access_log`: each request is a line of the log `sfm_graph.access`, at its end."""
        self._app = app
        self._metrics = metrics
        self._access_log = access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and record how long its answer took; one that raises counts as 5xx.

        Streams of events and WebSockets are not timed: they last as long as their readers stay. The answer has the
        request's id, its own `X-Request-ID` where that is well-formed.
        """
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request = request_ids.request_id(headers.get(request_ids.HEADER))
        is_socket = scope["type"] == "websocket"
        method = "WEBSOCKET" if is_socket else _method(scope)
        self._metrics.in_flight.inc()
        try:
            # What is asked over a WebSocket has spans of its own.
            with tracing.NO_SPAN if is_socket else tracing.span(method, "server", parent=_parent(headers)) as span:
                request_ids.begin(RequestIds(request, *(tracing.ids() or ())))
                answer = _Answer(send, request)
                try:
                    await self._app(scope, receive, answer)
                finally:
                    route = _route(scope)
                    if not is_socket:
                        self._record(method, route, answer, span)
                    if self._access_log:
                        _say(method, route, answer, scope)
        finally:
            self._metrics.in_flight.dec()

    def _record(self, method: str, route: str, answer: "_Answer", span: tracing.Span) -> None:
        span.name(f"{method} {route}")
        span.note("http.route", route)
        span.note("http.request.method", method)
        span.note("http.response.status_code", answer.status)
        if answer.status >= _SERVER_ERROR:
            span.failed(str(answer.status))
        if not answer.streams:
            labels = (method, route, f"{answer.status // 100}xx")
            self._metrics.requests.labels(*labels).observe(time.perf_counter() - answer.began)


class _Answer:
    """Sends an answer and looks at its head."""

    def __init__(self, send: Send, request: str) -> None:
        self._send = send
        self._request = request
        self.began = time.perf_counter()
        self.status = _SERVER_ERROR
        self.streams = False
        self._is_open = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            self.streams = headers.get("content-type", "").startswith("text/event-stream")
            headers[request_ids.HEADER] = self._request
        elif message["type"] in _SOCKET_STATUS and not self._is_open:
            self._is_open, self.status = True, _SOCKET_STATUS[message["type"]]
        await self._send(message)


def _say(method: str, route: str, answer: _Answer, scope: Scope) -> None:
    """No path, no query string, no body: they hold what is remembered."""
    fields = {
        "method": method,
        "route": route,
        "status": answer.status,
        "ms": round((time.perf_counter() - answer.began) * 1000, 1),
        "principal": scope.get(PRINCIPAL, "anonymous"),
        "client": client_of(scope),
    }
    log.info("%s %s %d %.1f ms %s %s", *fields.values(), extra={FIELDS: fields})


def _method(scope: Scope) -> str:
    # Names come from outside: an unbounded label would let a caller fill the registry.
    return scope["method"] if scope["method"] in _METHODS else "other"


def _route(scope: Scope) -> str:
    """The template of the route that a request met; of one that was refused before, of what it asked for."""
    route = scope.get("route")
    if route is None and "router" not in scope and "app" in scope:
        route = _asked_for(scope)
    return str(getattr(route, "path", "unmatched"))


def _asked_for(scope: Scope) -> object:
    partial = None
    for one in scope["app"].router.routes:
        match, found = one.matches(scope)
        if match is Match.FULL:
            return found.get("route")
        if match is Match.PARTIAL and partial is None:
            partial = found.get("route")
    return partial


def _parent(headers: Headers) -> str | None:
    found = headers.getlist("traceparent")
    return found[0] if len(found) == 1 and tracing.is_traceparent(found[0]) else None
