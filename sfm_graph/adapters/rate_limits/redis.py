"""Token buckets that all processes share, in Redis."""

import asyncio
import logging
import time
from hashlib import blake2b
from typing import Any, Final, Self

from redis.asyncio import Redis
from redis.exceptions import RedisError

from sfm_graph.adapters.rate_limits.in_process import InProcessRateLimiter
from sfm_graph.adapters.redis.connection import kind_of, open_redis, place_of
from sfm_graph.domain.rate import TOLERANCE_SECONDS, Limit, Taken, take
from sfm_graph.settings import Settings
from sfm_graph.telemetry import tracing
from sfm_graph.telemetry.counters import RATE_LIMITER_DEGRADED

PREFIX: Final = "sfm:limit:"
# A request waits no longer for Redis, which answers within a millisecond. It happens once each time Redis stalls, so
# that a busy moment of this process, for which it would count alone, is the worse mistake.
TIMEOUT_SECONDS: Final = 0.2
# Connecting, by TLS too, happens beside the requests and may take longer.
CONNECT_SECONDS: Final = 1.0
# How long Redis is left alone after it failed.
PAUSE_SECONDS: Final = 2.0
# Commands are sub-millisecond, so a few connections carry thousands of requests a second.
CONNECTIONS: Final = 8

# The same steps as `domain.rate.take`, which says from the two times what became of the try. Redis's own clock, since
# those of its clients differ; counted from 2026, since a double holds such seconds to 0.02 microseconds.
_SCRIPT: Final = """
local time = redis.call('TIME')
local now = (tonumber(time[1]) - 1767225600) + tonumber(time[2]) / 1000000
local window, most, cost = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local before = math.min(math.max(tonumber(redis.call('GET', KEYS[1]) or now), now), now + window)
local after = before + cost * window / most
if cost > 0 and after - now - window <= tonumber(ARGV[4]) then
  redis.call('SET', KEYS[1], string.format('%.17g', after), 'PX', math.ceil((after - now) * 1000) + 1)
end
return {string.format('%.17g', now), string.format('%.17g', before)}
"""
_PROBE = Limit(most=1, window_seconds=0.001)
_NOT_ASKED = "not asked yet"

log = logging.getLogger(__name__)


class RedisRateLimiter:
    """Buckets in Redis, that vanish from it once they are full, under hashed names.

    While Redis is away or slow each process counts for itself, from full buckets. Redis is left alone then, and asked
    again every two seconds, beside the requests.
    """

    def __init__(
        self, client: Redis, *, timeout_seconds: float = TIMEOUT_SECONDS, pause_seconds: float = PAUSE_SECONDS
    ) -> None:
        """Takes over the client. It counts in process until the first `probe`."""
        self._client = client
        self._script = client.register_script(_SCRIPT)
        self._timeout_seconds = timeout_seconds
        self._pause_seconds = pause_seconds
        self._places = asyncio.Semaphore(CONNECTIONS)
        self._alone = InProcessRateLimiter()
        self._problem: str | None = _NOT_ASKED
        self._probing: asyncio.Task[None] | None = None
        self._probe_at = 0.0
        self._closed = False

    @classmethod
    async def open(cls, settings: Settings) -> Self:
        """A limiter on the Redis of the settings, whether that is there or not. Raises SettingsError."""
        limiter = cls(open_redis(settings, timeout_seconds=CONNECT_SECONDS))
        await limiter.probe()
        return limiter

    @property
    def is_shared(self) -> bool:
        """Whether Redis counts now."""
        return self._problem is None

    async def take(self, key: str, limit: Limit, cost: int = 1) -> Taken:
        """As the port says. Redis being away never shows but in `state`."""
        if self._problem is None:
            try:
                async with self._places:
                    # It may have failed for those before.
                    if self._problem is None:
                        return await self._shared(key, limit, cost, self._timeout_seconds)
            except (RedisError, OSError, TimeoutError) as error:
                self._failed(error)
        else:
            self._probe_beside()
        return await self._alone.take(key, limit, cost)

    async def probe(self) -> None:
        """Find out whether Redis counts, and let it from now on."""
        try:
            await self._shared("probe", _PROBE, 1, CONNECT_SECONDS)
        except (RedisError, OSError, TimeoutError) as error:
            self._failed(error)
            return
        if self._problem is not None and not self._closed:
            log.info("rate limits are shared in Redis at %s", place_of(self._client))
            self._problem = None
            RATE_LIMITER_DEGRADED.set(0)

    async def aclose(self) -> None:
        """Close the connections."""
        self._closed = True
        self._problem = self._problem or "closed"
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.wait([self._probing])
        await self._client.aclose()

    async def state(self) -> dict[str, Any]:
        """Asks Redis: `degraded` while every process counts for itself."""
        await self.probe()
        if self._problem is None:
            return {"kind": "redis", "status": "up"}
        return {"kind": "redis", "status": "degraded", "reason": f"{self._problem}; each process counts for itself"}

    async def _shared(self, key: str, limit: Limit, cost: int, timeout_seconds: float) -> Taken:
        if not 0 <= cost <= limit.most:
            raise ValueError(f"a bucket of {limit.most} never gives {cost}")
        arguments: list[str | int] = [repr(limit.window_seconds), limit.most, cost, repr(TOLERANCE_SECONDS)]
        try:
            async with asyncio.timeout(timeout_seconds):
                with tracing.inner("redis rate limit", "client", {"db.system.name": "redis"}):
                    now, before = await self._script(keys=[_name(key, limit)], args=arguments)
        finally:
            if self._closed:
                await self._client.aclose()  # it may have connected meanwhile
        return take(float(before), float(now), limit, cost)[1]

    def _failed(self, error: Exception) -> None:
        is_news = self._problem in (None, _NOT_ASKED)
        self._problem = f"Redis at {place_of(self._client)}: {kind_of(error)}"
        self._probe_at = time.monotonic() + self._pause_seconds
        RATE_LIMITER_DEGRADED.set(1)
        if is_news and not self._closed:
            log.warning("rate limits are those of each process: %s", self._problem)

    def _probe_beside(self) -> None:
        if self._closed or time.monotonic() < self._probe_at or (self._probing and not self._probing.done()):
            return
        self._probing = asyncio.create_task(self.probe(), name="rate limit probe")


def _name(key: str, limit: Limit) -> str:
    text = f"{limit.most}/{limit.window_seconds!r}/{key}"
    return PREFIX + blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
