"""The end of the log as it grows: one poller for all subscribers of a process.

A subscriber has no queue: it has a place in the ring, and when it falls off the ring's end, a place in the database.
"""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from contextvars import Context
from dataclasses import dataclass, field

from sfm_graph.domain.change import Change
from sfm_graph.domain.position import ChangeLog, Position, Slice, expired
from sfm_graph.domain.snapshot import Snapshot
from sfm_graph.errors import CursorExpired, SfmError
from sfm_graph.services.changes.ring import Entry, Ring
from sfm_graph.services.changes.ticker import Ticker
from sfm_graph.services.tasks import ended, heed_cancellation, kept_running
from sfm_graph.store.change_stream import SLICE_CHANGES, Scope, log_of, read_new
from sfm_graph.store.database import Database

log = logging.getLogger(__name__)

# How often the poller makes sure that the log is still the one it began with.
CHECK_SECONDS = 1.0
MAX_BACKOFF_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Silence:
    """There was nothing for a subscriber in all that a snapshot sees."""

    seen: Snapshot


class Lost:
    """The ring does not have any more what a subscriber has not read."""


@dataclass(eq=False, slots=True)
class Place:
    """A subscriber's place in the ring: the number of the next entry for it."""

    namespace_id: int
    number: int
    # Set when nothing more can be read for it.
    broken: CursorExpired | None = None
    woken: asyncio.Event = field(default_factory=asyncio.Event)


class Tail:
    """Reads what becomes visible while anyone listens. Every read waits its turn for `_lock`."""

    def __init__(self, database: Database, ticker: Ticker) -> None:
        self._database = database
        self._ticker = ticker
        self._lock = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._places: dict[int, set[Place]] = defaultdict(set)
        self._ring = Ring()
        self._position = Position(Snapshot("1:1:"))
        self._log: ChangeLog | None = None
        # Why the last read failed, for health; None when it did not.
        self.problem: str | None = None

    @property
    def subscribers(self) -> int:
        """How many listen."""
        return sum(map(len, self._places.values()))

    @asynccontextmanager
    async def joined(self, namespace_id: int) -> AsyncIterator[Place]:
        """Listen: every change that becomes visible from now on is in the ring, from the place on."""
        async with self._lock:
            if self._task is None:
                await self._begin()
            place = Place(namespace_id, self._ring.end)
            self._places[namespace_id].add(place)
            if self._task is None:
                self._task = asyncio.create_task(
                    kept_running("change tail", self._run, self._defect),
                    context=Context(),  # it serves others, too, than the request that began it
                )
        try:
            yield place
        finally:
            await self._leave(place)

    async def next(self, place: Place, patience_seconds: float) -> Entry | Silence | Lost:
        """What comes next for a place, waiting for it. Raises CursorExpired when the log was replaced."""
        place.woken.clear()
        if self._has_nothing(place):
            with suppress(TimeoutError):
                async with asyncio.timeout(patience_seconds):
                    await place.woken.wait()
        if place.broken is not None:
            raise place.broken
        if self._has_nothing(place):
            place.number = self._ring.end
            return Silence(self._position.seen)
        found = self._ring.next(place.namespace_id, place.number)
        if found is None:
            place.number = self._ring.end
            return Lost()
        number, entry = found
        place.number = number + 1
        return entry

    async def aclose(self) -> None:
        """Stop reading."""
        task, self._task = self._task, None
        self.problem = None
        if task is not None:
            await ended(task)

    def _has_nothing(self, place: Place) -> bool:
        return place.broken is None and self._ring.latest(place.namespace_id) < place.number

    def _defect(self, problem: str) -> None:
        self.problem = problem

    async def _begin(self) -> None:
        async with self._database.read() as session:
            self._log = await log_of(session)
            self._position = Position(Snapshot(session.snapshot))
        self._ring.clear()

    async def _leave(self, place: Place) -> None:
        places = self._places.get(place.namespace_id, set())
        places.discard(place)
        if not places:
            self._places.pop(place.namespace_id, None)
            self._ring.forget(place.namespace_id)
        if not self._places:
            await self.aclose()

    async def _run(self) -> None:
        backoff, checked = 0.0, time.monotonic()
        while True:
            heed_cancellation()
            try:
                async with self._lock:
                    more = not await self._read()
                    if time.monotonic() - checked > CHECK_SECONDS:
                        await self._check()
                        checked = time.monotonic()
                self.problem, backoff = None, 0.0
            except SfmError as error:
                log.warning("reading changes: %s", error.message)
                self.problem, more = error.message, False
                backoff = min(2 * backoff + 0.05, MAX_BACKOFF_SECONDS)
                await asyncio.sleep(backoff)
            await (asyncio.sleep(0) if more else self._ticker.tick())

    async def _read(self) -> bool:
        """One slice; whether it was the end of what was visible."""
        part = await read_new(self._database, Scope(wanted=tuple(self._places)), self._position, SLICE_CHANGES)
        before, self._position = self._position, self._position.after(part)
        if part.changes:
            self._ring.append(Entry(before.seen, part.until, self._position.seen, _by_namespace(part)))
            for namespace_id in {one.namespace_id for one in part.changes}:
                for place in self._places.get(namespace_id, ()):
                    place.woken.set()
        return part.complete

    async def _check(self) -> None:
        async with self._database.read() as session:
            now = await log_of(session)
        if self._log is not None and now.serves(self._log, self._position.seen):
            return
        places = [place for some in self._places.values() for place in some]
        self._places.clear()
        for place in places:
            place.broken = expired("the change log was replaced")
            place.woken.set()


def _by_namespace(part: Slice) -> dict[int, tuple[Change, ...]]:
    changes: dict[int, list[Change]] = defaultdict(list)
    for one in part.changes:
        changes[one.namespace_id].append(one)
    return {namespace_id: tuple(some) for namespace_id, some in changes.items()}
