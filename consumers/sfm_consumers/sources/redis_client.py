"""How Redis is reached and asked."""

import asyncio
from typing import Any

from redis.asyncio import Redis

from sfm_graph.adapters.redis import connection
from sfm_graph.settings import Settings

# More than a read waits for new entries.
_TIMEOUT_SECONDS = 5.0


def open_redis(settings: Settings) -> Redis:
    """A client that connects with its first use. Raises SettingsError, which never holds a password."""
    # No attempts of the client's own: a read that is repeated unseen hands out entries twice, and out of order.
    return connection.open_redis(settings, timeout_seconds=_TIMEOUT_SECONDS, retries=0)


async def ask(client: Redis, *command: Any) -> Any:
    """One command's answer, as Redis gives it. Raises RedisError and OSError, after a bounded time."""
    async with asyncio.timeout(_TIMEOUT_SECONDS):
        return await client.execute_command(*command)  # type: ignore[no-untyped-call]
