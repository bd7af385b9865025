"""How long changes are kept: partitions are made ahead of time, and dropped whole when all have read them."""

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from sfm_graph.domain.access import Scope
from sfm_graph.domain.snapshot import Snapshot
from sfm_graph.services.access.guard import needs
from sfm_graph.store import change_partitions, everything, followers, past_rows
from sfm_graph.store.change_stream import log_of
from sfm_graph.store.database import Database, ReadSession, WriteSession
from sfm_graph.store.followers import StoredPosition

log = logging.getLogger(__name__)

# A few wide partitions: every statement looks into each of them.
PARTITIONS = 6
# A service whose maintenance fails goes on writing for so long.
LEAST_DAYS_AHEAD = 14
ROUND_SECONDS = 600.0
# Between the word that changes are gone and their end: no reader that has not heard it is still at work.
GRACE = timedelta(minutes=10)


def _now() -> datetime:
    return datetime.now(UTC)


class Retention:
    """Keeps the log's partitions."""

    def __init__(
        self, database: Database, *, days: int, grace: timedelta = GRACE, clock: Callable[[], datetime] = _now
    ) -> None:
        self._database = database
        self._days = days
        self._width = -(-days // PARTITIONS)
        self._grace = grace
        self._clock = clock
        self._next_round = 0.0
        # The follower that holds back what would be dropped, for health; None when none does.
        self.held_by: str | None = None

    async def prepare(self) -> None:
        """Before anything is written: make partitions ahead of time."""
        await self._add()

    async def round(self) -> None:
        """What is due every ten minutes."""
        if time.monotonic() < self._next_round:
            return
        self._next_round = time.monotonic() + ROUND_SECONDS
        await self._add()
        await self.prune()
        await past_rows.prune(self._database)
        await everything.prune(self._database, self._clock() - timedelta(days=self._days))

    async def _add(self) -> None:
        ahead = max(LEAST_DAYS_AHEAD, 2 * self._width)
        await change_partitions.add(self._database, width_days=self._width, ahead_days=ahead)

    async def prune(self) -> None:
        """Say which changes are going, and, once every reader must have heard it, drop them."""
        async with self._database.read() as session:
            due = await self._due(session)
            if not due:
                return
            last = await change_partitions.last(session, due[-1].until)
            if not Snapshot(session.snapshot).covers(last.xid):
                # A transaction of that time is still at work; no cursor would be good before it ends.
                return
            known = await log_of(session)
            said_at = await change_partitions.said_at(session)
            told_from = await change_partitions.known_from(session)
        if last.xid > known.pruned_xid or (last.stamp is not None and last.stamp > told_from):
            await change_partitions.say_pruned(self._database, last)
        elif said_at <= self._clock() - self._grace:
            for one in due:
                log.info("dropping the changes before %s", one.until.isoformat())
                if not await change_partitions.drop(self._database, one):
                    return

    @needs(Scope.ADMIN)
    async def followers(self) -> list[StoredPosition]:
        """Everyone that the log is kept for, by name and shard."""
        async with self._database.read() as session:
            return await followers.everyone(session)

    @needs(Scope.ADMIN, target="name")
    async def forget(self, name: str) -> int:
        """Keep the log for a follower no longer; it begins anew should it come back. How many shards it had."""

        async def work(session: WriteSession) -> int:
            return await followers.drop(session, name)

        return await self._database.write(work)

    async def _due(self, session: ReadSession) -> list[change_partitions.Partition]:
        """The partitions past retention that every follower has read."""
        old = self._clock() - timedelta(days=self._days)
        due = [one for one in await change_partitions.listed(session) if one.until <= old]
        epoch = (await log_of(session)).epoch
        standing = [one for one in await followers.everyone(session) if one.epoch == epoch]
        self.held_by = None
        while due:
            last = await change_partitions.last(session, due[-1].until)
            behind = [one.key.name for one in standing if not one.position.seen.covers(last.xid)]
            if not behind:
                break
            self.held_by = behind[0]
            due.pop()
        return due
