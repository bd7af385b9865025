"""Work that no request should wait for: vector indexes for long tails, outdated idempotency keys."""

import asyncio
import logging
from collections.abc import Awaitable
from dataclasses import dataclass

from sfm_graph.errors import SfmError, Unavailable
from sfm_graph.services.indexing import Indexing
from sfm_graph.store import vector_indexes
from sfm_graph.store.database import Database, WriteSession
from sfm_graph.store.vector_indexes import Tail

log = logging.getLogger(__name__)


# A tail that grows without a pause is looked at this often, in rounds.
PATIENCE = 15


@dataclass(slots=True)
class _Watch:
    last_id: int = 0
    rounds: int = 0
    counted_at: int = 0


class Maintenance:
    """A background loop; one process of all that share a database builds at a time."""

    def __init__(self, database: Database, indexing: Indexing, *, tail: int, interval_ms: int) -> None:
        self._database = database
        self._indexing = indexing
        self._least = tail
        self._interval = interval_ms / 1000
        self._watched: dict[tuple[int, int], _Watch] = {}
        # Why the last round failed, for health; None when it did not.
        self.problem: str | None = None

    async def run(self) -> None:
        """Work until cancelled. What fails is shown in `problem` and tried again in the next round."""
        while True:
            self.problem = await self._troubles(self.round())
            await asyncio.sleep(self._interval)

    async def round(self) -> None:
        """Do everything that is due once. Raises Unavailable with the last trouble, after all was tried."""
        trouble = await self._troubles(vector_indexes.drop_unfinished(self._database))
        for tail in await vector_indexes.tails(self._database):
            if self._is_due(tail) and await self._pays(tail):
                log.info("indexing the vectors of namespace %d up to %d", tail.namespace_id, tail.last_id)
                # One tail that cannot be built must not keep the others waiting.
                trouble = await self._troubles(vector_indexes.build(self._database, tail)) or trouble
        await self._database.write(self._prune)
        if trouble:
            raise Unavailable(trouble)

    @staticmethod
    async def _troubles(work: Awaitable[object]) -> str | None:
        try:
            await work
        except SfmError as error:
            log.warning("maintenance: %s", error.message)
            return error.message
        return None

    def _is_due(self, tail: Tail) -> bool:
        """True when a tail has settled, or has grown for long, since it was last counted."""
        watch = self._watched.setdefault((tail.namespace_id, tail.model_id), _Watch())
        settled, watch.last_id = watch.last_id == tail.last_id, tail.last_id
        watch.rounds += 1
        if watch.counted_at == tail.last_id or not (settled or watch.rounds >= PATIENCE):
            return False
        watch.counted_at, watch.rounds = tail.last_id, 0
        return True

    async def _pays(self, tail: Tail) -> bool:
        count = await vector_indexes.length(self._database, tail)
        if not tail.indexed_to and count <= self._indexing.exact_scan_limit(tail.identity):
            return False
        return count >= self._least

    @staticmethod
    async def _prune(session: WriteSession) -> None:
        await session.run("idempotent_prune")
