"""What the change log says of one memory or link, version by version."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import orjson

from sfm_graph.domain.change import Operation
from sfm_graph.domain.identity import Entity, LinkId, MemoryId, MemoryRef
from sfm_graph.domain.link import Link
from sfm_graph.domain.memory import Memory
from sfm_graph.domain.versions import Version
from sfm_graph.store.database import Session, WriteSession
from sfm_graph.store.memories import array_text
from sfm_graph.store.vector_types import HalfVector

V = TypeVar("V", Memory, Link)

# A page holds whole states, of up to a megabyte each: it ends after so many bytes.
PAGE_BYTES = 8_000_000
# Before every change: the place of the first page.
NEWEST = 2**63 - 1
# Imported versions come before all of the log.
OLDEST = -(2**62)


@dataclass(frozen=True, slots=True)
class Subject:
    """One memory or link of a namespace, by row ids."""

    namespace_id: int
    entity: Entity
    id: int

    def parameters(self) -> dict[str, Any]:
        """As statements name it."""
        return {"namespace_id": self.namespace_id, "entity": self.entity.value, "entity_id": self.id}


@dataclass(frozen=True, slots=True)
class Placed:
    """A version with its place in the history; places fall."""

    place: int
    version: Version[Any]


async def page(
    session: Session, subject: Subject, read: Callable[[Mapping[str, Any]], V], before: int, limit: int
) -> tuple[list[Placed], bool]:
    """Up to `limit` versions from before a place, the newest first; and whether more follow.

    A page that would exceed 8 MB ends early.
    """
    rows = await session.rows(
        "history_page", **subject.parameters(), before=before, limit=limit + 1, bytes=PAGE_BYTES
    )
    found = [Placed(row[0], _version(read, row)) for row in rows[:limit]]
    return found, bool(rows) and rows[0][7] > len(found)


async def state(
    session: Session, subject: Subject, version: int | None
) -> tuple[dict[str, Any], datetime | None] | None:
    """The state with a version number, or the last one that is kept; and its stamp where that is known."""
    row = await session.row("history_version", **subject.parameters(), version=version)
    return None if row is None else (orjson.loads(row[0]), row[1])


async def forgotten(session: Session, namespace_id: int, refs: Iterable[MemoryRef]) -> set[MemoryId]:
    """The memories that last had these keys or coordinates when they were forgotten, as far as the log is kept.

    Whether they were brought back since is not asked. Ids stand for themselves.
    """
    named = list(refs)
    found = {one.id for one in named if one.id is not None}
    keys = [one.key for one in named if one.key is not None]
    places = [array_text(one.coordinate) for one in named if one.coordinate is not None]
    if keys or places:
        rows = await session.rows("history_forgotten", namespace_id=namespace_id, keys=keys, coordinates=places)
        found |= {MemoryId(row[0]) for row in rows}
    return found


async def lock(session: WriteSession, namespace_id: int) -> None:
    """Let nobody else of the namespace bring back what was forgotten, or erase, until this transaction ends."""
    await session.run("history_lock", namespace_id=namespace_id)


async def vectors(
    session: Session, namespace_id: int, memory_id: MemoryId, model_id: int, at: datetime | None
) -> list[tuple[HalfVector, bool]]:
    """The vectors that a memory had when a version was stamped, where they are kept as past ones, else empty; each
    with whether it has it now."""
    rows = await session.rows(
        "history_vectors", namespace_id=namespace_id, memory_id=memory_id, model_id=model_id, at=at
    )
    return [(HalfVector(row[1]), row[2]) for row in rows]


async def links_with(session: Session, namespace_id: int, memory_id: MemoryId, limit: int) -> list[dict[str, Any]]:
    """States of callers' links that were forgotten together with a memory, by id."""
    rows = await session.rows("history_links", namespace_id=namespace_id, memory_id=memory_id, limit=limit)
    return [orjson.loads(row[0]) for row in rows]


def link_subject(namespace_id: int, link_id: LinkId) -> Subject:
    """A link."""
    return Subject(namespace_id, Entity.LINK, link_id)


def memory_subject(namespace_id: int, memory_id: MemoryId) -> Subject:
    """A memory."""
    return Subject(namespace_id, Entity.MEMORY, memory_id)


def _version(read: Callable[[Mapping[str, Any]], V], row: Sequence[Any]) -> Version[V]:
    _, text, operation, known_from, known_to, ended_by, trace, _ = row
    return Version(read(orjson.loads(text)), _operation(operation), known_from, known_to, _operation(ended_by), trace)


def _operation(value: str | None) -> Operation | None:
    return None if value is None else Operation(value)
