"""A yes or no from the database that many ask for, remembered for seconds."""

import asyncio
import time
from collections.abc import Awaitable, Callable


class Fact:
    """Asked at most every `seconds`, and by one task at a time."""

    def __init__(
        self, ask: Callable[[], Awaitable[bool]], seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ask = ask
        self._seconds = seconds
        self._clock = clock
        self._lock = asyncio.Lock()
        self._known: tuple[bool, float] | None = None
        self._changes = 0

    async def holds(self) -> bool:
        """Whether it was so at most `seconds` ago. Raises what asking raises, which is not remembered."""
        if (known := self._recent()) is not None:
            return known
        async with self._lock:
            if (known := self._recent()) is not None:
                return known
            asked_at, changes = self._clock(), self._changes
            found = await self._ask()
            if changes == self._changes:
                self._known = found, asked_at
            return found

    def forget(self) -> None:
        """It was changed just now."""
        self._known = None
        self._changes += 1

    def _recent(self) -> bool | None:
        if self._known is None or self._clock() - self._known[1] >= self._seconds:
            return None
        return self._known[0]
