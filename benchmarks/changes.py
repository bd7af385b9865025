"""The change stream: how fast the relay is, how long a commit takes to its readers, what the log costs writers.

The broker is a single node of Kafka on the same two cores, from the jars that the tests use; without Java those parts
are left out, and the result says so.
"""

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
from aiokafka import AIOKafkaConsumer

from benchmarks.changes_cost import cost_of_the_log
from benchmarks.serving import Service, ask, percentiles, say, serving
from benchmarks.texts import texts
from sfm_graph.domain.change import Change, Operation
from sfm_graph.domain.event import MEMORY_EVENTS, events_of
from sfm_graph.domain.identity import Entity
from sfm_graph.runtime import open_runtime
from sfm_graph.services.registry import Services
from sfm_graph.settings import load_settings

BATCH = 1_000


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--changes", type=int, default=100_000, help="changes that wait for the relay")
    parser.add_argument("--commits", type=int, default=1_000, help="single writes that readers wait for")
    parser.add_argument("--pause-ms", type=float, default=5.0, help="between two of these writes")
    parser.add_argument("--memories", type=int, default=20_000, help="memories of a bulk insert with and without log")


async def run(options: argparse.Namespace) -> dict[str, Any]:
    result: dict[str, Any] = {"log_cost": await cost_of_the_log(options.memories)}
    result["subscriber"] = await _to_subscribers(options)
    with _broker() as bootstrap:
        if bootstrap is None:
            return {**result, "kafka": "left out: no Java, or no jars"}
        result["relay"] = await _relay(options.changes, bootstrap)
        result["kafka_consumer"] = await _to_consumer(options, bootstrap)
    return result


@contextmanager
def _broker() -> Iterator[str | None]:
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from kafka_broker import BrokerMissing, kafka_broker

    try:
        with kafka_broker() as broker:
            yield broker.bootstrap
    except BrokerMissing as missing:
        say(str(missing))
        yield None


@asynccontextmanager
async def _beside(service: Service) -> AsyncIterator[Services]:
    """Services of this process on the database of a running service."""
    settings = load_settings(data_dir=service.data_dir, followers_inside=False)
    async with open_runtime(settings, maintenance=False) as services:
        yield services


async def _to_subscribers(options: argparse.Namespace) -> dict[str, Any]:
    """From the answer to a write until an SSE subscriber of the server has the change."""
    found = {}
    with serving() as service:
        ask(service.connection(), "POST", "/remember", {"content": "first"})
        say("commit to subscriber: written through the same server")
        found["written_through_the_server"] = await _watched(service, options, _http_writer(service))
        async with _beside(service) as services:
            say("commit to subscriber: written by another process")
            found["written_by_another_process"] = await _watched(service, options, _service_writer(services))
    return found


async def _watched(service: Service, options: argparse.Namespace, write: Any) -> dict[str, float]:
    arrived: dict[str, float] = {}
    listening = asyncio.Event()

    async def listen() -> None:
        url = f"http://127.0.0.1:{service.port}/changes"
        async with (
            httpx.AsyncClient(timeout=60) as client,
            client.stream("GET", url, headers={"Accept": "text/event-stream"}) as answer,
        ):
            async for line in answer.aiter_lines():
                listening.set()
                if line.startswith("data: {"):
                    change = orjson.loads(line[6:])
                    arrived[change["after"]["key"]] = time.perf_counter()

    task = asyncio.create_task(listen())
    await listening.wait()
    committed = await _written(options, write)
    await _until(lambda: len(arrived) >= len(committed))
    task.cancel()
    return percentiles([max(0.0, arrived[key] - moment) for key, moment in committed.items()])


async def _written(options: argparse.Namespace, write: Any) -> dict[str, float]:
    committed = {}
    for number, text in enumerate(texts(options.commits, 7)):
        key = f"{time.time_ns()}-{number}"
        await write({"key": key, "content": text})
        committed[key] = time.perf_counter()
        await asyncio.sleep(options.pause_ms / 1000)
    return committed


def _http_writer(service: Service) -> Any:
    connection = service.connection()

    async def write(memory: dict[str, Any]) -> None:
        await asyncio.to_thread(ask, connection, "POST", "/remember", memory)

    return write


def _service_writer(services: Services) -> Any:
    async def write(memory: dict[str, Any]) -> None:
        await services.memory_writes.store_many("default", [memory])

    return write


async def _relay(count: int, bootstrap: str) -> dict[str, Any]:
    """A log full of changes, relayed by a process of its own; beside it the producer alone with the same events."""
    with serving() as service:
        say(f"writing {count} changes")
        async with _beside(service) as services:
            for start in range(0, count, BATCH):
                items = [{"key": f"k{start + n}", "content": text} for n, text in enumerate(texts(BATCH, start))]
                await services.memory_writes.store_many("default", items)
        say("relaying")
        with _sfm("relay", service, bootstrap):
            rate = await _growth(bootstrap, count)
    bare = await _bare_producer(count, bootstrap)
    say(f"relay {rate:.0f}/s, producer alone {bare:.0f}/s")
    return {
        "changes": count,
        "changes_per_second": round(rate),
        "producer_alone_per_second": round(bare),
        "ratio_to_producer_alone": round(rate / bare, 2),
    }


async def _growth(bootstrap: str, count: int) -> float:
    """Messages a second on a topic between the first that are there and the last that are awaited."""
    consumer = AIOKafkaConsumer(MEMORY_EVENTS, bootstrap_servers=bootstrap)
    await consumer.start()
    try:
        began = before = None
        while True:
            total = sum((await consumer.end_offsets(list(consumer.assignment()))).values())
            if total and began is None:
                began, before = time.perf_counter(), total
            if began is not None and before is not None and total >= count:
                return (total - before) / (time.perf_counter() - began)
            await asyncio.sleep(0.02)
    finally:
        await consumer.stop()


async def _bare_producer(count: int, bootstrap: str) -> float:
    """aiokafka's own `send` of events that are there already, acknowledged like the relay's."""
    from aiokafka import AIOKafkaProducer

    changes = [_change(number, text) for number, text in enumerate(texts(count, 3))]
    events = [event for change in changes for event in events_of(change, "bench")]
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, enable_idempotence=True, acks="all", linger_ms=5)
    await producer.start()
    try:
        started = time.perf_counter()
        for start in range(0, count, BATCH):
            sent = []
            for event in events[start : start + BATCH]:
                headers = [(f"ce_{name}", value.encode()) for name, value in event.attributes]
                sent.append(await producer.send("bare", event.data, str(event.key).encode(), headers=headers))
            await asyncio.gather(*sent)
        return count / (time.perf_counter() - started)
    finally:
        await producer.stop()


def _change(number: int, text: str) -> Change:
    from datetime import UTC, datetime

    state = orjson.dumps({"id": number, "key": f"k{number}", "content": text, "payload": {}, "version": 1}).decode()
    return Change(
        number, number, "default", 1, Entity.MEMORY, number, Operation.CREATE, datetime.now(UTC), None, state
    )


async def _to_consumer(options: argparse.Namespace, bootstrap: str) -> dict[str, Any]:
    """From the answer to a write until a consumer of Kafka has the event."""
    arrived: dict[str, float] = {}
    consumer = AIOKafkaConsumer(
        MEMORY_EVENTS, bootstrap_servers=bootstrap, auto_offset_reset="latest", fetch_max_wait_ms=100
    )
    with serving(KAFKA_BOOTSTRAP_SERVERS=bootstrap) as service:
        ask(service.connection(), "POST", "/remember", {"content": "first"})
        await consumer.start()
        await consumer.seek_to_end()

        async def listen() -> None:
            async for message in consumer:
                state = orjson.loads(message.value)["after"]
                arrived[state["key"] or ""] = time.perf_counter()

        task = asyncio.create_task(listen())
        await asyncio.sleep(1)
        say("commit to Kafka consumer")
        committed = await _written(options, _http_writer(service))
        await _until(lambda: committed.keys() <= arrived.keys())
        task.cancel()
        await consumer.stop()
    return percentiles([max(0.0, arrived[key] - moment) for key, moment in committed.items()])


@contextmanager
def _sfm(command: str, service: Service, bootstrap: str) -> Iterator[None]:
    environment = os.environ | {
        "SFM_DATA_DIR": str(service.data_dir),
        "KAFKA_BOOTSTRAP_SERVERS": bootstrap,
        "SFM_LOG_LEVEL": "warning",
    }
    process = subprocess.Popen(
        [sys.executable, "-c", "from sfm_graph.cli import main; main()", command], env=environment
    )
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


async def _until(condition: Any, seconds: float = 60.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is awaited is another process
            await asyncio.sleep(0.01)
