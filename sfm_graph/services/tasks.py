"""Ending background tasks for sure."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

log = logging.getLogger(__name__)

# How soon what a defect has ended begins again.
DEFECT_PAUSE_SECONDS = 5.0


async def ended(task: asyncio.Task[Any]) -> None:
    """Cancel a task and wait for its end, whatever it ends with; being cancelled meanwhile goes on to the caller."""
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        # Looked at, so that nobody warns that it never was: who ends a task does not ask how it went.
        task.exception()


async def kept_running(name: str, work: Callable[[], Awaitable[None]], report: Callable[[str], None]) -> None:
    """Run endless work until cancelled. A defect that ends it is logged, reported, and the work is begun again."""
    while True:
        task = asyncio.ensure_future(work())
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            await ended(task)
            raise
        error = None if task.cancelled() else task.exception()
        log.error("%s ended, and begins again", name, exc_info=error)
        report(f"a defect: {type(error).__name__ if error else 'it was cancelled'}; the log says more")
        await asyncio.sleep(DEFECT_PAUSE_SECONDS)


def heed_cancellation() -> None:
    """Raise CancelledError when this task was cancelled and something on its way has swallowed that.

    On Python 3.11 `asyncio.wait_for`, which the database driver's pool uses, does so now and then.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
