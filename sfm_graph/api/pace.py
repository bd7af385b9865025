"""How slowly a client may take an answer, or send a body: nobody holds a place by being there."""

import asyncio
import time
from collections.abc import Callable
from typing import Final

from starlette.types import Message, Scope, Send

from sfm_graph.api.connections import abort

# A client slower than this for long is not waited for. Slow mobile networks are faster.
LEAST_BYTES_PER_SECOND: Final = 16_384
# What a client that reads leaves a server to wait for its answer.
PROMPT_SECONDS: Final = 0.25


class Pace:
    """How long one client may still be waited for: at most `patience_seconds`, less what it has been waited for, more
    the time that its bytes may take at the least rate."""

    def __init__(self, patience_seconds: float) -> None:
        self._patience = patience_seconds
        self.seconds_left = patience_seconds

    def count(self, waited_seconds: float, size: int) -> None:
        """So many bytes have gone, or come, after so long."""
        left = max(0.0, self.seconds_left - waited_seconds) + size / LEAST_BYTES_PER_SECOND
        self.seconds_left = min(self._patience, left)


class Sending:
    """Sends the messages of one answer. A client that does not keep pace is cut off; what is sent then goes nowhere.

    on_slow: called when a message is not taken promptly; False cuts off at once.
    """

    def __init__(self, scope: Scope, send: Send, patience_seconds: float, on_slow: Callable[[], bool]) -> None:
        self._scope = scope
        self._send = send
        self._pace = Pace(patience_seconds)
        self._on_slow = on_slow
        self._timer: asyncio.TimerHandle | None = None
        # Off for streams, which cut off themselves, and say goodbye first.
        self.is_timed = True

    async def __call__(self, message: Message) -> None:
        """Send one message."""
        if not self.is_timed:
            await self._send(message)
            return
        began = time.monotonic()
        left = self._pace.seconds_left
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(min(PROMPT_SECONDS, left), self._slow, began + left)
        try:
            await self._send(message)
        finally:
            self._timer.cancel()
        self._pace.count(time.monotonic() - began, len(message.get("body", b"")))

    def _slow(self, until: float) -> None:
        left = until - time.monotonic()
        if self._on_slow() and left > 0:
            self._timer = asyncio.get_running_loop().call_later(left, abort, self._scope)
        else:
            # The server's send returns when the connection is lost.
            abort(self._scope)
