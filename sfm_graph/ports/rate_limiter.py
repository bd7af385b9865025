"""Who counts what callers take."""

from typing import Any, Protocol

from sfm_graph.domain.rate import Limit, Taken

__all__ = ["Limit", "RateLimiter", "Taken"]


class RateLimiter(Protocol):
    """Token buckets by key. One contract suite runs on every implementation."""

    async def take(self, key: str, limit: Limit, cost: int = 1) -> Taken:
        """Take `cost` tokens, all or none, from the bucket of a key, which is a full one at first.

        With a cost of 0 it only looks. Buckets of one key under different limits have nothing to do with each other.
        Never fails for want of a server, and waits for one no longer than a fraction of a second. Raises ValueError
        for a cost beyond what the bucket holds.
        """
        ...

    async def aclose(self) -> None:
        """Let go of connections."""
        ...

    async def state(self) -> dict[str, Any]:
        """A part of the health report: `kind`, `status` (`up`, or `degraded` with `reason`)."""
        ...
