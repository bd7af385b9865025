"""KafkaBus against librdkafka's mock cluster: the protocol and the broker's refusals, without Java."""

from collections.abc import AsyncIterator, Iterator

import orjson
import pytest
from aiokafka import AIOKafkaProducer
from kafka_events import by_key, event, namespace_end, read
from kafka_mock import MockCluster, mock_cluster

from sfm_graph.adapters.buses.kafka import KafkaBus
from sfm_graph.errors import EventBusUnavailable
from sfm_graph.settings import load_settings

TOPIC = "memory.events"
EVENTS = [event(TOPIC, number, number % 9) for number in range(1, 91)]
EXPECTED = {f"team/agent/{key}": list(range(key or 9, 91, 9)) for key in range(9)}

MESSAGE_TOO_LARGE, OUT_OF_ORDER, FENCED, UNKNOWN_PRODUCER = 10, 45, 47, 59
REQUEST_TIMED_OUT, NOT_LEADER, UNKNOWN_TOPIC, TOO_FEW_REPLICAS = 7, 6, 3, 19


@pytest.fixture
def cluster() -> Iterator[MockCluster]:
    with mock_cluster() as made:
        made.make_topic(TOPIC, 1)
        yield made


@pytest.fixture
async def bus(cluster: MockCluster) -> AsyncIterator[KafkaBus]:
    opened = await KafkaBus.open(load_settings(kafka_bootstrap_servers=cluster.bootstrap))
    yield opened
    await opened.aclose()


async def test_events_arrive_as_they_were_sent(cluster: MockCluster, bus: KafkaBus) -> None:
    await bus.publish([*EVENTS, namespace_end(TOPIC, 91)])
    records = await read(cluster.bootstrap, TOPIC)
    assert [record.value for record in records[:-1]] == [one.data for one in EVENTS]
    assert by_key(records[:-1]) == EXPECTED
    assert records[-1].key is None


async def test_plain_producer_finds_the_same_partition(cluster: MockCluster, bus: KafkaBus) -> None:
    cluster.make_topic("spread", 7)
    await bus.publish([event("spread", number, number) for number in range(1, 41)])
    async with AIOKafkaProducer(bootstrap_servers=cluster.bootstrap) as plain:
        for number in range(1, 41):
            await plain.send_and_wait(
                "spread", b"{}", f"team/agent/{number}".encode(), headers=[("ce_sequence", b"0")]
            )
    places = {(record.key, record.partition) for record in await read(cluster.bootstrap, "spread")}
    assert len(places) == 40


@pytest.mark.parametrize("code", [REQUEST_TIMED_OUT, NOT_LEADER, UNKNOWN_TOPIC, TOO_FEW_REPLICAS])
async def test_what_passes_is_tried_again(cluster: MockCluster, bus: KafkaBus, code: int) -> None:
    cluster.refuse(code, code)
    await bus.publish(EVENTS)
    assert by_key(await read(cluster.bootstrap, TOPIC)) == EXPECTED


@pytest.mark.parametrize("code", [OUT_OF_ORDER, FENCED, UNKNOWN_PRODUCER])
async def test_refused_producer_is_replaced(cluster: MockCluster, bus: KafkaBus, code: int) -> None:
    await bus.publish(EVENTS[:30])
    cluster.refuse(code)
    with pytest.raises(EventBusUnavailable):
        await bus.publish(EVENTS[30:])
    await bus.publish(EVENTS[30:])
    assert by_key(await read(cluster.bootstrap, TOPIC)) == EXPECTED


async def test_nothing_follows_a_batch_that_failed(cluster: MockCluster, bus: KafkaBus) -> None:
    # Three batches for one partition: had the second been sent behind the first, it would be in the log before it.
    events = [event(TOPIC, number, 7, "x" * 300_000) for number in (1, 2, 3)]
    cluster.refuse(UNKNOWN_PRODUCER)
    with pytest.raises(EventBusUnavailable):
        await bus.publish(events)
    assert await read(cluster.bootstrap, TOPIC) == []
    await bus.publish(events)
    assert by_key(await read(cluster.bootstrap, TOPIC)) == {"team/agent/7": [1, 2, 3]}


async def test_refused_size_is_split_then_cut(cluster: MockCluster, bus: KafkaBus) -> None:
    cluster.refuse(MESSAGE_TOO_LARGE, MESSAGE_TOO_LARGE)
    await bus.publish(EVENTS[:2])
    first, second = await read(cluster.bootstrap, TOPIC)
    assert orjson.loads(first.value) == orjson.loads(EVENTS[0].data) | {"after": None, "truncated": True}
    assert second.value == EVENTS[1].data
