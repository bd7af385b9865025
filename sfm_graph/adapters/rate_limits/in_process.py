"""Token buckets of this process alone."""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

from sfm_graph.domain.rate import Limit, Taken, take

# About 25 MB of names and numbers.
MAX_KEYS: Final = 100_000
# One more than a request brings: full buckets go faster than others come.
_LOOKED_AT: Final = 2

_Name = tuple[str, int, float]


class InProcessRateLimiter:
    """Buckets in a dictionary, the longest unused first.

    Each request drops up to two full buckets from the front, which loses nothing. Beyond `max_keys` the longest
    unused is forgotten though it is not full: to win tokens back takes so many other keys within one window.
    """

    def __init__(self, *, max_keys: int = MAX_KEYS, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_keys = max_keys
        self._clock = clock
        self._full_at: OrderedDict[_Name, float] = OrderedDict()

    def __len__(self) -> int:
        """Buckets that are kept; `max_keys` at most."""
        return len(self._full_at)

    async def take(self, key: str, limit: Limit, cost: int = 1) -> Taken:
        """As the port says; no I/O."""
        now = self._clock()
        name = (key, limit.most, limit.window_seconds)
        full_at, taken = take(self._full_at.get(name), now, limit, cost)
        self._full_at[name] = full_at
        self._full_at.move_to_end(name)
        self._tidy(now)
        return taken

    async def aclose(self) -> None:
        """There is nothing to close."""

    async def state(self) -> dict[str, Any]:
        """Always up."""
        return {"kind": "in_process", "status": "up"}

    def _tidy(self, now: float) -> None:
        for _ in range(_LOOKED_AT):
            oldest = next(iter(self._full_at), None)
            if oldest is None or (self._full_at[oldest] > now and len(self._full_at) <= self._max_keys):
                return
            del self._full_at[oldest]
