"""Durable readers of the log: the relay, standing in for one another, retention, restores."""

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from change_tools import everything, opened, page, until
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pydantic import SecretStr

from sfm_graph.domain.event import Event
from sfm_graph.domain.position import Position
from sfm_graph.domain.recall import RecallQuery
from sfm_graph.domain.snapshot import Snapshot
from sfm_graph.errors import CursorExpired, EventBusUnavailable
from sfm_graph.runtime import open_runtime, running
from sfm_graph.services.changes import follower as follower_module
from sfm_graph.services.changes.relay import Relay
from sfm_graph.services.changes.retention import Retention
from sfm_graph.services.registry import Services
from sfm_graph.settings import Settings
from sfm_graph.store import followers
from sfm_graph.store.change_stream import log_of
from sfm_graph.store.database import Database, Session
from sfm_graph.store.embedded.site import server_programs
from sfm_graph.store.followers import Displaced


class ScriptedBus:
    """Keeps what it is given; refuses while `away`."""

    name = "scripted"

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.away = False
        self.begun = self.refused = 0
        self.hold = asyncio.Event()
        self.hold.set()

    async def publish(self, events: Sequence[Event]) -> None:
        self.begun += 1
        await self.hold.wait()
        if self.away:
            self.refused += 1
            raise EventBusUnavailable("scripted to be away")
        self.events += events

    async def aclose(self) -> None:
        pass

    @property
    def sequences(self) -> list[int]:
        return [one.sequence for one in self.events]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower_module, "TAKE_OVER_SECONDS", 0.05)
    monkeypatch.setattr(follower_module, "MAX_BACKOFF_SECONDS", 0.2)


@pytest.fixture
async def database(database_dsn: str) -> AsyncIterator[Database]:
    async with opened(database_dsn) as one:
        yield one


@contextlib.asynccontextmanager
async def _relaying(database: Database, bus: ScriptedBus, shards: int = 1) -> AsyncIterator[Relay]:
    relay = Relay(database, bus, shards=shards, poll_seconds=0.01)
    async with running(relay.run(), "relay"):
        yield relay


async def _store(services: Services, *keys: str, namespace: str = "demo", content: str = "text") -> None:
    await services.memory_writes.store_many(namespace, [{"key": key, "content": f"{content} {key}"} for key in keys])


async def test_the_relay_publishes_everything_from_the_beginning_on(services: Services, database: Database) -> None:
    bus = ScriptedBus()
    await _store(services, "a", "b")
    await _store(services, "x", namespace="other")
    async with _relaying(database, bus):
        await until(lambda: len(bus.events) == 3)
        await _store(services, "a", content="new")
        await until(lambda: len(bus.events) == 4)
    changes = [*await everything(services), *await everything(services, namespace="other")]
    assert sorted(bus.sequences) == sorted(one.id for one in changes)
    assert {one.key.split("/")[0] for one in bus.events if one.key} == {"demo", "other"}


async def test_a_relay_goes_on_where_the_last_one_stopped(services: Services, database: Database) -> None:
    bus = ScriptedBus()
    for round_ in range(3):
        await _store(services, f"k{round_}", f"l{round_}")
        async with _relaying(database, bus) as relay:
            await until(lambda: relay.progress[0].delivered == 2)
    assert len(bus.sequences) == len(set(bus.sequences)) == 6


async def test_a_bus_that_is_away_holds_the_place_and_slows_no_write(services: Services, database: Database) -> None:
    bus = ScriptedBus()
    bus.away = True
    async with _relaying(database, bus) as relay:
        await _store(services, "a")
        await until(lambda: bus.refused > 1)
        assert "away" in (relay.progress[0].problem or "")
        await _store(services, "b", "c")
        bus.away = False
        await until(lambda: len(bus.events) == 3)
        await until(lambda: relay.progress[0].problem is None)
    assert bus.sequences == sorted(set(bus.sequences))


async def test_batches_larger_than_one_keep_the_order_of_each_memory(
    services: Services, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower_module, "SLICE_CHANGES", 7)
    for round_ in range(5):
        await _store(services, *"abcdefgh", content=f"text {round_}")
    bus = ScriptedBus()
    async with _relaying(database, bus):
        await until(lambda: len(bus.events) == 40)
    for key in {one.key for one in bus.events}:
        of_key = [one.sequence for one in bus.events if one.key == key]
        assert of_key == sorted(of_key)
        assert len(of_key) == 5


async def test_one_relay_is_active_and_another_takes_over(
    services: Services, database: Database, database_dsn: str
) -> None:
    first, second = ScriptedBus(), ScriptedBus()
    async with opened(database_dsn) as elsewhere, _relaying(database, first) as one:
        await until(lambda: one.progress[0].active)
        async with _relaying(elsewhere, second) as two:
            await _store(services, "a")
            await until(lambda: len(first.events) == 1)
            assert not two.progress[0].active
            # A relay that is stuck in a publish loses its lock with its connection.
            first.hold.clear()
            await _store(services, "b")
            await until(lambda: first.begun == 2)
            await _cut_off(database_dsn)
            await until(lambda: two.progress[0].active)
            await until(lambda: len(second.events) == 1)
            first.hold.set()
            await until(lambda: len(first.events) == 2)
            await _store(services, "c")
            await until(lambda: len(first.events) + len(second.events) == 4)
    assert [len({*first.sequences, *second.sequences})] == [3]


async def _cut_off(dsn: str) -> None:
    """End the connection that holds the lock of a follower."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await connection.execute(
            "select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory' and granted "
            "and database = (select oid from pg_database where datname = current_database())"
        )


async def test_a_paused_relay_cannot_move_the_place_back(services: Services, database: Database) -> None:
    await _store(services, "a", "b")
    key = followers.Key("relay:scripted", 1, 0)
    async with database.dedicated() as old, database.dedicated() as new, database.read() as session:
        epoch = (await log_of(session)).epoch
        start = Position(Snapshot("5:5:"))
        await followers.begin(Session(old), key, start, epoch)
        paused = followers.Mark(Session(old), key, epoch, start)
        successor = followers.Mark(Session(new), key, epoch, start)
        await successor.move(Position(Snapshot("9:9:")))
        with pytest.raises(Displaced):
            await paused.move(Position(Snapshot("7:7:")))
        with pytest.raises(Displaced):
            await paused.confirm()
        assert await followers.position(Session(new), key, epoch) == Position(Snapshot("9:9:"))


async def test_shards_part_the_namespaces_and_another_cut_loses_nothing(
    services: Services, database: Database
) -> None:
    bus = ScriptedBus()
    names = [f"n{i}" for i in range(6)]
    for name in names:
        await _store(services, "a", namespace=name)
    async with _relaying(database, bus, shards=3) as relay:
        await until(lambda: [shard.delivered for shard in relay.progress] == [2, 2, 2])
        assert len(bus.events) == 6
    for name in names:
        await _store(services, "b", namespace=name)
    async with _relaying(database, bus, shards=2):
        await until(lambda: len(set(bus.sequences)) == 12)


async def test_the_end_of_a_namespace_goes_to_every_topic(services: Services, database: Database) -> None:
    await _store(services, "a")
    await services.namespaces.delete("demo", confirm="demo")
    bus = ScriptedBus()
    async with _relaying(database, bus):
        await until(lambda: len(bus.events) == 2)
    assert {one.topic for one in bus.events} == {"memory.events", "link.events"}
    assert all(one.key is None and b'"demo"' in one.data for one in bus.events)


async def test_health_shows_the_relay(services: Services, settings: Settings) -> None:
    report = await services.health.report()
    assert report.parts["changes"]["status"] == "up"
    assert "relay" not in report.parts


def _later(days: int) -> datetime:
    return datetime.now(UTC) + timedelta(days=days)


async def test_changes_past_retention_go_and_their_cursors_expire(services: Services, database: Database) -> None:
    await _store(services, "a")
    old = (await page(services)).cursor
    await _store(services, "b")
    retention = Retention(database, days=1, grace=timedelta(0), clock=lambda: _later(3))
    await retention.prepare()
    # Said, not yet done: who has not read them is refused from now on.
    await until(lambda: _pruned(retention, services, old))
    await retention.prune()
    assert await everything(services) == []
    new = (await page(services)).cursor
    assert await everything(services, new) == []
    with pytest.raises(CursorExpired):
        await page(services, old)


async def test_retention_waits_for_followers(services: Services, database: Database) -> None:
    bus = ScriptedBus()
    await _store(services, "a")
    async with _relaying(database, bus):
        await until(lambda: len(bus.events) == 1)
    await _store(services, "b")
    retention = Retention(database, days=1, grace=timedelta(0), clock=lambda: _later(3))
    for _ in range(2):
        await retention.prune()
    assert retention.held_by == "relay:scripted"
    assert len(await everything(services)) == 2
    async with _relaying(database, bus) as relay:
        await until(lambda: len(bus.events) == 2)
        await until(lambda: relay.progress[0].delivered == 1)
    assert [one.key.name for one in await retention.followers()] == ["relay:scripted"]
    assert await retention.forget("relay:scripted") == 1
    await until(lambda: _emptied(retention, services))


async def test_what_is_hot_stays_right_when_the_log_is_pruned(services: Services, database: Database) -> None:
    await _store(services, "a", content="apple")
    assert await _recalled(services, "apple") == ["a"]
    await _store(services, "b", content="apple")
    retention = Retention(database, days=1, grace=timedelta(0), clock=lambda: _later(3))
    # Nothing in the log tells any more that the version in memory is old.
    await until(lambda: _emptied(retention, services))
    assert await _recalled(services, "apple") == ["a", "b"]


async def _pruned(retention: Retention, services: Services, old: str) -> bool:
    """Whether a cursor is refused; transactions of other tests on this server may put the pruning off."""
    await retention.prune()
    try:
        await page(services, old)
    except CursorExpired:
        return True
    return False


async def _emptied(retention: Retention, services: Services) -> bool:
    await retention.prune()
    return not await everything(services)


async def _recalled(services: Services, text: str) -> list[str]:
    async with services.views.open() as view:
        found = await services.recalls.recall(view, "demo", RecallQuery(text, first=10))
        return sorted(hit.memory.key or "" for hit in found.hits)


async def test_partitions_reach_days_ahead(services: Services, database_dsn: str) -> None:
    async with await psycopg.AsyncConnection.connect(database_dsn) as connection:
        await connection.execute(
            "insert into changes (namespace_id, at, entity, entity_id, operation) "
            "values (1, now() + interval '13 days', 'memory', 1, 'create')"
        )
        with pytest.raises(psycopg.errors.CheckViolation):
            await connection.execute(
                "insert into changes (namespace_id, at, entity, entity_id, operation) "
                "values (1, now() + interval '1 year', 'memory', 1, 'create')"
            )


async def test_a_restored_dump_is_another_log(services: Services, settings: Settings, server_dsn: str) -> None:
    await _store(services, "a", "b")
    old = (await page(services)).cursor
    bus = ScriptedBus()
    dsn = settings.postgres_url.get_secret_value()
    async with opened(dsn) as database, _relaying(database, bus):
        await until(lambda: len(bus.events) == 2)
    name = f"{conninfo_to_dict(dsn)['dbname']}_restored"
    with psycopg.connect(server_dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        # Transactions of the dump must not look as if they were still to come.
        for _ in range(5):
            connection.execute("select pg_current_xact_id()")
    restored = make_conninfo(dsn, dbname=name)
    elsewhere = settings.model_copy(update={"postgres_url": SecretStr(restored)})
    try:
        _copy(dsn, restored)
        async with open_runtime(elsewhere, maintenance=False) as copy:
            with pytest.raises(CursorExpired) as caught:
                await page(copy, old)
            assert caught.value.details["resume"]
            assert await _recalled(copy, "text") == ["a", "b"]
            start = (await page(copy, "now")).cursor
            await _store(copy, "c")
            assert [one.after()["key"] for one in await everything(copy, start)] == ["c"]
            async with opened(restored) as database, _relaying(database, bus):
                await until(lambda: len(bus.events) == 3)
            assert len({one.log for one in bus.events}) == 2
            assert await _recalled(copy, "text") == ["a", "b", "c"]
    finally:
        with psycopg.connect(server_dsn, autocommit=True) as connection:
            connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


def _copy(source: str, target: str) -> None:
    parts = conninfo_to_dict(source)
    login = ["-h", str(parts["host"]), "-p", str(parts["port"]), "-U", str(parts["user"])]
    dump = subprocess.run(
        [server_programs() / "pg_dump", *login, "-Fc", "-d", str(parts["dbname"])], check=True, capture_output=True
    )
    subprocess.run(
        [server_programs() / "pg_restore", *login, "-d", str(conninfo_to_dict(target)["dbname"])],
        input=dump.stdout, check=True, capture_output=True,
    )  # fmt: skip
