"""The partitions of the change log."""

import asyncio
from dataclasses import dataclass
from datetime import datetime

import psycopg
from psycopg import sql

from sfm_graph.store.database import Database, Session, WriteSession

# Dropping a partition waits for all who read the log, and all others wait for it: so only a moment, but often.
LOCK_TIMEOUT = "200ms"
ATTEMPTS = 25
PAUSE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Partition:
    """The changes of transactions that began before `until`, and not in an earlier partition."""

    name: str
    until: datetime


async def add(database: Database, *, width_days: int, ahead_days: int) -> None:
    """Make partitions of this width until there are enough for so many days."""
    async with database.owned() as connection:
        await Session(connection).run("change_partitions_add", days=width_days, ahead=ahead_days)


async def listed(session: Session) -> list[Partition]:
    """All partitions by time."""
    return [Partition(name, until) for name, until in await session.rows("change_partitions")]


@dataclass(frozen=True, slots=True)
class Last:
    """The latest transaction of some changes, 0 for none; and the last stamp of their commits, None for none."""

    xid: int
    stamp: datetime | None


async def last(session: Session, until: datetime) -> Last:
    """Of the changes from before a moment."""
    xid, stamp = await session.one("change_partition_last", until=until)
    return Last(xid or 0, stamp)


async def known_from(session: Session) -> datetime:
    """From when on it is told what was known."""
    return (await session.one("change_log_known_from"))[0]  # type: ignore[no-any-return]


async def begins(session: Session) -> datetime | None:
    """From when on changes are kept; None where none have been dropped."""
    row = await session.row("change_partition_first")
    return None if row is None else row[0]


async def said_at(session: Session) -> datetime:
    """When readers were last told that changes go."""
    return (await session.one("change_log_pruned_at"))[0]  # type: ignore[no-any-return]


async def say_pruned(database: Database, gone: Last) -> None:
    """From now on refuse readers that have not seen all transactions up to the last of these, and those who ask for
    what was known before."""

    async def work(session: WriteSession) -> None:
        await session.run("change_log_prune", xid=str(gone.xid), known_from=gone.stamp)

    await database.write(work)


async def drop(database: Database, partition: Partition) -> bool:
    """Drop a partition with its changes. False: the log was too busy; later, then."""
    statement = sql.SQL("drop table if exists {}").format(sql.Identifier(partition.name))
    async with database.owned() as connection:
        for _ in range(ATTEMPTS):
            try:
                async with connection.transaction():
                    await connection.execute(sql.SQL("set local lock_timeout = {}").format(sql.Literal(LOCK_TIMEOUT)))
                    await connection.execute(statement)
                return True
            except psycopg.errors.LockNotAvailable:
                await asyncio.sleep(PAUSE_SECONDS)
    return False
