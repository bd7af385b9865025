"""What events and readings of the source say, taken into the mirror's tables: of which namespace, of which time."""

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from sfm_consumers.contract import Poison, Received, Retry
from sfm_consumers.effects.mirror_noting import note
from sfm_consumers.effects.mirror_rows import LINK, MEMORY, Cut, Seen, Touched
from sfm_consumers.effects.mirror_source import SourcePage
from sfm_consumers.effects.mirror_state import MirrorState


class Restored(Retry):
    """The source has another change log than before, and there is no URL to read it from anew."""


class Intake:
    """Takes events in.

    `wanted` says which namespaces are mirrored, `made` whether linkers' links are, `reads` whether the source can be
    read.
    """

    def __init__(self, state: MirrorState, wanted: Callable[[str], bool], *, made: bool, reads: bool) -> None:
        self._state = state
        self._wanted = wanted
        self._made = made
        self._reads = reads

    def events(self, events: Sequence[Received]) -> Touched:
        """Take events into the tables, all or none. Raises Poison for one that is malformed, Restored.

        Of those that were too large for the bus the states are still to be read: `cut`.
        """
        touched = Touched()
        with self._state.transaction() as db:
            for event in events:
                try:
                    self._event(db, event, touched)
                except (KeyError, TypeError, ValueError, OverflowError) as error:
                    raise Poison(f"not an event of the mirror's: {type(error).__name__}: {error}", event) from error
        return touched

    def begin_reading(self, namespace: str) -> tuple[int, set[tuple[str, int]]]:
        """The era that a namespace is read into, and what it holds now: what is not read again is gone."""
        with self._state.transaction() as db:
            era, _ = _current(db, namespace) or (_new_era(db, namespace, None), None)
            known = {
                (entity, one[0])
                for entity, rows in ((MEMORY, "memories"), (LINK, "links"))
                for one in db.execute(f"select id from {rows} where era = ? and not gone", (era,))  # noqa: S608
            }
        return era, known

    def page(self, era: int, page: SourcePage, *, again: bool) -> Touched | None:
        """Take what was read of a namespace; None when it has ended meanwhile, and has to be read from the start."""
        touched = Touched()
        with self._state.transaction() as db:
            if db.execute("select 1 from eras where era = ? and not ended", (era,)).fetchone() is None:
                return None
            links = [one for one in page.links if self._mirrors(one)]
            for entity, states in ((MEMORY, page.memories), (LINK, links)):
                for state in states:
                    note(db, era, Seen(entity, state["id"], state), again=again)
                touched.add(entity, era, [state["id"] for state in states])
        return touched

    def end_reading(self, namespace: str, era: int, missing: Iterable[tuple[str, int]]) -> Touched | None:
        """A namespace was read to its end: what is missing is gone. None when it has ended meanwhile."""
        touched = Touched()
        with self._state.transaction() as db:
            current = _current(db, namespace)
            if current is None or current[0] != era:
                return None
            for entity, row_id in missing:
                note(db, era, Seen(entity, row_id, None))
                touched.add(entity, era, [row_id])
            db.execute("insert or replace into loads values (?, 1)", (namespace,))
            # An era without anything in it could not be told from an earlier one by an event's ids.
            if current[1] is None and not _has_memories(db, era):
                db.execute("update eras set ended = 1 where era = ?", (era,))
        return touched

    def to_read(self) -> list[str]:
        """Namespaces that have to be read."""
        with self._state.transaction() as db:
            return [one[0] for one in db.execute("select namespace from loads where not done order by 1").fetchall()]

    def ask_for(self, namespaces: Iterable[str], *, again: bool) -> None:
        """Note namespaces to be read: those that never were, or with `again` all."""
        with self._state.transaction() as db:
            verb = "insert or replace" if again else "insert or ignore"
            db.executemany(f"{verb} into loads values (?, 0)", [(one,) for one in namespaces])

    def _event(self, db: sqlite3.Connection, event: Received, touched: Touched) -> None:
        value = event.value()
        namespace, namespace_id = value["namespace"], int(value["namespace_id"])
        if not isinstance(namespace, str):
            raise TypeError("the namespace is no text")
        if not self._of_this_log(db, event.log) or not self._wanted(namespace):
            return
        if value["entity"] == "namespace":
            self._end(db, namespace, namespace_id)
            return
        seen = _seen(value)
        if value.get("truncated") and value["operation"] in ("create", "update"):
            if not self._reads:
                raise Poison("too large for the bus: only with its `source` can the mirror read it", event)
            era = _era_of(db, namespace, namespace_id, seen, value)
            if era is not None:
                touched.cut[seen.entity, seen.id] = Cut(era, namespace, str(value["id"]))
            return
        if seen.entity == LINK and seen.state is not None and not self._mirrors(seen.state):
            return
        era = _era_of(db, namespace, namespace_id, seen, value)
        if era is not None:
            note(db, era, seen)
            touched.add(seen.entity, era, [seen.id])

    def _mirrors(self, link: Mapping[str, Any]) -> bool:
        return self._made or link.get("maker") is None

    def _of_this_log(self, db: sqlite3.Connection, log: str) -> bool:
        """Whether an event is of the log that is followed; an unknown one begins everything anew."""
        row = db.execute("select value from meta where name = 'log'").fetchone()
        if row is not None and row[0] == log:
            return True
        if db.execute("select 1 from old_logs where log = ?", (log,)).fetchone():
            return False
        if row is not None:
            if not self._reads:
                raise Restored(
                    f"the source was restored: its change log was {row[0]} and is {log}. What it holds now is not"
                    " known; give the mirror its `source` to read it from"
                )
            db.execute("insert into old_logs values (?)", (row[0],))
            db.execute("update eras set ended = 1")
            db.execute("delete from floors")
            db.execute("update loads set done = 0")
            db.execute("insert or ignore into loads select distinct namespace, 0 from eras")
        db.execute("insert or replace into meta values ('log', ?)", (log,))
        return True

    def _end(self, db: sqlite3.Connection, namespace: str, namespace_id: int) -> None:
        if namespace_id <= _floor(db, namespace):
            return
        era, current_id = _current(db, namespace) or (None, 0)
        if current_id is None:
            # Read, but no event has told its id: is it this one that ended? The source knows what there still is.
            db.execute("insert or replace into loads values (?, 0)", (namespace,))
        elif era is not None and current_id <= namespace_id:
            db.execute("update eras set ended = 1 where era = ?", (era,))
        _raise_floor(db, namespace, namespace_id)


def _era_of(
    db: sqlite3.Connection, namespace: str, namespace_id: int, seen: Seen, value: dict[str, Any]
) -> int | None:
    """The era that an event belongs to, begun when it is the first one; None for an event of one that has ended."""
    if namespace_id <= _floor(db, namespace):
        return None
    current = _current(db, namespace)
    if current is None:
        return _new_era(db, namespace, namespace_id)
    era, current_id = current
    if current_id is None:
        if not _may_be_of(db, era, seen, value):
            return None
        db.execute("update eras set namespace_id = ? where era = ?", (namespace_id, era))
        return era
    if namespace_id > current_id:
        # A name is given again only when its namespace has ended.
        db.execute("update eras set ended = 1 where era = ?", (era,))
        _raise_floor(db, namespace, current_id)
        return _new_era(db, namespace, namespace_id)
    return era if namespace_id == current_id else None


def _may_be_of(db: sqlite3.Connection, era: int, seen: Seen, value: dict[str, Any]) -> bool:
    """Whether an event is of the namespace that was read, whose row id is not known yet.

    Row ids of memories rise from one namespace of a name to the next. What has a lower one than all that was read is
    of an earlier namespace, or was gone when this one was read: either way there is nothing to do about it.
    """
    rows = "memories" if seen.entity == MEMORY else "links"
    known = db.execute(f"select 1 from {rows} where era = ? and id = ?", (era, seen.id)).fetchone()  # noqa: S608
    if known:
        return True
    state = value.get("after") or value.get("before") or {}
    memory_id: Any = seen.id if seen.entity == MEMORY else state.get("source_id")
    first: int | None = db.execute("select min(id) from memories where era = ?", (era,)).fetchone()[0]
    return memory_id is not None and first is not None and int(memory_id) >= int(first)


def _seen(value: dict[str, Any]) -> Seen:
    entity, state = value["entity"], value["after"]
    if entity not in (MEMORY, LINK):
        raise ValueError(f"an unknown entity: {entity!r}")
    for one in (state, value["before"]):
        if one is not None and not isinstance(one, dict):
            raise TypeError("a state is no object")
    # A state that was purged from the log before it was sent: what it was of has been erased since.
    return Seen(entity, int(value["entity_id"]), state, erased=value["operation"] == "erase")


def _current(db: sqlite3.Connection, namespace: str) -> tuple[int, int | None] | None:
    row = db.execute("select era, namespace_id from eras where namespace = ? and not ended", (namespace,)).fetchone()
    return None if row is None else (row[0], row[1])


def _new_era(db: sqlite3.Connection, namespace: str, namespace_id: int | None) -> int:
    # Not an id that an era before had: somebody may still be reading into that one.
    db.execute("insert into meta values ('era', '1') on conflict (name) do update set value = value + 1")
    era = int(db.execute("select value from meta where name = 'era'").fetchone()[0])
    db.execute("insert into eras (era, namespace, namespace_id) values (?, ?, ?)", (era, namespace, namespace_id))
    return era


def _floor(db: sqlite3.Connection, namespace: str) -> int:
    row = db.execute("select namespace_id from floors where namespace = ?", (namespace,)).fetchone()
    return int(row[0]) if row else 0


def _raise_floor(db: sqlite3.Connection, namespace: str, namespace_id: int) -> None:
    db.execute(
        "insert into floors values (?, ?) on conflict (namespace) do update"
        " set namespace_id = max(namespace_id, excluded.namespace_id)",
        (namespace, namespace_id),
    )


def _has_memories(db: sqlite3.Connection, era: int) -> bool:
    return db.execute("select 1 from memories where era = ? and not gone limit 1", (era,)).fetchone() is not None
