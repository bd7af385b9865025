"""One request and its answer: the app's, or a refusal when its time is over."""

import asyncio
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sfm_graph.api.gates import BECOMES_STREAM, Gate
from sfm_graph.api.pace import Sending
from sfm_graph.api.refusals import refuse
from sfm_graph.api.streams import AGAIN_SECONDS
from sfm_graph.domain.deadline import Deadline, out_of_time
from sfm_graph.errors import Overloaded, SfmError, Unavailable

# What has ended because of the deadline may still say so itself.
GRACE_SECONDS = 0.25


class Exchange:
    """Passes a request to an app within a deadline. Whichever comes first is sent, the app's answer or a refusal.

    An answer that says that it is a stream moves on to the gate of streams, without a deadline. One that has a
    deadline, and that its client does not take promptly, moves on to the gate of the untaken, and is cut off when its
    client does not keep pace.
    """

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        deadline: Deadline,
        gate: Gate,
        *,
        streams: Gate,
        untaken: Gate,
        patience_seconds: float,
    ) -> None:
        """`gate`: what the request has entered; who made the exchange leaves the one that it is in at its end."""
        self._scope = scope
        self._receive = receive
        self._send = Sending(scope, send, patience_seconds, self._enter_untaken)
        self._deadline = deadline
        self.gate = gate
        self._streams = streams
        self._untaken = untaken
        self._answered = False
        self._refusing: asyncio.Task[None] | None = None
        self._running: asyncio.Task[object] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._cancellations = 0

    async def run(self, app: ASGIApp) -> None:
        """Until the app has ended, which a refused one is made to."""
        self._running = asyncio.current_task()
        if self._deadline.moment is not None:
            self._wait(self._deadline.moment - time.monotonic() + GRACE_SECONDS)
        self._scope[BECOMES_STREAM] = self._enter_streams
        try:
            await app(self._scope, self._receive, self._filtered)
        except asyncio.CancelledError:
            if self._refusing is None:
                await self._cancelled()
        finally:
            if self._timer is not None:
                self._timer.cancel()
            if self._refusing is not None:
                await self._settled(self._refusing)

    def _wait(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._late)

    def _late(self) -> None:
        self._refuse(out_of_time())

    def _refuse(self, error: SfmError) -> None:
        if self._refusing is None:
            # In a task of its own: what does not end shall not keep the answer.
            self._refusing = asyncio.create_task(self._say(error))
        if self._running is not None:
            self._cancellations += 1
            self._running.cancel()
        # Once more when something on its way has swallowed that: `asyncio.wait_for` of Python 3.11 does now and then.
        self._timer = asyncio.get_running_loop().call_later(AGAIN_SECONDS, self._refuse, error)

    async def _say(self, error: SfmError) -> None:
        await refuse(self._scope, self._receive, self._send, error)

    async def _filtered(self, message: Message) -> None:
        """What the app sends; nothing more of it once the request is refused."""
        if self._refusing is not None:
            return
        if message["type"] == "http.response.start":
            if self._timer is not None:
                self._timer.cancel()
            self._answered = True
        if self._answered:
            await self._send(message)

    def _enter_streams(self) -> None:
        """Raises Overloaded."""
        self._streams.enter()
        self.gate.leave()
        self.gate = self._streams
        self._send.is_timed = False
        self._deadline.lift()
        if self._timer is not None:
            self._timer.cancel()

    def _enter_untaken(self) -> bool:
        if self._deadline.moment is None or self.gate is self._untaken:
            return True
        try:
            self._untaken.enter()
        except Overloaded:
            return False
        self.gate.leave()
        self.gate = self._untaken
        return True

    async def _cancelled(self) -> None:
        """The server gives up waiting: that is an answer as well, where there is none yet."""
        if self._answered or not is_stopping(self._scope):
            raise asyncio.CancelledError
        await self._say(Unavailable("the service has stopped; try again"))

    async def _settled(self, refusing: asyncio.Task[None]) -> None:
        for _ in range(self._cancellations):
            if self._running is not None:
                self._running.uncancel()
        await refusing


def is_stopping(scope: Scope) -> bool:
    """Whether the server that a request came by is on its way out."""
    return bool(getattr(scope["app"].state, "stopping", False))
