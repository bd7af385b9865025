"""Keeping a vector index equal to the vectors in Postgres: a durable reader of the change log.

What is in the index is compared with what is in the database, in this order: first the index, then the database. A
row's id is never given again, so what the index had and the database has no more may go, whoever finds out, however
late; and nothing that the database has is ever removed. So all of it may be done again, and by two processes at once.
"""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from sfm_graph.domain.change import Change
from sfm_graph.domain.identity import Entity
from sfm_graph.domain.position import ChangeLog, Position
from sfm_graph.domain.snapshot import Snapshot
from sfm_graph.errors import Unavailable, VectorIndexUnavailable
from sfm_graph.ports.vector_index import Collection, Points, ServedVectorIndex
from sfm_graph.services.changes.follower import Follower
from sfm_graph.services.vector_search import MAX_UNREAD
from sfm_graph.store import vector_points
from sfm_graph.store.change_stream import Scope, log_of
from sfm_graph.store.database import Database

log = logging.getLogger(__name__)

# Points compared at a time, and memories asked about at a time.
PAGE = 1_000
MEMORIES = 200
# Making a request of so many vectors takes about 3 ms of the event loop.
UPLOADED = 100
# What is told of a load, every so many points.
TOLD = 100_000


class VectorIndexing:
    """A follower of the log: `load` once, then `handle` of every batch."""

    def __init__(self, database: Database, index: ServedVectorIndex, *, poll_seconds: float) -> None:
        self._database = database
        self._index = index
        self._follower = Follower(
            database, vector_points.FOLLOWER, self.handle, scope=Scope(reindex=True), poll_seconds=poll_seconds,
            begin=self.load,
        )  # fmt: skip

    async def run(self) -> None:
        """Follow until cancelled, unless another process does; what fails is tried again."""
        await self._follower.run()

    async def state(self) -> dict[str, Any]:
        """The index's part of a health report: `status` up, down, loading or lagging, and how far it is behind.

        `changes`: unread ones of all namespaces, 20,001 at most. `seconds`: the age of the oldest of them. `reason`:
        what this process last failed at.
        """
        try:
            await self._index.ping()
        except VectorIndexUnavailable as error:
            return {"status": "down", "reason": error.message}
        problem = self._follower.progress.problem
        reason = {} if problem is None else {"reason": problem}
        try:
            return {**await self._progress(), **reason}
        except Unavailable as error:
            return {"status": "unknown", "reason": error.message}

    async def _progress(self) -> dict[str, Any]:
        async with self._database.read() as session:
            place = await vector_points.place(session, 0)
            if place.seen is None:
                return {"status": "loading"}
            changes, oldest = await vector_points.lag(session, place.seen, MAX_UNREAD + 1)
        seconds = 0.0 if oldest is None else max((datetime.now(UTC) - oldest).total_seconds(), 0.0)
        status = "lagging" if changes > MAX_UNREAD else "up"
        return {"status": status, "changes": changes, "seconds": round(seconds, 3)}

    async def load(self) -> Position:
        """Bring everything in, take out what does not belong there, and say from where to follow the log.

        What is there already is left: ended in the middle, the next run goes on. Raises VectorIndexUnavailable.
        """
        async with self._database.read() as session:
            found = await log_of(session)
            since = Snapshot(session.snapshot)
            holdings = await vector_points.holdings(session, found.id)
        present = await self._index.collections(found.id)
        for collection in present.keys() | {one for one, _ in holdings}:
            await self._load(collection, [id_ for one, id_ in holdings if one == collection])
        return Position(since)

    async def handle(self, change_log: ChangeLog, changes: Sequence[Change]) -> None:
        """Bring in line what changes were about. May be given the same again. Raises VectorIndexUnavailable."""
        memories = {one.entity_id: one.namespace_id for one in changes if one.entity is Entity.MEMORY}
        ended = {one.namespace_id for one in changes if one.entity is Entity.NAMESPACE}
        if not memories and not ended:
            return
        ready = await self._index.collections(change_log.id)
        async with self._database.read() as session:
            used = await vector_points.collections(session, change_log.id, sorted({*memories.values()}))
        for collection in used - {one for one, is_ready in ready.items() if is_ready}:
            # Of a model that is new, or of an index that was emptied: all that there is of it.
            await self._load_all(collection)
        for collection in ready:
            for namespace_id in ended:
                await self._index.remove_namespace(collection, namespace_id)
            await self._settle(collection, memories)

    async def _load_all(self, collection: Collection) -> None:
        async with self._database.read() as session:
            holdings = await vector_points.holdings(session, collection.log)
        await self._load(collection, [id_ for one, id_ in holdings if one == collection])

    async def _load(self, collection: Collection, namespace_ids: Iterable[int]) -> None:
        await self._index.create(collection)
        loaded, told = 0, 0
        for namespace_id in namespace_ids:
            after: int | None = 0
            while after is not None:
                size, after = await self._load_page(collection, namespace_id, after)
                loaded += size
                if loaded - told >= TOLD:
                    told = loaded
                    log.info("vectors of model %d in the index: %d so far", collection.model_id, loaded)
        await self._sweep(collection)
        await self._index.publish(collection)
        log.info("vectors of model %d are in the index: %d", collection.model_id, loaded)

    async def _load_page(self, collection: Collection, namespace_id: int, after: int) -> tuple[int, int | None]:
        """How many points it holds, and the last of them; None: there are no more."""
        async with self._database.read() as session:
            wanted = await vector_points.page(session, collection, namespace_id, after, PAGE)
        if not len(wanted):
            return 0, None
        for start in range(0, len(wanted), MEMORIES):
            some = wanted.at(slice(start, start + MEMORIES))
            held = await self._index.of_memories(collection, np.unique(some.memory_ids))
            await self._upload(collection, some.at(~np.isin(some.ids, held.ids)))
        return len(wanted), int(wanted.ids[-1])

    async def _sweep(self, collection: Collection) -> None:
        """Take out what the database does not have."""
        after: int | None = 0
        while after is not None:
            held = await self._index.page(collection, after, PAGE)
            await self._remove_gone(collection, held)
            after = int(held.ids[-1]) if len(held) == PAGE else None

    async def _settle(self, collection: Collection, memories: dict[int, int]) -> None:
        ids = np.array(sorted(memories), np.int64)
        for start in range(0, len(ids), MEMORIES):
            some = ids[start : start + MEMORIES]
            held = await self._index.of_memories(collection, some)
            async with self._database.read() as session:
                namespace_ids = np.array([memories[one] for one in some.tolist()], np.int64)
                wanted = await vector_points.of_memories(session, collection, namespace_ids, some)
            await self._upload(collection, wanted.at(~np.isin(wanted.ids, held.ids)))
            await self._remove_gone(collection, held)

    async def _upload(self, collection: Collection, points: Points) -> None:
        for start in range(0, len(points), UPLOADED):
            async with self._database.read() as session:
                there, vectors = await vector_points.vectors(
                    session, collection, points.at(slice(start, start + UPLOADED))
                )
            await self._index.put(collection, there, vectors)
            # Whatever was deleted between the reading and the storing has its change handled already, perhaps.
            await self._remove_gone(collection, there)
            await asyncio.sleep(0)

    async def _remove_gone(self, collection: Collection, held: Points) -> None:
        for start in range(0, len(held), PAGE):
            async with self._database.read() as session:
                gone = await vector_points.gone(session, collection, held.at(slice(start, start + PAGE)))
            await self._index.remove(collection, gone)
