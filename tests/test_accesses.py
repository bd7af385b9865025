"""Counting recalls: in batches, beside the recalls, and whatever becomes of the database or the memories."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from change_tools import until
from psycopg import AsyncConnection

from sfm_graph.domain.as_of import AsOf
from sfm_graph.domain.context import RecallContext
from sfm_graph.domain.identity import MemoryRef
from sfm_graph.domain.recall import RecallQuery
from sfm_graph.errors import DatabaseFailure, DatabaseUnavailable
from sfm_graph.runtime import open_runtime
from sfm_graph.services import accesses as module
from sfm_graph.services.access.agents import acting_for
from sfm_graph.services.accesses import Accesses
from sfm_graph.services.context import recall_in_context
from sfm_graph.services.registry import Services
from sfm_graph.settings import Settings
from sfm_graph.store import accesses as store
from sfm_graph.store.accesses import Access, AccessKey
from sfm_graph.store.database import Database

Counted = dict[tuple[int, str], int]
QUERY = RecallQuery("red cat", 10)


async def _store(services: Services, *keys: str, namespace: str = "demo") -> dict[str, int]:
    items = [{"key": key, "content": f"red cat {key}"} for key in keys]
    done = await services.memory_writes.store_many(namespace, items)
    return {one.memory.key or "": one.memory.id for one in done.stored}


async def _recall(services: Services, as_of: AsOf | None = None, **options: Any) -> None:
    async with services.views.open(*(() if as_of is None else (as_of,))) as view:
        await services.recalls.recall(view, "demo", QUERY, **options)


async def _written(dsn: str) -> Counted:
    async with await AsyncConnection.connect(dsn) as connection:
        rows = await (await connection.execute("select memory_id, agent, count from accesses")).fetchall()
    return {(row[0], row[1]): row[2] for row in rows}


async def test_recalls_are_counted_by_memory_and_agent(services: Services, database_dsn: str) -> None:
    ids = await _store(services, "a", "b")
    began = datetime.now(UTC)
    await _recall(services)
    with acting_for("planner"):
        await _recall(services)
        await _recall(services)
    assert await _written(database_dsn) == {}
    await services.accesses.flush()
    expected = {(one, agent): count for one in ids.values() for agent, count in (("", 1), ("planner", 2))}
    assert await _written(database_dsn) == expected
    await _recall(services)
    await services.accesses.flush()
    async with services.views.open() as view:
        namespace = await view.existing_namespace("demo")
        found = await store.of_memories(view.session, namespace.id, [*ids.values(), 10**9])
    assert {one: access.count for one, access in found.items()} == dict.fromkeys(ids.values(), 4)
    assert all(began <= access.last_at <= datetime.now(UTC) for access in found.values())


async def test_what_is_no_recall_of_now_is_not_counted(
    services: Services, client: httpx.AsyncClient, database_dsn: str
) -> None:
    await _store(services, "a", "b")
    now = datetime.now(UTC)
    await _recall(services, AsOf(valid=now + timedelta(days=1)))
    await _recall(services, AsOf(known=now))
    await _recall(services, counted=False)
    for path in ("/memories/key:a", "/keyword_search?term=red"):
        await client.get(path, params={"namespace": "demo"} if "?" not in path else None)
    query = '{ memories(namespace: "demo") { edges { node { key similar(first: 5) { edges { score } } } } } }'
    answer = (await client.post("/graphql", json={"query": query})).json()
    assert answer["data"]["memories"]["edges"][0]["node"]["similar"]["edges"]
    await services.accesses.flush()
    assert await _written(database_dsn) == {}


async def test_of_a_recall_in_context_the_shown_are_counted(services: Services, database_dsn: str) -> None:
    ids = await _store(services, "a", "b", "c")
    async with services.views.open() as view:
        context = RecallContext(text="cat b")
        hits = await recall_in_context(services.recalls, view, "demo", RecallQuery("red cat", 1), context)
    await services.accesses.flush()
    assert len(ids) == 3
    assert await _written(database_dsn) == {(hits[0].memory.id, ""): 1}


async def test_answers_of_the_cache_count_as_well(settings: Settings, database_dsn: str) -> None:
    chosen = settings.model_copy(update={"cache": "memory"})
    async with open_runtime(chosen, maintenance=False) as services:
        ids = await _store(services, "a")
        await _recall(services)
        await _recall(services)
        await services.accesses.flush()
        assert await _written(database_dsn) == {(ids["a"], ""): 2}


async def test_what_is_left_is_written_at_the_end(settings: Settings, database_dsn: str) -> None:
    async with open_runtime(settings, maintenance=False) as services:
        ids = await _store(services, "a")
        await _recall(services)
        assert await _written(database_dsn) == {}
    assert await _written(database_dsn) == {(ids["a"], ""): 1}


async def test_the_loop_writes_in_time_and_full_batches_before(
    services: Services, database_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = await _store(services, "a", "b")
    async with services.views.open() as view:
        namespace = (await view.existing_namespace("demo")).id
    database: Database = services.accesses._database
    for interval, batch in ((20, module.BATCH), (3_600_000, 2)):
        monkeypatch.setattr(module, "BATCH", batch)
        counting = Accesses(database, flush_ms=interval)
        running = asyncio.create_task(counting.run())
        before = await _written(database_dsn)
        counting.recalled(namespace, ids.values(), "x")

        async def is_more(before: Counted = before) -> bool:
            return await _written(database_dsn) == {(one, "x"): before.get((one, "x"), 0) + 1 for one in ids.values()}

        await until(is_more)
        running.cancel()
        await asyncio.wait([running])


async def test_what_is_erased_forgotten_or_deleted_leaves_no_counts(services: Services, database_dsn: str) -> None:
    ids = await _store(services, "a", "b", "c")
    await _store(services, "z", namespace="other")
    await _recall(services)
    await services.accesses.flush()
    assert {one for one, _ in await _written(database_dsn)} == set(ids.values())
    await services.memory_writes.erase_many("demo", [MemoryRef(key="a")])
    await services.memory_writes.forget_many("demo", [MemoryRef(key="b")])
    assert await _written(database_dsn) == {(ids["c"], ""): 1}
    await _recall(services)
    # Held when they end: what is no memory any more is passed over.
    await services.namespaces.delete("demo", confirm="demo")
    await services.accesses.flush()
    assert await _written(database_dsn) == {}
    assert (await services.accesses.state())["held"] == 0


async def test_what_is_counted_while_a_memory_is_erased_does_not_outlive_it(
    services: Services, database_dsn: str
) -> None:
    ids = await _store(services, "a", "b")
    await _recall(services)
    async with await AsyncConnection.connect(database_dsn) as eraser:
        await eraser.execute("select from memories where id = %s for update", [ids["a"]])
        flushing = asyncio.create_task(services.accesses.flush())

        async def is_waiting() -> bool:
            async with await AsyncConnection.connect(database_dsn) as connection:
                row = await (await connection.execute("select count(*) from pg_locks where not granted")).fetchone()
                return row is not None and row[0] > 0

        await until(is_waiting)
        await eraser.execute("delete from memories where id = %s", [ids["a"]])
        await eraser.commit()
    await flushing
    assert await _written(database_dsn) == {(ids["b"], ""): 1}


async def test_two_processes_that_write_the_same_do_not_stop_each_other(
    services: Services, database_dsn: str
) -> None:
    ids = await _store(services, *(f"k{place}" for place in range(40)))
    async with services.views.open() as view:
        namespace = (await view.existing_namespace("demo")).id
    several = [Accesses(services.accesses._database, flush_ms=1_000) for _ in range(4)]
    for turn in range(10):
        for place, counting in enumerate(several):
            order = sorted(ids.values(), reverse=bool((place + turn) % 2))
            counting.recalled(namespace, order, "")
        await asyncio.gather(*(counting.flush() for counting in several))
    assert [await counting.state() for counting in several] == [
        {"status": "up", "held": 0, "failures": 0, "lost": 0}
    ] * 4
    assert await _written(database_dsn) == {(one, ""): 40 for one in ids.values()}


@asynccontextmanager
async def _failing(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> AsyncIterator[list[Mapping[AccessKey, Access]]]:
    tried: list[Mapping[AccessKey, Access]] = []

    async def fail(database: Database, accesses: Mapping[AccessKey, Access]) -> None:
        tried.append(accesses)
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(store, "add", fail)
        yield tried


async def test_a_database_that_is_away_fails_no_recall_and_loses_no_count(
    services: Services, client: httpx.AsyncClient, database_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = await _store(services, "a")
    async with _failing(monkeypatch, DatabaseUnavailable("it is away")) as tried:
        await _recall(services)
        await services.accesses.flush()
        await _recall(services)
        await services.accesses.flush()
        assert len(tried) == 2
        health = (await client.get("/health")).json()
        assert health["parts"]["accesses"] == {
            "status": "waiting", "reason": "it is away", "held": 1, "failures": 2, "lost": 0
        }  # fmt: skip
        assert health["status"] == "up"
    await services.accesses.flush()
    assert await _written(database_dsn) == {(ids["a"], ""): 2}
    assert (await services.accesses.state())["status"] == "up"


async def test_what_is_refused_is_not_tried_for_ever(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    await _store(services, "a")
    async with _failing(monkeypatch, DatabaseFailure("no")):
        await _recall(services)
        await services.accesses.flush()
        state = await services.accesses.state()
    assert (state["held"], state["lost"], state["failures"]) == (0, 1, 1)


async def test_there_is_a_bound_to_what_is_held(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_HELD", 3)
    services.accesses.recalled(1, range(5), "")
    services.accesses.recalled(1, range(2), "")
    state = await services.accesses.state()
    assert (state["held"], state["lost"]) == (3, 2)
    await services.accesses.flush()


@pytest.mark.parametrize("agent", ["a\0b", "\ud800", "x" * 5_000, "Zoë", ""])
async def test_any_agent_can_be_written(services: Services, database_dsn: str, agent: str) -> None:
    ids = await _store(services, "a")
    async with services.views.open() as view:
        namespace = (await view.existing_namespace("demo")).id
    services.accesses.recalled(namespace, ids.values(), agent)
    await services.accesses.flush()
    assert (await services.accesses.state())["failures"] == 0
    ((key, count),) = (await _written(database_dsn)).items()
    assert (key[0], count) == (ids["a"], 1)
    assert len(key[1]) <= module.MAX_AGENT_CHARS
