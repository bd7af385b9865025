"""Taking a state of the source into the mirror's tables: versions, not arrival, decide."""

import sqlite3
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import orjson

from sfm_consumers.effects.mirror_rows import LINK_FIELDS, MEMORY, MEMORY_FIELDS, Seen


def note(db: sqlite3.Connection, era: int, seen: Seen, *, again: bool = False) -> None:
    """Take an entity's state into the tables unless it is known as later or gone; `again`: also one known as written.

    Raises KeyError, TypeError or ValueError for a state that is none.
    """
    if seen.state is None:
        _note_gone(db, era, seen)
        return
    columns = _memory_columns(seen.state) if seen.entity == MEMORY else _link_columns(seen.state)
    rows = "memories" if seen.entity == MEMORY else "links"
    names = ", ".join(columns)
    marks = ", ".join(f":{name}" for name in columns)
    changes = ", ".join(f"{name} = excluded.{name}" for name in columns)
    later = "excluded.version >= version" if again else "(excluded.version > version or refused is not null)"
    db.execute(
        f"insert into {rows} (era, id, {names}) values (:era, :id, {marks})"  # noqa: S608
        f" on conflict (era, id) do update set {changes}, refused = null"
        f" where not gone and excluded.version >= version and {later}",
        {"era": era, "id": seen.id, **columns},
    )


def _note_gone(db: sqlite3.Connection, era: int, seen: Seen) -> None:
    if seen.entity == MEMORY:
        db.execute(
            "insert into memories (era, id, gone, erase) values (?, ?, 1, ?) on conflict (era, id) do update set"
            " gone = 1, body = null, refused = null, erase = max(erase, excluded.erase)",
            (era, seen.id, int(seen.erased)),
        )
    else:
        db.execute(
            "insert into links (era, id, gone) values (?, ?, 1) on conflict (era, id) do update set"
            " gone = 1, body = null, refused = null",
            (era, seen.id),
        )


def _memory_columns(state: Mapping[str, Any]) -> dict[str, Any]:
    place = orjson.dumps([float(axis) for axis in state["coordinate"]]).decode()
    return {
        "version": int(state["version"]),
        "body": _body(state, MEMORY_FIELDS),
        "key": _name(state["key"]),
        "place": place,
    }


def _link_columns(state: Mapping[str, Any]) -> dict[str, Any]:
    source, target = int(state["source_id"]), int(state["target_id"])
    begins = state["valid_from"]
    if begins is not None:  # the same moment is written in several ways
        begins = datetime.fromisoformat(begins).astimezone(UTC).isoformat()
    identity = orjson.dumps([source, target, state["type"], begins]).decode()
    return {
        "version": int(state["version"]), "body": _body(state, LINK_FIELDS), "source": source, "target": target,
        "identity": identity,
    }  # fmt: skip


def _body(state: Mapping[str, Any], fields: Sequence[str]) -> str:
    return orjson.dumps({name: state[name] for name in fields}).decode()


def _name(key: object) -> str | None:
    if key is not None and not isinstance(key, str):
        raise TypeError("the key is no text")
    return key
