"""What an export of everything reads beside memories and links, and what an import of it writes."""

import hashlib
from array import array
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import orjson

from sfm_graph.domain.everything import AccessLine, VersionLine
from sfm_graph.domain.identity import Entity
from sfm_graph.domain.link import Link
from sfm_graph.domain.memory import Memory
from sfm_graph.domain.states import link_from_state, link_state, memory_from_state, memory_state
from sfm_graph.store.database import Database, ReadSession, Session, WriteSession

PAGE_ROWS = 500
PAGE_BYTES = 4_000_000
# Ids of imported versions: below those of all changes.
FIRST_VERSION = -(2**62)
PRUNED_ROWS = 5_000
PRUNED_TIMES = 100


@dataclass(frozen=True, slots=True)
class StoredVersion:
    """A version by ids, with its place in the log."""

    place: int
    line: VersionLine


@dataclass(frozen=True, slots=True)
class Found:
    """`used`: whether anything is or ever was in a namespace. `unfinished`: by an import that was never completed."""

    used: bool
    unfinished: bool


async def known(session: ReadSession) -> datetime | None:
    """The moment that the snapshot is of, as `known` counts."""
    return (await session.one("everything_known"))[0]  # type: ignore[no-any-return]


async def ids(session: ReadSession, namespace_id: int, entity: Entity) -> "array[int]":
    """Ids of all memories, or links, that there are or that a version tells of, ascending."""
    (found,) = await session.one(f"everything_{entity.value}_ids", namespace_id=namespace_id)
    return array("q", np.frombuffer(found, ">i8").astype(np.int64).tobytes())


async def vectors(
    session: ReadSession, namespace_id: int, model_id: int, memory_ids: Sequence[int]
) -> dict[int, list[bytes]]:
    """The vectors of memories, of each part in order, as big-endian half floats."""
    found: dict[int, list[bytes]] = {}
    for memory_id, vector in await session.rows(
        "everything_vectors", namespace_id=namespace_id, model_id=model_id, ids=list(memory_ids)
    ):
        found.setdefault(memory_id, []).append(bytes(vector)[4:])
    return found


async def versions_page(session: ReadSession, namespace_id: int, after: int) -> list[tuple[Any, ...]]:
    """Versions from after a place, in order: up to 500 or about 4 MB; rows for `version_of`."""
    return await session.rows(
        "everything_versions", namespace_id=namespace_id, after=after, limit=PAGE_ROWS, max_bytes=PAGE_BYTES
    )


def version_of(namespace: str, row: Sequence[Any]) -> StoredVersion:
    """A row of a page."""
    place, entity, entity_id, operation, before, after, transaction, at, trace = row
    return StoredVersion(place, VersionLine(
        Entity(entity), entity_id, operation, _state(namespace, entity, before), _state(namespace, entity, after),
        transaction, at, trace,
    ))  # fmt: skip


async def accesses_page(session: ReadSession, namespace_id: int, after: tuple[int, str]) -> list[AccessLine]:
    """Accesses by memory's id and agent, from after those: up to 500."""
    rows = await session.rows(
        "everything_accesses", namespace_id=namespace_id, after=after[0], after_agent=after[1], limit=PAGE_ROWS
    )
    return [AccessLine(*row) for row in rows]


@asynccontextmanager
async def alone(database: Database, namespace: str) -> AsyncIterator[bool]:
    """Whether this import is the only one at work on a namespace, while the context lasts."""
    digest = hashlib.blake2b(f"import {namespace}".encode(), digest_size=8).digest()
    async with database.dedicated() as connection:
        (taken,) = await Session(connection).one("reembed_alone", key=int.from_bytes(digest, signed=True))
        yield taken


async def found(session: WriteSession, namespace_id: int) -> Found:
    """What is in a namespace that is to be imported into."""
    return Found(*await session.one("import_found", namespace_id=namespace_id))


async def let_go(session: WriteSession, namespace_id: int) -> None:
    """Release all holds of a namespace that is about to be deleted."""
    await session.run("import_let_go", namespace_id=namespace_id)


async def note(session: WriteSession, namespace_id: int, *, is_last: bool = False) -> None:
    """Note that the transaction is part of an import: what it logs are no versions."""
    await session.run("import_note", namespace_id=namespace_id, is_last=is_last)


async def draw_ids(session: WriteSession, entity: Entity, count: int) -> list[int]:
    """New ids of memories or links, ascending."""
    return sorted(row[0] for row in await session.rows(f"import_{entity.value}_ids", count=count))


async def insert_links(session: WriteSession, namespace_id: int, links: Sequence[Link]) -> set[int]:
    """Insert links as they were, with change rows. The ids of those that could be."""
    rows = await session.rows(
        "import_links",
        namespace_id=namespace_id,
        id=[one.id for one in links],
        source=[one.source_id for one in links],
        target=[one.target_id for one in links],
        type=[one.type for one in links],
        weight=[one.weight for one in links],
        properties=[orjson.dumps(one.properties).decode() for one in links],
        version=[one.version for one in links],
        created_at=[one.created_at for one in links],
        updated_at=[one.updated_at for one in links],
        valid_from=[one.valid_from for one in links],
        valid_to=[one.valid_to for one in links],
        maker=[one.maker for one in links],
        agent=[one.agent for one in links],
    )
    return {row[0] for row in rows}


async def insert_versions(
    session: WriteSession, namespace_id: int, first: int, versions: Sequence[VersionLine]
) -> None:
    """Insert versions by ids, from place `first` (from 0) on."""
    await session.run(
        "import_versions",
        namespace_id=namespace_id,
        id=[FIRST_VERSION + first + place for place in range(1, len(versions) + 1)],
        entity=[one.entity.value for one in versions],
        entity_id=[one.number for one in versions],
        operation=[one.operation for one in versions],
        before=[_text(one.before) for one in versions],
        after=[_text(one.after) for one in versions],
        tx=[-one.transaction for one in versions],
        stamp=[one.at for one in versions],
        trace=[one.trace for one in versions],
    )


async def insert_accesses(
    session: WriteSession, namespace_id: int, accesses: Sequence[AccessLine]
) -> set[tuple[int, str]]:
    """Insert accesses by ids of memories. Those (memory, agent) that could be."""
    rows = await session.rows(
        "import_accesses",
        namespace_id=namespace_id,
        memory=[one.memory for one in accesses],
        agent=[one.agent for one in accesses],
        count=[one.count for one in accesses],
        last_at=[one.last_at for one in accesses],
    )
    return {(row[0], row[1]) for row in rows}


async def prune(database: Database, until: datetime) -> None:
    """Delete versions that were imported before a moment, a bounded part at a time."""

    async def work(session: WriteSession) -> int:
        return await session.count("imported_versions_prune", until=until, limit=PRUNED_ROWS)

    for _ in range(PRUNED_TIMES):
        if await database.write(work) < PRUNED_ROWS:
            return


def _state(namespace: str, entity: str, text: str | None) -> Memory | Link | None:
    if text is None:
        return None
    read = memory_from_state if entity == Entity.MEMORY else link_from_state
    return read(namespace, orjson.loads(text))


def _text(state: Memory | Link | None) -> str | None:
    if state is None:
        return None
    return orjson.dumps(memory_state(state) if isinstance(state, Memory) else link_state(state)).decode()
