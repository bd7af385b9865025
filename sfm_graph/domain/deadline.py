"""One deadline per request: set where it arrives, looked at by whatever waits for something on its behalf.

It is the task's, and tasks that the request starts inherit it. Background work has none.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from sfm_graph.errors import DeadlineExceeded


class Deadline:
    """A moment by `time.monotonic`, or none."""

    __slots__ = ("moment",)

    def __init__(self, moment: float | None) -> None:
        self.moment = moment

    def lift(self) -> None:
        """Let what goes on under this deadline take as long as it takes."""
        self.moment = None


_current: ContextVar[Deadline | None] = ContextVar("deadline", default=None)


@contextmanager
def under(deadline: Deadline) -> Iterator[Deadline]:
    """Let what the block does, and the tasks that it starts, heed a deadline."""
    token = _current.set(deadline)
    try:
        yield deadline
    finally:
        _current.reset(token)


@contextmanager
def without_deadline() -> Iterator[None]:
    """Let tasks that the block starts serve others, too: they outlive the request that began them."""
    token = _current.set(None)
    try:
        yield
    finally:
        _current.reset(token)


def remaining_seconds() -> float | None:
    """How long the request may still take, 0 when its time is over; None without a deadline."""
    deadline = _current.get()
    if deadline is None or deadline.moment is None:
        return None
    return max(0.0, deadline.moment - time.monotonic())


def within(seconds: float) -> float:
    """How long something may take that takes at most `seconds`. Raises DeadlineExceeded when no time is left."""
    left = remaining_seconds()
    if left is None:
        return seconds
    if left == 0:
        raise out_of_time()
    return min(seconds, left)


def at_most(seconds: float) -> float:
    """As `within` for what is cut short then, or left out: 0 when no time is left."""
    left = remaining_seconds()
    return seconds if left is None else min(seconds, left)


def out_of_time() -> DeadlineExceeded:
    """The error of a request whose time is over."""
    return DeadlineExceeded("the request's time is over; ask for less, or give it more by X-Request-Timeout-Ms")
