"""Calling a plug-in's method within a time: whatever it does, the caller goes on."""

import asyncio
import inspect
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any, Final

# Threads of plain methods that have not returned: more calls are late at once.
MAX_THREADS: Final = 16

_threads = threading.BoundedSemaphore(MAX_THREADS)
# Tasks that do not heed their cancellation are held until they end, or they would be lost half-way.
_left: set[asyncio.Future[Any]] = set()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a method returned, or what it raised; `late`: it did not end in time."""

    value: Any = None
    error: BaseException | None = None
    late: bool = False


async def called(method: Callable[[Any], Any], argument: Any, seconds: float) -> Outcome:
    """How a call of a method goes. Raises CancelledError alone, when the caller is cancelled.

    A coroutine function runs in a task, anything else in a thread of its own, which cannot be ended: it ends with the
    process at the latest. What a plain one returns to be awaited, as a wrapped coroutine function does, is awaited.
    """
    until = time.monotonic() + seconds
    if inspect.iscoroutinefunction(method):
        return await _ended(asyncio.ensure_future(method(argument)), seconds)
    work = _in_thread(method, argument)
    if work is None:
        return Outcome(late=True)
    outcome = await _ended(work, seconds)
    if not inspect.isawaitable(outcome.value):
        return outcome
    try:
        rest = asyncio.ensure_future(outcome.value)
    except (TypeError, ValueError) as error:
        return Outcome(error=error)
    return await _ended(rest, max(0.0, until - time.monotonic()))


async def _ended(work: "asyncio.Future[Any]", seconds: float) -> Outcome:
    late = True
    try:
        await asyncio.wait([work], timeout=seconds)
        # Asked before the cancellation below, which ends what stands for a thread at once.
        late = not work.done()
    finally:
        if not work.done():
            work.cancel()
            _left.add(work)
            work.add_done_callback(_forget)
    if late:
        return Outcome(late=True)
    if work.cancelled():
        return Outcome(error=asyncio.CancelledError())
    error = work.exception()
    return Outcome(error=error) if error is not None else Outcome(work.result())


def _forget(work: asyncio.Future[Any]) -> None:
    _left.discard(work)
    if not work.cancelled():
        # Looked at, so that nobody warns that it never was: its caller has gone on.
        work.exception()


def _in_thread(method: Callable[[Any], Any], argument: Any) -> "asyncio.Future[Any] | None":
    """In a thread that does not keep the process from ending, as an executor's would; None: there are too many."""
    if not _threads.acquire(blocking=False):
        return None
    outcome: Future[Any] = Future()
    context = copy_context()

    def run() -> None:
        try:
            outcome.set_result(context.run(method, argument))
        except BaseException as error:  # noqa: BLE001 - a plug-in raises what it likes; its caller is told
            outcome.set_exception(error)
        finally:
            _threads.release()

    # Never cancelled: the thread goes on, and what it says later is heard by nobody.
    outcome.set_running_or_notify_cancel()
    threading.Thread(target=run, name="hook", daemon=True).start()
    return asyncio.wrap_future(outcome)
