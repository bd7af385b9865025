"""HTTP connections that are closed only when nobody has just begun to speak on them."""

import asyncio
import select
from typing import Any, Final

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

# How long a client may take for the head of a request.
HEAD_SECONDS = 30.0
# How long a connection stays when the server stops, for the request that its client may be about to send.
LINGER_SECONDS = 0.5
# Of a scope: what its connection is broken off by. Addresses do not tell connections apart behind a proxy.
_TRANSPORT: Final = "sfm_graph.transport"


class Connection(HttpToolsProtocol):
    """uvicorn's protocol, with three differences.

    An idle connection whose client has just sent something is not closed, that is answered first. A head that does
    not come in time ends its connection. Once the server stops (`server_state.stopping`), each answer is the last on
    its connection, and says so.
    """

    _head_timer: asyncio.TimerHandle | None = None
    _is_in_head = False
    timeout_keep_alive: float  # type: ignore[assignment]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._head_came()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self.scope[_TRANSPORT] = self.transport  # type: ignore[typeddict-unknown-key]
        self._is_in_head = True
        self._await_head()

    def on_headers_complete(self) -> None:
        """The end of a request's head."""
        self._is_in_head = False
        self._head_came()
        super().on_headers_complete()
        self.speak_last()

    def shutdown(self) -> None:
        """Close the connection when it is idle, or after the answer that is under way."""
        if self.is_busy:
            self.speak_last()
        elif not self._is_in_head and not _has_unread(self.transport):
            self.transport.close()

    def timeout_keep_alive_handler(self) -> None:
        """The client has been silent for long."""
        if not _has_unread(self.transport):
            super().timeout_keep_alive_handler()

    @property
    def is_busy(self) -> bool:
        """Whether a request is under way."""
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and not cycle.response_complete

    def speak_last(self) -> None:
        """When the server stops: let the answer under way be the last, if its head can still say so."""
        if not getattr(self.server_state, "stopping", False):
            return
        self.timeout_keep_alive = LINGER_SECONDS
        if self.is_busy and not self.cycle.response_started and not self.pipeline:
            self.cycle.keep_alive = False

    def _await_head(self) -> None:
        self._head_came()
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._end_slow_head)

    def _head_came(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _end_slow_head(self) -> None:
        if not self.is_busy:
            self.transport.close()


class SocketConnection(WebSocketsSansIOProtocol):
    """uvicorn's protocol of WebSockets, whose scope knows its connection."""

    def handle_connect(self, event: Request) -> None:
        """A handshake."""
        super().handle_connect(event)
        if not self.handshake_complete:
            # Before the app sees it: that is a task that has just been made.
            self.scope[_TRANSPORT] = self.transport  # type: ignore[typeddict-unknown-key]


def abort(scope: Scope) -> None:
    """Break off the connection that a scope came by, with all that is buffered for its client."""
    transport: asyncio.Transport | None = scope.get(_TRANSPORT)
    if transport is not None:
        transport.abort()


def _has_unread(transport: Any) -> bool:
    """Whether the client has sent what nobody has read yet."""
    opened = transport.get_extra_info("socket")
    if opened is None or opened.fileno() < 0:
        return False
    waiting = select.poll()
    waiting.register(opened.fileno(), select.POLLIN)
    return bool(waiting.poll(0))
