"""A vector index that hangs must not take the database's connections with it: who asks it holds one of them."""

import asyncio
import time

import numpy as np
from numpy.typing import NDArray

from sfm_graph.errors import VectorIndexUnavailable
from sfm_graph.ports.vector_index import Collection, Near, VectorIndex

# A search that takes longer is not worth waiting for.
SEARCH_SECONDS = 2.0
# After a failure nobody is sent there for so long.
REFUSING_SECONDS = 2.0
# How long one waits for its turn.
TURN_SECONDS = 0.25


class GuardedIndex:
    """Lets `at_once` searches wait for an index at a time, and none for a while after a failure."""

    def __init__(self, index: VectorIndex, at_once: int) -> None:
        self._index = index
        self._turns = asyncio.Semaphore(at_once)
        self._not_before = 0.0
        self._problem = ""

    async def nearest(
        self, collection: Collection, namespace_id: int, vector: NDArray[np.float32], limit: int, *,
        windows: bool, exact: bool = False,
    ) -> Near | None:  # fmt: skip
        """As the port says, within 2.25 seconds."""
        self._check()
        try:
            async with asyncio.timeout(TURN_SECONDS):
                await self._turns.acquire()
        except TimeoutError as error:
            raise VectorIndexUnavailable("too many searches wait for the vector index already") from error
        try:
            self._check()
            async with asyncio.timeout(SEARCH_SECONDS):
                return await self._index.nearest(
                    collection, namespace_id, vector, limit, windows=windows, exact=exact
                )
        except TimeoutError as error:
            self._refuse(f"the vector index gave no answer within {SEARCH_SECONDS:g} s")
            raise VectorIndexUnavailable(self._problem) from error
        except VectorIndexUnavailable as error:
            self._refuse(error.message)
            raise
        finally:
            self._turns.release()

    def _check(self) -> None:
        if time.monotonic() < self._not_before:
            raise VectorIndexUnavailable(self._problem)

    def _refuse(self, problem: str) -> None:
        self._problem = problem
        self._not_before = time.monotonic() + REFUSING_SECONDS
