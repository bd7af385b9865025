"""The change stream when something goes wrong: cut deltas, defects, erasures, failovers, cancellations."""

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Sequence

import psycopg
import pytest
from change_tools import EVERYTHING, everything, opened, page, until

from sfm_graph.api.streams import settled
from sfm_graph.domain.change_filter import change_filter
from sfm_graph.domain.event import Event
from sfm_graph.domain.identity import Entity, MemoryRef
from sfm_graph.domain.position import Position
from sfm_graph.domain.snapshot import Snapshot
from sfm_graph.domain.walk import WalkFilter
from sfm_graph.errors import DatabaseUnavailable, EventBusUnavailable
from sfm_graph.runtime import open_runtime, running
from sfm_graph.services import tasks
from sfm_graph.services.changes import follower as follower_module
from sfm_graph.services.changes import reader as reader_module
from sfm_graph.services.changes import ring as ring_module
from sfm_graph.services.changes import tail as tail_module
from sfm_graph.services.changes.pages import Cursors
from sfm_graph.services.changes.reader import Reader
from sfm_graph.services.changes.relay import Relay
from sfm_graph.services.changes.ring import Entry
from sfm_graph.services.health import _relay
from sfm_graph.services.links import LinkRequest
from sfm_graph.services.registry import Services
from sfm_graph.services.view import Views
from sfm_graph.settings import Settings
from sfm_graph.store import change_stream
from sfm_graph.store.change_stream import log_of
from sfm_graph.store.database import Database
from sfm_graph.store.migrations import migrations


class Bus:
    """Keeps what it is given; `fails` decides what a publish raises."""

    name = "scripted"

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.fails: list[Exception] = []
        self.away = False

    async def publish(self, events: Sequence[Event]) -> None:
        if self.fails:
            raise self.fails.pop()
        if self.away:
            raise EventBusUnavailable("scripted to be away")
        self.events += events

    async def aclose(self) -> None:
        pass


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower_module, "TAKE_OVER_SECONDS", 0.05)
    monkeypatch.setattr(follower_module, "MAX_BACKOFF_SECONDS", 0.02)
    monkeypatch.setattr(tasks, "DEFECT_PAUSE_SECONDS", 0.1)


@pytest.fixture
async def database(database_dsn: str) -> AsyncIterator[Database]:
    async with opened(database_dsn) as one:
        yield one


async def _store(services: Services, *keys: str, namespace: str = "demo", content: str = "a b c") -> None:
    await services.memory_writes.store_many(namespace, [{"key": key, "content": f"{content} {key}"} for key in keys])


async def _run_sql(dsn: str, *statements: str) -> None:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        for statement in statements:
            await connection.execute(statement)


async def test_a_delta_cut_into_pieces_is_told_once(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail_module, "SLICE_CHANGES", 4)
    monkeypatch.setattr(ring_module, "MAX_CHANGES", 8)
    await _store(services, "seed")
    async with contextlib.aclosing(services.changes.follow("demo", None, EVERYTHING)) as stream:
        await anext(stream)
        # The tail moves on without this subscriber being woken.
        await _store(services, "x", namespace="other")
        await _store(services, *(f"k{number}" for number in range(20)))
        told = [one.change.id for one in (await anext(stream)).changes]
        await until(lambda: services.changes._tail._ring.first > 2)
        await _store(services, "end")
        async with asyncio.timeout(20):
            while len(told) < 21:
                told += [one.change.id for one in (await anext(stream)).changes]
    assert told == sorted(set(told))


async def _reader(services: Services, position: Position) -> tuple[Reader, Cursors]:
    async with services.views.open() as view:
        cursors = Cursors(await log_of(view.session), (await view.existing_namespace("demo")).id)
    return Reader(services.views, cursors, position, EVERYTHING, None), cursors


async def test_a_heartbeat_is_never_behind_what_was_told(services: Services) -> None:
    await _store(services, "a", "b", "c")
    reader, cursors = await _reader(services, Position(Snapshot("10:10:")))
    changes = tuple(one.change for one in (await page(services)).changes)
    cut = Entry(Snapshot("11:11:"), Snapshot("99999:99999:"), Snapshot("11:11:"), {cursors.namespace_id: changes[:2]})
    pages = [part async for part in reader.from_tail(cut)]
    told = cursors.log.decode(pages[-1].cursor)[1]
    assert told == Position(Snapshot("11:11:"), cut.until, changes[1].id)
    assert cursors.log.decode(reader.heartbeat(Snapshot("11:11:")).cursor)[1] == told


async def test_lower_ids_behind_a_cut_delta_do_not_bring_it_again(services: Services) -> None:
    await _store(services, "a")
    await _store(services, "b", "c")
    reader, cursors = await _reader(services, Position(Snapshot("10:10:")))
    a, b, c = (one.change for one in (await page(services)).changes)
    start, middle, end = Snapshot("10:10:"), Snapshot(f"{a.xid}:99998:{a.xid}"), Snapshot("99999:99999:")
    # The rest of the first delta is of other namespaces; then a long transaction commits what has a lower id.
    async for _ in reader.from_tail(Entry(start, middle, start, {cursors.namespace_id: (b, c)})):
        pass
    pages = [part async for part in reader.from_tail(Entry(middle, end, end, {cursors.namespace_id: (a,)}))]
    assert cursors.log.decode(pages[-1].cursor)[1].seen == middle


async def test_around_a_memory_the_end_of_the_namespace_comes(services: Services) -> None:
    await _store(services, "a", "b")
    wanted = change_filter(around=MemoryRef(key="a"))
    async with contextlib.aclosing(services.changes.follow("demo", None, wanted)) as stream:
        await anext(stream)
        await services.namespaces.delete("demo", confirm="demo")
        async with asyncio.timeout(20):
            rest = [one.change.entity async for part in stream for one in part.changes]
    assert rest == [Entity.NAMESPACE]


async def test_a_defect_of_the_tail_is_shown_and_survived(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _store(services, "a")

    async def broken(*_: object) -> None:
        raise TypeError("a defect")

    async with contextlib.aclosing(
        services.changes.follow("demo", None, EVERYTHING, heartbeat_seconds=0.1)
    ) as stream:
        await anext(stream)
        with monkeypatch.context() as scripted:
            scripted.setattr(tail_module, "read_new", broken)
            await until(lambda: "TypeError" in (services.changes.problem or ""))
            await _store(services, "b")
        async with asyncio.timeout(20):
            while not (await anext(stream)).changes:
                pass
        await until(lambda: services.changes.problem is None)


async def test_a_problem_leaves_with_the_last_subscriber(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    await _store(services, "a")

    async def broken(*_: object) -> None:
        raise DatabaseUnavailable("away")

    async with contextlib.aclosing(services.changes.follow("demo", None, EVERYTHING)) as stream:
        await anext(stream)
        monkeypatch.setattr(tail_module, "read_new", broken)
        await until(lambda: services.changes.problem is not None)
    assert services.changes.problem is None


async def test_slow_subscribers_hold_no_more_than_the_ring(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ring_module, "MAX_CHANGES", 5)
    await _store(services, "a")
    before_all = _entries_in_memory()
    async with contextlib.AsyncExitStack() as stack:
        for number in range(10):
            stream = services.changes.follow("demo", None, EVERYTHING)
            stack.push_async_callback(stream.aclose)
            await anext(stream)
            for place in range(3):
                before = services.changes._tail._ring.end
                await _store(services, f"k{number}{place}")
                await until(lambda before=before: services.changes._tail._ring.end > before)
            await anext(stream)
        # Each may have the one entry in hand that it is being sent.
        assert _entries_in_memory() - before_all <= len(services.changes._tail._ring) + 10


def _entries_in_memory() -> int:
    gc.collect()
    return sum(isinstance(one, Entry) for one in gc.get_objects())


async def test_erased_states_are_told_to_nobody_any_more(services: Services) -> None:
    await _store(services, "a")
    async with contextlib.aclosing(services.changes.follow("demo", None, EVERYTHING)) as stream:
        await anext(stream)
        ring = services.changes._tail._ring
        await _store(services, "secret", content="my secret")
        await until(lambda: ring.end == 1)
        await services.memory_writes.erase_many("demo", [MemoryRef(key="secret")])
        await until(lambda: ring.end >= 2)
        async with asyncio.timeout(20):
            told: list[str] = []
            while "erase" not in told:
                part = await anext(stream)
                told += [one.change.operation.value for one in part.changes]
                assert not any("my secret" in (one.change.after_json or "") for one in part.changes)
        assert len(ring) == 0


async def test_a_filtered_catch_up_shows_that_it_is_alive(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader_module, "MAX_SCANNED", 10)
    await _store(services, *(f"k{number}" for number in range(500)))
    wanted = change_filter(entities=["link"])
    stream = services.changes.follow("demo", "beginning", wanted, heartbeat_seconds=0.0)
    async with contextlib.aclosing(stream):
        assert (await anext(stream)).more


async def test_pages_are_bounded_by_the_size_of_what_they_say(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the database could have stored it in little space."""
    monkeypatch.setattr(reader_module, "MAX_CHARS", 200_000)
    monkeypatch.setattr(change_stream, "SLICE_BYTES", 100_000)
    for number in range(6):
        await services.memory_writes.store("demo", {"key": "a", "payload": {"text": "ab" * 50_000, "n": number}})
    part = await page(services)
    assert part.more
    assert sum(one.change.chars for one in part.changes) < 600_000
    assert len(await everything(services)) == 6


async def test_cancelled_though_something_swallows_it(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `asyncio.wait_for` of Python 3.11 does when what it waits for is done in the same turn."""
    await _store(services, "a")
    opening, inside = Views.open, asyncio.Event()

    @contextlib.asynccontextmanager
    async def swallowing(views: Views) -> AsyncIterator[object]:
        async with opening(views) as view:
            inside.set()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.05)
            yield view

    monkeypatch.setattr(Views, "open", swallowing)

    async def follow() -> None:
        async with contextlib.aclosing(services.changes.follow("demo", "beginning", EVERYTHING)) as pages:
            async for _ in pages:
                pass

    task = asyncio.create_task(follow())
    await inside.wait()
    async with asyncio.timeout(20):
        await settled(task)


async def test_a_defect_of_the_relay_is_shown_and_survived(services: Services, database: Database) -> None:
    await _store(services, "a")
    bus = Bus()
    bus.fails = [TypeError("a defect")]
    relay = Relay(database, bus, shards=2, poll_seconds=0.01)
    shown = set()
    async with running(relay.run(), "relay"):
        async with asyncio.timeout(20):
            while not bus.events:
                shown.add(_relay(relay.progress).get("reason", "")[:20])
                await asyncio.sleep(0.01)
    assert any("defect" in reason for reason in shown)


async def test_a_bus_that_is_away_shows_as_lag_and_leaks_nothing(services: Services, database: Database) -> None:
    await _store(services, "a")
    bus = Bus()
    bus.away = True
    relay = Relay(database, bus, shards=1, poll_seconds=0.01)
    async with running(relay.run(), "relay"):
        await until(lambda: relay.progress[0].problem is not None)
        shown = []
        for _ in range(50):
            await asyncio.sleep(0.02)
            shown.append(_relay(relay.progress))
    assert all(one["status"] == "waiting" and one["lag_seconds"] > 0 for one in shown)
    assert len(database._on_commit) == 1


async def test_another_cut_goes_on_where_the_old_one_was(
    services: Services, database: Database, database_dsn: str
) -> None:
    names = [f"n{number}" for number in range(4)]
    for name in names:
        await _store(services, "early", namespace=name)
    before, after = Bus(), Bus()
    async with running(Relay(database, before, shards=1, poll_seconds=0.01).run(), "relay"):
        await until(lambda: len(before.events) == 4)
    for name in names:
        await _store(services, "late", namespace=name)
    # The broker was away for hours, and at first something else holds one of the new shards.
    async with await psycopg.AsyncConnection.connect(database_dsn, autocommit=True) as connection:
        await connection.execute("update followers set moved_at = now() - interval '2 hours'")
        await connection.execute("select pg_advisory_lock(hashtext('relay:scripted'), 1)")
        relay = Relay(database, after, shards=2, poll_seconds=0.01)
        async with running(relay.run(), "relay"):
            await until(lambda: len(after.events) == 2)
            await connection.execute("select pg_advisory_unlock(hashtext('relay:scripted'), 1)")
            await until(lambda: len(after.events) == 4)
    assert {one.key for one in after.events if one.key} == {
        one.key for one in await _events_of(services, names) if one.key not in {old.key for old in before.events}
    }


async def _events_of(services: Services, names: Sequence[str]) -> list[Event]:
    from sfm_graph.domain.event import events_of

    return [
        event for name in names for one in await everything(services, namespace=name) for event in events_of(one, "")
    ]


async def test_after_a_failover_the_relay_passes_on_what_it_had_not(
    services: Services, settings: Settings, database: Database, database_dsn: str
) -> None:
    bus = Bus()
    await _store(services, "a")
    async with running(Relay(database, bus, shards=1, poll_seconds=0.01).run(), "relay"):
        await until(lambda: len(bus.events) == 1)
    await _store(services, "committed", "before the failover")
    await _run_sql(database_dsn, "update change_log set origin = 'the old primary'")
    async with open_runtime(settings, maintenance=False) as again:
        await _store(again, "after")
    async with running(Relay(database, bus, shards=1, poll_seconds=0.01).run(), "relay"):
        await until(lambda: len(bus.events) == 4)
    assert len({one.log for one in bus.events}) == 2
    assert len({one.sequence for one in bus.events}) == 4


async def test_a_restored_log_that_was_pruned_begins_anew(
    services: Services, settings: Settings, database_dsn: str
) -> None:
    await _store(services, "a", "b")
    await _run_sql(
        database_dsn,
        # As of a server whose transactions have higher numbers than this one will have for years.
        "update changes set xid = '5000000000'",
        "update change_log set pruned_xid = '4000000000', pruned_at = now(), origin = 'another server'",
    )
    async with open_runtime(settings, maintenance=False) as again:
        start = (await page(again, "now")).cursor
        await _store(again, "c")
        assert [one.after()["key"] for one in await everything(again, start)] == ["c"]
        assert len(await everything(again)) == 3
        async with again.views.open() as view:
            await page(again, await again.changes.cursor(view, "demo"))


async def test_a_graph_of_the_old_primary_does_not_come_back(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _store(services, "a", "b")
    await services.links.link_many("demo", [LinkRequest({"key": "a"}, {"key": "b"}, {"type": "x"})])
    runner = services.walks.runner
    async with services.views.open() as view:
        await runner.ground(view, "demo", WalkFilter())
    fresh = runner._fresh
    candidate = fresh.candidate("demo")
    assert candidate is not None
    asking = fresh._database.single

    async def arriving(*arguments: str, **parameters: str) -> object:
        # The connection that the statement gets is the first one to the promoted server.
        fresh._database.arrivals += 1
        await services.views.forget_all()
        return await asking(*arguments, **parameters)

    monkeypatch.setattr(fresh._database, "single", arriving)
    assert not await fresh.is_unchanged("demo", *candidate)
    assert fresh._hot.cache.newest(candidate[0]) is None


def test_the_log_of_an_older_schema_moves_into_partitions(server_dsn: str, worker_id: str) -> None:
    """Also rows of a clock that was ahead."""
    name = f"older_{worker_id}"
    with psycopg.connect(server_dsn, autocommit=True) as connection:
        connection.execute(f"create database {name}")  # type: ignore[arg-type]
        try:
            with psycopg.connect(server_dsn, dbname=name, autocommit=True) as older:
                older.execute("create extension vector")
                first, second, third = migrations()[:3]
                older.execute(first.text)
                older.execute(second.text)
                older.execute(
                    "insert into changes (namespace_id, at, entity, entity_id, operation) "
                    "select 1, now() + make_interval(days => n * 9), 'memory', n, 'create' "
                    "from generate_series(0, 4) n"
                )
                older.execute(third.text)
                kept = older.execute("select entity_id from changes order by id").fetchall()
                assert [row[0] for row in kept] == [0, 1, 2, 3, 4]
                (following,) = older.execute("select nextval('change_ids')").fetchone() or (0,)
                assert following == 6
        finally:
            connection.execute(f"drop database {name} with (force)")  # type: ignore[arg-type]
