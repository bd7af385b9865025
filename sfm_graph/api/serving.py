"""The server as streams and a stop in order need it."""

import asyncio
import ctypes
import socket
import struct
import sys
import time
from collections.abc import Callable
from contextlib import suppress

import uvicorn

from sfm_graph.api.connections import LINGER_SECONDS, Connection, SocketConnection, abort
from sfm_graph.api.streams import FAREWELL_SECONDS, Streams

# GraphQL over a WebSocket: an operation with its variables. Larger ones go by POST.
MAX_MESSAGE_BYTES = 1024**2
# How long connections that have been made still come in after no more can be made.
ACCEPT_SECONDS = 0.1
_TICK_SECONDS = 0.02
# Linux; not among Python's constants.
_SO_ATTACH_FILTER = 26
# A packet filter on the TCP header: flags SYN without ACK, the wish for a new connection, is dropped.
_NO_NEW_CONNECTIONS = (
    (0x30, 0, 0, 13),  # load the byte of flags
    (0x54, 0, 0, 0x12),  # keep SYN and ACK
    (0x15, 0, 1, 0x02),  # is it SYN alone?
    (0x06, 0, 0, 0),  # drop
    (0x06, 0, 0, 0xFFFF_FFFF),  # let through
)


class StreamingServer(uvicorn.Server):
    """Serves one app object, and stops in order.

    First `app.state.stopping` is set, for readiness, and for `drain_seconds` everything goes on. Then no connection
    can be made any more; those that were made are served. Streams are ended, requests under way are answered, for at
    most `timeout_graceful_shutdown` seconds.
    """

    def __init__(self, config: uvicorn.Config, *, drain_seconds: float = 0.0, shares_listener: bool = False) -> None:
        """shares_listener: other processes go on accepting from it, so that only this one stops."""
        config.ws_max_size = MAX_MESSAGE_BYTES
        if config.http in ("auto", "httptools"):
            config.http = Connection
        if config.ws in ("auto", "websockets", "websockets-sansio"):
            config.ws = SocketConnection
        super().__init__(config)
        self._drain_seconds = drain_seconds
        self._shares_listener = shares_listener
        self._state = config.app.state  # type: ignore[union-attr]
        self._state.stopping = False
        self._state.streams = self._streams = Streams(abort)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain, accept what has come, end streams, finish requests, then close connections."""
        self._state.stopping = True
        self.server_state.stopping = True  # type: ignore[attr-defined]
        self._speak_last()
        await self._wait(self._drain_seconds)
        if not self._shares_listener:
            for listener in sockets or []:
                refuse_connections(listener)
        await self._wait(ACCEPT_SECONDS)
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()
        await asyncio.gather(self._streams.end(FAREWELL_SECONDS), self._linger())
        await super().shutdown([])

    def _speak_last(self) -> None:
        for connection in self._connections():
            connection.speak_last()

    async def _linger(self) -> None:
        seconds = min(LINGER_SECONDS, self.config.timeout_graceful_shutdown or 0)
        await self._wait(seconds, lambda: not self._connections())

    async def _wait(self, seconds: float, is_enough: Callable[[], bool] = lambda: False) -> None:
        """Sleep, unless someone is impatient."""
        # What ends it early is set by a signal's handler, or by uvicorn.
        ends = time.monotonic() + seconds
        while time.monotonic() < ends and not is_enough() and not self.force_exit:  # noqa: ASYNC110
            await asyncio.sleep(_TICK_SECONDS)

    def _connections(self) -> list[Connection]:
        return [one for one in self.server_state.connections if isinstance(one, Connection)]


def refuse_connections(listener: socket.socket) -> None:
    """Let no new connection be made to a listening socket, while those that were made can still be accepted.

    Closing it would reset what has connected and was not accepted. Where a kernel has no such filter that stays so.
    """
    if sys.platform != "linux":
        return
    program = b"".join(struct.pack("HBBI", *one) for one in _NO_NEW_CONNECTIONS)
    held = ctypes.create_string_buffer(program, len(program))
    described = struct.pack("HP", len(_NO_NEW_CONNECTIONS), ctypes.addressof(held))
    with suppress(OSError):
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, described)
