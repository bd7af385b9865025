"""Events into Redis Streams, for installations that have Redis and no Kafka.

A topic is four streams, `memory.events:0` to `memory.events:3`: consumers share them out, and each keeps its order.
CRC-32 of a key's UTF-8 decides its stream; an event without key goes to all four. An entry has the fields `key`
(absent when there is none), `ce_<attribute>` for each CloudEvents attribute, and `data`.

A stream keeps about `SFM_REDIS_STREAM_LENGTH` entries, whether or not they were read. Redis has to be one primary and
not a cluster, since a transaction writes to several streams, and its `maxmemory-policy` `noeviction`.
"""

import asyncio
import zlib
from collections.abc import Iterator, Sequence
from typing import Self

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from sfm_graph.adapters.redis.connection import kind_of, open_redis, place_of
from sfm_graph.domain.event import Event
from sfm_graph.errors import EventBusUnavailable
from sfm_graph.settings import Settings

# Consumers read these streams by name: another number would move keys between them.
PARTITIONS = 4
TIMEOUT_SECONDS = 20.0
# What one round trip, and one wait for Redis' disk, carries: about 8 ms of work for the event loop.
CHUNK_EVENTS = 256
CHUNK_BYTES = 1_048_576

_RETRIES = 2


def stream_name(topic: str, partition: int) -> str:
    """The stream of a topic's partition, 0 to PARTITIONS - 1."""
    return f"{topic}:{partition}"


def partition_of(key: str) -> int:
    """The partition that holds all events of a key."""
    return zlib.crc32(key.encode()) % PARTITIONS


class RedisStreamsBus:
    """Appends events to streams. Its messages name the server, never the password or an event."""

    def __init__(self, client: Redis, stream_length: int, timeout_seconds: float) -> None:
        self._client = client
        self._stream_length = stream_length
        self._timeout_seconds = timeout_seconds
        self._closed = False

    @classmethod
    async def open(cls, settings: Settings, *, timeout_seconds: float = TIMEOUT_SECONDS) -> Self:
        """A bus on the Redis of the settings. It connects with the first `publish`. Raises SettingsError."""
        client = open_redis(settings, timeout_seconds=timeout_seconds / 4, retries=_RETRIES)
        return cls(client, settings.redis_stream_length, timeout_seconds)

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
            raise self._failure(f"cannot be reached: {kind_of(exc)}") from None
        except RedisError as exc:
            raise self._failure(f"refused events: {kind_of(exc)}") from None
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
        return EventBusUnavailable(f"Redis at {place_of(self._client)} {why}")


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
