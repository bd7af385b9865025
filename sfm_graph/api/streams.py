"""Answers that go on for as long as a client listens: what ends them, and how long a client may take nothing."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from starlette.applications import Starlette
from starlette.types import Scope

from sfm_graph.errors import SubscriberTooSlow, Unavailable
from sfm_graph.telemetry.counters import SUBSCRIBER_DROPS
from sfm_graph.telemetry.stages import stage

# How long the last words to a client may take that does not read, or when the service stops.
FAREWELL_SECONDS = 2.0
# How soon a task that does not end is cancelled again.
AGAIN_SECONDS = 1.0


class Streams:
    """The open streams of one run of an app.

    `abort` breaks off the connection that a scope came by, with what it still buffers; without one that is left to
    the server's own time limits.
    """

    def __init__(self, abort: Callable[[Scope], None] = lambda scope: None) -> None:
        self.abort = abort
        self._ends: set[Callable[[], object]] = set()
        self._ending = False
        self._empty = asyncio.Event()

    def __len__(self) -> int:
        return len(self._ends)

    @contextmanager
    def joined(self, end: Callable[[], object]) -> Iterator[None]:
        """A stream that lasts as long as the context, unless `end` is called first.

        Raises Unavailable when the service is stopping.
        """
        if self._ending:
            raise Unavailable("the service is stopping")
        self._ends.add(end)
        try:
            yield
        finally:
            self._ends.discard(end)
            if not self._ends:
                self._empty.set()

    async def end(self, seconds: float) -> None:
        """Let every stream say goodbye, for at most so long; there are no new ones from now on."""
        self._ending = True
        self._empty.clear()
        for end in list(self._ends):
            end()
        if self._ends:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._empty.wait()


def streams_of(app: Starlette) -> Streams:
    """The streams of an app."""
    if not hasattr(app.state, "streams"):
        app.state.streams = Streams()
    streams: Streams = app.state.streams
    return streams


async def taken(sending: Awaitable[None], seconds: float) -> None:
    """Wait until a message is sent, which a server delays while its client does not read.

    Raises SubscriberTooSlow after `seconds`; a server that was waiting has then sent nothing of it.
    """
    # Not by `asyncio.timeout`, whose one cancellation a server may swallow on its way, and wait for ever.
    task = asyncio.ensure_future(sending)
    try:
        with stage("subscriber.deliver"):
            await asyncio.wait([task], timeout=seconds)
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=AGAIN_SECONDS)
    if task.cancelled() or not task.done():
        SUBSCRIBER_DROPS.inc()
        raise SubscriberTooSlow(f"nothing was taken for {seconds:g} seconds; go on at the cursor")
    task.result()


async def settled(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks and wait for their ends."""
    running = set(tasks)
    while running:
        for task in running:
            task.cancel()
        # Once more when something on its way has swallowed that: `asyncio.wait_for` of Python 3.11 does now and then.
        _, running = await asyncio.wait(running, timeout=AGAIN_SECONDS)
    await asyncio.gather(*tasks, return_exceptions=True)
