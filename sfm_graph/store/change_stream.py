"""Reading the change log in slices, and what the log says of itself."""

import logging
from dataclasses import dataclass
from typing import Any

from sfm_graph.domain.position import ChangeLog, Position, Slice
from sfm_graph.domain.snapshot import Snapshot
from sfm_graph.errors import DatabaseUnavailable
from sfm_graph.store.database import Database, ReadSession, Session, WriteSession
from sfm_graph.store.rows import change_from_row

log = logging.getLogger(__name__)

# How many changes readers take at once.
SLICE_CHANGES = 1_000
# Stored bytes of states in one slice; a single change may be larger.
SLICE_BYTES = 4 * 1024**2


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose changes are read: those of one namespace, or of all namespaces of a shard (`namespace_id` None), of these
    only the `wanted` ones when there are such.

    `reindex`: also changes of search columns alone, which only indexes follow; never in a namespace's own stream.
    """

    namespace_id: int | None = None
    wanted: tuple[int, ...] | None = None
    shard: int = 0
    shards: int = 1
    reindex: bool = False

    def statement(self, name: str) -> str:
        """The name of a statement for this scope."""
        return name if self.namespace_id is not None else f"{name}_everywhere"

    @property
    def parameters(self) -> dict[str, Any]:
        """The values that name it."""
        if self.namespace_id is not None:
            return {"namespace_id": self.namespace_id}
        wanted = None if self.wanted is None else list(self.wanted)
        return {"shard": self.shard, "shards": self.shards, "reindex": self.reindex, "wanted": wanted}


async def read_new(database: Database, scope: Scope, position: Position, limit: int) -> Slice:
    """As `read_slice` in a transaction of its own, for a scope of all namespaces: nothing costs one round trip."""
    if position.until is None:
        # One statement sees one snapshot, and writes nothing: it is as good a place as a transaction's.
        row = await database.single("changes_any_everywhere", since=position.seen.text, **scope.parameters)
        if row is not None and not row[1]:
            return Slice(Snapshot(row[0]), (), complete=True)
    async with database.read() as session:
        return await read_slice(session, scope, position, limit)


async def read_slice(session: ReadSession, scope: Scope, position: Position, limit: int) -> Slice:
    """Up to `limit` changes from a place on, in id order; a complete slice ends at the session's snapshot."""
    until, last_id = position.until, position.last_id
    if until is None:
        until = Snapshot(session.snapshot)
        rows = await session.rows(
            scope.statement("changes_new"), since=position.seen.text, limit=limit + 1, bytes=SLICE_BYTES,
            **scope.parameters,
        )  # fmt: skip
        if not rows or rows[0][-1] <= limit:
            return _slice(until, rows, limit)
        last_id = await _before_first(session, scope, position.seen)
    rows = await session.rows(
        scope.statement("changes_between"), since=position.seen.text, until=until.text, last_id=last_id,
        limit=limit + 1, bytes=SLICE_BYTES, **scope.parameters,
    )  # fmt: skip
    return _slice(until, rows, limit)


async def _before_first(session: ReadSession, scope: Scope, since: Snapshot) -> int:
    parameters = scope.parameters if scope.namespace_id is not None else {}
    (least,) = await session.one(scope.statement("changes_least"), since=since.text, **parameters)
    return (least or 1) - 1


def _slice(until: Snapshot, rows: list[Any], limit: int) -> Slice:
    """`rows`: up to `limit` + 1, the extra one only tells that more follow; so does a count beyond them."""
    complete = not rows or (rows[0][-1] <= limit and len(rows) == rows[0][-1])
    return Slice(until, tuple(change_from_row(row) for row in rows[:limit]), complete)


async def log_of(session: Session) -> ChangeLog:
    """The log as this session's database has it. Raises DatabaseUnavailable on a standby, whose snapshots do not tell
    which transactions are in progress."""
    epoch, key, pruned_xid, is_standby = await session.one("change_log_state")
    if is_standby:
        raise DatabaseUnavailable("changes are read on the primary only; this server is a standby")
    return ChangeLog(epoch, bytes(key), pruned_xid)


async def adopt(session: WriteSession, origin: str) -> None:
    """Begin a new epoch where the log was restored from a dump or its server promoted: old cursors expire, followers
    go on from here. Does nothing in the database where the log began."""
    _, known = await session.one("change_log_lock")
    if known == origin:
        return
    await session.run("change_log_adopt", origin=origin)
    if known:
        log.warning("the change log goes on in another database: older cursors have expired")
        await session.run("change_log_unread")
        await session.run("change_log_settle")
        await session.run("followers_adopt")
        await session.run("copies_adopt")
