"""Background tasks that no defect ends, and that end for sure when they are to."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from sfm_graph.errors import SfmError

log = logging.getLogger(__name__)

# How soon what a defect has ended begins again; twice as long each time, up to the other.
DEFECT_PAUSE_SECONDS = 5.0
LONGEST_DEFECT_PAUSE_SECONDS = 60.0
# What the reports of defects begin with; others are troubles that pass.
DEFECT = "a defect: "


async def ended(task: asyncio.Future[Any]) -> None:
    """Cancel a task and wait for its end, whatever it ends with; being cancelled meanwhile goes on to the caller."""
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        # Looked at, so that nobody warns that it never was: who ends a task does not ask how it went.
        task.exception()


async def attempted(name: str, work: Awaitable[object]) -> str | None:
    """Do work; what it failed with, None when it did not. A defect is logged, and its report begins with DEFECT."""
    task = await _over(work)
    if task.cancelled():
        return _defect(name, "was cancelled", None)
    error = task.exception()
    if isinstance(error, SfmError):
        log.warning("%s: %s", name, error.message)
        return error.message
    return None if error is None else _defect(name, "failed", error)


def is_defect(problem: str | None) -> bool:
    """Whether a report is one of a defect."""
    return problem is not None and problem.startswith(DEFECT)


def status(problem: str | None) -> dict[str, Any]:
    """A part of the health report: `status` `up`; with the `reason`, `degraded` by a defect, else `waiting`."""
    if problem is None:
        return {"status": "up"}
    return {"status": "degraded" if is_defect(problem) else "waiting", "reason": problem}


async def repeated(
    name: str, work: Callable[[], Awaitable[object]], seconds: float, report: Callable[[str | None], None]
) -> None:
    """Do work again and again, `seconds` in between, until cancelled; each time report what it failed with, or None.

    After defects the pauses are longer, from 5 seconds to a minute.
    """
    defects = 0
    while True:
        problem = await attempted(name, work())
        report(problem)
        defects = defects + 1 if is_defect(problem) else 0
        await asyncio.sleep(max(seconds, _pause(defects)))


async def kept_running(name: str, work: Callable[[], Awaitable[None]], report: Callable[[str], None]) -> None:
    """Run endless work until cancelled. A defect that ends it is logged, reported, and the work is begun again: after
    5 seconds, up to a minute when it keeps ending soon."""
    defects = 0
    while True:
        begin = time.monotonic()
        task = await _over(work())
        defects = 1 if time.monotonic() - begin > LONGEST_DEFECT_PAUSE_SECONDS else defects + 1
        error = None if task.cancelled() else task.exception()
        report(_defect(name, "ended, and begins again", error))
        await asyncio.sleep(_pause(defects))


async def _over(work: Awaitable[object]) -> asyncio.Future[object]:
    """Work that is over, whatever it ended with. Who is cancelled meanwhile cancels it, too."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait([task])
    except asyncio.CancelledError:
        await ended(task)
        raise
    return task


def _defect(name: str, what: str, error: BaseException | None) -> str:
    log.error("%s %s", name, what, exc_info=error)
    return f"{DEFECT}{type(error).__name__ if error else 'it was cancelled'}; the log says more"


def _pause(defects: int) -> float:
    return min(DEFECT_PAUSE_SECONDS * 2.0 ** min(defects - 1, 10), LONGEST_DEFECT_PAUSE_SECONDS) if defects else 0.0


def heed_cancellation() -> None:
    """Raise CancelledError when this task was cancelled and something on its way has swallowed that.

    On Python 3.11 `asyncio.wait_for`, which the database driver's pool uses, does so now and then.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
