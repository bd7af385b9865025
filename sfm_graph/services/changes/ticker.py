"""When to look at the log again: right after a commit of this process, else after a pause."""

import asyncio
from contextlib import suppress

from sfm_graph.store.database import Database

# A process that commits all the time is not looked at more often.
LEAST_SECONDS = 0.002


class Ticker:
    """One reader's pace. A commit of this process wakes it; those of others are met within the pause."""

    def __init__(self, database: Database, pause_seconds: float) -> None:
        self._pause = pause_seconds
        self._committed = asyncio.Event()
        database.on_commit(self._committed.set)

    async def tick(self) -> None:
        """Wait for the next time."""
        await asyncio.sleep(LEAST_SECONDS)
        with suppress(TimeoutError):
            async with asyncio.timeout(self._pause):
                await self._committed.wait()
        self._committed.clear()
