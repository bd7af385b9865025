"""Moving a namespace's vectors to another model, in Postgres."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

from sfm_graph.domain.namespace import Namespace, StoredModel
from sfm_graph.store.database import Database, Session, WriteSession
from sfm_graph.store.statements import statement
from sfm_graph.store.vector_indexes import Span
from sfm_graph.store.vector_types import HalfVector

# The upper half of the lock's key, the namespace's id is the lower one.
ALONE_LOCK = 0x5F6D6773
# One statement looks at so many memories, or reads texts of so many bytes.
SCAN_ROWS = 20_000
TEXT_BYTES = 4_000_000


class Scanned(NamedTuple):
    """A stretch of memories by id: the last (None: there are no more), how many, and which of them lack a vector."""

    last: int | None
    size: int
    missing: Sequence[int]


class TextRead(NamedTuple):
    """A memory's text at a version; content None: there was no room for it, read it again."""

    id: int
    version: int
    title: str | None
    content: str | None


@asynccontextmanager
async def alone(database: Database, namespace_id: int) -> AsyncIterator[bool]:
    """Whether this process alone moves the namespace, while the context lasts."""
    key = {"key": (ALONE_LOCK << 32) + namespace_id}
    async with database.raw() as connection:
        row = await (await connection.execute(statement("reembed_alone"), key)).fetchone()
        taken = bool(row and row[0])
        try:
            yield taken
        finally:
            if taken and not connection.closed:
                await connection.execute(statement("reembed_alone_no_more"), key)


class Vectors:
    """The vectors of one model in one namespace, of memories' own texts (`texts`) and of their windows."""

    def __init__(self, session: WriteSession, namespace: Namespace, model: StoredModel) -> None:
        self._session = session
        self._scope = {"namespace_id": namespace.id, "model_id": model.id}

    async def scan(self, after: int, *, windows: bool = False) -> Scanned:
        """The next memories with id > `after`; of windows, those that are due are not missing."""
        name = "reembed_window_scan" if windows else "reembed_scan"
        last, count, missing = await self._session.one(name, after=after, limit=SCAN_ROWS, **self._scope)
        return Scanned(last, count, missing or ())

    async def missing(self, ids: Sequence[int], *, windows: bool = False) -> list[int]:
        """Of given memories those that lack a vector, ascending."""
        name = "reembed_window_missing" if windows else "reembed_missing"
        return [row[0] for row in await self._session.rows(name, ids=list(ids), **self._scope)]

    async def insert(self, read: Sequence[TextRead], vectors: Mapping[int, Sequence[HalfVector]]) -> set[int]:
        """Store the vectors of those that are still as they were read. Their ids."""
        rows = [(one, part, vector) for one, own in vectors.items() for part, vector in enumerate(own)]
        stored = await self._session.rows(
            "reembed_insert", ids=[one.id for one in read], versions=[one.version for one in read],
            owners=[row[0] for row in rows], parts=[row[1] for row in rows], embeddings=[row[2] for row in rows],
            **self._scope,
        )  # fmt: skip
        return {row[0] for row in stored}

    async def insert_windows(self, vectors: Mapping[int, HalfVector | None]) -> set[int]:
        """Store vectors of windows whose sequences this transaction has locked. The ids of those that lacked one."""
        telling = {one: vector for one, vector in vectors.items() if vector is not None}
        stored = await self._session.rows(
            "reembed_window_insert", ids=list(vectors), owners=list(telling), embeddings=list(telling.values()),
            **self._scope,
        )  # fmt: skip
        return {row[0] for row in stored}


async def texts(session: Session, namespace_id: int, ids: Sequence[int]) -> list[TextRead]:
    """Memories by id with their texts, together about 4 MB; at least the first has its own."""
    rows = await session.rows("reembed_texts", namespace_id=namespace_id, ids=list(ids), max_bytes=TEXT_BYTES)
    return [TextRead(*row) for row in rows]


async def size(session: Session, namespace_id: int) -> tuple[int, int]:
    """How many memories and windows a namespace holds."""
    memories, windows = await session.one("reembed_size", namespace_id=namespace_id)
    return int(memories), int(windows)


async def changed(session: Session, namespace_id: int, since: str) -> set[int]:
    """Memories changed, or whose window was, by what became visible since a snapshot."""
    (found,) = await session.one("changed_memories", namespace_id=namespace_id, since=since)
    return set(found or ())


async def hold(session: WriteSession, namespace_id: int, *, timeout_ms: int, in_turn: bool) -> int | None:
    """Wait until no transaction writes to the namespace, and let none begin; its model, None: it is gone.

    Writers that follow each other closely may keep a waiting transaction out for ever; `in_turn` it waits only for
    those before it, but then writers of all namespaces wait for it. Raises Overloaded when the time is over.
    """
    (before, _) = await session.one("reembed_patience", timeout=str(timeout_ms))
    if in_turn:
        await session.lock_table("namespaces")
    row = await session.row("reembed_hold", namespace_id=namespace_id)
    await session.one("reembed_patience", timeout=before)
    return row[0] if row else None


async def switch(session: WriteSession, namespace_id: int, model: StoredModel) -> None:
    """Give a namespace that is held another model."""
    await session.run("reembed_switch", namespace_id=namespace_id, model_id=model.id)


async def tail(database: Database, namespace_id: int, model: StoredModel) -> Span:
    """The vectors of a model after those that indexes cover; `after` 0: none are covered."""
    async with database.read() as session:
        after, last = await session.one("reembed_tail", namespace_id=namespace_id, model_id=model.id)
    return Span(namespace_id, model.id, model.identity, after, last or 0)


async def drop(session: WriteSession, namespace_id: int, limit: int) -> int | None:
    """Delete up to `limit` vectors of other models than the namespace's. How many; None when there are none."""
    row = await session.row("reembed_left", namespace_id=namespace_id)
    if row is None:
        return None
    (count,) = await session.one("reembed_drop", namespace_id=namespace_id, model_id=row[0], limit=limit)
    return int(count)


async def retire(session: WriteSession, namespace_id: int) -> None:
    """Take the indexes of other models than the namespace's out of service; maintenance drops them."""
    await session.run("reembed_retire", namespace_id=namespace_id)


async def reindexed(session: WriteSession, namespace_id: int, ids: Iterable[int]) -> None:
    """Log that search columns of memories were rewritten."""
    await session.run("reembed_reindexed", namespace_id=namespace_id, ids=list(ids))
