"""Events for the tests of Kafka, and what came of them."""

import asyncio
import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import orjson
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from sfm_graph.domain.change import Change, Operation
from sfm_graph.domain.event import Event, events_of
from sfm_graph.domain.identity import Entity

LOG = "7401234567890123456.1.1"
NAMESPACE = "team/agent"
AT = datetime(2026, 3, 1, 12, 30, 0, 123456, UTC)


def new_topic() -> str:
    """A topic of one test: the broker is shared."""
    return f"memory.events.{uuid.uuid4().hex}"


def event(topic: str, sequence: int, entity_id: int, text: str | None = "hello", namespace: str = NAMESPACE) -> Event:
    """An update of a memory; without text its end."""
    after = None if text is None else orjson.dumps({"id": entity_id, "content": text}).decode()
    done = Operation.ERASE if text is None else Operation.UPDATE
    made = Change(sequence, 9, namespace, 1, Entity.MEMORY, entity_id, done, AT, None, after)
    (one,) = events_of(made, LOG)
    return replace(one, topic=topic)


def namespace_end(topic: str, sequence: int) -> Event:
    """The end of the namespace, for this topic."""
    made = Change(sequence, 9, NAMESPACE, 1, Entity.NAMESPACE, 1, Operation.ERASE, AT, None, None)
    return replace(events_of(made, LOG)[0], topic=topic)


async def read(bootstrap: str, topic: str, **options: Any) -> list[ConsumerRecord]:
    """All messages of a topic, by partition and offset."""
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest", **options)
    await consumer.start()
    try:
        partitions = sorted(consumer.assignment())
        ends = await consumer.end_offsets(partitions)
        records: dict[TopicPartition, list[ConsumerRecord]] = {partition: [] for partition in partitions}
        async with asyncio.timeout(60):
            while any([await consumer.position(partition) < ends[partition] for partition in partitions]):
                for partition, some in (await consumer.getmany(timeout_ms=200)).items():
                    records[partition] += some
        return [record for partition in partitions for record in records[partition]]
    finally:
        await consumer.stop()


def sequence_of(record: ConsumerRecord) -> int:
    """The sequence that the headers give."""
    return int(dict(record.headers)["ce_sequence"])


def by_key(records: Iterable[ConsumerRecord]) -> Mapping[str, list[int]]:
    """The sequences of each key, in the order of the log."""
    found = defaultdict(list)
    for record in records:
        found[record.key.decode()].append(sequence_of(record))
    return found


def without_duplicates(sequences: Iterable[int]) -> list[int]:
    """What a consumer handles: nothing at or below what it handled last."""
    handled = [0]
    for sequence in sequences:
        if sequence > handled[-1]:
            handled.append(sequence)
    return handled[1:]
