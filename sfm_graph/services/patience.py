"""Background transactions that meet many writers: they lose races more often than a request may."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from sfm_graph.errors import Overloaded
from sfm_graph.store.database import Database, WriteSession

T = TypeVar("T")

ATTEMPTS = 20
PAUSE_SECONDS = 0.1


async def patiently(database: Database, work: Callable[[WriteSession], Awaitable[T]]) -> T:
    """What `work` gives in one transaction, tried again when it loses. Raises Overloaded after 20 attempts."""
    for _ in range(ATTEMPTS - 1):
        try:
            return await database.write(work)
        except Overloaded:
            await asyncio.sleep(PAUSE_SECONDS)
    return await database.write(work)
