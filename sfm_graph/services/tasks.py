"""Ending background tasks for sure."""

import asyncio
from typing import Any


async def ended(task: asyncio.Task[Any]) -> None:
    """Cancel a task and wait for its end, whatever it ends with; being cancelled meanwhile goes on to the caller."""
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        # Looked at, so that nobody warns that it never was: who ends a task does not ask how it went.
        task.exception()


def heed_cancellation() -> None:
    """Raise CancelledError when this task was cancelled and something on its way has swallowed that.

    On Python 3.11 `asyncio.wait_for`, which the database driver's pool uses, does so now and then.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
