"""Durable readers of the whole log: one process at a time reads a shard and keeps in Postgres how far it came."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sfm_graph.domain.change import Change
from sfm_graph.domain.position import ChangeLog, Position, Slice
from sfm_graph.errors import SfmError
from sfm_graph.services.changes.ticker import Ticker
from sfm_graph.services.tasks import ended, heed_cancellation, kept_running
from sfm_graph.store import followers
from sfm_graph.store.change_stream import SLICE_CHANGES, Scope, log_of, read_new
from sfm_graph.store.database import Database, Session
from sfm_graph.store.followers import Displaced

log = logging.getLogger(__name__)

Handle = Callable[[ChangeLog, Sequence[Change]], Awaitable[None]]
Begin = Callable[[], Awaitable[Position]]

# A reader with nothing to read still moves on, so that it is never behind what retention drops.
IDLE_MOVE_SECONDS = 60.0
# How often a reader makes sure that the log and its lock are still there.
CHECK_SECONDS = 5.0
# How soon a process that waits for a shard tries again.
TAKE_OVER_SECONDS = 1.0
MAX_BACKOFF_SECONDS = 5.0


@dataclass(slots=True)
class Progress:
    """What one shard of a follower does, for health and metrics."""

    name: str
    shard: int
    # Whether this process reads it; otherwise another one does, or none.
    active: bool = False
    problem: str | None = None
    delivered: int = 0
    # When the oldest change was committed that is not delivered; None when all are.
    oldest_at: datetime | None = None

    @property
    def lag_seconds(self) -> float:
        """The age of the oldest change that is not delivered; 0 when all are."""
        return max(0.0, (datetime.now(UTC) - self.oldest_at).total_seconds()) if self.oldest_at else 0.0


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
        self._ticker = Ticker(database, poll_seconds)
        self.progress = Progress(name, scope.shard)

    async def run(self) -> None:
        """Follow until cancelled; what fails is shown in `progress.problem` and tried again."""
        name = f"{self.progress.name}, shard {self.progress.shard}"
        await kept_running(name, self._follow, self._defect)

    def _defect(self, problem: str) -> None:
        self.progress.problem = problem

    async def _follow(self) -> None:
        backoff = 0.0
        while True:
            heed_cancellation()
            before = self.progress.delivered
            try:
                await self._lead()
                self.progress.problem, self.progress.oldest_at, wait = None, None, TAKE_OVER_SECONDS
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
        key = followers.Key(self.progress.name, self._scope.shards, self._scope.shard)
        found = await self._log()
        position = await followers.position(session, key, found.epoch)
        if position is None:
            await self._start(session, key, found)
            # Beginning may have taken long.
            found = await self._log()
            position = await followers.position(session, key, found.epoch)
            if position is None:
                raise Displaced("the change log was replaced, or cut into another number of shards")
        mark = followers.Mark(session, key, found.epoch, position)
        if not found.keeps(position.seen):
            # Retention waits for followers: somebody has dropped changes by hand.
            log.error("%s: changes were dropped before they were read; beginning anew", key.name)
            await mark.move(await self._begin() if self._begin else found.beginning)
        return _Reading(self._database, self._scope, self._handle, self._ticker, self.progress, found, mark)

    async def _log(self) -> ChangeLog:
        async with self._database.read() as view:
            return await log_of(view)

    async def _start(self, session: Session, key: followers.Key, found: ChangeLog) -> None:
        """Store the first position: what `begin` makes; else where all shards of another cut have been, or the
        beginning."""
        if self._begin is not None:
            await followers.begin(session, key, await self._begin(), found.epoch)
        else:
            await self._database.write(lambda cutting: followers.cut(cutting, key, found))


class _Reading:
    """Reads ahead by one batch while the one before is handled."""

    def __init__(
        self,
        database: Database,
        scope: Scope,
        handle: Handle,
        ticker: Ticker,
        progress: Progress,
        found: ChangeLog,
        mark: followers.Mark,
    ) -> None:
        self._database = database
        self._scope = scope
        self._handle = handle
        self._ticker = ticker
        self._progress = progress
        self._log = found
        self._mark = mark
        self._ahead: asyncio.Task[Slice] | None = None

    async def run(self) -> None:
        """Until another process reads the shard, the log is replaced, or something fails."""
        checked = moved = time.monotonic()
        while True:
            heed_cancellation()
            part = await self._next()
            if time.monotonic() - checked > CHECK_SECONDS:
                await self._check()
                checked = time.monotonic()
            if part.changes:
                await self._deliver(part)
                moved = time.monotonic()
                continue
            self._progress.problem = self._progress.oldest_at = None
            if time.monotonic() - moved > IDLE_MOVE_SECONDS:
                await self._mark.move(self._mark.position.after(part))
                moved = time.monotonic()
            await self._ticker.tick()

    async def aclose(self) -> None:
        """Let go of a read under way."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            await ended(ahead)

    async def _deliver(self, part: Slice) -> None:
        behind = self._mark.position.after(part)
        self._progress.oldest_at = part.changes[0].at
        self._ahead = asyncio.create_task(self._read(behind), name="changes ahead")
        await self._handle(self._log, part.changes)
        await self._mark.move(behind)
        self._progress.problem = None
        self._progress.delivered += len(part.changes)

    async def _next(self) -> Slice:
        ahead, self._ahead = self._ahead, None
        return await ahead if ahead is not None else await self._read(self._mark.position)

    async def _read(self, position: Position) -> Slice:
        return await read_new(self._database, self._scope, position, SLICE_CHANGES)

    async def _check(self) -> None:
        async with self._database.read() as session:
            now = await log_of(session)
        if not now.serves(self._log, self._mark.position.seen):
            raise Displaced("the change log was replaced; beginning anew")
        await self._mark.confirm()
