"""What was known at a moment is what a replay of the change log up to that moment gives."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sfm_graph.domain.as_of import AsOf
from sfm_graph.domain.identity import MemoryId, MemoryRef
from sfm_graph.domain.link import Direction
from sfm_graph.domain.page import OrderBy, OrderField
from sfm_graph.domain.recall import Leg, RecallQuery, RecallWeights
from sfm_graph.domain.states import link_state, memory_state
from sfm_graph.domain.walk import PathMode, WalkFilter
from sfm_graph.domain.where import EVERYTHING, parse_where
from sfm_graph.errors import InvalidInput, KnownExpired, MemoryNotFound
from sfm_graph.runtime import open_runtime
from sfm_graph.services.registry import Services
from sfm_graph.services.view import View
from sfm_graph.settings import Settings
from sfm_graph.store.database import Database

SPACE = "past"
KEYS = ["a", "b", "c", "d"]
WORDS = ["apple", "banana", "cherry"]
DAY = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Known:
    """Memories and links as the log says they were, by id."""

    memories: dict[int, dict[str, Any]] = field(default_factory=dict)
    links: dict[int, dict[str, Any]] = field(default_factory=dict)

    def valid(self, states: Mapping[int, dict[str, Any]], at: datetime) -> Iterator[dict[str, Any]]:
        """Those that are valid at a time."""
        for one in states.values():
            begin, end = one["valid_from"], one["valid_to"]
            if (begin is None or datetime.fromisoformat(begin) <= at) and (
                end is None or at < datetime.fromisoformat(end)
            ):
                yield one

    def distances(self, start: int, at: datetime) -> dict[int, int]:
        """Hops from a memory to all that links lead to, whichever way, over links valid at a time."""
        joined: dict[int, set[int]] = {}
        for link in self.valid(self.links, at):
            joined.setdefault(link["source_id"], set()).add(link["target_id"])
            joined.setdefault(link["target_id"], set()).add(link["source_id"])
        found, queue = {start: 0}, deque([start])
        while queue:
            one = queue.popleft()
            for other in sorted(joined.get(one, ())):
                if other not in found:
                    found[other] = found[one] + 1
                    queue.append(other)
        return found


def replayed(dsn: str, moment: datetime) -> Known:
    """The change log, read row by row up to a moment."""
    known = Known()
    with psycopg.connect(dsn) as connection:
        rows = connection.execute(
            "select c.entity, c.entity_id, c.after from changes c join commits k on k.tx = c.tx "
            "join namespaces n on n.id = c.namespace_id "
            "where n.name = %s and k.at <= %s and c.operation <> 'reindex' order by c.id",
            (SPACE, moment),
        )
        for entity, entity_id, after in rows:
            states = known.memories if entity == "memory" else known.links
            states.pop(entity_id, None)
            if after is not None:
                states[entity_id] = after
    return known


async def moments(dsn: str) -> list[datetime]:
    """When something was committed, ascending."""
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        rows = await (await connection.execute("select at from commits order by at")).fetchall()
    return [row[0] for row in rows]


STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("store"), st.sampled_from(KEYS), st.sampled_from(WORDS), st.sampled_from([None, 0, 1, 2])
        ),
        st.tuples(st.just("forget"), st.sampled_from(KEYS)),
        st.tuples(
            st.just("link"), st.sampled_from(KEYS), st.sampled_from(KEYS), st.sampled_from([None, 1]),
            st.integers(1, 3),
        ),
        st.tuples(st.just("unlink"), st.sampled_from(KEYS), st.sampled_from(KEYS)),
    ),
    min_size=2,
    max_size=9,
)  # fmt: skip


async def carry_out(services: Services, step: tuple[Any, ...]) -> None:
    """One step of a history; one that names what is not there changes nothing."""
    match step:
        case ("store", key, word, end):
            fields = {"key": key, "content": f"{word} of {key}", "payload": {"word": word}}
            if end is not None:
                fields["valid_to"] = (DAY + timedelta(days=end)).isoformat()
            await services.memory_writes.store(SPACE, fields)
        case ("forget", key):
            await services.memory_writes.forget_many(SPACE, [MemoryRef(key=key)])
        case ("link", source, target, end, weight):
            fields = {"type": "near", "weight": weight}
            if end is not None:
                fields["valid_to"] = (DAY + timedelta(days=end)).isoformat()
            try:
                await services.links.link(SPACE, {"key": source}, {"key": target}, fields)
            except MemoryNotFound:
                return
        case ("unlink", source, target):
            try:
                await services.links.unlink_between(SPACE, MemoryRef(key=source), MemoryRef(key=target), "near")
            except MemoryNotFound:
                return


@asynccontextmanager
async def seen(services: Services, known: datetime, valid: datetime) -> AsyncIterator[View]:
    async with services.views.open(AsOf(valid, known)) as view:
        yield view


async def compare(services: Services, known: datetime, valid: datetime, expected: Known) -> None:
    """Every kind of read against the replay."""
    async with seen(services, known, valid) as view:
        page = await services.memory_reads.list(
            view, SPACE, where=EVERYTHING, order=OrderBy(OrderField.ID), first=100, after=None
        )
        there = list(expected.valid(expected.memories, valid))
        assert [_plain(memory_state(one)) for one in page.items] == [
            _plain(one) for one in sorted(there, key=lambda one: one["id"])
        ]
        found = await services.links.by_ids(view, SPACE, [*expected.links, 999_999])
        assert {one: _plain(link_state(link)) for one, link in found.items()} == {
            one: _plain(state) for one, state in expected.links.items()
        }
        await _compare_where(services, view, there)
        await _compare_walks(services, view, valid, expected)
        await _compare_recall(services, view, valid, expected)


async def _compare_where(services: Services, view: View, there: Sequence[Mapping[str, Any]]) -> None:
    where = parse_where({"payload": {"path": "word", "eq": "apple"}})
    page = await services.memory_reads.list(
        view, SPACE, where=where, order=OrderBy(OrderField.KEY), first=100, after=None
    )
    wanted = sorted(one["key"] for one in there if one["payload"]["word"] == "apple")
    assert [one.key for one in page.items] == wanted
    page = await services.memory_reads.with_words(
        view, SPACE, "cherry", exact=True, case_sensitive=False, first=100, after=None
    )
    wanted_ids = sorted(one["id"] for one in there if one["payload"]["word"] == "cherry")
    assert sorted(one.id for one in page.items) == wanted_ids


async def _compare_walks(services: Services, view: View, valid: datetime, expected: Known) -> None:
    walk = WalkFilter(Direction.BOTH)
    for start in expected.memories:
        distances = expected.distances(start, valid)
        reached = await services.walks.reach(view, SPACE, MemoryRef(id=MemoryId(start)), walk, hops=3, limit=100)
        hops = dict(zip(reached.answer.ids.tolist(), reached.answer.hops.tolist(), strict=True))
        assert hops == {one: far for one, far in distances.items() if 0 < far <= 3}
        for goal in expected.memories:
            ends = (MemoryRef(id=MemoryId(start)), MemoryRef(id=MemoryId(goal)))
            path = (await services.walks.shortest(view, SPACE, ends, walk, weighted=False, max_hops=10)).answer
            assert (None if path is None else len(path.links)) == distances.get(goal)
            if start < goal:
                simple = await services.walks.paths(
                    view, SPACE, ends, walk, mode=PathMode.SIMPLE, count=5, weighted=False, max_hops=4
                )
                assert bool(simple.answer) == (0 < distances.get(goal, 99) <= 4)
    gone = {1, 2, 3, 4} - set(expected.memories)
    for one in gone:
        with pytest.raises(MemoryNotFound):
            await services.walks.reach(view, SPACE, MemoryRef(id=MemoryId(one)), walk, hops=1, limit=1)


async def _compare_recall(services: Services, view: View, valid: datetime, expected: Known) -> None:
    """The same candidates: by words those that said the word, by vectors all; each as it was."""
    there = {one["id"]: one for one in expected.valid(expected.memories, valid)}
    recall = await services.recalls.recall(view, SPACE, RecallQuery("apple", first=100))
    assert {hit.memory.id: hit.memory.content for hit in recall.hits} == {
        one: state["content"] for one, state in there.items()
    }
    lexical = RecallQuery(
        "apple", first=100, weights=RecallWeights(dense=0.0, lexical=1.0, link=0.0, shared_name=0.0)
    )
    recall = await services.recalls.recall(view, SPACE, lexical)
    said = {one for one, state in there.items() if state["payload"]["word"] == "apple"}
    assert said <= {hit.memory.id for hit in recall.hits}
    assert {
        hit.memory.id for hit in recall.hits if any(leg.raw_score > 0 for leg in hit.legs if leg.leg is Leg.LEXICAL)
    } == said


def _plain(state: Mapping[str, Any]) -> dict[str, Any]:
    """A state whose times are comparable, however they were written."""
    times = ("created_at", "updated_at", "valid_from", "valid_to", "expires_at")
    return {
        name: datetime.fromisoformat(value) if name in times and value is not None else value
        for name, value in state.items()
    }


@given(steps=STEPS)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_any_moment_equals_a_replay_of_the_log(
    services: Services, cold_services: Services, database_dsn: str, steps: list[tuple[Any, ...]]
) -> None:
    if any(one.name == SPACE for one in await _namespaces(services)):
        await services.namespaces.delete(SPACE, confirm=SPACE)
    for step in steps:
        await carry_out(services, step)
    stamps = (await moments(database_dsn))[-len(steps) - 1 :]
    if not any(one.name == SPACE for one in await _namespaces(services)):
        return
    for moment in stamps[::2]:
        expected = replayed(database_dsn, moment)
        for days in (-1, 1):
            valid = DAY + timedelta(days=days, hours=1)
            await compare(services, moment, valid, expected)
        await compare(cold_services, moment, DAY + timedelta(hours=1), expected)


async def _namespaces(services: Services) -> list[Any]:
    async with services.views.open() as view:
        return list((await services.namespaces.list(view, first=100, after=None)).items)


@pytest.fixture
async def cold_services(settings_of_test: Settings) -> AsyncIterator[Services]:
    """The same database without memory for hot namespaces."""
    cold = settings_of_test.model_copy(update={"hot_budget_bytes": 0})
    async with open_runtime(cold, maintenance=False) as opened:
        yield opened


@pytest.fixture
def settings_of_test(services: Services) -> Settings:
    return services.settings


async def test_a_moment_is_settled_before_it_is_told(services: Services, database_dsn: str) -> None:
    """What was stamped up to a moment is seen by all who ask for it, though it is committed only after they ask."""
    await services.memory_writes.store(SPACE, {"key": "a", "content": "first"})
    slow = await psycopg.AsyncConnection.connect(database_dsn)
    async with slow:
        await slow.execute("select set_config('sfm.tx', nextval('change_ids')::text, true)")
        await slow.execute("update memories set content = 'second', version = 2 where key = 'a'")
        await slow.execute(
            "insert into changes (namespace_id, entity, entity_id, operation, before, after) "
            "select m.namespace_id, 'memory', m.id, 'update', "
            "jsonb_set(memory_state(m), '{content}', '\"first\"'), memory_state(m) from memories m"
        )
        await slow.execute("select stamp_commit()")
        asked = asyncio.create_task(_content(services, datetime.now(UTC)))
        await asyncio.sleep(0.1)
        assert not asked.done()
        await slow.commit()
        assert await asked == "second"


async def _content(services: Services, known: datetime) -> str:
    async with services.views.open(AsOf(known=known)) as view:
        return (await services.memory_reads.get(view, SPACE, MemoryRef(key="a"))).content


async def test_a_moment_follows_the_order_of_commits_not_of_beginnings(services: Services, database_dsn: str) -> None:
    """Who begins first and commits last is known last; and the same question has the same answer for ever."""
    await services.memory_writes.store(SPACE, {"key": "a", "content": "first"})
    inside, go_on = asyncio.Event(), asyncio.Event()

    async def early(session: Any) -> None:
        await session.run("known_now", known=datetime.now(UTC))
        inside.set()
        await go_on.wait()
        await session.dynamic("update memories set title = 'early' where key = 'a' returning id")

    database = Database(database_dsn)
    await database.open()
    try:
        writing = asyncio.create_task(database.write(early))
        await inside.wait()
        await services.memory_writes.store(SPACE, {"key": "a", "content": "second"})
        between = (await moments(database_dsn))[-1]
        assert await _content(services, between) == "second"
        go_on.set()
        await writing
        assert (await moments(database_dsn))[-1] > between
        assert await _content(services, between) == "second"
    finally:
        await database.close()


async def test_stamps_ascend_with_what_was_seen(services: Services, database_dsn: str) -> None:
    """Writers of one memory, each of which sees the one before, are stamped in that order."""
    await services.memory_writes.store(SPACE, {"key": "a", "content": "0"})
    await asyncio.gather(
        *(services.memory_writes.store(SPACE, {"key": "a", "content": str(one)}) for one in range(1, 17))
    )
    with psycopg.connect(database_dsn) as connection:
        rows = connection.execute(
            "select (c.after ->> 'version')::int, k.at from changes c join commits k on k.tx = c.tx "
            "where c.entity = 'memory' order by 1"
        ).fetchall()
    assert [row[0] for row in rows] == list(range(1, 18))
    assert [row[1] for row in rows] == sorted({row[1] for row in rows})


async def test_moments_that_cannot_be_told(services: Services) -> None:
    await services.memory_writes.store(SPACE, {"key": "a", "content": "first"})
    with pytest.raises(InvalidInput, match="future"):
        async with services.views.open(AsOf(known=datetime.now(UTC) + timedelta(minutes=1))):
            pass
    with pytest.raises(KnownExpired) as refused:
        async with services.views.open(AsOf(known=datetime(2000, 1, 1, tzinfo=UTC))):
            pass
    assert refused.value.details["known_from"]
    # A caller's clock may be a little ahead.
    assert await _content(services, datetime.now(UTC) + timedelta(milliseconds=200)) == "first"


async def test_what_was_found_then_is_found_by_its_words_and_vector_of_then(services: Services) -> None:
    """Not by later words, nor by its later vector; forgotten memories too."""
    await services.memory_writes.store(SPACE, {"key": "a", "content": "the harbour at night"})
    await services.memory_writes.store(SPACE, {"key": "b", "content": "bread and butter"})
    before = datetime.now(UTC)
    await services.memory_writes.store(SPACE, {"key": "a", "content": "a quarterly report"})
    await services.memory_writes.forget_many(SPACE, [MemoryRef(key="b")])
    for text, key in (("harbour night", "a"), ("bread butter", "b")):
        async with services.views.open(AsOf(known=before)) as view:
            recall = await services.recalls.recall(view, SPACE, RecallQuery(text, first=2))
        best = recall.hits[0]
        assert (best.memory.key, recall.hot, len(recall.hits)) == (key, True, 2)
        assert {leg.leg for leg in best.legs if leg.contribution > 0} >= {Leg.LEXICAL, Leg.DENSE}
    async with services.views.open() as view:
        recall = await services.recalls.recall(view, SPACE, RecallQuery("bread butter", first=2))
    assert [hit.memory.key for hit in recall.hits] == ["a"]


async def test_what_a_conversation_says_later_does_not_move_what_was_found_then(services: Services) -> None:
    """Every message changes the windows of those before it: scores as of a moment must not know of them."""
    lines = ["the mill is closed", "who runs the bakery", "Mary has the bread oven", "stone by stone", "see you"]

    async def say(place: int, text: str) -> None:
        payload = {"session": "chat", "position": place}
        await services.memory_writes.store(SPACE, {"key": f"s{place}", "content": text, "payload": payload})

    for place, text in enumerate(lines[:3]):
        await say(place, text)
    known = datetime.now(UTC)
    first = await _found(services, known)
    assert len(first) == 6
    for place, text in enumerate(lines[3:], start=3):
        await say(place, text)
    await say(1, "nobody bakes here")
    assert await _found(services, known) == first


async def _found(services: Services, known: datetime) -> list[tuple[str | None, float]]:
    found: list[tuple[str | None, float]] = []
    for text in ("bakery bread", "stone mill"):
        async with services.views.open(AsOf(known=known, valid=DAY)) as view:
            recall = await services.recalls.recall(view, SPACE, RecallQuery(text, first=10))
        found += [(hit.memory.key, round(hit.score, 9)) for hit in recall.hits]
    return found
