"""Pages and followers of a namespace's changes."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator

import psycopg
import pytest
from change_tools import EVERYTHING, everything, page, until

from sfm_graph.domain.change import Operation
from sfm_graph.domain.change_filter import change_filter
from sfm_graph.domain.identity import Entity, MemoryRef
from sfm_graph.errors import CursorExpired, InvalidCursor, InvalidInput, MemoryNotFound, NamespaceNotFound
from sfm_graph.services.changes import reader as reader_module
from sfm_graph.services.changes import ring as ring_module
from sfm_graph.services.changes import tail as tail_module
from sfm_graph.services.changes.pages import ChangePage
from sfm_graph.services.links import LinkRequest
from sfm_graph.services.registry import Services


async def _store(services: Services, *keys: str, namespace: str = "demo", content: str = "a b c") -> None:
    await services.memory_writes.store_many(namespace, [{"key": key, "content": f"{content} {key}"} for key in keys])


async def _link(services: Services, source: str, target: str, type_: str = "related") -> None:
    request = LinkRequest({"key": source}, {"key": target}, {"type": type_})
    await services.links.link_many("demo", [request])


@contextlib.asynccontextmanager
async def _following(
    services: Services, after: str | None = None, wanted=EVERYTHING, namespace: str = "demo", beat: float = 15.0
):
    stream = services.changes.follow(namespace, after, wanted, heartbeat_seconds=beat)
    try:
        yield stream
    finally:
        await stream.aclose()


async def _take(stream: AsyncGenerator[ChangePage], count: int) -> list[ChangePage]:
    """Pages until so many changes have come."""
    pages, found = [], 0
    async with asyncio.timeout(20):
        while found < count:
            pages.append(await anext(stream))
            found += len(pages[-1].changes)
    assert found == count
    return pages


def _said(pages: list[ChangePage]) -> list[tuple[str, str]]:
    return [(one.change.operation.value, _name(one.change)) for part in pages for one in part.changes]


def _name(change) -> str:
    state = change.after() or change.before() or {}
    return state.get("key") or state.get("type") or state.get("name") or ""


async def test_pages_tell_everything_once_in_order(services: Services) -> None:
    await _store(services, "a", "b")
    await _store(services, "a", content="new")
    await _link(services, "a", "b")
    await services.memory_writes.forget_many("demo", [MemoryRef(key="b")])
    found = await everything(services, first=2)
    said = [(one.entity.value, one.operation.value, _name(one)) for one in found]
    assert sorted(said) == sorted(
        [
            ("memory", "create", "a"), ("memory", "create", "b"), ("memory", "update", "a"),
            ("link", "create", "related"), ("link", "forget", "related"), ("memory", "forget", "b"),
        ]
    )  # fmt: skip
    assert len({one.id for one in found}) == len(found)
    update = next(one for one in found if one.operation is Operation.UPDATE)
    assert update.before()["content"] == "a b c a"
    assert update.memory().content == "new a"
    gone = next(one for one in found if one.entity is Entity.MEMORY and one.operation is Operation.FORGET)
    assert gone.memory() is None
    assert gone.before()["key"] == "b"


async def test_each_change_can_be_resumed_from(services: Services) -> None:
    await _store(services, *"abcdefg")
    whole = await page(services)
    for index, one in enumerate(whole.changes):
        rest = await everything(services, one.cursor, first=2)
        assert [change.id for change in rest] == [later.change.id for later in whole.changes[index + 1 :]]
    assert await everything(services, whole.cursor) == []


async def test_now_is_after_everything(services: Services) -> None:
    await _store(services, "a")
    start = await page(services, "now")
    assert start.changes == ()
    await _store(services, "b")
    assert _said([await page(services, start.cursor)]) == [("create", "b")]


async def test_a_page_is_bounded_in_bytes_and_still_goes_on(services: Services, monkeypatch) -> None:
    monkeypatch.setattr("sfm_graph.store.change_stream.SLICE_BYTES", 10_000)
    await services.memory_writes.store_many(
        "demo", [{"key": f"k{i}", "payload": {"n": [j * i for j in range(2_000)]}} for i in range(6)]
    )
    assert len(await everything(services, first=1_000)) == 6


async def test_what_indexes_do_reaches_nobody(services: Services, database_dsn: str) -> None:
    await _store(services, "a")
    async with await psycopg.AsyncConnection.connect(database_dsn, autocommit=True) as connection:
        await connection.execute(
            "insert into changes (namespace_id, entity, entity_id, operation) "
            "select id, 'memory', 1, 'reindex' from namespaces, generate_series(1, 50)"
        )
    assert [one.operation for one in await everything(services)] == [Operation.CREATE]


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ({"entities": ["link"]}, ["knows", "likes"]),
        ({"entities": ["MEMORY"], "operations": ["update"]}, ["a"]),
        ({"link_types": ["likes"]}, ["likes"]),
        ({"link_types": ["likes"], "entities": ["memory", "link"]}, ["a", "b", "c", "d", "a", "likes"]),
        ({"operations": ["forget"]}, []),
    ],
)
async def test_filters(services: Services, asked: dict, names: list[str]) -> None:
    await _store(services, *"abcd")
    await _link(services, "a", "b", "knows")
    await _link(services, "b", "c", "likes")
    await _store(services, "a", content="new")
    found = await everything(services, wanted=change_filter(**asked))
    assert sorted(_name(one) for one in found) == sorted(names)


@pytest.mark.parametrize(
    "asked", [{"entities": ["node"]}, {"operations": ["reindex"]}, {"hops": 4}, {"link_types": [""]}, {"hops": "x"}]
)
def test_wrong_filters_are_refused(asked: dict) -> None:
    with pytest.raises(InvalidInput):
        change_filter(**asked)


async def test_around_a_memory(services: Services) -> None:
    await _store(services, *"abcde")
    await _link(services, "a", "b")
    await _link(services, "b", "c")
    await _link(services, "d", "e")
    start = (await page(services, "now")).cursor
    await _store(services, *"abcde", content="new")
    await services.memory_writes.forget_many("demo", [MemoryRef(key="c")])

    async def names(hops: int, first: int, **asked: object) -> list[str]:
        wanted = change_filter(around=MemoryRef(key="a"), hops=hops, **asked)
        return sorted(_name(one) for one in await everything(services, start, wanted, first=first))

    # Neither the size of pages nor another filter decides what is near.
    for first in (1, 3, 1_000):
        assert await names(0, first) == ["a"]
        # The link to c is gone with it: b touched it, so its end is around a as well.
        assert await names(1, first) == ["a", "b", "related"]
        assert await names(2, first) == ["a", "b", "c", "c", "related"]
        assert await names(2, first, entities=["memory"], operations=["forget"]) == ["c"]


async def test_around_an_unknown_memory_is_an_error(services: Services) -> None:
    await _store(services, "a")
    with pytest.raises(MemoryNotFound):
        await page(services, None, change_filter(around=MemoryRef(key="nobody")))


async def test_errors_of_pages(services: Services) -> None:
    with pytest.raises(NamespaceNotFound):
        await page(services)
    await _store(services, "a")
    await _store(services, "a", namespace="other")
    with pytest.raises(InvalidCursor):
        await page(services, "nonsense")
    elsewhere = await page(services, namespace="other")
    with pytest.raises(CursorExpired):
        await page(services, elsewhere.cursor)


async def test_a_cursor_of_a_namespace_made_anew_is_expired(services: Services) -> None:
    await _store(services, "a")
    old = (await page(services)).cursor
    await services.namespaces.delete("demo", confirm="demo")
    await _store(services, "a")
    with pytest.raises(CursorExpired):
        await page(services, old)
    assert _said([await page(services)]) == [("create", "a")]


async def test_followers_see_changes_as_they_come(services: Services) -> None:
    await _store(services, "before")
    async with _following(services) as stream:
        first = await anext(stream)
        assert first.changes == ()
        await _store(services, "a", "b")
        pages = await _take(stream, 2)
        assert _said(pages) == [("create", "a"), ("create", "b")]
        await _link(services, "a", "b")
        assert _said(await _take(stream, 1)) == [("create", "related")]
    assert [_name(one) for one in await everything(services, first.cursor)] == ["a", "b", "related"]
    assert [_name(one) for one in await everything(services, pages[-1].cursor)] == ["related"]


async def test_a_follower_catches_up_and_goes_on(services: Services) -> None:
    await _store(services, *(f"k{i}" for i in range(250)))
    async with _following(services, "beginning") as stream:
        caught_up = await _take(stream, 250)
        assert all(len(part.changes) <= reader_module.LIVE_CHANGES for part in caught_up)
        await _store(services, "after")
        assert _said(await _take(stream, 1)) == [("create", "after")]


async def test_a_heartbeat_moves_the_cursor_of_a_silent_namespace(services: Services) -> None:
    await _store(services, "a")
    async with _following(services, beat=0.05) as stream:
        first = await anext(stream)
        await _store(services, "x", namespace="other")
        await until(lambda: _moved(stream, first.cursor))
        beat = await anext(stream)
    assert beat.changes == ()
    assert await everything(services, beat.cursor) == []


async def _moved(stream: AsyncGenerator[ChangePage], cursor: str) -> bool:
    return (await anext(stream)).cursor != cursor


async def test_a_follower_that_falls_off_the_ring_reads_the_database(services: Services, monkeypatch) -> None:
    monkeypatch.setattr(ring_module, "MAX_CHANGES", 5)
    await _store(services, "first")
    async with _following(services) as slow, _following(services) as quick:
        await anext(slow)
        await anext(quick)
        await _store(services, *(f"a{i}" for i in range(12)))
        assert len(_said(await _take(quick, 12))) == 12
        for index in range(20):
            await _store(services, f"k{index}")
            await _take(quick, 1)
        said = _said(await _take(slow, 32))
    assert [name for _, name in said] == [*(f"a{i}" for i in range(12)), *(f"k{i}" for i in range(20))]


async def test_the_end_of_a_namespace_ends_its_stream(services: Services) -> None:
    await _store(services, "a")
    async with _following(services) as stream:
        await anext(stream)
        await services.namespaces.delete("demo", confirm="demo")
        (last,) = (await _take(stream, 1))[-1].changes
        assert (last.change.entity, last.change.operation) == (Entity.NAMESPACE, Operation.ERASE)
        assert last.change.namespace == "demo"
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


async def test_a_thousand_idle_followers_cost_one_poller(services: Services, monkeypatch) -> None:
    await _store(services, "a")
    reads = 0
    read_new = tail_module.read_new

    async def counted(*arguments):
        nonlocal reads
        reads += 1
        return await read_new(*arguments)

    async with contextlib.AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(_following(services)) for _ in range(1_000)]
        for stream in streams:
            await anext(stream)
        assert services.changes.subscribers == 1_000
        waiting = [asyncio.create_task(anext(stream)) for stream in streams]
        monkeypatch.setattr(tail_module, "read_new", counted)
        await asyncio.sleep(0.5)
        idle_reads, borrowed = reads, services.health.pool().get("pool_size", 0)
        await _store(services, "b")
        pages = await asyncio.gather(*waiting)
    assert all(_said([one]) == [("create", "b")] for one in pages)
    assert idle_reads <= 60
    assert borrowed <= 8
    assert services.changes.subscribers == 0


async def test_followers_while_writers_hold_transactions_open(services: Services, database_dsn: str) -> None:
    """A row with a lower id that becomes visible later is delivered, after those that were visible before."""
    await _store(services, "a", "b")
    async with (
        await psycopg.AsyncConnection.connect(database_dsn) as slow,
        _following(services) as stream,
    ):
        await anext(stream)
        await slow.execute("set role sfm_service")
        await slow.execute(
            "insert into changes (namespace_id, entity, entity_id, operation, after) "
            "select namespace_id, 'memory', id, 'update', memory_state(m) from memories m where key = 'a'"
        )
        await _store(services, "b", content="new")
        early = await _take(stream, 1)
        assert _said(early) == [("update", "b")]
        await slow.commit()
        late = await _take(stream, 1)
        assert _said(late) == [("update", "a")]
    assert late[-1].changes[0].change.id < early[-1].changes[0].change.id
    assert [_name(one) for one in await everything(services, early[-1].changes[-1].cursor)] == ["a"]
