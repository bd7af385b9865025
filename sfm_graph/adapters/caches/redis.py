"""Redis as a cache that may be slow, full, or gone at any moment.

It should be allowed to forget (`maxmemory` with `allkeys-lru`), unlike a Redis that carries events.
"""

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any, Final, Self

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError, ResponseError

from sfm_graph.adapters.redis.connection import kind_of, open_redis, place_of
from sfm_graph.settings import Settings
from sfm_graph.telemetry import tracing

# Longer than Redis takes unless something is wrong with it; a recall that waits in vain takes so much longer.
TIMEOUT_SECONDS = 0.05
# Connecting, which takes several round trips, happens beside the requests and may take longer.
CONNECT_SECONDS = 1.0
# How long it is left alone after it did not answer.
COOL_DOWN_SECONDS = 5.0
# Commands take a fraction of a millisecond, so a few connections carry thousands of recalls a second.
CONNECTIONS: Final = 8

log = logging.getLogger(__name__)


class RedisCache:
    """Keeps values for `seconds`, over a few connections that are made beside the requests.

    When it does not answer in time it is left alone for a while; then it is connected anew, and asked again once it
    answers.
    """

    def __init__(self, client: Redis, *, seconds: int, timeout_seconds: float, cool_down_seconds: float) -> None:
        """Takes ownership of the client."""
        self._client = client
        self._seconds = seconds
        self._timeout_seconds = timeout_seconds
        self._cool_down_seconds = cool_down_seconds
        # Connected, and used by nobody; the latest used first.
        self._free: asyncio.LifoQueue[AbstractConnection] = asyncio.LifoQueue()
        # How many are free or in use.
        self._alive = 0
        # Of the client's pool, not to be used again before they are connected anew.
        self._broken: list[AbstractConnection] = []
        self._connecting: asyncio.Task[None] | None = None
        self._connected_at = float("-inf")
        # Until when nobody asks; None while it answers.
        self._away_until: float | None = None
        # Whether the log says that it is away.
        self._told = False
        # Of each command what is wrong with it, since it last worked; of all of them under "".
        self._problems: dict[str, str] = {}
        self._counters = {"failed": 0, "skipped": 0}
        self._closed = False

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """A cache on the Redis of the settings. It connects with its first use. Raises SettingsError."""
        return cls(
            open_redis(settings, timeout_seconds=CONNECT_SECONDS), seconds=settings.cache_seconds,
            timeout_seconds=TIMEOUT_SECONDS, cool_down_seconds=COOL_DOWN_SECONDS,
        )  # fmt: skip

    @property
    def counters(self) -> Mapping[str, int]:
        """As the port says."""
        return self._counters

    async def get(self, key: str, *, most_bytes: int) -> bytes | None:
        """As the port says."""
        # Not all of what somebody else may have put there.
        found = await self._guarded("GETRANGE", key, 0, most_bytes)
        return found if isinstance(found, bytes) and 0 < len(found) <= most_bytes else None

    async def put(self, key: str, value: bytes) -> None:
        """As the port says."""
        await self._guarded("SET", key, value, "EX", self._seconds)

    async def state(self) -> dict[str, Any]:
        """As the port says; it waits until it is connected or cannot be, unless it is left alone."""
        self._connect_beside()
        if self._connecting is not None:
            await asyncio.wait([self._connecting])
        await self._guarded("PING")
        if not self._problems:
            return {"status": "up"}
        return {"status": "degraded", "reason": next(iter(self._problems.values()))}

    async def aclose(self) -> None:
        """As the port says."""
        self._closed = True
        # Whoever still waits for a connection gets none: by using it he would connect it again.
        self._free = asyncio.LifoQueue()
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        await self._client.aclose()

    async def _guarded(self, command: str, *arguments: str | bytes | int) -> object:
        """What a command gives, None when it gives nothing in time."""
        self._connect_beside()
        if self._closed or "" in self._problems:
            self._counters["skipped"] += 1
            return None
        connection = None
        try:
            with tracing.inner(f"redis {command}", "client", {"db.system.name": "redis"}):
                async with asyncio.timeout(self._timeout_seconds):
                    connection = await self._free.get()
                    found = await self._asked(connection, command, *arguments)
        except ResponseError as error:
            # A refusal, such as for want of memory, comes quickly and says nothing of other commands.
            self._counters["failed"] += 1
            self._problems[command] = self._reason(error)
            return None
        except (RedisError, OSError, TimeoutError) as error:
            self._counters["failed"] += 1
            # That no connection became free says nothing of Redis: they are being made, or others wait on them.
            if connection is not None:
                self._lost(error)
            return None
        self._problems.pop(command, None)
        return found

    async def _asked(self, connection: AbstractConnection, command: str, *arguments: str | bytes | int) -> object:
        whole = False
        try:
            found = await _spoken(connection, command, *arguments)
            whole = True
        except ResponseError:
            whole = True
            raise
        finally:
            if whole:
                self._free.put_nowait(connection)
            else:
                # The rest of the answer may come yet; its caller may have gone, too.
                self._drop(connection)
        return found

    def _lost(self, error: Exception) -> None:
        """A command was not answered: no connection is trusted any more."""
        while not self._free.empty():
            self._drop(self._free.get_nowait())
        # A connection that was closed, as idle ones are, is no reason to wait, unless that comes at once again.
        is_news = time.monotonic() > self._connected_at + self._cool_down_seconds
        self._leave_alone(error, 0 if is_news and not isinstance(error, TimeoutError) else self._cool_down_seconds)
        self._connect_beside()

    def _leave_alone(self, error: Exception, seconds: float) -> None:
        self._away_until = time.monotonic() + seconds
        self._problems[""] = self._reason(error)
        if seconds and not self._told:
            self._told = True
            log.warning("the cache is not used: %s", self._reason(error))

    def _reason(self, error: Exception) -> str:
        return f"Redis at {place_of(self._client)}: {kind_of(error)}"

    def _drop(self, connection: AbstractConnection) -> None:
        self._alive -= 1
        self._broken.append(connection)

    def _connect_beside(self) -> None:
        """Begin to make the connections that are missing, unless that goes on already or has to wait."""
        if self._closed or (self._connecting is not None and not self._connecting.done()):
            return
        is_due = time.monotonic() >= self._away_until if self._away_until is not None else True
        if is_due and (self._alive == 0 or self._broken):
            self._connecting = asyncio.create_task(self._connect(), name="cache connections")

    async def _connect(self) -> None:
        pool = self._client.connection_pool
        while self._broken:
            broken = self._broken.pop()
            await broken.disconnect(nowait=True)
            await pool.release(broken)
        missing = min(CONNECTIONS, pool.max_connections) - self._alive
        errors = await asyncio.gather(*(self._add() for _ in range(missing)))
        error = next((error for error in errors if error is not None), None)
        if self._alive == 0:
            # Without an error those that were made are lost already, which was noted.
            if error is not None:
                self._leave_alone(error, self._cool_down_seconds)
            return
        self._connected_at = time.monotonic()
        self._away_until = None
        self._problems.pop("", None)
        if self._told:
            self._told = False
            log.info("the cache is used again: Redis at %s", place_of(self._client))

    async def _add(self) -> Exception | None:
        """One connection more that answered, or why not."""
        connection = None
        whole = False
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                connection = await self._client.connection_pool.get_connection()  # type: ignore[no-untyped-call]
                await _spoken(connection, "PING")
                whole = True
        except (RedisError, OSError, TimeoutError, ValueError) as error:
            return error
        finally:
            if whole and connection is not None:
                self._alive += 1
                self._free.put_nowait(connection)
            elif connection is not None:
                self._broken.append(connection)
        return None


async def _spoken(connection: AbstractConnection, *command: str | bytes | int) -> object:
    await connection.send_command(*command, check_health=False)
    found: object = await connection.read_response(disable_decoding=True)
    return found
