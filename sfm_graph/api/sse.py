"""Server-sent events: how they are written, read, and sent no faster than a client takes them."""

import asyncio
from asyncio import FIRST_COMPLETED
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from sfm_graph.api.gates import begin_stream
from sfm_graph.api.refusals import refusal
from sfm_graph.api.streams import FAREWELL_SECONDS, Streams, settled, taken
from sfm_graph.errors import Overloaded, SfmError, SubscriberTooSlow

MEDIA_TYPE = "text/event-stream"
KEEP_ALIVE_SECONDS = 15.0
_COMMENT = b":\n\n"
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


@dataclass(frozen=True, slots=True)
class Chunk:
    """Whole events; `cursor` is where a client that took them goes on, None: where it was."""

    data: bytes
    cursor: str | None = None


def event(name: str, data: bytes = b"", *, id_: str | None = None) -> bytes:
    """One event. With an id a client that comes back says it as Last-Event-ID."""
    head = f"event: {name}\n" if id_ is None else f"id: {id_}\nevent: {name}\n"
    return head.encode() + b"data: " + data.replace(b"\n", b"\ndata: ") + b"\n\n"


def place(id_: str) -> bytes:
    """An id without an event: moves on what a client says as Last-Event-ID, and does no more."""
    return f"id: {id_}\n\n".encode()


def accepted(accept: str) -> bool:
    """Whether an Accept header names event streams."""
    ranges = (one.partition(";")[0].strip().lower() for one in accept.split(","))
    return MEDIA_TYPE in ranges


class EventStream(Response):
    """An answer of events: each chunk is pulled when the client has taken the one before.

    farewell: the last events, given the cursor of what was taken: for an error after a client took nothing for
    `patience_seconds`, for None when the service stops.
    """

    def __init__(
        self,
        chunks: AsyncGenerator[Chunk],
        streams: Streams,
        *,
        patience_seconds: float,
        farewell: Callable[[SfmError | None, str | None], bytes],
    ) -> None:
        self.status_code, self.media_type, self.background = 200, MEDIA_TYPE, None
        self.init_headers(HEADERS)
        self._chunks = chunks
        self._streams = streams
        self._patience = patience_seconds
        self._farewell = farewell
        self._cursor: str | None = None
        self._is_sending = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the chunks end, the client leaves or takes nothing, or the service stops."""
        try:
            begin_stream(scope)
        except Overloaded as error:
            await self._chunks.aclose()
            await refusal(error, scope["path"])(scope, receive, send)
            return
        sending = asyncio.create_task(self._send_all(send))
        gone = asyncio.create_task(_gone(receive))
        try:
            with self._streams.joined(sending.cancel):
                failure = await self._kept(sending, gone, send)
                if not gone.done():
                    await self._finish(failure, scope, send, over=sending.done() and not sending.cancelled())
                    await asyncio.wait({gone}, timeout=FAREWELL_SECONDS)
        finally:
            await settled(sending, gone)
            await self._chunks.aclose()

    async def _send_all(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        await taken(send(start), self._patience)
        await taken(send(_body(b"")), self._patience)
        self._is_sending = False
        async for chunk in self._chunks:
            await self._take(send, chunk)

    async def _take(self, send: Send, chunk: Chunk) -> None:
        self._is_sending = True
        await taken(send(_body(chunk.data)), self._patience)
        self._is_sending = False
        self._cursor = chunk.cursor or self._cursor

    async def _kept(self, sending: asyncio.Task[None], gone: asyncio.Task[None], send: Send) -> SfmError | None:
        """Wait for the end of the events, or of the client; what went wrong, if something did."""
        try:
            while not sending.done() and not gone.done():
                await asyncio.wait({sending, gone}, timeout=KEEP_ALIVE_SECONDS, return_when=FIRST_COMPLETED)
                # Where events flow it does no harm, and where a send waits for the client nothing is added to it.
                if not sending.done() and not gone.done() and not self._is_sending:
                    await taken(send(_body(_COMMENT)), self._patience)
            if sending.done() and not sending.cancelled():
                sending.result()
        except SubscriberTooSlow as error:
            return error
        return None

    async def _finish(self, failure: SfmError | None, scope: Scope, send: Send, *, over: bool) -> None:
        words = b"" if over and failure is None else self._farewell(failure, self._cursor)
        try:
            async with asyncio.timeout(FAREWELL_SECONDS):
                await send({**_body(words), "more_body": False})
        except TimeoutError:
            self._streams.abort(scope)


def _body(data: bytes) -> dict[str, object]:
    return {"type": "http.response.body", "body": data, "more_body": True}


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


@dataclass(slots=True)
class Event:
    """A received event; without data it is only an id."""

    id: str | None = None
    name: str = "message"
    data: str | None = None


class EventReader:
    """Reads events out of lines without their ends."""

    def __init__(self) -> None:
        self._event = Event()

    def feed(self, line: str) -> Event | None:
        """The event that a line ends; None while it goes on."""
        if not line:
            done, self._event = self._event, Event()
            return done
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match name:
            case "id":
                self._event.id = value
            case "event":
                self._event.name = value
            case "data":
                before = self._event.data
                self._event.data = value if before is None else f"{before}\n{value}"
        return None
