"""How Redis is reached and asked."""

import asyncio
from typing import Any

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from sfm_graph.errors import SettingsError
from sfm_graph.settings import Settings

# More than a read waits for new entries.
_TIMEOUT_SECONDS = 5.0
_OPTIONS: dict[str, Any] = {
    # `ask` has a timeout. The client's own is `asyncio.wait_for`, which on Python 3.11 at times swallows a
    # cancellation.
    "socket_timeout": None,
    "socket_connect_timeout": _TIMEOUT_SECONDS,
    # No attempts of the client's own: a read that is repeated unseen hands out entries twice, and out of order.
    "retry": Retry(NoBackoff(), 0),
    "protocol": 2,
}


def open_redis(settings: Settings) -> Redis:
    """A client that connects with its first use. Raises SettingsError, which never holds the URL's password."""
    if settings.redis_url is not None:
        try:
            pool = ConnectionPool(**{**parse_url(settings.redis_url.get_secret_value()), **_OPTIONS})
            # Unknown options in the URL are met here, instead of with the first use.
            pool.connection_class(**pool.connection_kwargs)
        except (TypeError, ValueError, RedisError):
            raise SettingsError("REDIS_URL: must look like redis://user:password@host:6379/0") from None
        return Redis.from_pool(pool)
    if settings.redis_host is None:
        raise SettingsError("REDIS_URL: required to read from Redis, or REDIS_HOST")
    return Redis(host=settings.redis_host, port=settings.redis_port, **_OPTIONS)


async def ask(client: Redis, *command: Any) -> Any:
    """One command's answer, as Redis gives it. Raises RedisError and OSError, after a bounded time."""
    async with asyncio.timeout(_TIMEOUT_SECONDS):
        return await client.execute_command(*command)  # type: ignore[no-untyped-call]
