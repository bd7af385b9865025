"""Answers and bodies of any length that hold something dear, such as a database connection: sent only while they are
taken, waited for only while they come."""

import asyncio
import time
from asyncio import FIRST_COMPLETED
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Mapping

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from sfm_graph.api.pace import LEAST_BYTES_PER_SECOND, Pace
from sfm_graph.api.streams import Streams, settled, taken
from sfm_graph.errors import DeadlineExceeded, SubscriberTooSlow

# As much as a server buffers: who takes so little in all his time takes nothing.
_PIECE_BYTES = 65_536


class Download(Response):
    """Chunks, each pulled when the client has taken the one before. A client that leaves, or does not keep pace, is
    cut off, and the chunks are closed."""

    def __init__(
        self,
        chunks: AsyncGenerator[bytes],
        streams: Streams,
        *,
        patience_seconds: float,
        media_type: str,
        headers: Mapping[str, str],
    ) -> None:
        self.status_code, self.media_type, self.background = 200, media_type, None
        self.init_headers(headers)
        self._chunks = chunks
        self._streams = streams
        self._pace = Pace(patience_seconds)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send all."""
        sending = asyncio.create_task(self._send_all(send))
        gone = asyncio.create_task(_gone(receive))
        try:
            await asyncio.wait({sending, gone}, return_when=FIRST_COMPLETED)
            if sending.done():
                sending.result()
        except SubscriberTooSlow:
            self._streams.abort(scope)
        finally:
            await settled(sending, gone)
            await self._chunks.aclose()

    async def _send_all(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        await self._taken(send, start)
        async for chunk in self._chunks:
            for at in range(0, len(chunk), _PIECE_BYTES):
                await self._taken(send, _body(chunk[at : at + _PIECE_BYTES], more=True))
        await self._taken(send, _body(b"", more=False))

    async def _taken(self, send: Send, message: Message) -> None:
        began = time.monotonic()
        await taken(send(message), self._pace.seconds_left)
        self._pace.count(time.monotonic() - began, len(message.get("body", b"")))


async def coming(chunks: AsyncIterable[bytes], patience_seconds: float) -> AsyncIterator[bytes]:
    """The chunks of a body. Raises DeadlineExceeded when they do not keep pace."""
    found, pace = aiter(chunks), Pace(patience_seconds)
    while True:
        began = time.monotonic()
        try:
            async with asyncio.timeout(pace.seconds_left):
                chunk = await anext(found, None)
        except TimeoutError:
            raise DeadlineExceeded(
                f"less than {LEAST_BYTES_PER_SECOND} bytes a second came for {patience_seconds:g} seconds; "
                "what was stored stays"
            ) from None
        if chunk is None:
            return
        pace.count(time.monotonic() - began, len(chunk))
        yield chunk


def _body(data: bytes, *, more: bool) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
