"""`sfm-consume` on a real Kafka and a real Redis: two processes in one group, one killed, and what comes of it."""

import asyncio
import subprocess
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
from consumer_process import COMMAND, ConsumerProcess, Effects, install_scribe
from kafka_broker import KafkaBroker, kafka, own_kafka
from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis_server import RedisServer, redis_server
from typer.testing import CliRunner

from sfm_consumers.cli import app
from sfm_consumers.ledger import Place
from sfm_consumers.ledgers.sqlite import SqliteLedger
from sfm_consumers.sources import redis_claim
from sfm_consumers.sources.redis_claim import RedisClaim, lease_name
from sfm_consumers.sources.redis_client import ask, open_redis
from sfm_graph.adapters.buses.kafka import KafkaBus
from sfm_graph.adapters.buses.redis_streams import RedisStreamsBus
from sfm_graph.domain.event import Event
from sfm_graph.ports.event_bus import EventBus
from sfm_graph.settings import EventBusKind, Settings, load_settings

__all__ = ["kafka", "own_kafka"]

KEYS = 23
# A killed process is found out sooner than by default; Kafka's broker takes no less.
QUICK_SESSION = {
    EventBusKind.KAFKA: {"SFM_CONSUMER_SESSION_SECONDS": "6"},
    EventBusKind.REDIS: {"SFM_CONSUMER_SESSION_SECONDS": "2"},
}
LOG = "log-1"


@dataclass
class Bus:
    """A real bus with topics of this test's own."""

    kind: EventBusKind
    settings: Settings
    environment: dict[str, str]
    topics: list[str]
    kafka: KafkaBroker | None = None

    def publish(self, numbers: Sequence[int], *, poison: Sequence[int] = ()) -> None:
        """Events of KEYS keys, alternating topics by key."""
        asyncio.run(self._publish([self._event(number, number in poison) for number in numbers]))

    async def _publish(self, events: list[Event]) -> None:
        bus: EventBus = (
            await KafkaBus.open(self.settings)
            if self.kind is EventBusKind.KAFKA
            else await RedisStreamsBus.open(self.settings)
        )
        try:
            await bus.publish(events)
        finally:
            await bus.aclose()

    def _event(self, number: int, is_poison: bool) -> Event:
        key = number % KEYS
        attributes = {
            "specversion": "1.0",
            "id": f"{LOG}.{number}",
            "source": f"urn:sfm-graph:{LOG}",
            "type": "sfm_graph.memory.update",
            "subject": f"n/{key}",
            "time": "2026-01-02T03:04:05+00:00",
            "dataschema": "urn:sfm-graph:event:memory:1",
            "sequence": str(number),
        }
        data = orjson.dumps({"operation": "poison" if is_poison else "update", "change": number})
        return Event(self.topics[key % 2], f"n/{key}", LOG, number, tuple(attributes.items()), data, ends=False)

    def dead_letters(self, topic: str) -> list[dict[str, str]]:
        """The headers of a topic's dead letters, and their key."""
        if self.kind is EventBusKind.REDIS:
            assert self.settings.redis_url is not None
            with Redis.from_url(self.settings.redis_url.get_secret_value(), decode_responses=True) as client:
                return [fields for _, fields in client.xrange(f"{topic}.dlq")]
        return self._kafka_dead_letters(f"{topic}.dlq")

    def _kafka_dead_letters(self, topic: str) -> list[dict[str, str]]:
        from confluent_kafka import Consumer

        options = {"group.id": uuid.uuid4().hex, "auto.offset.reset": "earliest", "enable.auto.commit": False}
        consumer = Consumer({"bootstrap.servers": self.settings.kafka_bootstrap_servers or "", **options})
        consumer.subscribe([topic])
        found, deadline = [], time.monotonic() + 60
        try:
            while not found and time.monotonic() < deadline:
                for message in consumer.consume(100, timeout=2):
                    assert message.error() is None
                    headers = {name: value.decode() for name, value in message.headers()}
                    found.append({**headers, "key": message.key().decode(), "data": message.value().decode()})
        finally:
            consumer.close()
        return found


@pytest.fixture(params=["kafka", "redis"])
def bus(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bus]:
    topics = [f"t{uuid.uuid4().hex[:8]}.memory", f"t{uuid.uuid4().hex[:8]}.link"]
    if request.param == "kafka":
        broker: KafkaBroker = request.getfixturevalue("kafka")
        for topic in topics:
            broker.make_topic(topic)
        environment = {**QUICK_SESSION[EventBusKind.KAFKA], "KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap}
        settings = load_settings(kafka_bootstrap_servers=broker.bootstrap)
        yield Bus(EventBusKind.KAFKA, settings, environment, topics, broker)
        return
    directory = tmp_path / "redis"
    directory.mkdir()
    with redis_server(directory) as server:
        environment = {**QUICK_SESSION[EventBusKind.REDIS], "REDIS_URL": server.url, "SFM_EVENT_BUS": "redis"}
        yield Bus(EventBusKind.REDIS, load_settings(redis_url=server.url), environment, topics)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    install_scribe(folder)
    return folder


@pytest.fixture
def group() -> str:
    return f"g-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def started() -> Iterator[list[ConsumerProcess]]:
    """Processes that end with the test."""
    processes: list[ConsumerProcess] = []
    yield processes
    for one in processes:
        one.kill()


def in_order(effects: Effects) -> bool:
    return all(sequences == sorted(sequences) for sequences in effects.by_key().values())


async def claimed(server: RedisServer, batch: int) -> tuple[AsyncRedis, RedisClaim]:
    client = open_redis(load_settings(redis_url=server.url))
    await client.set(lease_name("g", "t:0"), "m")
    return client, RedisClaim(client, "g", "m", "t", 0, first_id="0", batch=batch)


async def entries(client: AsyncRedis, count: int, size: int) -> None:
    async with client.pipeline(transaction=False) as pipe:
        for number in range(count):
            pipe.xadd("t:0", {"key": f"n/{number}", "data": b"x" * size})
        await pipe.execute()


async def test_a_redis_that_does_not_tell_the_lag_is_read_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of before 7, whose XINFO lacks some fields."""
    newer = {b"lag", b"entries-read", b"entries-added", b"max-deleted-entry-id", b"recorded-first-entry-id"}

    def as_of_six(answer: list[Any]) -> list[Any]:
        pairs = zip(answer[::2], answer[1::2], strict=True)
        return [part for pair in pairs if pair[0] not in newer for part in pair]

    async def asked(client: AsyncRedis, *command: Any) -> Any:
        answer = await ask(client, *command)
        if command[:2] == ("XINFO", "GROUPS"):
            return [as_of_six(group) for group in answer]
        return as_of_six(answer) if command[0] == "XINFO" else answer

    monkeypatch.setattr(redis_claim, "ask", asked)
    with redis_server(tmp_path) as server:
        client, claim = await claimed(server, 10)
        await entries(client, 3, 5)
        assert len(await claim.fetch()) == 3
        assert await claim.lag() is None
        await client.aclose()


async def test_redis_confirms_the_largest_batch(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        client, claim = await claimed(server, 10_000)
        await entries(client, 9_001, 1)
        messages = await claim.fetch()
        assert [one.key for one in messages] == [f"n/{number}".encode() for number in range(9_001)]
        await claim.commit(messages[-1].position)
        assert await claim.fetch() == []
        await client.aclose()


@pytest.mark.parametrize("again", [False, True])
async def test_redis_is_asked_for_no_more_than_memory_takes(tmp_path: Path, again: bool) -> None:
    with redis_server(tmp_path, appendonly="no") as server:
        client, claim = await claimed(server, 500)
        await entries(client, 50, 2_000_000)
        if again:  # all of it in the hand of a process that died
            await claim.fetch()
            await client.xreadgroup("g", "sfm-consume", {"t:0": ">"}, count=500)
            claim = RedisClaim(client, "g", "m", "t", 0, first_id="0", batch=500)
        keys = []
        while messages := await claim.fetch():
            assert sum(len(one.value or b"") for one in messages) < 40_000_000
            keys += [one.key for one in messages]
            await claim.commit(messages[-1].position)
        assert keys == [f"n/{number}".encode() for number in range(50)]
        await client.aclose()


def test_one_of_two_is_killed_and_every_effect_is_there_once_and_in_order(
    bus: Bus, home: Path, group: str, started: list[ConsumerProcess]
) -> None:
    ledger = home / "ledger.sqlite"
    environment = {**bus.environment, "SFM_CONSUMER_LEDGER": str(ledger)}
    arguments = ("--group", group)
    effects = Effects(home)

    bus.publish(range(1, 401))
    for _ in range(2):
        started.append(ConsumerProcess(home, bus.topics, environment, *arguments))
    first, second = started
    second.wait_until(lambda: effects.count() >= 400)
    # Both have partitions before one of them goes.
    number = 401
    while {pid for pid, *_ in effects.lines()} != {first.pid, second.pid} and number < 4_000:
        bus.publish(range(number, number + 50))
        number += 50
        second.wait_until(lambda done=number - 1: effects.count() >= done)
        time.sleep(0.2)
    assert {pid for pid, *_ in effects.lines()} == {first.pid, second.pid}

    (home / "hold").touch()
    bus.publish(range(number, number + 400))
    first.wait_until(lambda: (home / f"held-{first.pid}").exists())
    # What was written before the hold is in the ledger; what is behind it is not written: the kill finds no effect
    # between the two, where a repetition would be right.
    asyncio.run(_wait_for_ledger(ledger, group, effects))
    first.kill()
    (home / "hold").unlink()
    last = number + 399
    second.wait_until(lambda: effects.count() >= last)

    assert in_order(effects)
    assert sorted(sequence for *_, sequence in effects.lines()) == list(range(1, last + 1))
    assert second.end() == 0
    assert (home / f"closed-{second.pid}").exists()

    # All is confirmed: another process of the group, which knows of no effect, is given nothing.
    fresh = {**bus.environment, "SFM_CONSUMER_LEDGER": str(home / "other.sqlite")}
    third = ConsumerProcess(home, bus.topics, fresh, *arguments)
    started.append(third)
    third.wait_until(lambda: _lag_of(third, partitions=8) == 0)
    assert effects.count() == last
    assert third.end() == 0


def _lag_of(process: ConsumerProcess, partitions: int) -> float | None:
    lines = [line for line in process.get("/metrics").text.splitlines() if line.startswith("sfm_consumer_lag{")]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines) if len(lines) == partitions else None


async def _wait_for_ledger(path: Path, group: str, effects: Effects) -> None:
    ledger = SqliteLedger(path, group)
    async with asyncio.timeout(60):
        while not await _is_recorded(ledger, effects):  # noqa: ASYNC110 another process writes it
            await asyncio.sleep(0.05)
    await ledger.aclose()


async def _is_recorded(ledger: SqliteLedger, effects: Effects) -> bool:
    last = {(place.split("/")[0], key): sequence for _, place, key, sequence in effects.lines()}
    for topic in {topic for topic, _ in last}:
        wanted = {Place(LOG, f"k{key}"): sequence for (of, key), sequence in last.items() if of == topic}
        if await ledger.last(topic, set(wanted)) != wanted:
            return False
    return True


def test_kills_at_random_lose_nothing(bus: Bus, home: Path, group: str, started: list[ConsumerProcess]) -> None:
    environment = {**bus.environment, "SFM_CONSUMER_LEDGER": str(home / "ledger.sqlite")}
    effects = Effects(home)
    number = 1
    survivor = ConsumerProcess(home, bus.topics, environment, "--group", group)
    started.append(survivor)
    for _ in range(2):
        started.append(ConsumerProcess(home, bus.topics, environment, "--group", group))
        bus.publish(range(number, number + 300))
        number += 300
        survivor.wait_until(lambda done=number // 2: effects.count() >= done)
        started[-1].kill()
    survivor.wait_until(lambda: {sequence for *_, sequence in effects.lines()} >= set(range(1, number)))
    # A kill between effect and ledger may repeat the batch in hand, of each partition.
    firsts: dict[str, list[int]] = {}
    for key, sequences in effects.by_key().items():
        firsts[key] = list(dict.fromkeys(sequences))
    assert all(sequences == sorted(sequences) for sequences in firsts.values())
    assert effects.count() - (number - 1) <= 2 * 8 * 10
    assert survivor.end() == 0


def test_poison_is_put_aside_with_its_reason(
    bus: Bus, home: Path, group: str, started: list[ConsumerProcess]
) -> None:
    bus.publish(range(1, 101), poison=[50])
    process = ConsumerProcess(home, bus.topics, bus.environment, "--group", group)
    started.append(process)
    effects = Effects(home)
    process.wait_until(lambda: effects.count() >= 99)
    process.wait_until_ready()
    assert process.end() == 0
    assert sorted(sequence for *_, sequence in effects.lines()) == [n for n in range(1, 101) if n != 50]
    topic = bus.topics[50 % KEYS % 2]
    [dead] = bus.dead_letters(topic)
    assert dead["dlq_reason"] == "not for a scribe"
    assert dead["dlq_consumer"] == "scribe"
    assert dead["dlq_topic"] == topic
    assert dead["key"] == f"n/{50 % KEYS}"
    assert dead["ce_sequence"] == "50"
    assert orjson.loads(dead["data"]) == {"operation": "poison", "change": 50}


def test_a_group_that_begins_now_gets_what_comes_from_now_on(
    bus: Bus, home: Path, group: str, started: list[ConsumerProcess]
) -> None:
    bus.publish(range(1, 101))
    process = ConsumerProcess(home, bus.topics, bus.environment, "--group", group, "--from-now")
    started.append(process)
    process.wait_until(lambda: _lag_of(process, partitions=8) == 0)
    bus.publish(range(101, 201))
    effects = Effects(home)
    process.wait_until(lambda: effects.count() >= 100)
    assert sorted(sequence for *_, sequence in effects.lines()) == list(range(101, 201))
    assert process.end() == 0


def test_a_redis_killed_and_started_again_loses_nothing(
    tmp_path: Path, home: Path, group: str, started: list[ConsumerProcess]
) -> None:
    directory = tmp_path / "own-redis"
    directory.mkdir()
    with redis_server(directory) as server:
        environment = {**QUICK_SESSION[EventBusKind.REDIS], "REDIS_URL": server.url, "SFM_EVENT_BUS": "redis"}
        bus = Bus(EventBusKind.REDIS, load_settings(redis_url=server.url), environment, ["a.memory", "a.link"])
        _survive(bus, server, home, group, started)


def test_a_broker_killed_and_started_again_loses_nothing(
    own_kafka: KafkaBroker, home: Path, group: str, started: list[ConsumerProcess]
) -> None:
    topics = ["a.memory", "a.link"]
    for topic in topics:
        own_kafka.make_topic(topic)
    environment = {**QUICK_SESSION[EventBusKind.KAFKA], "KAFKA_BOOTSTRAP_SERVERS": own_kafka.bootstrap}
    settings = load_settings(kafka_bootstrap_servers=own_kafka.bootstrap)
    _survive(Bus(EventBusKind.KAFKA, settings, environment, topics), own_kafka, home, group, started)


def _survive(
    bus: Bus, server: RedisServer | KafkaBroker, home: Path, group: str, started: list[ConsumerProcess]
) -> None:
    process = ConsumerProcess(home, bus.topics, bus.environment, "--group", group)
    started.append(process)
    effects = Effects(home)

    def around() -> str:
        ready = process.get("/readyz").text if process.process.poll() is None else "none"
        return f"{effects.count()} effects, readiness {ready}, {server.state()}"

    bus.publish(range(1, 201))
    process.wait_until(lambda: effects.count() >= 100, "the first 100 effects", around)
    server.kill()
    process.wait_until(lambda: process.get("/readyz").status_code == 503, "503 without the bus", around)
    assert process.get("/healthz").status_code == 200
    server.start()
    bus.publish(range(201, 301))
    process.wait_until(lambda: effects.count() >= 300, "all 300 effects", around)
    process.wait_until_ready(around)
    assert sorted(sequence for *_, sequence in effects.lines()) == list(range(1, 301))
    assert in_order(effects)
    assert process.end() == 0


def test_a_process_ends_while_its_bus_is_away(
    tmp_path: Path, home: Path, group: str, started: list[ConsumerProcess]
) -> None:
    for environment in (
        {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"},
        {"REDIS_URL": "redis://127.0.0.1:1/0", "SFM_EVENT_BUS": "redis"},
    ):
        process = ConsumerProcess(home, ["a.memory"], environment, "--group", group)
        started.append(process)
        process.wait_until(lambda process=process: _refused(process))
        assert process.end() == 0


def _refused(process: ConsumerProcess) -> bool:
    ready = process.get("/readyz")
    return ready.status_code == 503 and ready.json()["troubles"]["source"] != "not joined yet"


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "said"),
    [
        (["audit"], {}, 1, "SFM_EVENT_BUS"),
        (["nobody"], {}, 1, "audit, mirror, webhook"),
        (["audit", "--set", "file"], {}, 2, "--set"),
        (["audit", "--group", "a b"], {}, 2, "--group"),
        (["audit"], {"SFM_CONSUMER_PORT": "70000"}, 1, "SFM_CONSUMER_PORT"),
        (["audit"], {"SFM_CONSUMER_BATCH": "0"}, 1, "SFM_CONSUMER_BATCH"),
        (["audit"], {"SFM_CONSUMER_LEDGER": "/proc/none/ledger"}, 1, "SFM_CONSUMER_LEDGER"),
        (["audit"], {"SFM_CONSUMER_LEDGER": "postgresql://u:geheim@h/d?colour=red"}, 1, "SFM_CONSUMER_LEDGER"),
        (["audit"], {"SFM_CONSUMER_LEDGER": "postgresql://u:geheim@[h/d"}, 1, "SFM_CONSUMER_LEDGER"),
        (["audit", "--source", "kafka"], {}, 1, "KAFKA_BOOTSTRAP_SERVERS"),
        (["audit", "--source", "redis"], {}, 1, "REDIS_URL"),
        (["audit", "--source", "redis"], {"REDIS_URL": "redis://:geheim@host:x"}, 1, "REDIS_URL"),
        ([], {}, 2, "NAME"),
    ],
)
def test_a_wrong_setting_is_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    environment: dict[str, str],
    code: int,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in {"SFM_AUDIT_FILE": str(tmp_path / "audit"), **environment}.items():
        monkeypatch.setenv(name, value)
    done = CliRunner().invoke(app, arguments)
    assert (done.exit_code, done.stdout) == (code, ""), done.stderr
    assert said in done.stderr
    assert "geheim" not in done.stderr


def test_the_command_lists_what_is_installed(home: Path) -> None:
    done = subprocess.run(
        [COMMAND, "--list"], env={"PYTHONPATH": str(home)}, capture_output=True, text=True, timeout=120, check=True
    )
    assert {"audit", "mirror", "scribe", "webhook"} <= set(done.stdout.split())
