"""The blocking memory system: the async one, driven from a thread of its own."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from functools import update_wrapper
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, cast

from sfm_graph.client.aio import AsyncMemorySystem
from sfm_graph.errors import Unavailable

P = ParamSpec("P")
T = TypeVar("T")


def _blocking(
    method: Callable[Concatenate[AsyncMemorySystem, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate["MemorySystem", P], T]:
    """The blocking form of an async method."""

    def call(self: "MemorySystem", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._wait_for(method(self._system, *args, **kwargs))

    update_wrapper(call, method)
    return call


def _iterating(
    method: Callable[Concatenate[AsyncMemorySystem, P], AsyncGenerator[T]],
) -> Callable[Concatenate["MemorySystem", P], Generator[T]]:
    """The blocking form of an async generator."""

    def call(self: "MemorySystem", /, *args: P.args, **kwargs: P.kwargs) -> Generator[T]:
        items = method(self._system, *args, **kwargs)
        end = object()
        try:
            while (item := self._wait_for(_next(items, end))) is not end:
                yield cast(T, item)
        finally:
            self._wait_for(items.aclose())

    update_wrapper(call, method)
    return call


async def _next(items: AsyncGenerator[T], end: object) -> T | object:
    return await anext(items, end)


class MemorySystem:
    """AsyncMemorySystem for code that is not async: each call blocks until it is done. Safe to share by threads.

    Its work runs in an event loop in a thread of its own. Closed by `close`, by `with`, or when the program ends.
    """

    def __init__(self, system: AsyncMemorySystem) -> None:
        """Opens `system`. Raises SettingsError, DatabaseUnavailable."""
        self._system = system
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="sfm-memory", daemon=True)
        self._thread.start()
        try:
            self._wait_for(system.__aenter__())
        except BaseException:
            self._stop()
            raise
        # atexit comes too late: by then no thread pool takes the work of stopping the database.
        threading._register_atexit(self.close)  # type: ignore[attr-defined]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release everything; the embedded database stops when nobody else uses it. May be called twice."""
        if not self._loop.is_closed():
            self._wait_for(self._system.close())
            self._stop()

    def _wait_for(self, work: Coroutine[Any, Any, T]) -> T:
        if self._loop.is_closed():
            work.close()
            raise Unavailable("the memory system is closed")
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    store_memory = _blocking(AsyncMemorySystem.store_memory)
    remember = _blocking(AsyncMemorySystem.remember)
    store_many = _blocking(AsyncMemorySystem.store_many)
    get = _blocking(AsyncMemorySystem.get)
    retrieve = _blocking(AsyncMemorySystem.retrieve)
    update = _blocking(AsyncMemorySystem.update)
    forget = _blocking(AsyncMemorySystem.forget)
    delete = forget
    erase = _blocking(AsyncMemorySystem.erase)
    history = _blocking(AsyncMemorySystem.history)
    link_history = _blocking(AsyncMemorySystem.link_history)
    diff = _blocking(AsyncMemorySystem.diff)
    restore = _blocking(AsyncMemorySystem.restore)
    restore_link = _blocking(AsyncMemorySystem.restore_link)
    hold = _blocking(AsyncMemorySystem.hold)
    release = _blocking(AsyncMemorySystem.release)
    decay = _blocking(AsyncMemorySystem.decay)
    recall = _blocking(AsyncMemorySystem.recall)
    recall_with_scores = _blocking(AsyncMemorySystem.recall_with_scores)
    keyword_search = _blocking(AsyncMemorySystem.keyword_search)
    range = _blocking(AsyncMemorySystem.range)
    link_memories = _blocking(AsyncMemorySystem.link_memories)
    link_many = _blocking(AsyncMemorySystem.link_many)
    unlink = _blocking(AsyncMemorySystem.unlink)
    neighbors = _blocking(AsyncMemorySystem.neighbors)
    shortest_path = _blocking(AsyncMemorySystem.shortest_path)
    paths = _blocking(AsyncMemorySystem.paths)
    traverse = _blocking(AsyncMemorySystem.traverse)
    rank = _blocking(AsyncMemorySystem.rank)
    stats = _blocking(AsyncMemorySystem.stats)
    predict = _blocking(AsyncMemorySystem.predict)
    report_outcome = _blocking(AsyncMemorySystem.report_outcome)
    reflect = _blocking(AsyncMemorySystem.reflect)
    jobs = _blocking(AsyncMemorySystem.jobs)
    changes = _blocking(AsyncMemorySystem.changes)
    follow = _iterating(AsyncMemorySystem.follow)
    export = _blocking(AsyncMemorySystem.export)
    import_ = _blocking(AsyncMemorySystem.import_)
