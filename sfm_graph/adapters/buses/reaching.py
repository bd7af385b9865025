"""Whether an event bus answers, asked once without publishing anything: for `sfm doctor`."""

import asyncio
from typing import assert_never

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from redis.exceptions import RedisError

from sfm_graph.adapters.buses.kafka_options import producer_options
from sfm_graph.adapters.redis.connection import kind_of, open_redis, place_of
from sfm_graph.errors import EventBusUnavailable
from sfm_graph.settings import EventBusKind, Settings


async def reached_bus(settings: Settings, *, timeout_seconds: float) -> str | None:
    """Where the bus of the settings answered; None without one. Raises EventBusUnavailable, SettingsError."""
    match settings.bus:
        case EventBusKind.NONE:
            return None
        case EventBusKind.KAFKA:
            return await _kafka(settings, timeout_seconds)
        case EventBusKind.REDIS:
            return await _redis(settings, timeout_seconds)
        case other:
            assert_never(other)


async def _kafka(settings: Settings, timeout_seconds: float) -> str:
    options = {**producer_options(settings), "request_timeout_ms": int(timeout_seconds * 1000)}
    producer = AIOKafkaProducer(**options)
    try:
        # Not under a timeout of ours: a start that is cut off leaves its connection open.
        await producer.start()
    except (KafkaError, OSError) as error:
        raise EventBusUnavailable(f"Kafka at {settings.kafka_bootstrap_servers}: {type(error).__name__}") from error
    finally:
        await producer.stop()
    return f"Kafka at {settings.kafka_bootstrap_servers}"


async def _redis(settings: Settings, timeout_seconds: float) -> str:
    client = open_redis(settings, timeout_seconds=timeout_seconds)
    place = place_of(client)
    try:
        async with asyncio.timeout(timeout_seconds):
            await client.ping()
    except (RedisError, OSError, TimeoutError) as error:
        raise EventBusUnavailable(f"Redis at {place}: {kind_of(error)}") from error
    finally:
        await client.aclose()
    return f"Redis at {place}"
