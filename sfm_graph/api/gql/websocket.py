"""GraphQL over WebSockets: the subprotocol graphql-transport-ws, bounded in all that a client can make it keep.

Strawberry has a handler of it, which runs all operations of a socket in one context, takes messages of any shape
for well-formed, and waits for a client that does not read for as long as it likes.
"""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing, nullcontext, suppress
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from sfm_graph.api.authentication import socket_caller
from sfm_graph.api.bodies import INLINE_BYTES
from sfm_graph.api.exchange import GRACE_SECONDS
from sfm_graph.api.gates import Place, place_of
from sfm_graph.api.gql.context import Context
from sfm_graph.api.gql.operations import (
    READS_AND_WRITES,
    STREAMED,
    Answer,
    Asked,
    answers,
    asked_of,
    encoded,
    failure,
    is_subscription,
    only_answer,
)
from sfm_graph.api.streams import FAREWELL_SECONDS, Streams, settled, taken
from sfm_graph.domain.deadline import Deadline, out_of_time
from sfm_graph.domain.strict_json import parse_json
from sfm_graph.errors import InvalidInput, Overloaded, SfmError, SubscriberTooSlow, Unavailable
from sfm_graph.services.access.guard import act_as, caller
from sfm_graph.services.registry import Services

SUBPROTOCOL = "graphql-transport-ws"
INIT_SECONDS = 10.0
# Under way at once on one socket, those that are being cancelled included.
MAX_OPERATIONS = 100
MAX_ID_CHARS = 256
MAX_MESSAGE_CHARS = 1024**2
_MAX_REASON_BYTES = 123

GOING_AWAY = 1001
TOO_BIG = 1009
INTERNAL_ERROR = 1011
TRY_AGAIN_LATER = 1013
BAD_MESSAGE = 4400
NOT_INITIALISED = 4401
FORBIDDEN = 4403
WRONG_SUBPROTOCOL = 4406
INIT_TIMEOUT = 4408
ID_TAKEN = 4409
INITIALISED_TWICE = 4429

_log = logging.getLogger(__name__)


class _Closed(Exception):
    """The socket is to be closed with a code."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class _Operation:
    """One operation under way."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.task: asyncio.Task[None] | None = None


class GraphqlSocket:
    """One socket. Each operation has a context of its own, as each request over HTTP has."""

    def __init__(self, services: Services, websocket: WebSocket, streams: Streams) -> None:
        self._services = services
        self._websocket = websocket
        self._streams = streams
        self._place: Place | None = place_of(websocket.scope)
        self._patience = services.settings.subscriber_patience_seconds
        self._acknowledged = False
        self._operations: dict[str, _Operation] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._listening: asyncio.Task[None] | None = None
        # Why the socket ends before the client leaves, if it does.
        self._failure: BaseException | None = None

    async def serve(self) -> None:
        """Accept, and answer until the client leaves, breaks the protocol or takes nothing, or the service stops."""
        if SUBPROTOCOL not in self._websocket.scope["subprotocols"]:
            await self._websocket.accept()
            await self._close(WRONG_SUBPROTOCOL, f"the subprotocol is {SUBPROTOCOL}")
            return
        await self._websocket.accept(SUBPROTOCOL)
        listening = self._listening = asyncio.create_task(self._listen())
        try:
            with self._streams.joined(listening.cancel):
                await asyncio.wait({listening})
                if not listening.cancelled():
                    self._failure = self._failure or listening.exception()
                if listening.cancelled() or self._failure is not None:
                    await self._part()
        except Unavailable as error:
            await self._close(GOING_AWAY, error.message)
        finally:
            await settled(listening, *self._tasks)

    async def _listen(self) -> None:
        try:
            async with asyncio.timeout(INIT_SECONDS) as limit:
                while (message := await self._receive()) is not None:
                    await self._handle(message)
                    if self._acknowledged:
                        limit.reschedule(None)
        except TimeoutError as error:
            raise _Closed(INIT_TIMEOUT, "Connection initialisation timeout") from error

    async def _receive(self) -> dict[str, Any] | None:
        """The next message; None when the client has left."""
        event = await self._websocket.receive()
        if event["type"] == "websocket.disconnect":
            return None
        text = event.get("text")
        if text is None:
            raise _Closed(BAD_MESSAGE, "messages are text")
        if len(text) > MAX_MESSAGE_CHARS:
            raise _Closed(TOO_BIG, f"messages have at most {MAX_MESSAGE_CHARS} characters")
        try:
            message = await _parsed(text.encode("utf-8", "replace"))
        except InvalidInput as error:
            raise _Closed(BAD_MESSAGE, error.message) from error
        if not isinstance(message, dict):
            raise _Closed(BAD_MESSAGE, "a message is a JSON object")
        return message

    async def _handle(self, message: Mapping[str, Any]) -> None:
        payload = message.get("payload")
        if not isinstance(payload, dict | None):
            raise _Closed(BAD_MESSAGE, "a payload is a JSON object")
        match message.get("type"):
            case "connection_init":
                await self._initialise(payload or {})
            case "ping":
                await self._send({"type": "pong"} if payload is None else {"type": "pong", "payload": payload})
            case "pong":
                pass
            case "subscribe":
                await self._subscribe(_id_of(message), payload)
            case "complete":
                self._forget(_id_of(message))
            case other:
                raise _Closed(BAD_MESSAGE, f"unknown message type {str(other)[:40]!r}")

    async def _initialise(self, payload: Mapping[str, Any]) -> None:
        if self._acknowledged:
            raise _Closed(INITIALISED_TWICE, "Too many initialisation requests")
        try:
            # Operations are tasks of this one, and inherit its caller.
            act_as(await socket_caller(self._services, self._websocket.scope, payload))
            if self._place is not None:
                self._place.acknowledge()
        except Unavailable as error:
            raise _Closed(TRY_AGAIN_LATER, error.code) from error
        except SfmError as error:
            raise _Closed(FORBIDDEN, error.code) from error
        await self._send({"type": "connection_ack"})
        self._acknowledged = True

    async def _subscribe(self, id_: str, payload: Mapping[str, Any] | None) -> None:
        if not self._acknowledged:
            raise _Closed(NOT_INITIALISED, "Unauthorized")
        if payload is None:
            raise _Closed(BAD_MESSAGE, "a subscribe message has a payload")
        if id_ in self._operations:
            raise _Closed(ID_TAKEN, f"Subscriber for {id_} already exists")
        try:
            if len(self._tasks) >= MAX_OPERATIONS:
                raise Overloaded(f"a socket has at most {MAX_OPERATIONS} operations at once")
            asked = asked_of(payload)
            await caller().check()
            run = self._follow if is_subscription(asked) else self._execute
            await self._services.limits.admit("stream" if run == self._follow else "graphql")
        except SfmError as error:
            await self._send({"id": id_, "type": "error", "payload": failure(error)})
            return
        operation = self._operations[id_] = _Operation(Context(self._services))
        operation.task = asyncio.create_task(run(id_, operation.context, asked))
        self._tasks.add(operation.task)
        operation.task.add_done_callback(self._done)

    def _forget(self, id_: str) -> None:
        operation = self._operations.pop(id_, None)
        if operation is not None and operation.task is not None:
            operation.task.cancel()

    async def _follow(self, id_: str, context: Context, asked: Asked) -> None:
        async with aclosing(answers(context, asked, STREAMED)) as found:
            async for answer in found:
                if answer.refused:
                    await self._refuse(id_, answer.body["errors"])
                    return
                await self._send({"id": id_, "type": "next", "payload": answer.body})
        await self._complete(id_)

    async def _execute(self, id_: str, context: Context, asked: Asked) -> None:
        try:
            with self._place.request() if self._place is not None else nullcontext(Deadline(None)) as deadline:
                answer = await self._in_time(id_, context, asked, deadline)
        except Overloaded as error:
            await self._refuse(id_, failure(error))
            return
        if answer is not None:
            await self._finish(id_, answer)

    async def _in_time(self, id_: str, context: Context, asked: Asked, deadline: Deadline) -> Answer | None:
        """The answer; None when time was up, and that was said. What is executed has ended in any case."""
        answering = asyncio.create_task(only_answer(context, asked, READS_AND_WRITES))
        ends = None if deadline.moment is None else deadline.moment - time.monotonic() + GRACE_SECONDS
        try:
            await asyncio.wait({answering}, timeout=ends)
            if answering.done():
                return answering.result()
            body = {"data": None, "errors": failure(out_of_time())}
            await self._finish(id_, Answer(body, refused=False))
            return None
        finally:
            await settled(answering)

    async def _finish(self, id_: str, answer: Answer) -> None:
        if answer.refused:
            await self._refuse(id_, answer.body["errors"])
            return
        await self._send({"id": id_, "type": "next", "payload": answer.body})
        await self._complete(id_)

    async def _refuse(self, id_: str, errors: Sequence[Mapping[str, Any]]) -> None:
        self._operations.pop(id_, None)
        await self._send({"id": id_, "type": "error", "payload": errors})

    async def _complete(self, id_: str) -> None:
        # Before the message, so that the client may use the id again at once.
        self._operations.pop(id_, None)
        await self._send({"id": id_, "type": "complete"})

    def _done(self, task: asyncio.Task[None]) -> None:
        """An operation that fails by itself ends the socket."""
        self._tasks.discard(task)
        failed = None if task.cancelled() else task.exception()
        if failed is not None and self._listening is not None and not self._listening.done():
            self._failure = failed
            self._listening.cancel()

    async def _send(self, message: Mapping[str, Any]) -> None:
        try:
            await taken(self._websocket.send_text(encoded(message).decode()), self._patience)
        except RuntimeError as error:  # the server has closed the socket by itself
            raise WebSocketDisconnect(GOING_AWAY) from error

    async def _part(self) -> None:
        """The last messages: why the socket ends, and where each subscription goes on."""
        open_ones = dict(self._operations)
        await settled(*self._tasks)
        failed = self._failure
        try:
            async with asyncio.timeout(FAREWELL_SECONDS):
                match failed:
                    case _Closed():
                        await self._close(failed.code, failed.reason)
                    case None | SubscriberTooSlow():
                        for id_, operation in open_ones.items():
                            await self._end(id_, failed, operation.context.cursor)
                        await self._close(*_reason(failed, [one.context.cursor for one in open_ones.values()]))
                    case WebSocketDisconnect():
                        pass
                    case _:
                        _log.error("a socket failed", exc_info=failed)
                        await self._close(INTERNAL_ERROR, "internal error")
        except TimeoutError:
            self._streams.abort(self._websocket.scope)

    async def _end(self, id_: str, error: SubscriberTooSlow | None, cursor: str | None) -> None:
        if error is not None:
            body = {"data": None, "errors": failure(error, cursor)}
            await self._say({"id": id_, "type": "next", "payload": body})
        await self._say({"id": id_, "type": "complete"})

    async def _say(self, message: Mapping[str, Any]) -> None:
        # To a socket that the server has closed meanwhile there is nothing to say.
        with suppress(WebSocketDisconnect, RuntimeError):
            await self._websocket.send_text(encoded(message).decode())

    async def _close(self, code: int, reason: str) -> None:
        with suppress(WebSocketDisconnect, RuntimeError):
            await self._websocket.close(code, reason.encode()[:_MAX_REASON_BYTES].decode("utf-8", "ignore"))


async def _parsed(text: bytes) -> object:
    return parse_json(text) if len(text) <= INLINE_BYTES else await asyncio.to_thread(parse_json, text)


def _id_of(message: Mapping[str, Any]) -> str:
    id_ = message.get("id")
    if not isinstance(id_, str) or not 0 < len(id_) <= MAX_ID_CHARS:
        raise _Closed(BAD_MESSAGE, f"an id is a string of 1 to {MAX_ID_CHARS} characters")
    return id_


def _reason(error: SubscriberTooSlow | None, cursors: list[str | None]) -> tuple[int, str]:
    if error is None:
        return GOING_AWAY, "the service is stopping"
    if len(cursors) == 1 and cursors[0] is not None and len(cursors[0]) <= _MAX_REASON_BYTES:
        return TRY_AGAIN_LATER, cursors[0]
    return TRY_AGAIN_LATER, error.code
