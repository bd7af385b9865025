"""Versions, what differs between them, and bringing them back."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfm_graph.domain.as_of import AsOf
from sfm_graph.domain.change import Operation
from sfm_graph.domain.identity import LinkId, MemoryRef
from sfm_graph.domain.link import Direction, Link
from sfm_graph.domain.memory import Memory, WriteOperation
from sfm_graph.domain.page import Page
from sfm_graph.domain.recall import RecallQuery
from sfm_graph.domain.states import memory_state
from sfm_graph.domain.versions import Version, applied, differences
from sfm_graph.domain.walk import WalkFilter
from sfm_graph.errors import Conflict, KeyTaken, LinkNotFound, MemoryNotFound, VersionConflict, VersionNotFound
from sfm_graph.services.idempotency import idempotency_key
from sfm_graph.services.registry import Services

SPACE = "versions"
KEY = MemoryRef(key="a")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-2, 2) | st.sampled_from(["", "x", "é"]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["a", "b", "", "a.b"]), inner, max_size=3)
    ),
    max_leaves=8,
)
STATES = st.dictionaries(st.sampled_from(["title", "payload", "importance", "agent"]), JSON, max_size=4)


@given(STATES, STATES)
def test_differences_turn_one_state_into_the_other(before: dict[str, Any], after: dict[str, Any]) -> None:
    found = differences(before, after)
    assert json.dumps(applied(before, found), sort_keys=True) == json.dumps(after, sort_keys=True)
    assert len({one.path for one in found}) == len(found)
    assert bool(found) == (json.dumps(before, sort_keys=True) != json.dumps(after, sort_keys=True))


async def store(services: Services, content: str, key: str = "a", **fields: Any) -> Memory:
    given = {"key": key, "content": content, **fields}
    return (await services.memory_writes.store(SPACE, given)).memory


async def history(
    services: Services, ref: MemoryRef = KEY, first: int = 100, after: str | None = None
) -> Page[Version[Memory]]:
    async with services.views.open() as view:
        return await services.history.of_memory(view, SPACE, ref, first=first, after=after)


async def links_of(services: Services, memory_id: int) -> list[Link]:
    async with services.views.open() as view:
        pages = await services.links.pages_of(view, SPACE, [memory_id], WalkFilter(Direction.BOTH), 100, None)
        return list(pages[memory_id].items)


async def recalled(services: Services, text: str) -> list[str]:
    async with services.views.open() as view:
        found = await services.recalls.recall(view, SPACE, RecallQuery(text, first=10))
        return [hit.memory.content for hit in found.hits]


def contents(page: Page[Version[Memory]]) -> list[tuple[int, str]]:
    return [(one.version, one.state.content) for one in page.items]


async def test_versions_are_known_from_one_commit_to_the_next(services: Services) -> None:
    first = await store(services, "one")
    await store(services, "two", payload={"x": 1})
    await services.memory_writes.forget_many(SPACE, [KEY])
    for ref in (MemoryRef(id=first.id), KEY, MemoryRef(coordinate=first.coordinate)):
        assert contents(await history(services, ref)) == [(2, "two"), (1, "one")]
    two, one = (await history(services)).items
    assert (one.operation, one.ended_by, two.operation, two.ended_by) == (
        Operation.CREATE, Operation.UPDATE, Operation.UPDATE, Operation.FORGET
    )  # fmt: skip
    assert one.known_from
    assert two.known_from
    assert two.known_to
    assert one.known_from < one.known_to == two.known_from < two.known_to
    for version in (one, two):
        async with services.views.open(AsOf(known=version.known_from)) as view:
            assert (await services.memory_reads.get(view, SPACE, KEY)).content == version.state.content
    async with services.views.open(AsOf(known=two.known_to)) as view:
        with pytest.raises(MemoryNotFound):
            await services.memory_reads.get(view, SPACE, KEY)


async def test_pages_of_versions_follow_each_other(services: Services) -> None:
    for number in range(5):
        await store(services, f"text {number}")
    found: list[tuple[int, str]] = []
    after = None
    for size in (2, 2, 1):
        page = await history(services, first=2, after=after)
        assert len(page.items) == size
        found += contents(page)
        after = page.end_cursor
    assert not page.has_next
    assert found == [(number + 1, f"text {number}") for number in range(4, -1, -1)]
    assert not (await history(services, first=2, after=after)).items


async def test_a_version_that_began_before_the_log_is_kept_without_its_beginning(
    services: Services, database_dsn: str
) -> None:
    await store(services, "one")
    await store(services, "alone", key="b")
    with psycopg.connect(database_dsn) as connection:
        connection.execute("delete from changes")
    await store(services, "two")
    two, one = (await history(services)).items
    assert (one.state.content, one.known_from, one.operation) == ("one", None, None)
    assert one.known_to == two.known_from
    (alone,) = (await history(services, MemoryRef(key="b"))).items
    assert (alone.state.content, alone.known_from, alone.known_to) == ("alone", None, None)


async def test_what_differs_between_versions_is_told_by_path(services: Services) -> None:
    await store(services, "same", payload={"plan": {"a": 1, "b": [1]}, "gone": None}, title="x")
    await store(services, "same", payload={"plan": {"a": True, "b": [1]}, "new": 2}, title="y")
    async with services.views.open() as view:
        found = await services.history.diff(view, SPACE, KEY, 1, 2)
        assert [(one.path, one.kind.value, one.before, one.after) for one in found] == [
            ("payload.gone", "removed", None, None),
            ("payload.new", "added", None, 2),
            ("payload.plan.a", "changed", 1, True),
            ("title", "changed", "x", "y"),
        ]
        assert await services.history.diff(view, SPACE, KEY, 2, 2) == []
        with pytest.raises(VersionNotFound):
            await services.history.diff(view, SPACE, KEY, 1, 3)
        with pytest.raises(MemoryNotFound):
            await services.history.diff(view, SPACE, MemoryRef(key="nobody"), 1, 2)


def plain(memory: Memory) -> dict[str, Any]:
    state = memory_state(memory)
    return {name: value for name, value in state.items() if name not in ("version", "updated_at")}


async def test_an_earlier_version_is_restored_as_the_next_one(services: Services) -> None:
    first = await store(services, "apple pie", title="Pie", payload={"x": 1}, importance=3.0)
    await store(services, "banana bread", payload={"y": 2})
    restored = await services.restoring.restore(SPACE, KEY, version=1, expected_version=2)
    assert (restored.operation, restored.memory.version) == (WriteOperation.UPDATED, 3)
    assert plain(restored.memory) == plain(first)
    assert await recalled(services, "apple pie") == ["apple pie"]
    again = await services.restoring.restore(SPACE, KEY, version=1)
    assert (again.operation, again.memory.version) == (WriteOperation.UNCHANGED, 3)
    with pytest.raises(VersionConflict):
        await services.restoring.restore(SPACE, KEY, version=2, expected_version=2)
    with pytest.raises(VersionNotFound):
        await services.restoring.restore(SPACE, KEY, version=9)
    with pytest.raises(MemoryNotFound):
        await services.restoring.restore(SPACE, MemoryRef(key="nobody"))


async def test_a_forgotten_memory_comes_back_with_its_links_under_their_ids(services: Services) -> None:
    memory = await store(services, "apple of a", payload={"x": 1})
    for other in ("b", "c", "d"):
        await store(services, f"banana of {other}", key=other)
        await services.links.link(SPACE, {"key": "a"}, {"key": other}, {"type": "near", "weight": 2.5})
    await services.links.link(SPACE, {"key": "a"}, {"key": "a"}, {"type": "self"})
    before = await links_of(services, memory.id)
    await services.links.unlink_many(SPACE, [before[0].id])
    await services.memory_writes.forget_many(SPACE, [KEY])
    await services.memory_writes.forget_many(SPACE, [MemoryRef(key="c")])
    key = idempotency_key("me", "once", {})
    restored = await services.restoring.restore(SPACE, KEY, key=key)
    assert restored.operation is WriteOperation.CREATED
    assert plain(restored.memory) == plain(memory)
    assert restored.memory.version == 2
    kept = [one for one in before[1:] if one.type == "self" or one.target_id != before[1].target_id]
    assert [(one.id, one.target_id, one.weight, one.version) for one in await links_of(services, memory.id)] == [
        (one.id, one.target_id, one.weight, one.version + 1) for one in kept
    ]
    assert list(restored.links) == await links_of(services, memory.id)
    assert await services.restoring.restore(SPACE, KEY, key=key) == restored
    assert (await recalled(services, "apple"))[0] == "apple of a"
    assert [one.operation for one in (await history(services)).items] == [Operation.CREATE, Operation.CREATE]
    await services.memory_writes.forget_many(SPACE, [KEY])
    alone = await services.restoring.restore(SPACE, MemoryRef(id=memory.id), links=False, version=1)
    assert alone.memory.version == 3
    assert await links_of(services, memory.id) == []


async def test_what_has_been_taken_meanwhile_is_not_taken_back(services: Services) -> None:
    memory = await store(services, "one", coordinate=[1, 2, 3])
    await services.memory_writes.forget_many(SPACE, [KEY])
    newer = await store(services, "other")
    with pytest.raises(KeyTaken):
        await services.restoring.restore(SPACE, MemoryRef(id=memory.id))
    await services.memory_writes.forget_many(SPACE, [MemoryRef(id=newer.id)])
    await store(services, "there", key="z", coordinate=[1, 2, 3])
    with pytest.raises(Conflict):
        await services.restoring.restore(SPACE, MemoryRef(id=memory.id))
    # The key names who had it last.
    assert (await services.restoring.restore(SPACE, KEY)).memory.id == newer.id


async def test_a_given_vector_comes_back(services: Services) -> None:
    async with services.views.open() as view:
        dimension = len(
            await services.recalls._indexing._embedders.query_vector(services.recalls._indexing.identity, "x")
        )
        assert view
    vector = [1.0] + [0.0] * (dimension - 1)
    await store(services, "words that say nothing of it", embedding=vector)
    await services.memory_writes.forget_many(SPACE, [KEY])
    await services.restoring.restore(SPACE, KEY)
    async with services.views.open() as view:
        query = RecallQuery("q", first=1, embedding=None)
        from sfm_graph.domain import validate

        found = await services.recalls.recall(view, SPACE, replace(query, embedding=validate.embedding(vector)))
        dense = next(leg for leg in found.hits[0].legs if leg.leg.value == "dense")
        assert dense.raw_score == pytest.approx(1.0, abs=1e-3)


async def test_links_have_versions_and_come_back(services: Services) -> None:
    await store(services, "one")
    await store(services, "two", key="b")
    link = (await services.links.link(SPACE, {"key": "a"}, {"key": "b"}, {"type": "near", "weight": 1.0})).link
    await services.links.link(SPACE, {"key": "a"}, {"key": "b"}, {"type": "near", "weight": 2.0})
    back = await services.restoring.restore_link(SPACE, link.id, version=1, expected_version=2)
    assert (back.link.weight, back.link.version, back.operation) == (1.0, 3, WriteOperation.UPDATED)
    await services.links.unlink_many(SPACE, [link.id])
    back = await services.restoring.restore_link(SPACE, link.id, version=2)
    assert (back.link.id, back.link.weight, back.link.version) == (link.id, 2.0, 4)
    async with services.views.open() as view:
        page = await services.history.of_link(view, SPACE, link.id, first=10, after=None)
        assert [(one.version, one.state.weight) for one in page.items] == [(4, 2.0), (3, 1.0), (2, 2.0), (1, 1.0)]
        with pytest.raises(LinkNotFound):
            await services.history.of_link(view, SPACE, LinkId(999), first=10, after=None)
    await services.links.unlink_many(SPACE, [link.id])
    await services.links.link(SPACE, {"key": "a"}, {"key": "b"}, {"type": "near"})
    with pytest.raises(Conflict):
        await services.restoring.restore_link(SPACE, link.id)
    await services.memory_writes.forget_many(SPACE, [MemoryRef(key="b")])
    with pytest.raises(MemoryNotFound):
        await services.restoring.restore_link(SPACE, link.id)
    with pytest.raises(LinkNotFound):
        await services.restoring.restore_link(SPACE, LinkId(999))


async def outcomes(work: Sequence[Any]) -> list[Any]:
    return await asyncio.gather(*work, return_exceptions=True)


async def test_one_of_many_restorations_brings_it_back(services: Services) -> None:
    memory = await store(services, "one")
    await store(services, "two")
    await services.memory_writes.forget_many(SPACE, [KEY])
    done = await outcomes([services.restoring.restore(SPACE, MemoryRef(id=memory.id)) for _ in range(6)])
    assert [one.operation for one in done].count(WriteOperation.CREATED) == 1
    assert {one.operation for one in done} == {WriteOperation.CREATED, WriteOperation.UNCHANGED}
    assert [number for number, _ in contents(await history(services))] == [3, 2, 1]


def everything(dsn: str) -> str:
    """All rows of all tables as text."""
    with psycopg.connect(dsn) as connection:
        tables = connection.execute(
            "select c.relname from pg_class c where c.relkind = 'r' and c.relnamespace = 'public'::regnamespace"
        ).fetchall()
        return "\n".join(
            str(row[0])
            for (name,) in tables
            for row in connection.execute(f'select t::text from "{name}" t')  # type: ignore[arg-type]
        )


async def test_an_erased_memory_leaves_nothing(services: Services, database_dsn: str) -> None:
    await store(services, "zanzibar", title="Quagga")
    await store(services, "xylophone", title="Okapi")
    await store(services, "plain", key="b")
    memory = (await history(services)).items[0].state
    await services.links.link(SPACE, {"key": "a"}, {"key": "b"}, {"properties": {"word": "vuvuzela"}})
    await services.memory_writes.forget_many(SPACE, [KEY])
    key = idempotency_key("me", "once", {})
    await services.restoring.restore(SPACE, KEY, version=1, key=key)
    await services.memory_writes.forget_many(SPACE, [KEY])
    text = everything(database_dsn)
    words = ("zanzibar", "quagga", "xylophone", "okapi", "vuvuzela")
    assert all(word in text.lower() for word in words)
    await services.memory_writes.erase_many(SPACE, [MemoryRef(id=memory.id)])
    text = everything(database_dsn)
    assert not [word for word in words if word in text.lower()]
    with pytest.raises(MemoryNotFound):
        await history(services, MemoryRef(id=memory.id))
    with pytest.raises(MemoryNotFound):
        await services.restoring.restore(SPACE, MemoryRef(id=memory.id))


@pytest.mark.parametrize("by", ["key", "coordinate"])
async def test_a_forgotten_memory_is_erased_by_what_history_finds_it_by(
    services: Services, database_dsn: str, by: str
) -> None:
    stored = [await store(services, f"zanzibar {key}", key=key) for key in ("a", "b", "c")]
    refs = [MemoryRef(key=one.key) if by == "key" else MemoryRef(coordinate=one.coordinate) for one in stored]
    await services.memory_writes.forget_many(SPACE, refs[:2])
    # Its name is another one's now, which alone is meant.
    again = await store(services, "vuvuzela", key="b", coordinate=stored[1].coordinate)
    assert await services.memory_writes.erase_many(SPACE, refs[:2]) == [stored[0].id, again.id]
    text = everything(database_dsn)
    assert ("zanzibar a" in text, "vuvuzela" in text, "zanzibar b" in text) == (False, False, True)
    with pytest.raises(MemoryNotFound):
        await history(services, refs[0])
    # Now it is the last one of this name; what is stored stays.
    assert await services.memory_writes.erase_many(SPACE, [refs[1], MemoryRef(key="nobody")]) == [stored[1].id]
    text = everything(database_dsn)
    assert ("zanzibar b" in text, "zanzibar c" in text) == (False, True)


async def test_erasing_and_restoring_at_once_ends_in_one_of_both(services: Services, database_dsn: str) -> None:
    for round_ in range(4):
        memory = await store(services, f"word{round_} zanzibar")
        await services.memory_writes.forget_many(SPACE, [KEY])
        ref = MemoryRef(id=memory.id)
        await outcomes([services.restoring.restore(SPACE, ref), services.memory_writes.erase_many(SPACE, [ref])])
        async with services.views.open() as view:
            (found,) = await services.memory_reads.find_many(view, SPACE, [ref])
        assert found is None
        assert f"word{round_}" not in everything(database_dsn)


async def test_a_deleted_namespace_leaves_nothing(services: Services, database_dsn: str) -> None:
    await store(services, "zanzibar", title="Quagga")
    await store(services, "xylophone")
    await services.namespaces.delete(SPACE, confirm=SPACE)
    text = everything(database_dsn)
    assert not [word for word in ("zanzibar", "quagga", "xylophone") if word in text.lower()]
    with psycopg.connect(database_dsn) as connection:
        for table in ("past_words", "past_names", "past_embeddings"):
            assert connection.execute(f"select count(*) from {table}").fetchone() == (0,)  # type: ignore[arg-type]
