"""KafkaBus on a real broker."""

import asyncio
import gc
import logging
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import kafka_broker
import orjson
import pytest
from confluent_kafka import Producer
from kafka_broker import USER, KafkaBroker
from kafka_events import LOG, by_key, event, namespace_end, new_topic, read, sequence_of, without_duplicates

from sfm_graph.adapters.buses.kafka import KafkaBus
from sfm_graph.adapters.buses.kafka_records import MAX_EVENT_BYTES
from sfm_graph.domain.event import Event
from sfm_graph.errors import EventBusUnavailable, SettingsError
from sfm_graph.settings import load_settings

kafka = kafka_broker.kafka
own_kafka = kafka_broker.own_kafka


@asynccontextmanager
async def opened(servers: str, *, timeout_seconds: float = 20.0, **settings: Any) -> AsyncIterator[KafkaBus]:
    """A bus, closed in the end."""
    settings = {"kafka_bootstrap_servers": servers, **settings}
    bus = await KafkaBus.open(load_settings(**settings), timeout_seconds=timeout_seconds)
    try:
        yield bus
    finally:
        await bus.aclose()


async def published(broker: KafkaBroker, events: list[Event], **settings: Any) -> None:
    async with opened(broker.bootstrap, **settings) as bus:
        await bus.publish(events)


async def test_message_is_a_cloud_event_in_binary_mode(kafka: KafkaBroker) -> None:
    topic = new_topic()
    sent = event(topic, 12, 7, "Grüße")
    await published(kafka, [sent])
    (record,) = await read(kafka.bootstrap, topic)
    assert record.key == b"team/agent/7"
    assert record.value == sent.data
    assert list(record.headers) == [
        ("ce_specversion", b"1.0"),
        ("ce_id", f"{LOG}.12".encode()),
        ("ce_source", f"urn:sfm-graph:{LOG}".encode()),
        ("ce_type", b"sfm_graph.memory.update"),
        ("ce_subject", b"team/agent/7"),
        ("ce_time", b"2026-03-01T12:30:00.123456+00:00"),
        ("ce_dataschema", b"urn:sfm-graph:event:memory:1"),
        ("ce_sequence", b"12"),
        ("content-type", b"application/json"),
    ]


async def test_header_values_are_utf8(kafka: KafkaBroker) -> None:
    topic = new_topic()
    await published(kafka, [event(topic, 1, 7, namespace="Käufer/名")])
    (record,) = await read(kafka.bootstrap, topic)
    assert record.key == dict(record.headers)["ce_subject"] == "Käufer/名/7".encode()


async def test_partition_of_a_key_is_that_of_other_clients(kafka: KafkaBroker) -> None:
    topic = new_topic()
    kafka.make_topic(topic, 5)
    events = [event(topic, number, number % 40) for number in range(1, 121)]
    await published(kafka, events[:60])
    await published(kafka, events[60:])
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "partitioner": "murmur2_random"})
    for number in range(40):
        producer.produce(topic, key=f"team/agent/{number}", headers={"ce_sequence": "0"})
    await asyncio.to_thread(producer.flush, 60)
    partitions = defaultdict(set)
    for record in await read(kafka.bootstrap, topic):
        partitions[record.key].add(record.partition)
    assert len(partitions) == 40
    assert all(len(found) == 1 for found in partitions.values())
    assert set.union(*partitions.values()) == set(range(5))


async def test_each_event_comes_once_and_in_order(kafka: KafkaBroker) -> None:
    # 30 MB: several rounds, and several batches of each partition.
    topic = new_topic()
    events = [event(topic, number, number % 30, "x" * 10_000) for number in range(1, 3_001)]
    await published(kafka, events)
    found = by_key(await read(kafka.bootstrap, topic))
    assert found == {f"team/agent/{key}": list(range(key or 30, 3_001, 30)) for key in range(30)}


async def test_publishing_again_repeats_ids(kafka: KafkaBroker) -> None:
    topic = new_topic()
    events = [event(topic, number, number % 3) for number in range(1, 31)]
    async with opened(kafka.bootstrap) as bus:
        await bus.publish(events)
        await bus.publish(events)
    found = by_key(await read(kafka.bootstrap, topic))
    for key in range(3):
        expected = list(range(key or 3, 31, 3))
        assert found[f"team/agent/{key}"] == expected + expected
        assert without_duplicates(found[f"team/agent/{key}"]) == expected


async def test_nothing_to_publish(kafka: KafkaBroker) -> None:
    await published(kafka, [])


async def test_publishers_take_turns(kafka: KafkaBroker) -> None:
    topic = new_topic()
    async with opened(kafka.bootstrap) as bus:
        mine = [[event(topic, number, key) for number in range(1, 201)] for key in range(5)]
        await asyncio.gather(*(bus.publish(events) for events in mine))
    found = by_key(await read(kafka.bootstrap, topic))
    assert found == {f"team/agent/{key}": list(range(1, 201)) for key in range(5)}


async def test_end_of_a_namespace_is_in_every_partition(kafka: KafkaBroker) -> None:
    topic = new_topic()
    kafka.make_topic(topic, 3)
    before = [event(topic, number, number) for number in range(1, 31)]
    after = [event(topic, number, number) for number in range(32, 62)]
    await published(kafka, [*before, namespace_end(topic, 31), *after])
    records = await read(kafka.bootstrap, topic)
    for partition in range(3):
        here = [sequence_of(record) for record in records if record.partition == partition]
        assert here == sorted(here)
        assert 31 in here[1:-1]
    ends = [record for record in records if record.key is None]
    assert [record.partition for record in ends] == [0, 1, 2]
    assert {dict(record.headers)["ce_type"] for record in ends} == {b"sfm_graph.namespace.erase"}
    assert len(records) == 63


async def test_tombstones_follow_the_end_where_topics_are_compacted(kafka: KafkaBroker) -> None:
    topic = new_topic()
    kafka.make_topic(topic, 2, cleanup_policy="compact")
    events = [event(topic, 1, 7), event(topic, 2, 7, None), event(topic, 3, 8), namespace_end(topic, 4)]
    await published(kafka, events, kafka_tombstones=True)
    records = await read(kafka.bootstrap, topic)
    of_seven = [record for record in records if record.key == b"team/agent/7"]
    assert [record.value for record in of_seven] == [events[0].data, events[1].data, None]
    assert of_seven[2].headers == of_seven[1].headers
    # A compacted topic takes no message without a key, and the end of a namespace is not to be removed.
    ends = [record for record in records if record.key == b"team/agent/"]
    assert [(record.partition, record.value) for record in ends] == [(0, events[3].data), (1, events[3].data)]
    assert len(records) == 6


async def test_no_tombstones_otherwise(kafka: KafkaBroker) -> None:
    topic = new_topic()
    await published(kafka, [event(topic, 1, 7), event(topic, 2, 7, None)])
    assert all(record.value is not None for record in await read(kafka.bootstrap, topic))


async def test_event_too_large_for_the_topic_goes_without_states(
    kafka: KafkaBroker, caplog: pytest.LogCaptureFixture
) -> None:
    topic = new_topic()
    kafka.make_topic(topic, 1, max_message_bytes="20000")
    large = event(topic, 2, 7, 'x","before":' * 10_000)
    events = [event(topic, 1, 7), large, event(topic, 3, 7), event(topic, 4, 8), large]
    async with opened(kafka.bootstrap) as bus:
        with caplog.at_level(logging.WARNING, logger="sfm_graph"):
            await bus.publish(events)
        await bus.publish([event(topic, 5, 7)])
    records = await read(kafka.bootstrap, topic)
    assert [sequence_of(record) for record in records] == [1, 2, 3, 4, 2, 5]
    whole = orjson.loads(large.data)
    assert orjson.loads(records[1].value) == whole | {"before": None, "after": None, "truncated": True}
    assert records[0].value == events[0].data
    assert f"event {LOG}.2 is too large" in caplog.text


async def test_batch_too_large_for_the_topic_is_split(kafka: KafkaBroker) -> None:
    topic = new_topic()
    kafka.make_topic(topic, 2, max_message_bytes="20000")
    events = [event(topic, number, number % 7, "x" * 2_000) for number in range(1, 301)]
    await published(kafka, events)
    records = await read(kafka.bootstrap, topic)
    assert by_key(records) == {f"team/agent/{key}": list(range(key or 7, 301, 7)) for key in range(7)}
    assert all(record.value.endswith(b'x"}}') for record in records)


async def test_event_beyond_what_any_broker_is_asked_to_take(kafka: KafkaBroker) -> None:
    topic = new_topic()
    await published(kafka, [event(topic, 1, 7, "x" * MAX_EVENT_BYTES), event(topic, 2, 7)])
    records = await read(kafka.bootstrap, topic)
    assert [orjson.loads(record.value).get("truncated") for record in records] == [True, None]


async def test_topic_that_takes_not_even_the_least(kafka: KafkaBroker) -> None:
    topic, other = new_topic(), new_topic()
    kafka.make_topic(topic, 1, max_message_bytes="100")
    async with opened(kafka.bootstrap) as bus:
        with pytest.raises(EventBusUnavailable, match="refuses messages of"):
            await bus.publish([event(topic, 1, 7)])
        await bus.publish([event(other, 1, 7)])
    assert len(await read(kafka.bootstrap, other)) == 1


async def test_cancelled_publish_leaves_a_bus_that_works(kafka: KafkaBroker) -> None:
    topic = new_topic()
    events = [event(topic, number, number % 4, "x" * 5_000) for number in range(1, 2_001)]
    async with opened(kafka.bootstrap) as bus:
        await bus.publish(events[:1])
        for turns in (1, 5, 20, 60):
            publishing = asyncio.create_task(bus.publish(events))
            for _ in range(turns):
                await asyncio.sleep(0)
            publishing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await publishing
        await bus.publish(events)
    for key, sequences in by_key(await read(kafka.bootstrap, topic)).items():
        number = int(key.rpartition("/")[2])
        assert without_duplicates(sequences) == list(range(number or 4, 2_001, 4))


async def test_closed_bus_says_so(kafka: KafkaBroker) -> None:
    async with opened(kafka.bootstrap) as bus:
        pass
    with pytest.raises(EventBusUnavailable, match="closed"):
        await bus.publish([event(new_topic(), 1, 7)])
    await bus.aclose()


async def test_broker_away_at_first_then_there(own_kafka: KafkaBroker) -> None:
    topic = new_topic()
    own_kafka.kill()
    async with opened(own_kafka.bootstrap, timeout_seconds=5) as bus:
        with pytest.raises(EventBusUnavailable):
            await bus.publish([event(topic, 1, 7)])
        before = len(asyncio.all_tasks())
        for _ in range(20):
            with pytest.raises(EventBusUnavailable):
                await bus.publish([event(topic, 1, 7)])
        assert len(asyncio.all_tasks()) <= before
        own_kafka.start()
        await eventually_published(bus, [event(topic, 1, 7)])
    assert [sequence_of(record) for record in await read(own_kafka.bootstrap, topic)] == [1]


async def eventually_published(bus: KafkaBus, events: list[Event]) -> None:
    """As the relay does: the same events again until they are in Kafka."""
    async with asyncio.timeout(120):
        while True:
            try:
                return await bus.publish(events)
            except EventBusUnavailable:
                await asyncio.sleep(0.1)


async def test_broker_killed_in_the_middle(own_kafka: KafkaBroker) -> None:
    topic = new_topic()
    batches = [
        [event(topic, start + number, number % 25, "x" * 3_000) for number in range(1, 1_001)]
        for start in range(0, 12_000, 1_000)
    ]
    failures = 0
    async with opened(own_kafka.bootstrap, timeout_seconds=5) as bus:
        for at, events in enumerate(batches):
            publishing = asyncio.create_task(bus.publish(events))
            if at in (2, 5, 8):
                await asyncio.sleep(0.005 * at)
                own_kafka.kill()
            # Bounded: the turn, and one round of 8 MB, take the timeout at most.
            done, _ = await asyncio.wait([publishing], timeout=30)
            assert done
            if isinstance(publishing.exception(), EventBusUnavailable):
                failures += 1
                own_kafka.start()
                await eventually_published(bus, events)
            else:
                assert publishing.exception() is None
                if own_kafka.pid is None:
                    own_kafka.start()
    assert failures
    found = by_key(await read(own_kafka.bootstrap, topic))
    for key in range(25):
        assert without_duplicates(found[f"team/agent/{key}"]) == list(range(key or 25, 12_001, 25))


async def test_broker_that_stops_answering(own_kafka: KafkaBroker) -> None:
    topic = new_topic()
    events = [event(topic, number, number % 5) for number in range(1, 101)]
    async with opened(own_kafka.bootstrap, timeout_seconds=3) as bus:
        await bus.publish(events[:50])
        own_kafka.freeze()
        try:
            publishers = [asyncio.create_task(bus.publish(events[50:])) for _ in range(3)]
            done, late = await asyncio.wait(publishers, timeout=30)
            assert not late
            assert all(isinstance(task.exception(), EventBusUnavailable) for task in done)
        finally:
            own_kafka.thaw()
        await eventually_published(bus, events[50:])
    found = by_key(await read(own_kafka.bootstrap, topic))
    for key in range(5):
        assert without_duplicates(found[f"team/agent/{key}"]) == list(range(key or 5, 101, 5))


async def test_failed_connections_are_not_kept(own_kafka: KafkaBroker) -> None:
    topic = new_topic()
    async with opened(own_kafka.bootstrap, timeout_seconds=2) as bus:
        await bus.publish([event(topic, 1, 7)])
        own_kafka.kill()
        kept = set()
        for _ in range(3):
            for _ in range(10):
                with pytest.raises(EventBusUnavailable):
                    await bus.publish([event(topic, 2, 7)])
            gc.collect()
            kept.add(sum(str(type(one).__module__).startswith("aiokafka") for one in gc.get_objects()))
        assert len(asyncio.all_tasks()) < 5
        assert max(kept) - min(kept) < 100


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-512", "PLAIN"])
async def test_password_over_tls(kafka: KafkaBroker, mechanism: str) -> None:
    topic = new_topic()
    async with opened(kafka.secured, **secured(kafka, mechanism)) as bus:
        await bus.publish([event(topic, 1, 7)])
    assert len(await read(kafka.bootstrap, topic)) == 1


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-512", "PLAIN"])
async def test_wrong_password(kafka: KafkaBroker, mechanism: str) -> None:
    settings = secured(kafka, mechanism) | {"kafka_sasl_password": "nothing-like-it"}
    async with opened(kafka.secured, timeout_seconds=10, **settings) as bus:
        with pytest.raises(EventBusUnavailable) as refusal:
            await bus.publish([event(new_topic(), 1, 7)])
    assert "nothing-like-it" not in str(refusal.value)


async def test_certificate_that_nobody_vouches_for(kafka: KafkaBroker) -> None:
    settings = {name: value for name, value in secured(kafka, "PLAIN").items() if name != "kafka_ssl_ca_location"}
    async with opened(kafka.secured, timeout_seconds=10, **settings) as bus:
        with pytest.raises(EventBusUnavailable):
            await bus.publish([event(new_topic(), 1, 7)])


def secured(broker: KafkaBroker, mechanism: str) -> dict[str, Any]:
    return {
        "kafka_security_protocol": "SASL_SSL",
        "kafka_ssl_ca_location": broker.ca,
        "kafka_sasl_mechanism": mechanism,
        "kafka_sasl_username": USER,
        "kafka_sasl_password": broker.password,
    }


@pytest.mark.parametrize(
    "servers",
    ["host:port", "host:0", "host:99999", "a:1,b c:2", "http://host:9092", ",", "..:9092", "x" * 64 + ":1", "[::1:1"],
)
async def test_brokers_that_cannot_be(servers: str) -> None:
    with pytest.raises(SettingsError, match="KAFKA_BOOTSTRAP_SERVERS"):
        await KafkaBus.open(load_settings(kafka_bootstrap_servers=servers))


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
async def test_ca_file_that_cannot_be_used(tmp_path: Any, content: bytes | None) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)
    settings = load_settings(
        kafka_bootstrap_servers="localhost:9092", kafka_security_protocol="SSL", kafka_ssl_ca_location=file
    )
    with pytest.raises(SettingsError, match="KAFKA_SSL_CA_LOCATION"):
        await KafkaBus.open(settings)
