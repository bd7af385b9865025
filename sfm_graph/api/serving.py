"""The server as streams need it: it tells them that it stops, and can break off a connection."""

import socket

import uvicorn
from starlette.types import Scope

from sfm_graph.api.streams import FAREWELL_SECONDS, Streams

# GraphQL over a WebSocket: an operation with its variables. Larger ones go by POST.
MAX_MESSAGE_BYTES = 1024**2


class StreamingServer(uvicorn.Server):
    """Serves one app object; on its way out lets the app's streams end before it closes their connections."""

    def __init__(self, config: uvicorn.Config) -> None:
        config.ws_max_size = MAX_MESSAGE_BYTES
        super().__init__(config)
        self._streams = Streams(self._abort)
        config.app.state.streams = self._streams  # type: ignore[union-attr]

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End streams, then close connections."""
        await self._streams.end(FAREWELL_SECONDS)
        await super().shutdown(sockets)

    def _abort(self, scope: Scope) -> None:
        # A closed connection would stay until its client has read what is buffered for it.
        for connection in list(self.server_state.connections):
            if scope["client"] is not None and getattr(connection, "client", None) == tuple(scope["client"]):
                connection.transport.abort()
