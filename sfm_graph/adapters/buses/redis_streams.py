"""Events into Redis Streams, for installations that have Redis and no Kafka.

A topic is four streams, `memory.events:0` to `memory.events:3`: consumers share them out, and each keeps its order.
CRC-32 of a key's UTF-8 decides its stream; an event without key goes to all four. An entry has the fields `key`
(absent when there is none), `ce_<attribute>` for each CloudEvents attribute, and `data`.

A stream keeps about `SFM_REDIS_STREAM_LENGTH` entries, whether or not they were read. Redis has to be one primary and
not a cluster, since a transaction writes to several streams, and its `maxmemory-policy` `noeviction`.
"""

import asyncio
import re
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, Self
from urllib.parse import urlsplit

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from sfm_graph.domain.event import Event
from sfm_graph.errors import EventBusUnavailable, SettingsError
from sfm_graph.settings import Settings

# Consumers read these streams by name: another number would move keys between them.
PARTITIONS = 4
TIMEOUT_SECONDS = 20.0
# What one round trip, and one wait for Redis' disk, carries: about 8 ms of work for the event loop.
CHUNK_EVENTS = 256
CHUNK_BYTES = 1_048_576

_RETRIES = 2
_URL_HINT = "REDIS_URL: must look like redis://user:password@host:6379/0, or rediss:// for TLS"


def stream_name(topic: str, partition: int) -> str:
    """The stream of a topic's partition, 0 to PARTITIONS - 1."""
    return f"{topic}:{partition}"


def partition_of(key: str) -> int:
    """The partition that holds all events of a key."""
    return zlib.crc32(key.encode()) % PARTITIONS


class RedisStreamsBus:
    """Appends events to streams. Its messages name the server, never the password or an event."""

    def __init__(self, client: Redis, where: str, stream_length: int, timeout_seconds: float) -> None:
        self._client = client
        self._where = where
        self._stream_length = stream_length
        self._timeout_seconds = timeout_seconds
        self._closed = False

    @classmethod
    async def open(cls, settings: Settings, *, timeout_seconds: float = TIMEOUT_SECONDS) -> Self:
        """A bus on `redis_url`, else on `redis_host` and `redis_port`. It connects with the first `publish`.

        Raises SettingsError when neither is given, or the URL cannot be understood.
        """
        options: dict[str, Any] = {
            # `publish` has a timeout. The client's own is `asyncio.wait_for`, which on Python 3.11 at times swallows
            # that timeout, and a cancellation by the caller.
            "socket_timeout": None,
            "socket_connect_timeout": timeout_seconds / 4,
            "retry": Retry(ExponentialBackoff(cap=0.5, base=0.1), _RETRIES),
            "protocol": 2,
        }
        if settings.redis_url is not None:
            client, where = _from_url(settings.redis_url.get_secret_value(), options)
        elif settings.redis_host is not None:
            client = Redis(host=settings.redis_host, port=settings.redis_port, **options)
            where = f"{settings.redis_host}:{settings.redis_port}"
        else:
            raise SettingsError("REDIS_URL: required, or REDIS_HOST")
        return cls(client, where, settings.redis_stream_length, timeout_seconds)

    @property
    def name(self) -> str:
        """`redis`."""
        return "redis"

    async def publish(self, events: Sequence[Event]) -> None:
        """Returns when Redis has executed all appends; they are as durable as its `appendfsync` makes them.

        `always` keeps them through a loss of power; `everysec`, Redis' default, may lose the last second then.
        Events are appended in their order, in transactions of up to CHUNK_EVENTS events and CHUNK_BYTES of data. One
        whose answer was lost is sent again, so that events may appear twice: of each key, first appearances are
        in order. Raises EventBusUnavailable, after the timeout at the latest.
        """
        try:
            async with asyncio.timeout(self._timeout_seconds):
                for chunk in _chunks(events):
                    await self._append(chunk)
        except TimeoutError:
            raise self._failure(f"did not take events within {self._timeout_seconds:g} s") from None
        except (RedisConnectionError, RedisTimeoutError, OSError) as exc:
            raise self._failure(f"cannot be reached: {type(exc).__name__}") from None
        except RedisError as exc:
            raise self._failure(f"refused events: {_kind(exc)}") from None
        finally:
            if self._closed:
                await self._client.aclose()  # a retry may have connected once more

    async def aclose(self) -> None:
        """Closes the connections; a `publish` under way may end with EventBusUnavailable."""
        self._closed = True
        await self._client.aclose()

    async def _append(self, events: Sequence[Event]) -> None:
        if self._closed:
            raise EventBusUnavailable("the event bus is closed")
        async with self._client.pipeline(transaction=True) as transaction:
            for event in events:
                entry = _entry(event)
                for stream in _streams(event):
                    transaction.execute_command("XADD", stream, "MAXLEN", "~", self._stream_length, "*", *entry)
            replies = await transaction.execute(raise_on_error=False)
        for reply in replies:
            if isinstance(reply, RedisError):
                raise reply

    def _failure(self, why: str) -> EventBusUnavailable:
        return EventBusUnavailable(f"Redis at {self._where} {why}")


def _from_url(url: str, options: dict[str, Any]) -> tuple[Redis, str]:
    try:
        parts = urlsplit(url)
        port = parts.port or 6379
        understood = parts.scheme in ("redis", "rediss") and parts.hostname and re.fullmatch(r"/?\d*", parts.path)
        pool = ConnectionPool(**{**parse_url(url), **options})
        # Unknown options in the URL are met here, instead of at the first event.
        pool.connection_class(**pool.connection_kwargs)
    except (TypeError, ValueError, RedisError):
        raise SettingsError(_URL_HINT) from None
    if not understood:
        raise SettingsError(_URL_HINT)
    return Redis.from_pool(pool), f"{parts.hostname}:{port}"


def _chunks(events: Sequence[Event]) -> Iterator[Sequence[Event]]:
    chunk: list[Event] = []
    size = 0
    for event in events:
        if chunk and (len(chunk) == CHUNK_EVENTS or size + len(event.data) > CHUNK_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(event)
        size += len(event.data)
    if chunk:
        yield chunk


def _streams(event: Event) -> Sequence[str]:
    if event.key is None:
        return [stream_name(event.topic, partition) for partition in range(PARTITIONS)]
    return [stream_name(event.topic, partition_of(event.key))]


def _entry(event: Event) -> list[str | bytes]:
    entry: list[str | bytes] = [] if event.key is None else ["key", event.key]
    for name, value in event.attributes:
        entry += (f"ce_{name}", value)
    return [*entry, "data", event.data]


def _kind(error: RedisError) -> str:
    # The message may quote the command, which holds the event: only the code at its beginning is told.
    code = re.match(r"[A-Z]+\b", str(error))
    return f"{type(error).__name__} {code[0]}" if code else type(error).__name__
