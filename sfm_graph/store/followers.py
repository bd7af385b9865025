"""Where durable readers of the log stand."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sfm_graph.domain.position import ChangeLog, Position
from sfm_graph.domain.snapshot import Snapshot
from sfm_graph.errors import Unavailable
from sfm_graph.store.database import Session, WriteSession


class Displaced(Unavailable):
    """A shard's position was moved by another process."""


@dataclass(frozen=True, slots=True)
class Key:
    """One shard of a follower."""

    name: str
    shards: int
    shard: int

    @property
    def parameters(self) -> dict[str, str | int]:
        """The values that name it."""
        return {"name": self.name, "shards": self.shards, "shard": self.shard}


@dataclass(frozen=True, slots=True)
class StoredPosition:
    """Where a follower's shard stands, in which epoch of the log, since when."""

    key: Key
    position: Position
    epoch: UUID
    moved_at: datetime


@dataclass(slots=True)
class Mark:
    """The stored position of a shard as this process last put it, over the connection that holds the shard's lock."""

    session: Session
    key: Key
    epoch: UUID
    position: Position

    async def move(self, position: Position) -> None:
        """Store a position. Raises Displaced when another process has stored one since; nothing is changed then."""
        before = self.position
        row = await self.session.row(
            "follower_move", epoch=self.epoch, seen=position.seen.text,
            until=position.until.text if position.until else None, last_id=position.last_id,
            from_seen=before.seen.text, from_until=before.until.text if before.until else None,
            from_last_id=before.last_id, **self.key.parameters,
        )  # fmt: skip
        if row is None:
            raise Displaced("another process has moved this shard's place, or it was forgotten")
        self.position = position

    async def confirm(self) -> None:
        """Raises Displaced or DatabaseUnavailable when the position is not this process's any more."""
        if await position(self.session, self.key, self.epoch) != self.position:
            raise Displaced("another process has moved this shard's place, or it was forgotten")


async def position(session: Session, key: Key, epoch: UUID) -> Position | None:
    """Where a shard stands; None: it never read in this epoch of the log."""
    row = await session.row("follower_position", **key.parameters)
    return _position(*row[:3]) if row and row[3] == epoch else None


async def begin(session: Session, key: Key, start: Position, epoch: UUID) -> None:
    """Store the first position, unless there is one."""
    await session.run(
        "follower_begin", seen=start.seen.text, until=start.until.text if start.until else None,
        last_id=start.last_id, epoch=epoch, **key.parameters,
    )  # fmt: skip


async def cut(session: WriteSession, key: Key, log: ChangeLog) -> None:
    """Give all shards of a follower's cut their first position: of another cut the one that was furthest behind, else
    the beginning. The other cut is forgotten; nothing that it has not read is."""
    await session.run("followers_cut", name=key.name)
    shards = [one for one in await everyone(session) if one.key.name == key.name and one.epoch == log.epoch]
    if any(one.key == key for one in shards):
        return
    start = log.beginning
    for number, one in enumerate(shards):
        if number == 0 or one.position.seen.precedes(start.seen):
            start = Position(one.position.seen)
    await session.run("followers_drop", name=key.name)
    for shard in range(key.shards):
        await begin(session, Key(key.name, key.shards, shard), start, log.epoch)


async def everyone(session: Session) -> list[StoredPosition]:
    """All followers by name and shard."""
    return [
        StoredPosition(Key(name, shards, shard), _position(seen, until, last_id), epoch, moved_at)
        for name, shards, shard, seen, until, last_id, epoch, moved_at in await session.rows("followers")
    ]


async def drop(session: Session, name: str) -> int:
    """Forget a follower; how many shards it had."""
    return len(await session.rows("followers_drop", name=name))


def _position(seen: str, until: str | None, last_id: int) -> Position:
    return Position(Snapshot(seen), Snapshot(until) if until else None, last_id)
