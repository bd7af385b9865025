"""Memories in Postgres: batches by array parameters, never a statement per row."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

import orjson

from sfm_graph.domain.identity import Coordinate, MemoryId, MemoryRef
from sfm_graph.domain.inputs import digest
from sfm_graph.domain.memory import Memory, NewMemory
from sfm_graph.domain.names import head_of, name_id
from sfm_graph.store.database import ReadSession, Row, Session, WriteSession
from sfm_graph.store.rows import MEMORY_WIDTH, memory_from_row
from sfm_graph.store.search_columns import SearchColumns
from sfm_graph.store.vector_types import HalfVector


@dataclass(frozen=True, slots=True)
class Located:
    """A stored memory met by a batch, and the digest of what was stored."""

    memory: Memory
    digest: bytes


@dataclass(frozen=True, slots=True)
class Stamp:
    """What the database decided for a written row."""

    version: int
    created_at: datetime
    updated_at: datetime


def references(refs: Iterable[MemoryRef]) -> dict[str, list[Any]]:
    """Array parameters of the statements that resolve references."""
    ids: list[int] = []
    keys: list[str] = []
    coordinates: list[str] = []
    for ref in refs:
        if ref.id is not None:
            ids.append(ref.id)
        elif ref.key is not None:
            keys.append(ref.key)
        elif ref.coordinate is not None:
            coordinates.append(array_text(ref.coordinate))
    return {"ids": ids, "keys": keys, "coordinates": coordinates}


def array_text(coordinate: Coordinate) -> str:
    """The Postgres text form of a float array; each float round-trips."""
    return "{" + ",".join(map(repr, coordinate)) + "}"


async def lock(session: WriteSession, namespace_id: int, namespace: str, refs: Iterable[MemoryRef]) -> list[Located]:
    """The memories that exist behind references, in id order, locked until the transaction ends."""
    rows = await session.rows("memory_lock", namespace_id=namespace_id, **references(refs))
    return [Located(memory_from_row(namespace, row), bytes(row[MEMORY_WIDTH])) for row in rows]


async def hold(session: WriteSession, namespace_id: int, ids: Iterable[int]) -> set[MemoryId]:
    """Lock memories against changes, in id order; links may still be made to them. The ids of those that exist."""
    return {row[0] for row in await session.rows("memory_hold", namespace_id=namespace_id, ids=list(ids))}


async def resolve(session: WriteSession, namespace_id: int, refs: Iterable[MemoryRef]) -> dict[MemoryRef, MemoryId]:
    """The ids behind references, held against deletion. Unknown ones are missing from the answer."""
    return _by_ref(await session.rows("memory_resolve", namespace_id=namespace_id, **references(set(refs))))


async def locate(session: Session, namespace_id: int, refs: Iterable[MemoryRef]) -> dict[MemoryRef, MemoryId]:
    """The ids behind references, for reading. Unknown ones are missing from the answer."""
    return _by_ref(await session.rows("memory_locate", namespace_id=namespace_id, **references(set(refs))))


def _by_ref(rows: Iterable[Row]) -> dict[MemoryRef, MemoryId]:
    found: dict[MemoryRef, MemoryId] = {}
    for row_id, key, coordinate in rows:
        found[MemoryRef(id=row_id)] = row_id
        found[MemoryRef(coordinate=tuple(coordinate))] = row_id
        if key is not None:
            found[MemoryRef(key=key)] = row_id
    return found


class Outline(NamedTuple):
    """Of a memory what a drawing needs."""

    id: MemoryId
    key: str | None
    kind: str
    title: str | None
    importance: float


async def outlines(session: ReadSession, namespace_id: int, ids: Iterable[int]) -> list[Outline]:
    """Outlines of the memories with these ids, ascending by id."""
    listed = "{" + ",".join(map(str, ids)) + "}"
    return await session.mapped("memory_outlines", Outline._make, namespace_id=namespace_id, ids=listed)


async def find(
    session: ReadSession, namespace_id: int, namespace: str, refs: Sequence[MemoryRef]
) -> list[Memory | None]:
    """The memories behind references, in their order, None where there is none."""
    rows = await session.rows("memory_find", namespace_id=namespace_id, **references(set(refs)))
    found: dict[MemoryRef, Memory] = {}
    for row in rows:
        memory = memory_from_row(namespace, row)
        found[MemoryRef(id=memory.id)] = memory
        found[MemoryRef(coordinate=memory.coordinate)] = memory
        if memory.key is not None:
            found[MemoryRef(key=memory.key)] = memory
    return [found.get(ref) for ref in refs]


async def by_ids(session: Session, namespace_id: int, namespace: str, ids: Iterable[int]) -> dict[MemoryId, Memory]:
    """Memories by id; unknown ids are missing from the answer."""
    found = await session.mapped(
        "memory_by_ids", partial(memory_from_row, namespace), namespace_id=namespace_id, ids=list(ids)
    )
    return {memory.id: memory for memory in found}


async def digests(
    session: Session, namespace_id: int, refs: Iterable[MemoryRef]
) -> dict[MemoryRef, tuple[MemoryId, bytes]]:
    """Ids and digests of the stored memories behind keys and coordinates."""
    wanted = references(refs)
    rows = await session.rows(
        "memory_digests", namespace_id=namespace_id, keys=wanted["keys"], coordinates=wanted["coordinates"]
    )
    found: dict[MemoryRef, tuple[MemoryId, bytes]] = {}
    for row_id, key, coordinate, digest_ in rows:
        found[MemoryRef(coordinate=tuple(coordinate))] = (row_id, bytes(digest_))
        if key is not None:
            found[MemoryRef(key=key)] = (row_id, bytes(digest_))
    return found


async def insert(
    session: WriteSession,
    namespace_id: int,
    model_id: int,
    memories: Sequence[tuple[NewMemory, SearchColumns]],
    again: Sequence[Memory | None] | None = None,
    as_they_were: Sequence[Memory] | None = None,
) -> list[tuple[MemoryId, Stamp]]:
    """Insert memories with chosen coordinates, their words, vectors and change rows. Ids and stamps in order.

    `again`: the last versions of those that come back by their ids, each as its next version; by itself, or the order
    of ids is not that of memories. `as_they_were`: with these ids, ascending, versions, times and holds.
    """
    last = again or [None] * len(memories)
    kept = as_they_were or last
    rows = await session.rows(
        "memory_insert",
        namespace_id=namespace_id,
        model_id=model_id,
        given_id=[one and one.id for one in kept],
        version=[one and one.version + (as_they_were is None) for one in kept],
        created_at=[one and one.created_at for one in kept],
        updated_at=[one.updated_at for one in as_they_were] if as_they_were else [None] * len(memories),
        legal_hold=[one.legal_hold for one in as_they_were] if as_they_were else [None] * len(memories),
        coordinate=[array_text(memory.coordinate or ()) for memory, _ in memories],
        places=[place for place, (_, search) in enumerate(memories, start=1) for _ in search.vectors or ()],
        parts=[part for _, search in memories for part in range(len(search.vectors or ()))],
        embeddings=[vector for _, search in memories for vector in search.vectors or ()],
        name_places=[place for place, (_, search) in enumerate(memories, start=1) for _ in search.cues.names],
        **_columns([memory for memory, _ in memories]),
        **_word_columns(namespace_id, [search for _, search in memories]),
    )
    return [(row[0], Stamp(*row[1:])) for row in rows]


async def update(
    session: WriteSession, namespace_id: int, memories: Sequence[tuple[MemoryId, NewMemory]]
) -> dict[MemoryId, Stamp]:
    """Replace locked memories, and log their states before and after."""
    rows = await session.rows(
        "memory_update",
        namespace_id=namespace_id,
        id=[memory_id for memory_id, _ in memories],
        **_columns([memory for _, memory in memories]),
    )
    return {row[0]: Stamp(*row[1:]) for row in rows}


async def delete(session: WriteSession, namespace_id: int, ids: Sequence[int]) -> list[MemoryId]:
    """Delete locked memories with their links, vectors and words, all logged. The ids that existed."""
    return [row[0] for row in await session.rows("memory_delete", namespace_id=namespace_id, ids=list(ids))]


async def erase_log(session: WriteSession, namespace_id: int, ids: Sequence[int]) -> None:
    """Purge the log's states of memories and of links that touched them; append tombstones."""
    await session.run("memory_erase_log", namespace_id=namespace_id, ids=list(ids))
    await session.run("idempotent_forget", namespace_id=namespace_id, ids=list(ids))


async def was_known(session: WriteSession, namespace_id: int, ids: Sequence[int]) -> set[int]:
    """Those of the ids that this namespace's log has ever seen."""
    return {row[0] for row in await session.rows("memory_was_known", namespace_id=namespace_id, ids=list(ids))}


async def replace_search(
    session: WriteSession, namespace_id: int, model_id: int, columns: Sequence[tuple[MemoryId, SearchColumns]]
) -> None:
    """Replace the words, cues and names of locked memories, and the vectors of those whose columns bring some."""
    await session.run("words_delete", namespace_id=namespace_id, ids=[memory_id for memory_id, _ in columns])
    await session.run(
        "words_insert",
        namespace_id=namespace_id,
        word_ids=[memory_id for memory_id, _ in columns],
        name_owners=[memory_id for memory_id, search in columns for _ in search.cues.names],
        **_word_columns(namespace_id, [search for _, search in columns]),
    )
    embedded = [(memory_id, search.vectors) for memory_id, search in columns if search.vectors is not None]
    if embedded:
        await session.run("embeddings_delete", namespace_id=namespace_id, ids=[one for one, _ in embedded])
        rows = [(memory_id, part, vector) for memory_id, own in embedded for part, vector in enumerate(own)]
        await insert_vectors(session, namespace_id, model_id, rows)


async def insert_vectors(
    session: WriteSession, namespace_id: int, model_id: int, rows: Sequence[tuple[int, int, HalfVector]]
) -> None:
    """Insert (memory, part, vector) rows that are not there."""
    await session.run(
        "embeddings_insert", namespace_id=namespace_id, model_id=model_id, ids=[row[0] for row in rows],
        parts=[row[1] for row in rows], embeddings=[row[2] for row in rows],
    )  # fmt: skip


def _word_columns(namespace_id: int, columns: Sequence[SearchColumns]) -> dict[str, list[Any]]:
    named = [name for search in columns for name in search.cues.names]
    return {
        "lengths": [search.length for search in columns],
        "terms": [search.terms for search in columns],
        "lexemes": [f"@{namespace_id} {search.lexemes}".rstrip() for search in columns],
        "authors": [search.cues.author for search in columns],
        "dates": [search.cues.date for search in columns],
        "sequences": [search.cues.sequence for search in columns],
        "positions": [search.cues.position for search in columns],
        "proper_names": [_array_text(map(name_id, search.cues.proper_names)) for search in columns],
        "names": [" ".join(name) for name in named],
        "heads": [head_of(name) for name in named],
        "name_ids": [name_id(name) for name in named],
    }


def _array_text(numbers: Iterable[int]) -> str:
    return "{" + ",".join(map(str, numbers)) + "}"


def _columns(memories: Sequence[NewMemory]) -> dict[str, list[Any]]:
    return {
        "key": [memory.key for memory in memories],
        "kind": [memory.kind.value for memory in memories],
        "title": [memory.title for memory in memories],
        "content": [memory.content for memory in memories],
        "payload": [orjson.dumps(memory.payload).decode() for memory in memories],
        "importance": [memory.importance for memory in memories],
        "valid_from": [memory.valid_from for memory in memories],
        "valid_to": [memory.valid_to for memory in memories],
        "digest": [digest(memory) for memory in memories],
        "expires_at": [memory.expires_at for memory in memories],
        "agent": [memory.agent for memory in memories],
    }


async def gone(session: Session, namespace_id: int, ids: Collection[int]) -> list[int]:
    """Of these ids those that are no memories of the namespace, now."""
    return [row[0] for row in await session.rows("memory_gone", namespace_id=namespace_id, ids=list(ids))]
