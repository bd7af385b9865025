"""How much of the time what fades is worked on, beside requests that should not notice."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

# After a step that something else held up.
MOST_REST_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Pace:
    """Work of `share` of the time, in (0, 1], in steps that remove, or look at, so many memories at once.

    A step counts with all that it waits for, so that a database under load is given more time.
    """

    share: float
    removed_at_once: int
    looked_at_once: int

    @asynccontextmanager
    async def step(self) -> AsyncIterator[None]:
        """A step of work, and the rest that follows it; none follows a step that raises."""
        began = time.perf_counter()
        yield
        rest = (time.perf_counter() - began) * (1 / self.share - 1)
        await asyncio.sleep(min(rest, MOST_REST_SECONDS))


# By hand somebody waits.
AT_ONCE = Pace(1.0, removed_at_once=50, looked_at_once=1_000)
# Writers at a limit add as many as go: it has to keep up with them, and to let them through.
MAKING_ROOM = Pace(0.5, removed_at_once=5, looked_at_once=100)
# What fades in a month has time.
IN_BACKGROUND = Pace(0.05, removed_at_once=5, looked_at_once=100)
