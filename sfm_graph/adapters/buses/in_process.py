"""Events to handlers in this process, for a service on one machine and for tests."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence

from sfm_graph.domain.event import Event
from sfm_graph.errors import EventBusUnavailable

Handler = Callable[[Event], Awaitable[None]]

TIMEOUT_SECONDS = 20.0
# For cancelled handlers to clean up.
_END_SECONDS = 1.0


class InProcessBus:
    """Hands events over while `publish` waits: there is no queue, so nothing is lost with the process.

    Whoever publishes takes an event for delivered only when its effect is there, and goes as fast as the slowest
    handler. Topics have one partition.
    """

    def __init__(self, *, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        self._timeout_seconds = timeout_seconds
        self._groups: dict[str, _Group] = {}
        self._closed = False

    @property
    def name(self) -> str:
        """`in_process`."""
        return "in_process"

    def subscribe(self, group: str, handler: Handler) -> None:
        """Give every event of both topics to a handler, one at a time; one handler for each group.

        The handler meets events again after a failure of any group. Raises ValueError when the group has one already.
        """
        if group in self._groups:
            raise ValueError(f"group {group!r} has a handler already")
        self._groups[group] = _Group(handler)

    async def publish(self, events: Sequence[Event]) -> None:
        """Returns when the handlers of all groups are through with all events, each in this order.

        A group stops at the event that its handler fails with, the others go on. Raises EventBusUnavailable then, and
        when the handlers take longer than the timeout; they are cancelled.
        """
        if self._closed:
            raise EventBusUnavailable("the event bus is closed")
        tasks = [asyncio.create_task(group.take(events), name=name) for name, group in self._groups.items()]
        if not tasks:
            return
        try:
            _, late = await asyncio.wait(tasks, timeout=self._timeout_seconds)
        finally:
            await _cancel(tasks)
        if late:
            groups = _names(late)
            raise EventBusUnavailable(f"{groups} did not handle events within {self._timeout_seconds:g} s")
        failed = [task for task in tasks if task.cancelled() or task.exception()]
        if failed:
            cause = None if failed[0].cancelled() else failed[0].exception()
            raise EventBusUnavailable(f"{_names(failed)} failed to handle an event: {cause!r}") from cause

    async def aclose(self) -> None:
        """No `publish` begins after this; one under way ends by itself."""
        self._closed = True


class _Group:
    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        # Two calls of `publish` at the same time do not make a handler run twice at the same time.
        self._turn = asyncio.Lock()

    async def take(self, events: Sequence[Event]) -> None:
        async with self._turn:
            for event in events:
                await self._handler(event)


async def _cancel(tasks: Collection[asyncio.Task[None]]) -> None:
    running = [task for task in tasks if not task.done()]
    for task in running:
        task.cancel()
    if running:
        # A handler that does not end when cancelled keeps its group's turn, not the publisher.
        await asyncio.wait(running, timeout=_END_SECONDS)


def _names(tasks: Collection[asyncio.Task[None]]) -> str:
    return ", ".join(sorted(task.get_name() for task in tasks))
