"""The end of the log as it grows: one poller for all subscribers of a process, and the changes of late in a ring.

A subscriber has no queue: it has a place in the ring, and when it falls off the ring's end, a place in the database.
"""

import asyncio
import logging
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from sfm_graph.domain.change import Change
from sfm_graph.domain.position import ChangeLog, Position, expired
from sfm_graph.domain.snapshot import Snapshot
from sfm_graph.errors import CursorExpired, SfmError
from sfm_graph.services.changes.ticker import Ticker
from sfm_graph.services.tasks import ended, heed_cancellation
from sfm_graph.store.change_stream import Scope, log_of, read_slice
from sfm_graph.store.database import Database

log = logging.getLogger(__name__)

# What the ring holds at most, for all subscribers together.
RING_CHANGES = 10_000
RING_CHARS = 32 * 1024**2
SLICE = 1_000
# How often the poller makes sure that the log is still the one it began with.
CHECK_SECONDS = 1.0
MAX_BACKOFF_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Entry:
    """Changes that were read at once, by namespace in id order; `seen`: the last snapshot read whole so far."""

    until: Snapshot
    seen: Snapshot
    changes: dict[int, tuple[Change, ...]]
    count: int
    chars: int


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
        self._ring: deque[Entry] = deque()
        self._first = 0
        self._count = self._chars = 0
        # The number of the last entry with changes of a namespace.
        self._latest: dict[int, int] = {}
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
            if self._task is None or self._task.done():
                await self._begin()
            place = Place(namespace_id, self._first + len(self._ring))
            self._places[namespace_id].add(place)
            if self._task is None or self._task.done():
                self._task = asyncio.create_task(self._run(), name="change tail")
        try:
            yield place
        finally:
            await self._leave(place)

    async def next(self, place: Place, patience_seconds: float) -> tuple[Sequence[Entry] | None, Snapshot]:
        """Entries with changes for a place, waiting for some; none when there were none; None when the ring has lost
        them. And the snapshot up to which there are no others. Raises CursorExpired when the log was replaced."""
        with suppress(TimeoutError):
            async with asyncio.timeout(patience_seconds):
                await place.woken.wait()
        place.woken.clear()
        if place.broken is not None:
            raise place.broken
        end = self._first + len(self._ring)
        number, place.number = place.number, end
        if self._latest.get(place.namespace_id, -1) < number:
            return (), self._position.seen
        if number < self._first:
            return None, self._position.seen
        entries = [self._ring[one - self._first] for one in range(number, end)]
        return [one for one in entries if place.namespace_id in one.changes], self._position.seen

    async def aclose(self) -> None:
        """Stop reading."""
        task, self._task = self._task, None
        if task is not None:
            await ended(task)

    async def _begin(self) -> None:
        async with self._database.read() as session:
            self._log = await log_of(session)
            self._position = Position(Snapshot(session.snapshot))
        self._first += len(self._ring)
        self._ring.clear()
        self._latest.clear()
        self._count = self._chars = 0

    async def _leave(self, place: Place) -> None:
        places = self._places.get(place.namespace_id, set())
        places.discard(place)
        if not places:
            self._places.pop(place.namespace_id, None)
            self._latest.pop(place.namespace_id, None)
        if not self._places:
            await self.aclose()

    async def _run(self) -> None:
        backoff, checked = 0.0, time.monotonic()
        while self._places:
            heed_cancellation()
            try:
                async with self._lock:
                    behind = not await self._read()
                    if time.monotonic() - checked > CHECK_SECONDS:
                        await self._check()
                        checked = time.monotonic()
                self.problem, backoff = None, 0.0
            except SfmError as error:
                self.problem, backoff, behind = error.message, min(2 * backoff + 0.05, MAX_BACKOFF_SECONDS), False
                log.warning("reading changes: %s", error.message)
                await asyncio.sleep(backoff)
            if not behind:
                await self._ticker.tick()
            else:
                await asyncio.sleep(0)

    async def _read(self) -> bool:
        """One slice; whether it was the end of what was visible."""
        scope = Scope()
        async with self._database.read() as session:
            part = await read_slice(session, scope, self._position, SLICE)
        self._position = self._position.after(part)
        changes: dict[int, list[Change]] = defaultdict(list)
        for one in part.changes:
            if one.namespace_id in self._places:
                changes[one.namespace_id].append(one)
        if changes:
            self._append(part.until, {key: tuple(some) for key, some in changes.items()})
        return part.complete

    def _append(self, until: Snapshot, changes: dict[int, tuple[Change, ...]]) -> None:
        several = [one for some in changes.values() for one in some]
        chars = sum(len(one.before_json or "") + len(one.after_json or "") for one in several)
        number = self._first + len(self._ring)
        self._ring.append(Entry(until, self._position.seen, changes, len(several), chars))
        self._count += len(several)
        self._chars += chars
        while len(self._ring) > 1 and (self._count > RING_CHANGES or self._chars > RING_CHARS):
            oldest = self._ring.popleft()
            self._first += 1
            self._count -= oldest.count
            self._chars -= oldest.chars
        for namespace_id in changes:
            self._latest[namespace_id] = number
            for place in self._places[namespace_id]:
                place.woken.set()

    async def _check(self) -> None:
        async with self._database.read() as session:
            now = await log_of(session)
        if self._log is None or now.epoch != self._log.epoch or not now.keeps(self._position.seen):
            places = [place for some in self._places.values() for place in some]
            self._places.clear()
            for place in places:
                place.broken = expired("the change log was replaced")
                place.woken.set()
