"""One contract for every EventBus, then what only one of them can do wrong."""

import asyncio
import itertools
import subprocess
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import confluent_kafka
import pytest
import redis
from pydantic import SecretStr

from sfm_graph.adapters.buses.in_process import InProcessBus
from sfm_graph.adapters.buses.kafka import KafkaBus
from sfm_graph.adapters.buses.redis_streams import (
    CHUNK_EVENTS,
    PARTITIONS,
    RedisStreamsBus,
    partition_of,
    stream_name,
)
from sfm_graph.domain.change import Change, Operation
from sfm_graph.domain.event import CONTENT_TYPE, LINK_EVENTS, MEMORY_EVENTS, TOPICS, Event, events_of
from sfm_graph.domain.identity import Entity
from sfm_graph.errors import EventBusUnavailable, SettingsError
from sfm_graph.ports.event_bus import EventBus
from sfm_graph.settings import Settings, load_settings
from tests.kafka_broker import KafkaBroker, kafka, own_kafka  # noqa: F401 - fixtures
from tests.redis_server import RedisServer, free_port, redis_server

LOG = "a-log"
# A publish that waits for longer hangs.
DEADLINE_SECONDS = 120
# The timeout of buses whose server is away.
OUTAGE_SECONDS = 4


@dataclass(frozen=True)
class Arrived:
    """An event as a consumer reads it."""

    key: str | None
    attributes: tuple[tuple[str, str], ...]
    data: bytes

    @property
    def sequence(self) -> int:
        return int(dict(self.attributes)["sequence"])


class Ground(ABC):
    """What an implementation is tested on: its server, and a view of what is in there."""

    @abstractmethod
    async def open(self, timeout_seconds: float = 20) -> EventBus:
        """A bus that nothing was published to yet."""

    @abstractmethod
    def partitions(self, topic: str) -> list[list[Arrived]]:
        """What arrived in each partition, in order."""

    @abstractmethod
    def go_down(self) -> None:
        """Nothing can be published from now on."""

    @abstractmethod
    def come_up(self) -> None:
        """Nothing that was acknowledged is lost."""

    def arrived(self) -> list[Arrived]:
        return [one for topic in TOPICS for partition in self.partitions(topic) for one in partition]


class RedisGround(Ground):
    def __init__(self, server: RedisServer) -> None:
        self.server = server

    async def open(self, timeout_seconds: float = 20) -> EventBus:
        return await RedisStreamsBus.open(at(self.server.url), timeout_seconds=timeout_seconds)

    def partitions(self, topic: str) -> list[list[Arrived]]:
        with redis.Redis(port=self.server.port) as client:
            streams = [client.xrange(stream_name(topic, partition)) for partition in range(PARTITIONS)]
        return [[self.read(fields) for _, fields in stream] for stream in streams]

    @staticmethod
    def read(fields: dict[bytes, bytes]) -> Arrived:
        texts = {name.decode(): value.decode() for name, value in fields.items() if name != b"data"}
        attributes = tuple((name.removeprefix("ce_"), value) for name, value in texts.items() if name != "key")
        return Arrived(texts.get("key"), attributes, fields[b"data"])

    def go_down(self) -> None:
        self.server.kill()

    def come_up(self) -> None:
        self.server.start()


class InProcessGround(Ground):
    def __init__(self) -> None:
        self.seen: list[Event] = []
        self.down = False

    async def open(self, timeout_seconds: float = 20) -> EventBus:
        bus = InProcessBus(timeout_seconds=timeout_seconds)
        bus.subscribe("reader", self.handle)
        return bus

    async def handle(self, event: Event) -> None:
        await asyncio.sleep(0)
        if self.down:
            raise RuntimeError("the reader is away")
        self.seen.append(event)

    def partitions(self, topic: str) -> list[list[Arrived]]:
        return [[Arrived(event.key, event.attributes, event.data) for event in self.seen if event.topic == topic]]

    def go_down(self) -> None:
        self.down = True

    def come_up(self) -> None:
        self.down = False


class KafkaGround(Ground):
    """Topics of its own on a broker that others use as well."""

    def __init__(self, broker: KafkaBroker) -> None:
        self.broker = broker
        self.suffix = f".{uuid4().hex}"
        for topic in TOPICS:
            broker.make_topic(topic + self.suffix)

    async def open(self, timeout_seconds: float = 20) -> EventBus:
        settings = load_settings(kafka_bootstrap_servers=self.broker.bootstrap)
        return OwnTopics(await KafkaBus.open(settings, timeout_seconds=timeout_seconds), self.suffix)

    def partitions(self, topic: str) -> list[list[Arrived]]:
        consumer = confluent_kafka.Consumer(
            {"bootstrap.servers": self.broker.bootstrap, "group.id": "reader", "enable.auto.commit": False}
        )
        try:
            return self.read(consumer, topic + self.suffix)
        finally:
            consumer.close()

    def read(self, consumer: confluent_kafka.Consumer, topic: str) -> list[list[Arrived]]:
        numbers = sorted(consumer.list_topics(topic, timeout=30).topics[topic].partitions)
        places = [confluent_kafka.TopicPartition(topic, number, 0) for number in numbers]
        count = sum(self.end(consumer, place) for place in places)
        consumer.assign(places)
        seen: list[list[Arrived]] = [[] for _ in numbers]
        while count:
            messages = consumer.consume(num_messages=count, timeout=30)
            assert messages, "the broker does not answer"
            count -= len(messages)
            for message in messages:
                seen[message.partition()].append(self.arrival(message))
        return seen

    @staticmethod
    def end(consumer: confluent_kafka.Consumer, place: confluent_kafka.TopicPartition) -> int:
        """How many messages there are; a partition that was just made may not have a leader yet."""
        deadline = time.monotonic() + 30
        while True:
            try:
                return int(consumer.get_watermark_offsets(place, timeout=30)[1])
            except confluent_kafka.KafkaException:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    @staticmethod
    def arrival(message: confluent_kafka.Message) -> Arrived:
        headers = [(name, value.decode()) for name, value in message.headers()]
        attributes = tuple((name.removeprefix("ce_"), value) for name, value in headers if name.startswith("ce_"))
        assert dict(headers)["content-type"] == CONTENT_TYPE
        return Arrived(message.key() and message.key().decode(), attributes, message.value())

    def go_down(self) -> None:
        self.broker.kill()

    def come_up(self) -> None:
        self.broker.start()


class OwnTopics:
    """Publishes under other names of the topics."""

    def __init__(self, bus: EventBus, suffix: str) -> None:
        self.bus = bus
        self.suffix = suffix
        self.name = bus.name
        self.aclose = bus.aclose

    async def publish(self, events: Sequence[Event]) -> None:
        await self.bus.publish([replace(event, topic=event.topic + self.suffix) for event in events])


@pytest.fixture(params=["redis", "in_process", "kafka"])
def ground(request: pytest.FixtureRequest) -> Ground:
    """Of each implementation, empty. Not to be taken down."""
    match request.param:
        case "redis":
            return RedisGround(request.getfixturevalue("server"))
        case "kafka":
            return KafkaGround(request.getfixturevalue("kafka"))
    return InProcessGround()


@pytest.fixture(params=["redis", "in_process", "kafka"])
def own_ground(request: pytest.FixtureRequest) -> Ground:
    """Of each implementation, with a server that no other test uses."""
    match request.param:
        case "redis":
            return RedisGround(request.getfixturevalue("server"))
        case "kafka":
            return KafkaGround(request.getfixturevalue("own_kafka"))
    return InProcessGround()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as started:
        yield started


@asynccontextmanager
async def opened(ground: Ground, timeout_seconds: float = 20) -> AsyncIterator[EventBus]:
    async with asyncio.timeout(DEADLINE_SECONDS), aclosing(await ground.open(timeout_seconds)) as bus:
        yield bus


@pytest.fixture
async def bus(ground: Ground) -> AsyncIterator[EventBus]:
    async with opened(ground) as bus:
        yield bus


def an_event(sequence: int, key: str | None = "acme/1", topic: str = MEMORY_EVENTS, data: bytes = b"{}") -> Event:
    attributes = (("specversion", "1.0"), ("id", f"{LOG}.{sequence}"), ("sequence", str(sequence)))
    return Event(topic, key, LOG, sequence, attributes, data, ends=False)


def events_of_keys(count: int, keys: int, first: int = 1) -> list[Event]:
    return [an_event(number, f"acme/{number % keys}") for number in range(first, first + count)]


def sequences(arrived: Iterable[Arrived]) -> list[int]:
    return [one.sequence for one in arrived]


def check_order(partitions: Sequence[Sequence[Arrived]]) -> None:
    """A key is in one partition, and the first appearances of its events are in order."""
    homes: dict[str, set[int]] = defaultdict(set)
    for number, partition in enumerate(partitions):
        firsts: dict[str, dict[int, None]] = defaultdict(dict)
        for one in partition:
            if one.key is not None:
                homes[one.key].add(number)
                firsts[one.key][one.sequence] = None
        for key, seen in firsts.items():
            assert list(seen) == sorted(seen), key
    assert all(len(home) == 1 for home in homes.values())


async def test_all_events_arrive_in_their_topic(ground: Ground, bus: EventBus) -> None:
    await bus.publish([])
    await bus.publish([an_event(1), an_event(2, "acme/7", LINK_EVENTS), an_event(3, "acme/2")])
    assert sorted(sequences(itertools.chain(*ground.partitions(MEMORY_EVENTS)))) == [1, 3]
    assert sequences(itertools.chain(*ground.partitions(LINK_EVENTS))) == [2]


async def test_order_of_each_key_is_kept(ground: Ground, bus: EventBus) -> None:
    events = events_of_keys(2_500, keys=11)
    for begin in (0, 1_000, 2_000):
        await bus.publish(events[begin : begin + 1_000])
    partitions = ground.partitions(MEMORY_EVENTS)
    check_order(partitions)
    assert sorted(sequences(ground.arrived())) == list(range(1, 2_501))
    # Work can be shared: keys are spread.
    assert all(partitions)


async def test_an_event_without_key_reaches_every_partition_in_its_place(ground: Ground, bus: EventBus) -> None:
    before, after = events_of_keys(40, keys=20), events_of_keys(40, keys=20, first=42)
    await bus.publish([*before, an_event(41, None), *after])
    for partition in ground.partitions(MEMORY_EVENTS):
        seen = sequences(partition)
        assert [one.sequence for one in partition if one.key is None] == [41]
        place = seen.index(41)
        assert max(seen[:place]) < 41 < min(seen[place + 1 :])
    assert not any(ground.partitions(LINK_EVENTS))


def a_change(number: int, namespace: str, before: str | None, after: str | None) -> Change:
    at_time = datetime(2026, 11, 21, 12, 30, tzinfo=UTC)
    return Change(number, 7, namespace, 3, Entity.MEMORY, number, Operation.ERASE, at_time, before, after)


@pytest.mark.parametrize(
    "change",
    [
        a_change(1, "Zürich 🗻 \u202e 東京", '{"content":"naïve \\u0000 🧠"}', None),
        a_change(2, "acme", None, None),
        a_change(3, "acme", None, '{"content":"' + "m" * 1_000_000 + '"}'),
        a_change(4, "a/b c=d&e", "{}", '{"content":"line\\nbreak"}'),
    ],
    ids=["unicode", "neither state", "1 MB", "punctuation"],
)
async def test_what_arrives_is_what_was_published(ground: Ground, bus: EventBus, change: Change) -> None:
    events = events_of(change, LOG)
    await bus.publish(events)
    assert ground.arrived() == [Arrived(event.key, event.attributes, event.data) for event in events]


async def test_publishing_again_after_an_outage_loses_nothing(own_ground: Ground) -> None:
    lost = events_of_keys(300, keys=5, first=31)
    async with opened(own_ground, OUTAGE_SECONDS) as bus:
        await bus.publish(events_of_keys(30, keys=5))
        own_ground.go_down()
        for _ in range(2):
            with pytest.raises(EventBusUnavailable):
                await bus.publish(lost)
        own_ground.come_up()
        await publish_until_taken(bus, lost)
    assert set(sequences(own_ground.arrived())) == set(range(1, 331))
    check_order(own_ground.partitions(MEMORY_EVENTS))


async def test_a_bus_opens_while_its_server_is_away(own_ground: Ground) -> None:
    own_ground.go_down()
    unused = await own_ground.open()
    await unused.aclose()
    async with opened(own_ground, OUTAGE_SECONDS) as bus:
        with pytest.raises(EventBusUnavailable):
            await bus.publish([an_event(1)])
        own_ground.come_up()
        await publish_until_taken(bus, [an_event(1)])
    assert set(sequences(own_ground.arrived())) == {1}


async def publish_until_taken(bus: EventBus, events: Sequence[Event]) -> None:
    """As a relay does it: a server that answers again may not take events yet."""
    while True:
        try:
            await bus.publish(events)
        except EventBusUnavailable:
            await asyncio.sleep(0.1)
        else:
            return


async def test_publishes_at_the_same_time_all_arrive(ground: Ground, bus: EventBus) -> None:
    batches = [[an_event(100 * key + number, f"acme/{key}") for number in range(100)] for key in range(20)]
    await asyncio.gather(*(bus.publish(batch) for batch in batches))
    assert sorted(sequences(ground.arrived())) == list(range(2_000))
    check_order(ground.partitions(MEMORY_EVENTS))


async def test_a_cancelled_publish_leaves_the_bus_usable(ground: Ground, bus: EventBus) -> None:
    events = events_of_keys(1_000, keys=7)
    cancelled = 0
    for milliseconds in (0, 1, 2, 3, 5, 8, 13, 21):
        task = asyncio.create_task(bus.publish(events))
        await asyncio.sleep(milliseconds / 1000)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        cancelled += task.cancelled()
    assert cancelled
    await bus.publish(events)
    assert set(sequences(ground.arrived())) == set(range(1, 1_001))
    check_order(ground.partitions(MEMORY_EVENTS))


async def test_a_closed_bus_refuses_and_closes_twice(ground: Ground, bus: EventBus) -> None:
    await bus.publish([an_event(1)])
    await bus.aclose()
    await bus.aclose()
    with pytest.raises(EventBusUnavailable):
        await bus.publish([an_event(2)])
    assert sequences(ground.arrived()) == [1]


async def test_names_are_those_that_positions_are_stored_under(bus: EventBus, request: pytest.FixtureRequest) -> None:
    assert bus.name == request.node.callspec.id


# Redis


def at(url: str, **more: object) -> Settings:
    return load_settings(redis_url=SecretStr(url), **more)


@asynccontextmanager
async def redis_bus(settings: Settings, timeout_seconds: float = 20) -> AsyncIterator[RedisStreamsBus]:
    async with asyncio.timeout(DEADLINE_SECONDS):
        async with aclosing(await RedisStreamsBus.open(settings, timeout_seconds=timeout_seconds)) as bus:
            yield bus


async def test_redis_killed_while_it_takes_events_loses_nothing_acknowledged(server: RedisServer) -> None:
    ground = RedisGround(server)
    published = 0
    async with redis_bus(at(server.url)) as bus:
        for _ in range(2):
            await bus.publish(events_of_keys(CHUNK_EVENTS, keys=13, first=published + 1))
            published += CHUNK_EVENTS
            interrupted = events_of_keys(30 * CHUNK_EVENTS, keys=13, first=published + 1)
            task = asyncio.create_task(bus.publish(interrupted))
            await until_longer(server, published)
            server.kill()
            with pytest.raises(EventBusUnavailable):
                await task
            server.start()
            kept = set(sequences(ground.arrived()))
            assert kept >= set(range(1, published + 1))
            # It died in the middle, and no transaction is there by half.
            assert published < len(kept) < published + len(interrupted)
            assert len(kept) % CHUNK_EVENTS == 0
            await bus.publish(interrupted)
            published += len(interrupted)
    assert set(sequences(ground.arrived())) == set(range(1, published + 1))
    check_order(ground.partitions(MEMORY_EVENTS))


async def until_longer(server: RedisServer, count: int) -> None:
    """Returns when more than `count` events are in the streams."""
    async with redis.asyncio.Redis(port=server.port) as client:
        while True:
            lengths = [await client.xlen(stream_name(MEMORY_EVENTS, number)) for number in range(PARTITIONS)]
            if sum(lengths) > count:
                return
            await asyncio.sleep(0)


async def test_redis_that_hangs_fails_in_bounded_time_and_is_used_again(server: RedisServer) -> None:
    async with redis_bus(at(server.url), timeout_seconds=1) as bus:
        await bus.publish([an_event(1)])
        server.pause()
        try:
            async with asyncio.timeout(20):
                with pytest.raises(EventBusUnavailable):
                    await bus.publish([an_event(2)])
        finally:
            server.resume()
        await bus.publish([an_event(2), an_event(3)])
    assert set(sequences(RedisGround(server).arrived())) == {1, 2, 3}
    check_order(RedisGround(server).partitions(MEMORY_EVENTS))


async def test_redis_publish_ends_whenever_it_is_cancelled(server: RedisServer) -> None:
    # The URL asks for a timeout that makes the client swallow cancellations on Python 3.11.
    async with redis_bus(at(f"{server.url}?socket_timeout=5")) as bus:
        for milliseconds in range(1, 40):
            task = asyncio.create_task(bus.publish([an_event(1)] * 40_000))
            await asyncio.sleep(milliseconds / 1000)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()


async def test_redis_closed_while_publishing_ends_the_publish(server: RedisServer) -> None:
    async with redis_bus(at(server.url)) as bus:
        task = asyncio.create_task(bus.publish(events_of_keys(60 * CHUNK_EVENTS, keys=3)))
        await until_longer(server, 0)
        await bus.aclose()
        with pytest.raises(EventBusUnavailable):
            await task
        async with redis.asyncio.Redis(port=server.port) as client:
            while len(await client.client_list()) > 1:  # noqa: ASYNC110 - Redis tells nobody; one is this client
                await asyncio.sleep(0.01)


async def test_redis_that_is_slow_fails_in_bounded_time(server: RedisServer) -> None:
    async with redis_bus(at(server.url), timeout_seconds=0.2) as bus:
        with pytest.raises(EventBusUnavailable):
            await bus.publish([an_event(1)] * 40_000)


async def test_redis_streams_are_cut_to_their_length(server: RedisServer) -> None:
    async with redis_bus(at(server.url, redis_stream_length=1_000)) as bus:
        await bus.publish([an_event(number) for number in range(5_000)])
    (kept,) = [partition for partition in RedisGround(server).partitions(MEMORY_EVENTS) if partition]
    assert 1_000 <= len(kept) < 2_000
    assert sequences(kept) == list(range(5_000 - len(kept), 5_000))


def test_redis_keys_stay_in_their_stream_for_ever() -> None:
    # Another assignment would let the next event of a key overtake those before it.
    assert [partition_of(key) for key in ("acme/1", "acme/2", "Zürich/3", "")] == [3, 1, 2, 0]
    assert stream_name(LINK_EVENTS, 3) == "link.events:3"


async def test_redis_refusals_show_no_event(server: RedisServer) -> None:
    with redis.Redis(port=server.port) as client:
        client.set(stream_name(MEMORY_EVENTS, partition_of("acme/1")), "no stream")
    async with redis_bus(at(server.url)) as bus:
        with pytest.raises(EventBusUnavailable) as refused:
            await bus.publish([an_event(1, data=b"confidential")])
    assert "WRONGTYPE" in refused.value.message
    assert "confidential" not in repr_with_causes(refused.value)


async def test_redis_out_of_memory_refuses(tmp_path: Path) -> None:
    with redis_server(tmp_path, maxmemory="1kb") as server:
        async with redis_bus(at(server.url)) as bus:
            with pytest.raises(EventBusUnavailable, match="OutOfMemory") as refused:
                await bus.publish([an_event(1, data=b"confidential")])
    assert "confidential" not in repr_with_causes(refused.value)


def repr_with_causes(error: BaseException | None) -> str:
    """What a log shows of an error."""
    shown = ""
    while error is not None:
        shown += f"{error!r} {error} {getattr(error, 'details', '')}"
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return shown


@pytest.mark.parametrize("given", ["", ":wrong-secret@", "someone:wrong-secret@"])
async def test_redis_password_is_checked_and_never_shown(tmp_path: Path, given: str) -> None:
    with redis_server(tmp_path, requirepass="right-secret") as server:
        where = f"127.0.0.1:{server.port}"
        async with redis_bus(at(f"redis://{given}{where}/0")) as bus:
            with pytest.raises(EventBusUnavailable) as refused:
                await bus.publish([an_event(1)])
            assert where in refused.value.message
            assert "secret" not in repr_with_causes(refused.value) + repr(bus)
        async with redis_bus(at(f"redis://:right-secret@{where}/0")) as bus:
            await bus.publish([an_event(1)])


@pytest.mark.parametrize(
    "url",
    [
        "http://:a-secret@localhost:6379",
        "redis://:a-secret@:6379/0",
        "redis://:a-secret@localhost:port/0",
        "redis://:a-secret/x@localhost:6379/0",
        "redis://:a-secret@localhost:6379/memories",
        "redis://:a-secret@localhost:6379/0?no_such_option=1",
        "redis://:a-secret@localhost:6379/0?socket_timeout=soon",
        "redis://:a-secret@[::1/0",
        "a-secret",
    ],
)
async def test_redis_urls_that_cannot_work_stop_the_start(url: str) -> None:
    with pytest.raises(SettingsError, match="REDIS_URL") as refused:
        await RedisStreamsBus.open(at(url))
    assert "a-secret" not in repr_with_causes(refused.value)


async def test_redis_by_host_and_port(server: RedisServer) -> None:
    async with redis_bus(load_settings(redis_host=server.host, redis_port=server.port)) as bus:
        await bus.publish([an_event(1)])
    assert sequences(RedisGround(server).arrived()) == [1]
    with pytest.raises(SettingsError, match="REDIS_HOST"):
        await RedisStreamsBus.open(load_settings())


async def test_redis_over_tls_checks_the_certificate(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    tls_port = free_port()
    tls = {
        "tls_port": str(tls_port),
        "tls_cert_file": str(certificate),
        "tls_key_file": str(key),
        "tls_ca_cert_file": str(certificate),
        "tls_auth_clients": "no",
    }
    with redis_server(tmp_path, **tls) as server:
        async with redis_bus(at(f"rediss://127.0.0.1:{tls_port}/0")) as bus:
            with pytest.raises(EventBusUnavailable):
                await bus.publish([an_event(1)])
        async with redis_bus(at(f"rediss://127.0.0.1:{tls_port}/0?ssl_ca_certs={certificate}")) as bus:
            await bus.publish([an_event(2)])
        assert sequences(RedisGround(server).arrived()) == [2]


def make_certificate(directory: Path) -> tuple[Path, Path]:
    certificate, key = directory / "redis.crt", directory / "redis.key"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("no openssl on the path")
    return certificate, key


# In process


async def test_in_process_without_handlers_returns() -> None:
    await InProcessBus().publish([an_event(1)])


async def test_in_process_gives_every_event_to_every_group() -> None:
    bus = InProcessBus()
    seen: dict[str, list[int]] = {"cache": [], "index": []}
    for group in seen:

        async def handle(event: Event, group: str = group) -> None:
            seen[group].append(event.sequence)

        bus.subscribe(group, handle)
    await bus.publish(events_of_keys(3, keys=2))
    assert seen == {"cache": [1, 2, 3], "index": [1, 2, 3]}
    with pytest.raises(ValueError, match="cache"):
        bus.subscribe("cache", handle)


async def test_in_process_failure_names_the_group_and_stops_it_alone() -> None:
    bus = InProcessBus()
    seen: dict[str, list[int]] = {"cache": [], "index": []}

    async def failing(event: Event) -> None:
        if event.sequence == 2:
            raise LookupError("boom")
        seen["cache"].append(event.sequence)

    async def working(event: Event) -> None:
        await asyncio.sleep(0)
        seen["index"].append(event.sequence)

    bus.subscribe("cache", failing)
    bus.subscribe("index", working)
    with pytest.raises(EventBusUnavailable, match="cache") as refused:
        await bus.publish(events_of_keys(3, keys=1))
    assert isinstance(refused.value.__cause__, LookupError)
    assert "index" not in refused.value.message
    assert seen == {"cache": [1], "index": [1, 2, 3]}


@pytest.mark.parametrize("stubborn", [False, True])
async def test_in_process_waits_for_a_handler_no_longer_than_its_timeout(stubborn: bool) -> None:
    bus = InProcessBus(timeout_seconds=0.05)
    free = asyncio.Event()
    cancelled = 0

    async def handle(event: Event) -> None:
        nonlocal cancelled
        while not free.is_set():
            try:
                await free.wait()
            except asyncio.CancelledError:
                cancelled += 1
                if not stubborn:
                    raise

    bus.subscribe("slow", handle)
    async with asyncio.timeout(DEADLINE_SECONDS):
        with pytest.raises(EventBusUnavailable, match="slow"):
            await bus.publish([an_event(1)])
        assert cancelled == 1
        free.set()
        await asyncio.sleep(0.01)
        await bus.publish([an_event(1)])


async def test_in_process_handler_that_cancels_itself_has_failed() -> None:
    bus = InProcessBus()

    async def handle(event: Event) -> None:
        raise asyncio.CancelledError

    bus.subscribe("odd", handle)
    with pytest.raises(EventBusUnavailable, match="odd"):
        await bus.publish([an_event(1)])


async def test_in_process_handler_never_runs_twice_at_once() -> None:
    bus = InProcessBus()
    running = most = 0

    async def handle(event: Event) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1

    bus.subscribe("one", handle)
    await asyncio.gather(*(bus.publish(events_of_keys(5, keys=1)) for _ in range(10)))
    assert most == 1
