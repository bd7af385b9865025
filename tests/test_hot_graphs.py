"""Hot graphs as the services keep them: exact at every snapshot, within the budget, the same as SQL."""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from sfm_graph.domain.identity import MemoryId, MemoryRef
from sfm_graph.domain.link import Direction
from sfm_graph.domain.snapshot import Snapshot
from sfm_graph.domain.walk import PathMode, RankBy, RankQuery, WalkFilter
from sfm_graph.domain.where import parse_link_where
from sfm_graph.errors import MemoryNotFound, WalkTooLarge
from sfm_graph.hot.walks import several
from sfm_graph.runtime import open_runtime
from sfm_graph.services import sql_ground
from sfm_graph.services.links import LinkRequest
from sfm_graph.services.registry import Services
from sfm_graph.services.view import View
from sfm_graph.settings import Settings
from sfm_graph.store.database import Database

NODES = 8
ANY = WalkFilter()
PAST, FUTURE = "2020-01-01", "2100-01-01"
_namespaces = itertools.count()


@pytest.fixture
async def cold_services(settings: Settings) -> AsyncIterator[Services]:
    """Services on the same database with no memory for hot namespaces: everything is walked in SQL."""
    async with open_runtime(settings.model_copy(update={"hot_budget_bytes": 0}), maintenance=False) as opened:
        yield opened


async def _namespace(services: Services, count: int = NODES) -> tuple[str, list[MemoryRef]]:
    name = f"hot{next(_namespaces)}"
    items = [{"key": f"n{place}", "content": f"n{place}"} for place in range(count)]
    stored = await services.memory_writes.store_many(name, items)
    return name, [MemoryRef(id=one.memory.id) for one in stored.stored]


async def _link(services: Services, name: str, source: int, target: int, **fields: object) -> int:
    ends = {"key": f"n{source}"}, {"key": f"n{target}"}
    made = await services.links.link_many(name, [LinkRequest(*ends, fields)])
    return made.stored[0].link.id


async def _near(services: Services, name: str, ref: MemoryRef, walk: WalkFilter = ANY) -> list[int]:
    found = await services.walks.reach(None, name, ref, walk, hops=1, limit=1_000)
    assert found.hot
    return found.answer.links.tolist()


links = st.lists(
    st.tuples(
        st.integers(0, NODES - 1),
        st.integers(0, NODES - 1),
        st.sampled_from(["a", "b", "c"]),
        st.sampled_from([0.0, 0.5, 1.0, 2.0]),
        st.sampled_from([(None, None), (None, None), (None, PAST), (FUTURE, None), (PAST, FUTURE)]),
        st.sampled_from(["red", "blue"]),
    ),
    max_size=24,
)
filters = st.sampled_from([
    {}, {"weight": {"lt": 1.0}}, {"properties": {"path": ["colour"], "eq": "red"}},
    {"_or": [{"type": "a"}, {"_not": {"valid_to": {"gt": "2050-01-01"}}}]},
])  # fmt: skip
moments = st.sampled_from([None, None, datetime(2019, 6, 1, tzinfo=UTC), datetime(2101, 6, 1, tzinfo=UTC)])
walks = st.builds(
    lambda direction, types, where, at: WalkFilter(direction, types, parse_link_where(where), at),
    st.sampled_from(Direction), st.sampled_from([(), ("a",), ("a", "b"), ("none",)]), filters, moments,
)  # fmt: skip


@hypothesis_settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(edges=links, walk=walks, ends=st.tuples(st.integers(0, NODES - 1), st.integers(0, NODES - 1)))
async def test_memory_and_sql_give_the_same_answers(
    services: Services,
    cold_services: Services,
    edges: list[tuple[int, int, str, float, tuple[str | None, str | None], str]],
    walk: WalkFilter,
    ends: tuple[int, int],
) -> None:
    name, refs = await _namespace(services)
    unique = {(source, target, kind, valid[0]): one for one in edges for source, target, kind, _, valid, _ in [one]}
    requests = [
        LinkRequest(
            {"key": f"n{source}"},
            {"key": f"n{target}"},
            {"type": kind, "weight": weight, "properties": {"colour": colour},
             "valid_from": valid[0], "valid_to": valid[1]},
        )
        for source, target, kind, weight, valid, colour in unique.values()
    ]  # fmt: skip
    # Half of them are there at the load, the others come as a delta.
    for part in (requests[::2], requests[1::2]) if len(requests) > 1 else (requests,):
        if part:
            await services.links.link_many(name, part)
        mine = await _answers(services, name, refs, walk, ends, hot=True)
        theirs = await _answers(cold_services, name, refs, walk, ends, hot=False)
        assert mine == theirs


async def _answers(
    services: Services, name: str, refs: list[MemoryRef], walk: WalkFilter, ends: tuple[int, int], *, hot: bool
) -> list[object]:
    start, goal = refs[ends[0]], refs[ends[1]]
    asked = services.walks
    async with services.views.open() as view:
        near = await asked.reach(view, name, start, walk, hops=3, limit=5)
        counts = await asked.reach_count(view, name, start, walk, hops=3)
        part = await asked.subgraph(view, name, [start, goal], walk, depth=2, limit=6)
        found: list[object] = [
            near.answer.ids.tolist(), near.answer.links.tolist(), near.answer.hops.tolist(), near.answer.truncated,
            counts.answer, part.ids.tolist(), part.links.tolist(), part.sources.tolist(), part.targets.tolist(),
            [part.type_names[code] for code in part.types.tolist()], part.weights.tolist(), part.truncated,
        ]  # fmt: skip
        for weighted in (False, True):
            path = await asked.shortest(view, name, (start, goal), walk, weighted=weighted, max_hops=5)
            found.append(path.answer)
            several = await asked.paths(
                view, name, (start, goal), walk, mode=PathMode.SHORTEST_K, count=4, weighted=weighted, max_hops=5
            )
            found.append(several.answer)
        for mode in (PathMode.ALL_SHORTEST, PathMode.SIMPLE):
            several = await asked.paths(
                view, name, (start, goal), walk, mode=mode, count=6, weighted=False, max_hops=4
            )
            found.append(several.answer)
        assert near.hot is counts.hot is part.hot is path.hot is several.hot is hot
    return found


async def test_every_change_is_seen_by_the_next_walk(services: Services) -> None:
    name, refs = await _namespace(services)
    first = await _link(services, name, 0, 1)
    assert await _near(services, name, refs[0]) == [first]
    second = await _link(services, name, 2, 0, type="late")
    assert await _near(services, name, refs[0]) == [first, second]
    assert await _near(services, name, refs[0], WalkFilter(types=("late",))) == [second]
    await _link(services, name, 0, 1, weight=5.0, valid_to=PAST)
    assert await _near(services, name, refs[0]) == [second]
    await services.links.unlink_many(name, [second])
    assert await _near(services, name, refs[0]) == []


async def test_forgetting_and_erasing_a_memory_removes_its_links(services: Services) -> None:
    name, refs = await _namespace(services)
    for target in (1, 2, 3):
        await _link(services, name, 0, target)
    assert len(await _near(services, name, refs[0])) == 3
    await services.memory_writes.forget_many(name, [refs[1]])
    assert len(await _near(services, name, refs[0])) == 2
    # The log no longer says whose links they were.
    await services.memory_writes.erase_many(name, [refs[2]])
    assert len(await _near(services, name, refs[0])) == 1
    with pytest.raises(MemoryNotFound):
        await _near(services, name, refs[2])


async def test_a_start_that_was_forgotten_is_unknown_though_the_graph_still_numbers_it(services: Services) -> None:
    name, refs = await _namespace(services)
    await _link(services, name, 0, 1)
    await _near(services, name, refs[0])
    await services.memory_writes.forget_many(name, [refs[0]])
    with pytest.raises(MemoryNotFound):
        await _near(services, name, refs[0])


async def test_memories_without_links_walk_nowhere(services: Services) -> None:
    name, refs = await _namespace(services)
    await _link(services, name, 0, 1)
    for view in (None, "opened"):
        assert await _alone(services, name, refs, with_view=view is not None) == ([], None, [], 1)
    with pytest.raises(MemoryNotFound):
        await _near(services, name, MemoryRef(id=MemoryId(10**12)))
    with pytest.raises(MemoryNotFound):
        await _near(services, "nowhere", refs[0])


async def _alone(
    services: Services, name: str, refs: list[MemoryRef], *, with_view: bool
) -> tuple[list[int], object, list[object], int]:
    async def asked(view: View | None) -> tuple[list[int], object, list[object], int]:
        walked = services.walks
        near = await walked.reach(view, name, refs[5], ANY, hops=3, limit=5)
        path = await walked.shortest(view, name, (refs[5], refs[0]), ANY, weighted=False, max_hops=5)
        several = await walked.paths(
            view, name, (refs[0], refs[5]), ANY, mode=PathMode.SIMPLE, count=5, weighted=False, max_hops=5
        )
        itself = await walked.shortest(view, name, (refs[5], refs[5]), ANY, weighted=True, max_hops=5)
        assert itself.answer is not None
        return near.answer.ids.tolist(), path.answer, list(several.answer), len(itself.answer.memories)

    if not with_view:
        return await asked(None)
    async with services.views.open() as view:
        return await asked(view)


async def test_a_view_keeps_its_graph_while_others_write(services: Services) -> None:
    name, refs = await _namespace(services)
    first = await _link(services, name, 0, 1)
    async with services.views.open() as view:
        before = await services.walks.reach(view, name, refs[0], ANY, hops=1, limit=10)
        second = await _link(services, name, 0, 2)
        assert await _near(services, name, refs[0]) == [first, second]
        after = await services.walks.reach(view, name, refs[0], ANY, hops=1, limit=10)
    assert before.answer.links.tolist() == after.answer.links.tolist() == [first]


async def test_a_namespace_made_anew_under_a_name_is_another(services: Services) -> None:
    name, refs = await _namespace(services)
    await _link(services, name, 0, 1)
    assert len(await _near(services, name, refs[0])) == 1
    await services.namespaces.delete(name, confirm=name)
    with pytest.raises(MemoryNotFound):
        await _near(services, name, refs[0])
    await services.memory_writes.store_many(name, [{"key": "n0", "content": "x"}])
    with pytest.raises(MemoryNotFound):
        await _near(services, name, refs[0])


async def test_one_load_serves_all_who_wait_for_it(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    name, refs = await _namespace(services)
    await _link(services, name, 0, 1)
    loads = []
    loaded = type(services.walks.runner.graphs)._loaded

    async def counted(self: object, *arguments: object) -> object:
        loads.append(1)
        await asyncio.sleep(0.05)
        return await loaded(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(type(services.walks.runner.graphs), "_loaded", counted)
    asked = (services.walks.reach(None, name, refs[0], ANY, hops=1, limit=9) for _ in range(7))
    found = await asyncio.gather(*asked)
    assert all(len(one.answer.links) == 1 for one in found)
    assert len(loads) == 1
    # Three quarters of the pool wait; who comes meanwhile is answered in SQL.
    assert sum(one.hot for one in found) >= 4


async def test_ranking_needs_memory_and_says_so(services: Services, cold_services: Services) -> None:
    name, refs = await _namespace(services)
    for source, target in ((0, 1), (0, 2), (1, 3), (2, 3)):
        await _link(services, name, source, target)
    hot = await services.walks.rank(None, name, [refs[0]], RankQuery(RankBy.ADAMIC_ADAR, unlinked=True))
    assert hot.ids.tolist() == [refs[3].id]
    for by, seeds in ((RankBy.ADAMIC_ADAR, [refs[0]]), (RankBy.DEGREE, [])):
        with pytest.raises(WalkTooLarge, match="SFM_HOT_BUDGET_BYTES"):
            await cold_services.walks.rank(None, name, seeds, RankQuery(by))


async def test_a_walk_in_sql_is_bounded(cold_services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    name, refs = await _namespace(cold_services)
    for target in range(1, NODES):
        await _link(cold_services, name, 0, target)
    await _link(cold_services, name, 6, 7)
    monkeypatch.setattr(sql_ground, "MAX_STEPS", 3)
    asked = cold_services.walks
    near = await asked.reach(None, name, refs[0], ANY, hops=1, limit=10)
    assert (near.answer.ids.tolist(), near.answer.truncated) == ([ref.id for ref in refs[1:4]], True)
    part = await asked.subgraph(None, name, [refs[0]], ANY, depth=1, limit=10)
    assert (part.ids.tolist(), part.truncated) == ([ref.id for ref in refs[:4]], True)
    # Pages and parts of frontiers make the same whole.
    monkeypatch.setattr(sql_ground, "PAGE", 2)
    monkeypatch.setattr(sql_ground, "MEMORIES_AT_ONCE", 2)
    path = await asked.shortest(None, name, (refs[1], refs[7]), ANY, weighted=True, max_hops=5)
    assert path.answer is not None
    counts = await asked.reach_count(None, name, refs[1], ANY, hops=3)
    assert counts.answer == [1, NODES - 2]
    monkeypatch.setattr(sql_ground, "MAX_READ", 4)
    with pytest.raises(WalkTooLarge, match="too many links"):
        await asked.shortest(None, name, (refs[1], refs[7]), ANY, weighted=True, max_hops=5)


async def test_a_walk_out_of_time_says_so(settings: Settings) -> None:
    async with open_runtime(settings.model_copy(update={"walk_deadline_ms": 10}), maintenance=False) as services:
        name, refs = await _namespace(services)
        await _link(services, name, 0, 1)
        async with services.views.open() as view:
            await services.walks.reach(view, name, refs[0], ANY, hops=1, limit=10)
        services.walks.runner.deadline_seconds = -1.0
        near = await services.walks.reach(None, name, refs[0], ANY, hops=1, limit=10)
        assert near.answer.truncated
        assert near.answer.ids.tolist() == []
        with pytest.raises(WalkTooLarge, match="time"):
            await services.walks.shortest(None, name, (refs[0], refs[1]), ANY, weighted=False, max_hops=5)


async def test_readers_among_writers_answer_as_sql_at_their_snapshot(services: Services) -> None:
    name, refs = await _namespace(services, 12)
    ids = [ref.id for ref in refs if ref.id is not None]
    ends = asyncio.get_running_loop().time() + 3.0
    checked = await asyncio.gather(
        *(_writer(services, name, seed, ends) for seed in range(4)),
        *(_reader(services, name, ids, seed, ends) for seed in range(4)),
    )
    assert sum(checked) > 100


async def _writer(services: Services, name: str, seed: int, ends: float) -> int:
    chosen = random.Random(seed)
    made: list[int] = []
    while asyncio.get_running_loop().time() < ends:
        if made and chosen.random() < 0.4:
            await services.links.unlink_many(name, [made.pop(chosen.randrange(len(made)))])
        else:
            kind, weight = f"w{seed}{chosen.randrange(3)}", chosen.choice([0.0, 1.0, 2.0])
            fields = {"type": kind, "weight": weight, "valid_to": chosen.choice([None, None, PAST])}
            link_id = await _link(services, name, chosen.randrange(12), chosen.randrange(12), **fields)
            made = [*{*made, link_id}]
    return 0


async def _reader(services: Services, name: str, ids: list[MemoryId], seed: int, ends: float) -> int:
    chosen = random.Random(100 + seed)
    checked = 0
    while asyncio.get_running_loop().time() < ends:
        start = chosen.choice(ids)
        async with services.views.open() as view:
            hot = await services.walks.subgraph(view, name, [MemoryRef(id=start)], ANY, depth=2, limit=100)
            scope = await view.existing_namespace(name)
            rows = await view.session.dynamic(
                "select id, source_id, target_id, weight, type from links "
                "where namespace_id = %s and valid_from <= now() and valid_to > now() order by id",
                [scope.id],
            )
        near = {start}
        for _ in range(2):
            near |= {end for _, source, target, *_ in rows if {source, target} & near for end in (source, target)}
        expected = [row for row in rows if row[1] in near and row[2] in near]
        places = hot.ids.tolist()
        found = zip(
            hot.links.tolist(), [places[at] for at in hot.sources], [places[at] for at in hot.targets],
            hot.weights.tolist(), [hot.type_names[code] for code in hot.types.tolist()], strict=True,
        )  # fmt: skip
        assert places == sorted(near)
        assert list(found) == expected
        checked += 1
    return checked


async def test_validity_at_a_time_is_exact_to_the_microsecond(services: Services) -> None:
    name, refs = await _namespace(services)
    turn = datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)
    link_id = await _link(services, name, 0, 1, valid_from=turn.isoformat())
    await _link(services, name, 2, 3)
    for moment, expected in ((turn, [link_id]), (turn - timedelta(microseconds=1), [])):
        assert await _near(services, name, refs[0], WalkFilter(at=moment)) == expected


async def test_a_name_made_anew_while_the_database_answers_is_not_mistaken(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, refs = await _namespace(services)
    await _link(services, name, 0, 1)
    await _near(services, name, refs[0])
    single = Database.single

    async def meanwhile(self: Database, *arguments: object, **parameters: object) -> object:
        monkeypatch.setattr(Database, "single", single)
        await services.namespaces.delete(name, confirm=name)
        await services.memory_writes.store_many(name, [{"key": "n0", "content": "x"}])
        async with services.views.open() as view:
            with pytest.raises(MemoryNotFound):
                await services.walks.reach(view, name, refs[0], ANY, hops=1, limit=9)
        return await single(self, *arguments, **parameters)  # type: ignore[arg-type]

    monkeypatch.setattr(Database, "single", meanwhile)
    with pytest.raises(MemoryNotFound):
        await _near(services, name, refs[0])
    ranked = await services.walks.rank(None, name, [], RankQuery(RankBy.DEGREE))
    assert ranked.ids.tolist() == []


async def test_ties_are_broken_alike_in_memory_in_sql_and_after_unrelated_changes(
    services: Services, cold_services: Services
) -> None:
    side = 7
    name, refs = await _namespace(services, side * side)
    requests = [
        LinkRequest({"key": f"n{row * side + column}"}, {"key": f"n{row * side + column + step}"}, {"type": "road"})
        for row in range(side)
        for column in range(side)
        for step, fits in ((1, column + 1 < side), (side, row + 1 < side))
        if fits
    ]
    await services.links.link_many(name, requests)
    pairs = [(0, 48), (3, 45), (6, 42), (8, 40), (1, 47)]

    async def asked(through: Services) -> list[object]:
        return [
            (await through.walks.shortest(None, name, (refs[a], refs[b]), ANY, weighted=True, max_hops=64)).answer
            for a, b in pairs
        ]

    first = await asked(services)
    assert await asked(cold_services) == first
    free = await _link(services, name, 0, 0, type="other", weight=0.0)
    assert await asked(services) == first
    await services.links.unlink_many(name, [free])
    assert await asked(services) == first


def test_a_snapshot_covers_a_transaction_when_nothing_up_to_it_is_unseen() -> None:
    quiet, busy = Snapshot("10:12:"), Snapshot("8:12:8,10")
    assert quiet.covers(None)
    assert quiet.covers(11)
    assert not quiet.covers(12)
    assert busy.covers(7)
    # 8 was still running: it may have committed since, before or after 9 did.
    assert not busy.covers(9)
    assert not busy.covers(8)


async def test_a_search_through_dead_ends_ends_at_its_deadline_in_sql_as_in_memory(
    services: Services, cold_services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """0 -> 1 -> 2, and 1 is joined to a clique without another way to 2: only dead ends are left once all is read."""
    monkeypatch.setattr(several, "STEPS_PER_REQUEST", 50)
    name, refs = await _namespace(services, 16)
    clique = [(one, other) for one in range(3, 16) for other in (1, *range(3, 16)) if one != other]
    requests = [
        LinkRequest({"key": f"n{source}"}, {"key": f"n{target}"}, {"type": "a"})
        for source, target in [(0, 1), (1, 2), (1, 3), *clique]
    ]
    await services.links.link_many(name, requests)
    for asked in services, cold_services:
        asked.walks.runner.deadline_seconds = 0.3
        with pytest.raises(WalkTooLarge, match="time"):
            async with asyncio.timeout(10):
                await asked.walks.paths(
                    None, name, (refs[0], refs[2]), WalkFilter(Direction.BOTH), mode=PathMode.SIMPLE, count=50,
                    weighted=False, max_hops=16,
                )  # fmt: skip
