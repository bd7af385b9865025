"""Threads of one model's own, so that it neither blocks the event loop nor takes the threads of others."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

# A query does not wait for an import's batch to end, and no more batches than these compete for the cores.
THREADS = 2


class Worker:
    """Runs a model's blocking calls, at most two at a time, in the order in which they come."""

    def __init__(self, name: str) -> None:
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix=name)

    @classmethod
    async def opened(cls, name: str, load: "Callable[[Worker], T]") -> T:
        """What `load` makes of a new worker, in one of its threads; the worker is closed when that fails."""
        worker = cls(name)
        try:
            return await worker.run(load, worker)
        except BaseException:
            await worker.aclose()
            raise

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `call` returns or raises. A call that has begun goes on to its end when the caller is cancelled."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, lambda: call(*args, **kwargs))

    async def aclose(self) -> None:
        """Waits for the calls that have begun; those that have not are cancelled. May be called twice."""
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)
