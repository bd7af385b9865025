"""How many requests are under way at once, and how long each may take: refused now is better than answered late."""

import time

from starlette.types import ASGIApp, Receive, Scope, Send

from sfm_graph.api.exchange import Exchange, Gate, is_stopping
from sfm_graph.api.headers import only
from sfm_graph.api.refusals import refusal, refuse
from sfm_graph.api.rest.answers import JsonResponse
from sfm_graph.domain.deadline import Deadline, under
from sfm_graph.errors import InvalidInput, Overloaded, SfmError

TIMEOUT_HEADER = "x-request-timeout-ms"
READINESS_PATHS = frozenset({"/readyz", "/health"})
# What tells how the service does must be answered above all when it is busy.
UNCOUNTED_PATHS = READINESS_PATHS | {"/healthz", "/ping", "/metrics"}
TRANSFER_PATHS = frozenset({"/export", "/import"})
MAX_PROBES = 100
# Event streams and WebSockets; an idle one costs some 20 kB.
MAX_STREAMS = 10_000
# A refused body up to so many bytes is read and thrown away, so that its connection goes on.
_SMALL_BODY_BYTES = 65_536
_STOPPING = {"status": "down", "parts": {"service": {"status": "stopping"}}}


class Admission:
    """ASGI middleware: 503 `overloaded` at once beyond so many requests, 503 `deadline_exceeded` for one that takes
    longer than it may. Exports and imports have a number of their own and no deadline, nor have streams of events.

    While the service stops (`app.state.stopping`) it goes on answering, but is not ready.
    """

    def __init__(self, app: ASGIApp, *, max_requests: int, max_transfers: int, request_timeout_ms: int) -> None:
        self._app = app
        self._requests = Gate(max_requests, "requests")
        self._transfers = Gate(max_transfers, "exports and imports")
        self._probes = Gate(MAX_PROBES, "probes")
        self._streams = Gate(MAX_STREAMS, "streams")
        self._timeout_ms = request_timeout_ms

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it before its body is read."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        elif scope["path"] in READINESS_PATHS and is_stopping(scope):
            await JsonResponse(_STOPPING, 503, {"Retry-After": "1"})(scope, receive, send)
        else:
            await self._request(scope, receive, send)

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            milliseconds = self._milliseconds(scope)
            gate = self._gate(scope["path"])
            gate.enter()
        except SfmError as error:
            await _refused(scope, receive, send, error)
            return
        if scope["path"] in TRANSFER_PATHS:
            deadline = Deadline(None)
        else:
            deadline = Deadline(time.monotonic() + milliseconds / 1000)
        exchange = Exchange(scope, receive, send, deadline, gate, self._streams)
        try:
            with under(deadline):
                await exchange.run(self._app)
        finally:
            exchange.gate.leave()

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._streams.enter()
        except Overloaded as error:
            # Instead of the handshake's answer.
            await refusal(error, scope["path"])(scope, receive, send)
            return
        try:
            await self._app(scope, receive, send)
        finally:
            self._streams.leave()

    def _gate(self, path: str) -> Gate:
        if path in TRANSFER_PATHS:
            return self._transfers
        return self._probes if path in UNCOUNTED_PATHS else self._requests

    def _milliseconds(self, scope: Scope) -> int:
        given = only(scope, TIMEOUT_HEADER).strip()
        if not given:
            return self._timeout_ms
        if not (given.isascii() and given.isdecimal() and int(given[:10]) > 0):
            raise InvalidInput(f"{TIMEOUT_HEADER} is a whole number of milliseconds, 1 or more")
        return min(int(given[:10]), self._timeout_ms)


async def _refused(scope: Scope, receive: Receive, send: Send, error: SfmError) -> None:
    if _has_large_body(scope):
        await refuse(scope, receive, send, error)
    else:
        await refusal(error, scope["path"])(scope, receive, send)


def _has_large_body(scope: Scope) -> bool:
    lengths = [value for name, value in scope["headers"] if name in (b"content-length", b"transfer-encoding")]
    return any(not value.isdigit() or int(value) > _SMALL_BODY_BYTES for value in lengths)
