"""The consumer's own port: `/metrics`, `/healthz` (alive) and `/readyz` (nothing hinders it, or what does)."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson
from prometheus_client import CONTENT_TYPE_LATEST

from sfm_consumers.watch import Watch
from sfm_graph.errors import SettingsError

_MAX_HEAD_BYTES = 8 * 1024
_MAX_CONNECTIONS = 64
_SECONDS = 5.0
_JSON = "application/json"
_REASONS = {200: "OK", 404: "Not Found", 405: "Method Not Allowed", 503: "Service Unavailable"}


@asynccontextmanager
async def serving(watch: Watch, host: str, port: int) -> AsyncIterator[int]:
    """Answer while the block runs; yields the port, a free one for 0. Raises SettingsError."""
    pages = _Pages(watch)
    try:
        server = await asyncio.start_server(pages.answer, host, port, limit=_MAX_HEAD_BYTES)
    except OSError as error:
        raise SettingsError(
            f"SFM_CONSUMER_HOST, SFM_CONSUMER_PORT: cannot listen on {host}:{port}: {error}"
        ) from error
    async with server:
        yield int(server.sockets[0].getsockname()[1])


class _Pages:
    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._open = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request a connection; whoever is slow, long or one too many is hung up on."""
        self._open += 1
        try:
            async with asyncio.timeout(_SECONDS):
                if self._open <= _MAX_CONNECTIONS:
                    head = await reader.readuntil(b"\r\n\r\n")
                    writer.write(self._response(head))
                    await writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            self._open -= 1
            writer.close()

    def _response(self, head: bytes) -> bytes:
        method, _, rest = head.partition(b" ")
        path = rest.split(b" ", 1)[0].split(b"?", 1)[0]
        if method not in (b"GET", b"HEAD"):
            status, kind, body = 405, _JSON, b'{"code":"method_not_allowed"}'
        else:
            status, kind, body = self._page(path)
        lines = (
            f"HTTP/1.1 {status} {_REASONS[status]}",
            f"Content-Type: {kind}",
            f"Content-Length: {len(body)}",
            "Cache-Control: no-store",
            "Connection: close",
        )
        return "\r\n".join((*lines, "", "")).encode() + (b"" if method == b"HEAD" else body)

    def _page(self, path: bytes) -> tuple[int, str, bytes]:
        if path == b"/metrics":
            return 200, CONTENT_TYPE_LATEST, self._watch.page()
        if path == b"/healthz":
            return 200, _JSON, b'{"alive":true}'
        if path == b"/readyz":
            troubles = self._watch.troubles
            return 503 if troubles else 200, _JSON, orjson.dumps({"ready": not troubles, "troubles": troubles})
        return 404, _JSON, b'{"code":"not_found"}'
