"""Redis as a cache that may be slow, full, or gone at any moment.

It should be allowed to forget (`maxmemory` with `allkeys-lru`), unlike a Redis that carries events.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Self

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from sfm_graph.adapters.redis.connection import kind_of, open_redis, place_of
from sfm_graph.settings import Settings
from sfm_graph.telemetry import tracing

# Longer than Redis takes unless something is wrong with it; a recall that waits in vain takes so much longer.
TIMEOUT_SECONDS = 0.05
# How long it is left alone after it did not answer.
COOL_DOWN_SECONDS = 5.0


class RedisCache:
    """Keeps values for `seconds`.

    When it does not answer in time it is left alone for a while; then one call tries it again, and the others follow
    when that call was answered.
    """

    def __init__(self, client: Redis, *, seconds: int, timeout_seconds: float, cool_down_seconds: float) -> None:
        """Takes ownership of the client."""
        self._client = client
        self._seconds = seconds
        self._timeout_seconds = timeout_seconds
        self._cool_down_seconds = cool_down_seconds
        # Until when nobody asks; None while it answers.
        self._away_until: float | None = None
        # Of each command what is wrong with it, since it last worked.
        self._problems: dict[str, str] = {}
        self._counters = {"failed": 0, "skipped": 0}

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """A cache on the Redis of the settings. It connects with its first use. Raises SettingsError."""
        return cls(
            open_redis(settings, timeout_seconds=TIMEOUT_SECONDS), seconds=settings.cache_seconds,
            timeout_seconds=TIMEOUT_SECONDS, cool_down_seconds=COOL_DOWN_SECONDS,
        )  # fmt: skip

    @property
    def counters(self) -> Mapping[str, int]:
        """As the port says."""
        return self._counters

    async def get(self, key: str, *, most_bytes: int) -> bytes | None:
        """As the port says."""
        # Not all of what somebody else may have put there.
        found = await self._guarded("GETRANGE", lambda: self._client.getrange(key, 0, most_bytes))
        return found if isinstance(found, bytes) and 0 < len(found) <= most_bytes else None

    async def put(self, key: str, value: bytes) -> None:
        """As the port says."""
        await self._guarded("SET", lambda: self._client.set(key, value, ex=self._seconds))

    async def state(self) -> dict[str, Any]:
        """As the port says; one round trip, unless it is left alone."""
        await self._guarded("PING", self._client.ping)
        if not self._problems:
            return {"status": "up"}
        return {"status": "degraded", "reason": next(iter(self._problems.values()))}

    async def aclose(self) -> None:
        """As the port says."""
        await self._client.aclose()

    async def _guarded(self, command: str, call: Callable[[], Awaitable[object]]) -> object:
        """What a command gives, None when it gives nothing in time."""
        if not self._may_try():
            self._counters["skipped"] += 1
            return None
        try:
            with tracing.inner(f"redis {command}", "client", {"db.system.name": "redis"}):
                async with asyncio.timeout(self._timeout_seconds):
                    found = await call()
        except (RedisError, OSError, TimeoutError, ValueError) as error:
            self._fail(command, error)
            return None
        self._away_until = None
        self._problems.pop(command, None)
        self._problems.pop("", None)
        return found

    def _may_try(self) -> bool:
        if self._away_until is None:
            return True
        now = time.monotonic()
        if now < self._away_until:
            return False
        # This call is the one that tries.
        self._away_until = now + self._cool_down_seconds
        return True

    def _fail(self, command: str, error: Exception) -> None:
        self._counters["failed"] += 1
        reason = f"Redis at {place_of(self._client)}: {kind_of(error)}"
        if isinstance(error, ResponseError):
            # A refusal, such as for want of memory, comes quickly and says nothing of other commands.
            self._away_until = None
            self._problems[command] = reason
        else:
            self._away_until = time.monotonic() + self._cool_down_seconds
            self._problems[""] = reason
