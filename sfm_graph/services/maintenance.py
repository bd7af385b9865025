"""Work that no request should wait for: vector indexes for long tails, outdated idempotency keys."""

import asyncio
import logging

from sfm_graph.errors import Unavailable
from sfm_graph.services.indexing import Indexing
from sfm_graph.store import vector_indexes
from sfm_graph.store.database import Database, WriteSession

log = logging.getLogger(__name__)


class Maintenance:
    """A background loop; one process of all that share a database builds at a time."""

    def __init__(self, database: Database, indexing: Indexing, *, tail: int, interval_ms: int) -> None:
        self._database = database
        self._indexing = indexing
        self._tail = tail
        self._interval = interval_ms / 1000
        # Why the last round failed, for health; None when it did not.
        self.problem: str | None = None

    async def run(self) -> None:
        """Work until cancelled. A round that meets an unavailable database is tried again later."""
        while True:
            try:
                await self.round()
                self.problem = None
            except Unavailable as error:
                self.problem = error.message
                log.warning("maintenance waits: %s", error.message)
            await asyncio.sleep(self._interval)

    async def round(self) -> None:
        """Do everything that is due once."""
        await vector_indexes.drop_unfinished(self._database)
        for tail in await vector_indexes.backlog(self._database, self._tail):
            if tail.indexed_to or tail.count > self._indexing.exact_scan_limit:
                log.info("indexing %d vectors of namespace %d", tail.count, tail.namespace_id)
                await vector_indexes.build(self._database, tail)
        await self._database.write(self._prune)

    @staticmethod
    async def _prune(session: WriteSession) -> None:
        await session.run("idempotent_prune")
