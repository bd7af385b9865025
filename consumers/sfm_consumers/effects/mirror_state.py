"""What the mirror knows: the last state of everything in the source, and how much of it the target has.

Events of different topics and partitions come in any order among each other. So each only updates this knowledge, and
what can be written of it is written: a link waits here for its ends, a memory for the key or coordinate that another
one of the source has left but whose end is still to come.
"""

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import orjson

from sfm_consumers.contract import Retry
from sfm_consumers.effects.mirror_rows import LINK, MEMORY, Row, Touched
from sfm_consumers.effects.mirror_tables import OPEN_LINK, OPEN_MEMORY

# A cross join begins with its left side; without that and `indexed by` SQLite reads all of an era.
_WAITING = (
    "select w.id from memories g cross join memories w indexed by memories_{0}"
    " on w.era = g.era and w.{0} = g.{0} and w.id <> g.id and w.body is not null"
    " where g.era = ?1 and g.id in (select value from json_each(?2))"
)


class MirrorState:
    """The tables. Methods block, and take turns; each is one transaction that is on the disk when it returns."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self._turn = threading.Lock()

    def close(self) -> None:
        """Close the file."""
        with self._turn:
            self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One transaction, rolled back on any error. Raises Retry when the file cannot be read or written."""
        with self._turn:
            try:
                self._db.execute("begin immediate")
                try:
                    yield self._db
                    self._db.execute("commit")
                except BaseException:
                    # A full disk has rolled it back already.
                    with suppress(sqlite3.Error):
                        self._db.execute("rollback")
                    raise
            except sqlite3.Error as error:
                raise Retry(f"the mirror's state file: {error}") from error

    def everything_open(self) -> Touched:
        """All rows that something may be left to do about."""
        touched = Touched()
        with self.transaction() as db:
            for entity, rows, condition in ((MEMORY, "memories", OPEN_MEMORY), (LINK, "links", OPEN_LINK)):
                for era, row_id in db.execute(f"select era, id from {rows} where {condition}"):  # noqa: S608
                    touched.add(entity, era, [row_id])
        return touched

    def namespace_of(self, era: int) -> str | None:
        """The source's name of an era that has not ended."""
        with self.transaction() as db:
            row = db.execute("select namespace from eras where era = ? and not ended", (era,)).fetchone()
        return str(row[0]) if row else None

    def memories_gone(self, era: int, ids: Iterable[int]) -> list[tuple[Row, bool]]:
        """Forgotten memories that the target may still hold, or that are to be erased there (True)."""
        with self.transaction() as db:
            found = db.execute(
                "select id, remote, place, erase = 1, tried from memories where era = ?1 and gone"
                " and (tried or applied > 0 or (erase = 1 and remote is not null))"
                " and id in (select value from json_each(?2))",
                (era, _json(ids)),
            ).fetchall()
        return [(Row(one[0], 0, {}, one[1], _parsed(one[2])), bool(one[3])) for one in found]

    def memories_removed(self, era: int, ids: Iterable[int]) -> Touched:
        """The target no longer holds these memories, nor their links. What may be written now."""
        freed = Touched()
        with self.transaction() as db:
            arguments = (era, _json(ids))
            chosen = "where era = ?1 and id in (select value from json_each(?2))"
            waiting = [one for name in ("place", "key") for one in db.execute(_WAITING.format(name), arguments)]
            freed.add(MEMORY, era, [one[0] for one in waiting])
            db.execute(
                f"update memories set tried = 0, applied = 0, remote = iif(erase, null, remote),"  # noqa: S608
                f" erase = iif(erase, 2, 0) {chosen}",
                arguments,
            )
            for end in ("source", "target"):
                db.execute(
                    f"update links indexed by links_{end} set tried = 0, applied = 0, remote = null where era = ?1"  # noqa: S608
                    f" and {end} in (select value from json_each(?2))",
                    arguments,
                )
        return freed

    def links_gone(self, era: int, ids: Iterable[int]) -> list[tuple[Row, str | None, str | None]]:
        """Removed links that the target may still hold, with the target's ids of their ends where it has them."""
        with self.transaction() as db:
            found = db.execute(
                "select l.id, l.remote, l.identity, s.remote, t.remote from links l"
                " left join memories s on s.era = l.era and s.id = l.source and s.applied > 0"
                " left join memories t on t.era = l.era and t.id = l.target and t.applied > 0"
                " where l.era = ?1 and l.gone and (l.tried or l.applied > 0)"
                " and l.id in (select value from json_each(?2))",
                (era, _json(ids)),
            ).fetchall()
        return [(Row(one[0], 0, _identity_fields(one[2]), one[1], None), one[3], one[4]) for one in found]

    def links_removed(self, era: int, ids: Iterable[int]) -> Touched:
        """The target no longer holds these links. What may be written now."""
        freed = Touched()
        with self.transaction() as db:
            waiting = db.execute(
                "select w.id from links g cross join links w indexed by links_identity"
                " on w.era = g.era and w.identity = g.identity and w.id <> g.id and w.body is not null"
                " where g.era = ?1 and g.id in (select value from json_each(?2))",
                (era, _json(ids)),
            ).fetchall()
            freed.add(LINK, era, [one[0] for one in waiting])
            db.execute(
                "update links set tried = 0, applied = 0, remote = null"
                " where era = ?1 and id in (select value from json_each(?2))",
                (era, _json(ids)),
            )
        return freed

    def memories_ready(self, era: int, ids: Sequence[int]) -> list[Row]:
        """Memories to write that no other one stands in the way of; those of one place or key by turns."""
        holder = (
            "not exists (select 1 from memories h indexed by memories_{0} where h.era = m.era and h.id <> m.id"
            " and (h.tried or h.applied > 0) and h.{0} = m.{0})"
        )
        with self.transaction() as db:
            found = db.execute(
                "select m.id, m.version, m.body, m.remote, m.place, m.key from memories m"  # noqa: S608
                " where m.era = ?1 and m.body is not null and m.refused is null and not m.gone"
                " and m.id in (select value from json_each(?2))"
                f" and {holder.format('place')} and {holder.format('key')} order by m.id",
                (era, _json(ids)),
            ).fetchall()
            rows, taken = [], set[tuple[str, str]]()
            for row_id, version, body, remote, place, key in found:
                names = {("place", place), *([] if key is None else [("key", key)])}
                if taken.isdisjoint(names):
                    taken |= names
                    rows.append(Row(row_id, version, orjson.loads(body), remote, _parsed(place)))
            self._try(db, "memories", era, rows)
        return rows

    def links_ready(self, era: int, ids: Iterable[int]) -> list[tuple[Row, str, str]]:
        """Links to write, with the target's ids of their ends, which it holds; those of one identity by turns."""
        with self.transaction() as db:
            found = db.execute(
                "select l.id, l.version, l.body, l.remote, l.identity, s.remote, t.remote from links l"
                " join memories s on s.era = l.era and s.id = l.source and s.applied > 0 and not s.gone"
                " join memories t on t.era = l.era and t.id = l.target and t.applied > 0 and not t.gone"
                " where l.era = ?1 and l.body is not null and l.refused is null and not l.gone"
                " and l.id in (select value from json_each(?2))"
                " and not exists (select 1 from links h indexed by links_identity"
                " where h.era = l.era and h.identity = l.identity and h.id <> l.id and (h.tried or h.applied > 0))"
                " order by l.id",
                (era, _json(ids)),
            ).fetchall()
            rows, taken = [], set[str]()
            for row_id, version, body, remote, identity, source, target in found:
                if identity not in taken:
                    taken.add(identity)
                    rows.append((Row(row_id, version, orjson.loads(body), remote, None), source, target))
            self._try(db, "links", era, [one[0] for one in rows])
        return rows

    def memories_written(self, era: int, done: Sequence[tuple[Row, str]]) -> Touched:
        """The target holds these memories under these ids. The links that waited for them."""
        touched = Touched()
        with self.transaction() as db:
            self._written(db, "memories", era, done)
            ids = _json(row.id for row, _ in done)
            for end in ("source", "target"):
                waiting = db.execute(
                    f"select id from links indexed by links_{end} where era = ?1"  # noqa: S608
                    f" and {end} in (select value from json_each(?2)) and body is not null and refused is null",
                    (era, ids),
                ).fetchall()
                touched.add(LINK, era, [one[0] for one in waiting])
        return touched

    def links_written(self, era: int, done: Sequence[tuple[Row, str]]) -> None:
        """The target holds these links under these ids."""
        with self.transaction() as db:
            self._written(db, "links", era, done)

    def refused(self, entity: str, era: int, row: Row, reason: str) -> None:
        """The target will not take this state; a later one of the entity is tried again."""
        rows = "memories" if entity == MEMORY else "links"
        with self.transaction() as db:
            db.execute(
                f"update {rows} set refused = ?, tried = 0 where era = ? and id = ? and version = ?",  # noqa: S608
                (reason, era, row.id, row.version),
            )

    def ended_memories(self, limit: int) -> tuple[int, str, list[Row]] | None:
        """An era that has ended, its namespace, some memories written of it; None when nothing is left to remove."""
        with self.transaction() as db:
            era = db.execute("select era, namespace from eras where ended = 1 order by era limit 1").fetchone()
            if era is None:
                return None
            found = db.execute(
                "select id, remote, place from memories"
                " where era = ? and (remote is not null or tried or applied > 0) limit ?",
                (era[0], limit),
            ).fetchall()
        return era[0], era[1], [Row(one[0], 0, {}, one[1], _parsed(one[2])) for one in found]

    def ended_removed(self, era: int, ids: Iterable[int] | None) -> None:
        """Drop what is known of these memories of an ended era; None: of everything in it."""
        with self.transaction() as db:
            if ids is not None:
                db.execute(
                    "delete from memories where era = ? and id in (select value from json_each(?))", (era, _json(ids))
                )
                return
            for rows in ("memories", "links", "eras"):
                db.execute(f"delete from {rows} where era = ?", (era,))  # noqa: S608

    def waiting(self) -> tuple[int, int]:
        """How many memories and links could not be written yet, refused ones among them."""
        with self.transaction() as db:
            counts = [
                db.execute(f"select count(*) from {rows} where body is not null").fetchone()[0]  # noqa: S608
                for rows in ("memories", "links")
            ]
        return counts[0], counts[1]

    @staticmethod
    def _try(db: sqlite3.Connection, rows: str, era: int, tried: Sequence[Row]) -> None:
        db.execute(
            f"update {rows} set tried = 1 where era = ? and id in (select value from json_each(?))",  # noqa: S608
            (era, _json(row.id for row in tried)),
        )

    @staticmethod
    def _written(db: sqlite3.Connection, rows: str, era: int, done: Sequence[tuple[Row, str]]) -> None:
        db.executemany(
            f"update {rows} set applied = ?2, remote = ?3, tried = 0, body = iif(version = ?2, null, body)"  # noqa: S608
            " where era = ?4 and id = ?1",
            [(row.id, row.version, remote, era) for row, remote in done],
        )


def _identity_fields(identity: str) -> dict[str, Any]:
    _, _, type_, valid_from = orjson.loads(identity)
    return {"type": type_, "valid_from": valid_from}


def _json(ids: Iterable[int]) -> str:
    return orjson.dumps(list(ids)).decode()


def _parsed(place: str | None) -> list[float] | None:
    return None if place is None else orjson.loads(place)
