"""Waiting out what passes by itself, so that whoever looks can see what is waited for."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from sfm_consumers.contract import printable
from sfm_consumers.retrying import MAY_PASS, Patience, reason_to_wait
from sfm_consumers.watch import Watch

log = logging.getLogger(__name__)
_T = TypeVar("_T")


class Abandoned(Exception):
    """What is in hand is given up without having failed: it comes again, here or elsewhere."""


class Waiting:
    """The pauses of one piece of work, such as a partition's. Once `stop` is set, a pause is the end: Abandoned.

    `where` says whose pauses they are; those of a topic's work are counted.
    """

    def __init__(
        self, where: str, watch: Watch, patience: Patience, stop: asyncio.Event, *, topic: str | None = None
    ) -> None:
        self._where = where
        self._topic = topic
        self._watch = watch
        self._patience = patience
        self._stop = stop
        self._parts: set[str] = set()

    async def persist(self, part: str, work: Callable[[], Awaitable[_T]]) -> _T:
        """Do the same until it succeeds; what does not pass by itself is raised."""
        attempt = 0
        while True:
            try:
                result = await work()
            except MAY_PASS as error:
                reason = reason_to_wait(error)
                if reason is None:
                    raise
                await self.pause(part, reason, attempt)
                attempt += 1
            else:
                self.over(part)
                return result

    async def pause(self, part: str, reason: str, attempt: int, wish: float | None = None) -> None:
        """Wait before the next attempt; `part` is not ready meanwhile. Raises Abandoned."""
        seconds, reason = self._patience.pause(attempt, wish), printable(reason)
        self._parts.add(part)
        if self._topic is not None:
            self._watch.retry(self._topic)
        self._watch.trouble(self._name(part), reason)
        log.warning("%s: %s; again in %.1f s", self._name(part), reason, seconds)
        try:
            async with asyncio.timeout(seconds):
                await self._stop.wait()
        except TimeoutError:
            return
        raise Abandoned(reason)

    def over(self, part: str) -> None:
        """What was waited for is there."""
        if part in self._parts:
            self._parts.discard(part)
            self._watch.trouble(self._name(part), None)

    def end(self) -> None:
        """The partition's troubles are no longer ours."""
        for part in tuple(self._parts):
            self.over(part)

    def _name(self, part: str) -> str:
        return f"{part} of {self._where}"
