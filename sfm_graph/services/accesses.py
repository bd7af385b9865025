"""Counting recalls of memories: in the process first, written down in batches.

A recall counts each memory that it shows; reading by id, listing and walking do not, nor does a recall of the past.
Nothing is written with a read, and no recall waits or fails. A process that dies loses what it has counted since its
last batch.
"""

import asyncio
import logging
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final

from sfm_graph.errors import SfmError, Unavailable
from sfm_graph.services.tasks import attempted, ended, repeated, status
from sfm_graph.store import accesses
from sfm_graph.store.accesses import Access, AccessKey
from sfm_graph.store.database import Database, LostRace

log = logging.getLogger(__name__)

# Written by one statement; so many are written before their time.
BATCH: Final = 5_000
# Counts that wait while they cannot be written, of some 250 bytes each; further memories are not counted.
MOST_HELD: Final = 100_000
MAX_AGENT_CHARS: Final = 256
# How long closing waits for the database.
CLOSE_SECONDS: Final = 5.0


class Accesses:
    """The counts of one process that are still to be written."""

    def __init__(self, database: Database, *, flush_ms: int) -> None:
        self._database = database
        self._seconds = flush_ms / 1000
        self._held: dict[AccessKey, Access] = {}
        self._many = asyncio.Event()
        self._flushing: asyncio.Task[None] | None = None
        # Batches that could not be written, and recalls of memories that nobody will write down.
        self._failures = self._lost = 0
        self._problem: str | None = None

    def recalled(self, namespace_id: int, ids: Iterable[int], agent: str) -> None:
        """Count one recall of each of some memories, by an agent, "" for one that does not say. Never fails."""
        once, who = Access(1, datetime.now(UTC)), _clean(agent)
        for one in ids:
            self._add(AccessKey(namespace_id, one, who), once)
        if len(self._held) >= BATCH:
            self._many.set()

    async def run(self) -> None:
        """Write what was counted from time to time, until cancelled; what is being written then goes on."""
        await repeated("accesses", self._turn, 0, self._report)

    async def _turn(self) -> None:
        # Full batches are not tried again and again while the database is away.
        if self._problem is None:
            await self._until_many()
        else:
            await asyncio.sleep(self._seconds)
        await asyncio.shield(self._begun())

    def _report(self, problem: str | None) -> None:
        self._problem = problem or self._problem

    async def flush(self) -> None:
        """Write what was counted until now, as far as the database takes it; what it does not take stays."""
        await asyncio.shield(self._begun())

    async def aclose(self) -> None:
        """Write what is left, for 5 seconds at most."""
        for _ in range(2):
            # What was under way, and then what came meanwhile.
            task = self._begun()
            await asyncio.wait([task], timeout=CLOSE_SECONDS)
            if not task.done():
                await ended(task)
            if self._problem is not None or task.cancelled():
                break
        if self._held:
            log.warning("the last recalls of %d memories could not be counted", len(self._held))

    async def state(self) -> dict[str, Any]:
        """`status` `up`, or `waiting`, after a defect `degraded`, with the reason; `held`: memories and agents whose
        counts wait; `failures`: batches that could not be written; `lost`: counts that never will be."""
        return {**status(self._problem), "held": len(self._held), "failures": self._failures, "lost": self._lost}

    async def _until_many(self) -> None:
        try:
            async with asyncio.timeout(self._seconds):
                await self._many.wait()
        except TimeoutError:
            return

    def _begun(self) -> asyncio.Task[None]:
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.create_task(self._attempt(), name="accesses")
        return self._flushing

    async def _attempt(self) -> None:
        problem = await attempted("accesses", self._write())
        if problem is not None:
            # What `_write` does not answer for is a defect: what was counted waits.
            self._failures += 1
            self._problem = problem

    async def _write(self) -> None:
        self._many.clear()
        if not self._held:
            self._problem = None
        while self._held:
            batch = {key: self._held.pop(key) for key in list(self._held)[:BATCH]}
            written = False
            try:
                await accesses.add(self._database, batch)
                written = True
            except (Unavailable, LostRace) as error:
                self._fail(error)
                return
            except SfmError as error:
                # It would be refused again.
                written = True
                self._lost += sum(one.count for one in batch.values())
                self._fail(error)
                return
            finally:
                if not written:
                    for key, one in batch.items():
                        self._add(key, one)
            self._problem = None

    def _fail(self, error: SfmError) -> None:
        self._failures += 1
        if self._problem is None:
            log.warning("recalls of memories could not be counted: %s", error.message)
        self._problem = error.message

    def _add(self, key: AccessKey, one: Access) -> None:
        known = self._held.get(key)
        if known is not None:
            self._held[key] = Access(known.count + one.count, max(known.last_at, one.last_at))
        elif len(self._held) < MOST_HELD:
            self._held[key] = one
        else:
            self._lost += one.count


def _clean(agent: str) -> str:
    """As a database can hold it."""
    if agent.isascii() and agent.isprintable():
        return agent[:MAX_AGENT_CHARS]
    return agent[:MAX_AGENT_CHARS].replace("\0", "").encode("utf-8", "replace").decode()
