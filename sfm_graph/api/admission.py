"""How many requests are under way at once, and how long each may take: refused now is better than answered late."""

import sys
import time

from starlette.types import ASGIApp, Receive, Scope, Send

from sfm_graph.api.authentication import REPORT_PATHS, client_of
from sfm_graph.api.exchange import Exchange, is_stopping
from sfm_graph.api.gates import PLACE, Gate, Newcomers, Place
from sfm_graph.api.headers import only
from sfm_graph.api.pace import Sending
from sfm_graph.api.refusals import refusal, refuse
from sfm_graph.api.rest.answers import JsonResponse
from sfm_graph.domain.deadline import Deadline, under
from sfm_graph.errors import InvalidInput, SfmError
from sfm_graph.services.limits import network_of

TIMEOUT_HEADER = "x-request-timeout-ms"
EXPORT_PATH, IMPORT_PATH = "/export", "/import"
# What asks nothing of anything is answered whoever else asks for what.
UNCOUNTED_PATHS = frozenset({"/healthz", "/ping"})
METRICS_PATH = "/metrics"
# What tells how the service does has places of its own: it must be answered above all when the service is busy.
MAX_REPORTS = 100
MAX_EXPOSITIONS = 16
# Answers that wait for their clients to read; each holds what is left of it.
MAX_UNTAKEN = 1_000
# Event streams and WebSockets; an idle one costs some 20 kB.
MAX_STREAMS = 10_000
# WebSockets whose client has not said yet who it is, for which it has 10 s; and those of one network.
MAX_NEWCOMERS = 256
MAX_NEWCOMERS_EACH = 64
# A refused body up to so many bytes is read and thrown away, so that its connection goes on.
_SMALL_BODY_BYTES = 65_536
_STOPPING = {"status": "down", "parts": {"service": {"status": "stopping"}}}


class Admission:
    """ASGI middleware: 503 `overloaded` at once beyond so many requests, 503 `deadline_exceeded` for one that takes
    longer than it may. Exports and imports have numbers of their own and no deadline, nor have streams of events.
    A query or mutation over a WebSocket is a request as any other.

    While the service stops (`app.state.stopping`) it goes on answering, but is not ready.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_requests: int,
        max_transfers: int,
        request_timeout_ms: int,
        patience_seconds: float,
    ) -> None:
        """`max_transfers`: exports, and as many imports. `patience_seconds`: how long an answer may go untaken."""
        self._app = app
        self._patience = patience_seconds
        self._requests = Gate(max_requests, "requests")
        reports = Gate(MAX_REPORTS, "health reports")
        self._gates = {
            EXPORT_PATH: Gate(max_transfers, "exports"),
            IMPORT_PATH: Gate(max_transfers, "imports"),
            METRICS_PATH: Gate(MAX_EXPOSITIONS, "readings of metrics"),
            **dict.fromkeys(REPORT_PATHS, reports),
            **dict.fromkeys(UNCOUNTED_PATHS, Gate(sys.maxsize, "probes")),
        }
        self._untaken = Gate(MAX_UNTAKEN, "untaken answers")
        self._streams = Gate(MAX_STREAMS, "streams")
        self._newcomers = Newcomers(MAX_NEWCOMERS, MAX_NEWCOMERS_EACH)
        self._timeout_ms = request_timeout_ms

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it before its body is read."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        elif scope["path"] in REPORT_PATHS and is_stopping(scope):
            await JsonResponse(_STOPPING, 503, {"Retry-After": "1"})(scope, receive, self._patient(scope, send))
        else:
            await self._request(scope, receive, send)

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            milliseconds = self._milliseconds(scope)
            gate = self._gates.get(scope["path"], self._requests)
            gate.enter()
        except SfmError as error:
            await _refused(scope, receive, self._patient(scope, send), error)
            return
        if scope["path"] in (EXPORT_PATH, IMPORT_PATH):
            deadline = Deadline(None)
        else:
            deadline = Deadline(time.monotonic() + milliseconds / 1000)
        exchange = Exchange(
            scope, receive, send, deadline, gate,
            streams=self._streams, untaken=self._untaken, patience_seconds=self._patience,
        )  # fmt: skip
        try:
            with under(deadline):
                await exchange.run(self._app)
        finally:
            exchange.gate.leave()

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            place = Place(
                self._newcomers, self._streams, self._requests,
                network=network_of(client_of(scope)), milliseconds=self._milliseconds(scope),
            )  # fmt: skip
        except SfmError as error:
            # Instead of the handshake's answer.
            await refusal(error, scope["path"])(scope, receive, send)
            return
        scope[PLACE] = place
        try:
            await self._app(scope, receive, send)
        finally:
            place.leave()

    def _patient(self, scope: Scope, send: Send) -> Sending:
        # A refusal has no place to leave: it waits only while there are not too many that wait.
        return Sending(scope, send, self._patience, lambda: self._untaken.inside < MAX_UNTAKEN)

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
