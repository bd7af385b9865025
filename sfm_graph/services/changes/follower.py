"""Durable readers of the whole log: one process at a time reads a shard and keeps in Postgres how far it came."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sfm_graph.domain.change import Change
from sfm_graph.domain.position import ChangeLog, Position, Slice
from sfm_graph.errors import SfmError, Unavailable
from sfm_graph.services.changes.ticker import Ticker
from sfm_graph.services.tasks import ended, heed_cancellation
from sfm_graph.store import followers
from sfm_graph.store.change_stream import Scope, log_of, read_slice
from sfm_graph.store.database import Database, Session

log = logging.getLogger(__name__)

Handle = Callable[[ChangeLog, Sequence[Change]], Awaitable[None]]
Begin = Callable[[], Awaitable[Position]]

BATCH = 1_000
# A reader with nothing to read still moves on, so that it is never behind what retention drops.
IDLE_MOVE_SECONDS = 60.0
# How soon a process that waits for a shard tries again.
TAKE_OVER_SECONDS = 1.0
MAX_BACKOFF_SECONDS = 30.0


@dataclass(slots=True)
class Progress:
    """What one shard of a follower does, for health and metrics."""

    name: str
    shard: int
    # Whether this process reads it; otherwise another one does, or none.
    active: bool = False
    problem: str | None = None
    delivered: int = 0
    # Seconds between the oldest change that is not delivered and now; 0 when there is none.
    lag_seconds: float = 0.0


class Displaced(Unavailable):
    """Another process reads this shard now."""


class Follower:
    """Hands the changes of all namespaces of a shard to a handler, in batches: those of one entity in order, each at
    least once. The position is stored after the handler has returned; a handler that raises gets the batch again."""

    def __init__(
        self,
        database: Database,
        name: str,
        handle: Handle,
        *,
        scope: Scope,
        poll_seconds: float,
        begin: Begin | None = None,
    ) -> None:
        """`begin` makes the first position of all, by default the oldest change that is kept."""
        self._database = database
        self._handle = handle
        self._scope = scope
        self._begin = begin
        self._poll_seconds = poll_seconds
        self.progress = Progress(name, scope.shard)

    async def run(self) -> None:
        """Follow until cancelled; what fails is shown in `progress.problem` and tried again."""
        backoff = 0.0
        while True:
            heed_cancellation()
            before = self.progress.delivered
            try:
                await self._lead()
                self.progress.problem, wait = None, TAKE_OVER_SECONDS
            except SfmError as error:
                self.progress.problem = error.message
                log.warning("%s, shard %d: %s", self.progress.name, self.progress.shard, error.message)
                backoff = 0.0 if self.progress.delivered > before else backoff
                wait = backoff = min(2 * backoff + 0.1, MAX_BACKOFF_SECONDS)
            finally:
                self.progress.active = False
            await asyncio.sleep(wait)

    async def _lead(self) -> None:
        """Read as long as this process holds the shard; returns when another one does."""
        progress, scope = self.progress, self._scope
        async with self._database.dedicated() as connection:
            session = Session(connection)
            (mine,) = await session.one("follower_lock", name=progress.name, shard=scope.shard)
            if not mine:
                return
            progress.active = True
            reading = await self._open(session)
            try:
                await reading.run()
            finally:
                await reading.aclose()

    async def _open(self, session: Session) -> "_Reading":
        async with self._database.read() as view:
            found = await log_of(view)
        key = followers.Key(self.progress.name, self._scope.shards, self._scope.shard)
        position = await followers.position(session, key, found.epoch)
        if position is None:
            position = await self._start(session, found)
            await followers.begin(session, key, position, found.epoch)
        mark = followers.Mark(session, key, found.epoch, position)
        if not found.keeps(position.seen):
            # Retention waits for followers: somebody has dropped changes by hand.
            log.error("%s: changes were dropped before they were read; beginning anew", key.name)
            await mark.move(await self._begin() if self._begin else found.beginning)
        await followers.drop_other_cuts(session, key)
        return _Reading(self, found, mark, Ticker(self._database, self._poll_seconds))

    async def _start(self, session: Session, found: ChangeLog) -> Position:
        """What `begin` makes; else where the follower stood when it was cut into another number of shards, or the
        beginning."""
        if self._begin is not None:
            return await self._begin()
        others = await followers.of_name(session, self.progress.name, found.epoch)
        earliest = found.beginning
        for one in others:
            if earliest is found.beginning or one.position.seen.precedes(earliest.seen):
                earliest = Position(one.position.seen)
        return earliest


class _Reading:
    """Reads ahead by one batch while the one before is handled."""

    def __init__(self, follower: Follower, found: ChangeLog, mark: followers.Mark, ticker: Ticker) -> None:
        self._follower = follower
        self._log = found
        self._mark = mark
        self._ticker = ticker
        self._ahead: asyncio.Task[Slice] | None = None

    async def run(self) -> None:
        progress = self._follower.progress
        moved = time.monotonic()
        while True:
            heed_cancellation()
            position = self._mark.position
            part = await self._next(position)
            behind = position.after(part)
            if not part.changes:
                progress.problem, progress.lag_seconds = None, 0.0
                if time.monotonic() - moved > IDLE_MOVE_SECONDS:
                    await self._move(behind)
                    await self._check()
                    moved = time.monotonic()
                await self._ticker.tick()
                continue
            progress.lag_seconds = (datetime.now(UTC) - part.changes[0].at).total_seconds()
            self._ahead = asyncio.create_task(self._read(behind), name="changes ahead")
            await self._follower._handle(self._log, part.changes)
            await self._move(behind)
            progress.problem = None
            progress.delivered += len(part.changes)
            moved = time.monotonic()

    async def aclose(self) -> None:
        """Let go of a read under way."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            await ended(ahead)

    async def _next(self, position: Position) -> Slice:
        ahead, self._ahead = self._ahead, None
        return await ahead if ahead is not None else await self._read(position)

    async def _read(self, position: Position) -> Slice:
        async with self._follower._database.read() as session:
            return await read_slice(session, self._follower._scope, position, BATCH)

    async def _move(self, position: Position) -> None:
        if not await self._mark.move(position):
            raise Displaced("another process reads this shard now")

    async def _check(self) -> None:
        async with self._follower._database.read() as session:
            now = await log_of(session)
        if now.epoch != self._log.epoch:
            raise Displaced("the change log was replaced; beginning anew")
