"""What keeps bytes for a while, for the next one who needs the same; never what is true."""

from collections.abc import Mapping
from typing import Any, Protocol


class Cache(Protocol):
    """Keeps values by key. Safe to share between tasks of one event loop.

    Nothing here raises or takes long for the cache's sake: what cannot be had in time is not there, what cannot be
    put is lost. What it gives may be anything; its reader checks it.
    """

    @property
    def counters(self) -> Mapping[str, int]:
        """`failed`: calls that the cache did not answer, or refused; `skipped`: calls while it was left alone."""
        ...

    async def get(self, key: str, *, most_bytes: int) -> bytes | None:
        """The value of a key; None where there is none, or a longer one."""
        ...

    async def put(self, key: str, value: bytes) -> None:
        """Keep a value for as long as this cache keeps any."""
        ...

    async def state(self) -> dict[str, Any]:
        """`status`, "up" or "degraded", and the `reason` of the latter."""
        ...

    async def aclose(self) -> None:
        """Let go of connections. May be called twice."""
        ...
