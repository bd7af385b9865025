"""Consolidation: which episodes belong together, and the semantic memories that come of them."""

import asyncio
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfm_graph.domain.consolidation import (
    MAX_EPISODES,
    ConsolidationRules,
    Episode,
    Tie,
    Window,
    communities,
    consolidation_rules,
    groups,
    widest_window,
)
from sfm_graph.domain.identity import MemoryId, MemoryRef
from sfm_graph.domain.link import Direction, Link
from sfm_graph.domain.memory import Memory, MemoryKind
from sfm_graph.domain.page import OrderBy
from sfm_graph.domain.walk import WalkFilter
from sfm_graph.domain.where import EVERYTHING
from sfm_graph.errors import InvalidInput, NamespaceNotFound, PredictorUnavailable
from sfm_graph.services.consolidation import consolidation as module
from sfm_graph.services.consolidation.consolidation import Consolidation, ConsolidationReport
from sfm_graph.services.registry import Services
from sfm_graph.services.settling import Settling

SPACE = "diary"
MORNING = datetime(2025, 3, 1, 8, tzinfo=UTC)
RULES = ConsolidationRules(min_size=3, max_size=10, max_gap_hours=2, similarity=0.5)
GARDEN = [
    "The garden fence fell over in the storm last night.",
    "The garden fence was mended after the storm with new posts.",
    "New posts for the garden fence came after the storm.",
]
BOAT = [
    "The sailing boat was painted blue in the harbour.",
    "In the harbour the sailing boat got its blue paint.",
    "Blue paint for the sailing boat arrived in the harbour.",
]


# Groups.


def _episodes(ats: Sequence[int], rows: bool = True) -> list[Episode]:
    return [Episode(MemoryId(at + 1), time, at if rows else None) for at, time in enumerate(ats)]


def _unit(vectors: Any) -> Any:
    vectors = np.asarray(vectors, np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_the_similar_are_grouped_and_the_others_are_not() -> None:
    vectors = _unit([[1, 0, 0], [1, 0.1, 0], [1, 0, 0.1], [0, 1, 0], [0, 1, 0.1], [0, 1, 0.2], [0, 0, 1]])
    found = groups(_episodes(range(7)), vectors, [], RULES)
    assert sorted(found) == [(1, 2, 3), (4, 5, 6)]


def test_a_long_pause_parts_what_is_alike() -> None:
    hour = 3_600_000_000
    vectors = _unit([[1, 0]] * 6)
    found = groups(_episodes([0, 1, 2, 3 * hour, 3 * hour + 1, 3 * hour + 2]), vectors, [], RULES)
    assert sorted(found) == [(1, 2, 3), (4, 5, 6)]


def test_links_and_sequences_join_what_vectors_do_not() -> None:
    episodes = _episodes(range(3), rows=False)
    assert groups(episodes, np.empty((0, 0), np.float32), [], RULES) == []
    ties = [
        Tie(MemoryId(1), MemoryId(2), 0.5),
        Tie(MemoryId(2), MemoryId(3), 0.5),
        Tie(MemoryId(1), MemoryId(3), 0.5),
    ]
    assert groups(episodes, np.empty((0, 0), np.float32), ties, RULES) == [(1, 2, 3)]
    spoken = [Episode(one.id, one.at, None, "talk", one.at) for one in episodes]
    two = ConsolidationRules(min_size=2, max_size=3)
    assert len(groups(spoken, np.empty((0, 0), np.float32), [], two)) == 1


@given(st.integers(0, 2**32), st.integers(2, 40), st.integers(2, 8))
def test_groups_are_disjoint_bounded_and_do_not_depend_on_the_order(seed: int, count: int, most: int) -> None:
    generator = np.random.default_rng(seed)
    vectors = _unit(
        generator.normal(size=(4, 6))[generator.integers(0, 4, count)] + generator.normal(size=(count, 6))
    )
    episodes = _episodes([int(one) for one in generator.integers(0, 4 * 3_600_000_000, count)])
    pairs = generator.integers(1, count + 1, (count, 2)).tolist()
    ties = [Tie(MemoryId(one), MemoryId(other), 0.5) for one, other in pairs if one != other]
    rules = ConsolidationRules(2, most, 1, 0.3)
    found = groups(episodes, vectors, ties, rules)
    assert all(2 <= len(one) <= most for one in found)
    members = [id_ for one in found for id_ in one]
    assert len(members) == len(set(members))
    shuffled, mixed = list(episodes), list(ties)
    random.Random(seed).shuffle(shuffled)
    random.Random(seed).shuffle(mixed)
    assert groups(shuffled, vectors, mixed, rules) == found


@given(st.integers(0, 2**32), st.integers(1, 14), st.integers(1, 14), st.floats(0.05, 0.6))
def test_communities_hold_together_and_none_should_be_joined(seed: int, count: int, most: int, level: float) -> None:
    generator = np.random.default_rng(seed)
    graph = np.triu(generator.random((count, count)) * (generator.random((count, count)) < 0.5), 1)
    graph = graph + graph.T
    parts = communities(graph, most, level)
    assert sorted(at for one in parts for at in one) == list(range(count))
    assert all(len(one) <= most for one in parts)
    for one in parts:
        pairs = len(one) * (len(one) - 1) / 2
        assert graph[np.ix_(one, one)].sum() / 2 >= level * pairs - 1e-6
        for other in parts:
            if one is not other and len(one) + len(other) <= most:
                assert graph[np.ix_(one, other)].mean() <= level + 1e-6


def test_communities_of_one_part_do_not_depend_on_what_else_there_is() -> None:
    generator = np.random.default_rng(7)
    small = np.triu(generator.random((6, 6)), 1)
    small = small + small.T
    graph = np.zeros((40, 40))
    graph[:6, :6] = small
    rest = np.triu(generator.random((34, 34)), 1)
    graph[6:, 6:] = rest + rest.T
    alone = communities(small, 6, 0.4)
    assert [one for one in communities(graph, 6, 0.4) if one[0] < 6] == alone


@given(st.integers(-(2**55), 2**55), st.integers(1, 2**40))
def test_windows_nest_around_an_episode(at: int, id_: int) -> None:
    window = widest_window(RULES, at)
    for _ in range(64):
        assert window.start <= at < window.end
        assert window.first_id <= id_ < window.end_id
        narrower = window.narrower(at, MemoryId(id_))
        assert window.start <= narrower.start < narrower.end <= window.end
        window = narrower
    assert window.end_id - window.first_id == MAX_EPISODES
    assert window.after() == (window.start, window.end_id)
    assert Window(1, 2).after() == (2, 0)


@pytest.mark.parametrize(
    "value",
    [
        True, 1, "on", [], {"min_size": 1}, {"min_size": 5, "max_size": 4}, {"max_size": 10_000},
        {"max_gap_hours": 0}, {"similarity": 1.5}, {"similarity": "high"}, {"every_hours": 1e9}, {"other": 1},
    ],
)  # fmt: skip
def test_wrong_rules_are_refused(value: object) -> None:
    with pytest.raises(InvalidInput):
        consolidation_rules(value)


def test_rules_are_read_as_they_are_shown() -> None:
    assert consolidation_rules(RULES.as_json()) == RULES
    assert consolidation_rules(False) is None
    assert consolidation_rules({"min_size": 4, "max_size": None}) == ConsolidationRules(min_size=4)


# In the service.


@pytest.fixture
def consolidation(services: Services) -> Consolidation:
    return services.consolidation


async def _begin(services: Services, **rules: Any) -> None:
    await services.namespaces.put(
        SPACE, settings={"consolidation": {**RULES.as_json(), **rules}, "linkers": {"similarity": False}}, model=None
    )


async def _tell(services: Services, texts: Sequence[str], start: datetime = MORNING, **more: Any) -> list[MemoryId]:
    items = [
        {"content": text, "valid_from": start + timedelta(minutes=5 * place), **more}
        for place, text in enumerate(texts)
    ]
    return [one.memory.id for one in (await services.memory_writes.store_many(SPACE, items)).stored]


async def _whole(consolidation: Consolidation, **more: Any) -> ConsolidationReport:
    report = await consolidation.run(SPACE, **more)
    for _ in range(20):
        if report.complete:
            return report
        again = await consolidation.run(SPACE, **more)
        again.created, again.updated = again.created + report.created, again.updated + report.updated
        report = again
    raise AssertionError("it never comes to an end")


async def _memories(services: Services) -> dict[MemoryId, Memory]:
    async with services.views.open() as view:
        page = await services.memory_reads.list(view, SPACE, where=EVERYTHING, order=OrderBy(), first=100, after=None)
    return {one.id: one for one in page.items}


async def _made(services: Services) -> list[Memory]:
    return [one for one in (await _memories(services)).values() if one.kind is MemoryKind.SEMANTIC]


async def _links(services: Services, memory: Memory, *types: str) -> list[Link]:
    async with services.views.open() as view:
        walk = WalkFilter(Direction.OUT, types)
        pages = await services.links.pages_of(view, SPACE, [memory.id], walk, 100, None)
    return list(pages[memory.id].items)


async def _sources(services: Services, memory: Memory) -> list[MemoryId]:
    return sorted(one.target_id for one in await _links(services, memory, "derived_from"))


async def test_episodes_become_a_memory_that_leads_to_them(services: Services, consolidation: Consolidation) -> None:
    await _begin(services)
    garden, boat = await _tell(services, GARDEN, importance=4.0), await _tell(services, BOAT)
    await _tell(services, ["Something else altogether: quarterly taxes."])
    before = await _memories(services)
    report = await _whole(consolidation)
    assert (report.created, report.updated, report.put_off) == (2, 0, 0)
    made = {tuple(await _sources(services, one)): one for one in await _made(services)}
    assert made.keys() == {tuple(garden), tuple(boat)}
    one = made[tuple(garden)]
    assert one.key is not None
    assert one.key.startswith("consolidated:")
    assert one.valid_from == MORNING
    assert one.importance == 4.0
    assert one.payload["sources"] == 3
    assert one.payload["method"] == "extractive"
    assert any(sentence in one.content for sentence in GARDEN)
    assert not any(sentence in one.content for sentence in BOAT)
    after = await _memories(services)
    assert {id_: after[id_] for id_ in before} == before


async def test_a_second_run_changes_nothing_and_neither_does_one_from_the_start(
    services: Services, consolidation: Consolidation
) -> None:
    await _begin(services)
    await _tell(services, GARDEN + BOAT)
    await _whole(consolidation)
    before = await _memories(services)
    assert (await _whole(consolidation)).groups == []
    # Other rules that group alike: everything is looked at again.
    await _begin(services, every_hours=7)
    report = await _whole(consolidation)
    assert report.episodes >= 6
    assert report.groups == []
    assert await _memories(services) == before


async def test_the_order_of_storing_decides_nothing(services: Services, consolidation: Consolidation) -> None:
    await _begin(services)
    found = []
    for seed in range(3):
        texts = list(enumerate(GARDEN + BOAT))
        random.Random(seed).shuffle(texts)
        for place, text in texts:
            await _tell(services, [text], MORNING + timedelta(minutes=place), key=f"note {place}")
            if seed == 2:
                await _whole(consolidation)
        await _whole(consolidation)
        found.append(sorted((one.content, one.payload["sources"]) for one in await _made(services)))
        ids = [MemoryRef(id=id_) for id_ in await _memories(services)]
        await services.memory_writes.erase_many(SPACE, ids)
    assert found[0] == found[1] == found[2]


async def test_only_what_changed_is_looked_at(services: Services, consolidation: Consolidation) -> None:
    await _begin(services)
    await _tell(services, GARDEN)
    await _tell(services, BOAT, MORNING + timedelta(days=400))
    await _whole(consolidation)
    assert (await _whole(consolidation)).episodes == 0
    await _tell(services, ["The garden fence has new posts since the storm."], MORNING + timedelta(minutes=30))
    report = await _whole(consolidation)
    assert (report.created, report.updated) == (0, 1)
    assert report.episodes == 4


async def test_a_group_that_grows_keeps_its_memory(services: Services, consolidation: Consolidation) -> None:
    await _begin(services)
    ids = await _tell(services, GARDEN)
    await _whole(consolidation)
    (old,) = await _made(services)
    await services.memory_writes.update(SPACE, MemoryRef(id=old.id), {"title": "The fence", "importance": 9.0})
    ids += await _tell(services, ["The garden fence has new posts since the storm."], MORNING - timedelta(minutes=30))
    await _whole(consolidation)
    (new,) = await _made(services)
    assert (new.id, new.key, new.title, new.importance) == (old.id, old.key, "The fence", 9.0)
    assert new.valid_from == MORNING - timedelta(minutes=30)
    assert await _sources(services, new) == sorted(ids)


async def test_a_source_that_changes_is_consolidated_anew(services: Services, consolidation: Consolidation) -> None:
    await _begin(services, max_size=3)
    ids = await _tell(services, GARDEN)
    await _whole(consolidation)
    (old,) = await _made(services)
    changes = {"content": "After the storm the garden fence has new posts, said Ada."}
    for id_ in ids:
        await services.memory_writes.update(SPACE, MemoryRef(id=id_), changes)
    report = await _whole(consolidation)
    assert report.updated == 1
    (new,) = await _made(services)
    assert (new.id, new.content) == (old.id, changes["content"])


async def test_what_is_forgotten_takes_its_link_along_and_stays_in_the_summary(
    services: Services, consolidation: Consolidation
) -> None:
    await _begin(services)
    ids = await _tell(services, GARDEN)
    await _whole(consolidation)
    (old,) = await _made(services)
    await services.memory_writes.forget_many(SPACE, [MemoryRef(id=ids[0])])
    assert (await _whole(consolidation)).groups == []
    (same,) = await _made(services)
    assert same == old
    assert await _sources(services, same) == ids[1:]
    # Made anew for another reason, it still says what only it knows.
    await _tell(services, ["The garden fence with new posts outlives the storm."], MORNING + timedelta(minutes=20))
    await _whole(consolidation)
    (new,) = await _made(services)
    assert new.payload["sources"] == 4
    assert GARDEN[0] in old.content
    assert GARDEN[0] in new.content


async def test_groups_that_become_one_leave_one_memory_that_is_valid(
    services: Services, consolidation: Consolidation
) -> None:
    await _begin(services, max_gap_hours=1)
    early = await _tell(services, GARDEN)
    late = await _tell(services, GARDEN, MORNING + timedelta(hours=2))
    await _whole(consolidation)
    assert len(await _made(services)) == 2
    await _begin(services, max_gap_hours=12)
    await _whole(consolidation)
    everything = await _memories(services)
    made = [one for one in everything.values() if one.kind is MemoryKind.SEMANTIC]
    now = datetime.now(UTC)
    (kept,) = [one for one in made if one.valid_to is None]
    (ended,) = [one for one in made if one.valid_to is not None]
    assert ended.valid_to is not None
    assert ended.valid_to <= now
    assert await _sources(services, kept) == early + late
    assert [one.target_id for one in await _links(services, kept, "supersedes")] == [ended.id]
    await _begin(services, max_gap_hours=12, every_hours=2)
    assert (await _whole(consolidation)).groups == []


async def test_two_runs_at_once_make_one_memory(services: Services, consolidation: Consolidation) -> None:
    await _begin(services)
    garden, boat = await _tell(services, GARDEN), await _tell(services, BOAT)
    reports = await asyncio.gather(*(_whole(consolidation) for _ in range(4)))
    made = await _made(services)
    assert sorted([await _sources(services, one) for one in made]) == [garden, boat]
    assert sum(one.created for one in reports) == 2
    assert all(one.version == 1 for one in made)


async def test_a_dry_run_says_what_would_be_and_writes_nothing(
    services: Services, consolidation: Consolidation
) -> None:
    await _begin(services)
    ids = await _tell(services, GARDEN)
    before = await _memories(services)
    dry = await _whole(consolidation, dry_run=True)
    assert await _memories(services) == before
    (planned,) = dry.groups
    assert planned.memory is None
    assert planned.created
    assert list(planned.sources) == ids
    (real,) = (await _whole(consolidation)).groups
    assert real.memory is not None
    assert (real.sources, real.content, real.memory.content) == (planned.sources, planned.content, planned.content)


async def test_a_callers_memory_under_the_key_is_left_alone(services: Services, consolidation: Consolidation) -> None:
    await _begin(services)
    ids = await _tell(services, GARDEN)
    await _whole(consolidation)
    (old,) = await _made(services)
    await services.memory_writes.forget_many(SPACE, [MemoryRef(id=old.id)])
    mine = await services.memory_writes.store(SPACE, {"key": old.key, "content": "mine", "kind": "entity"})
    await _begin(services, every_hours=5)
    await _whole(consolidation)
    (new,) = await _made(services)
    assert new.key == f"{old.key}:2"
    assert await _sources(services, new) == ids
    assert (await _memories(services))[mine.memory.id] == mine.memory


async def test_a_crowded_moment_is_consolidated_in_pieces(
    services: Services, consolidation: Consolidation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sfm_graph.services.consolidation.windows.MAX_EPISODES", 8)
    monkeypatch.setattr("sfm_graph.domain.consolidation.MAX_EPISODES", 8)
    monkeypatch.setattr("sfm_graph.store.consolidation.MAX_EPISODES", 8)
    await _begin(services, max_size=6)
    items = [{"content": f"The fence fell in storm number {place}.", "valid_from": MORNING} for place in range(30)]
    await services.memory_writes.store_many(SPACE, items)
    report = await _whole(consolidation)
    assert report.put_off == 0
    found = [id_ for one in await _made(services) for id_ in await _sources(services, one)]
    assert len(found) == len(set(found))
    assert 24 <= len(found) <= 30
    before = await _memories(services)
    await _begin(services, max_size=6, every_hours=3)
    assert (await _whole(consolidation)).groups == []
    assert await _memories(services) == before


# With a predictor.


def _with(services: Services, summarise: module.Summarise) -> Consolidation:
    writing = services.consolidation._writing
    settling: Settling = writing._settling
    return Consolidation(writing._database, writing._indexing, settling, summarise)


async def test_a_predictor_writes_the_summary(services: Services) -> None:
    await _begin(services)
    await _tell(services, GARDEN)
    asked: list[tuple[str, Sequence[str], int]] = []

    async def summarise(namespace: str, texts: Sequence[str], max_chars: int) -> str:
        asked.append((namespace, texts, max_chars))
        return " The fence was mended. "

    await _whole(_with(services, summarise))
    (made,) = await _made(services)
    assert (made.content, made.payload["method"]) == ("The fence was mended.", "predictor")
    assert asked == [(SPACE, GARDEN, module.MAX_CHARS)]


@pytest.mark.parametrize("answer", ["", "x" * (module.MAX_CHARS + 1), "nul \x00", None])
async def test_without_a_useful_predictor_the_summary_is_extractive(services: Services, answer: str | None) -> None:
    await _begin(services)
    await _tell(services, GARDEN)

    async def summarise(namespace: str, texts: Sequence[str], max_chars: int) -> str:
        if answer is None:
            raise PredictorUnavailable("away")
        return answer

    await _whole(_with(services, summarise))
    (made,) = await _made(services)
    assert made.payload["method"] == "extractive"
    assert any(one in made.content for one in GARDEN)


# In the background.


async def test_the_background_takes_namespaces_that_ask_for_it_when_they_are_due(
    services: Services, consolidation: Consolidation
) -> None:
    await services.namespaces.put(SPACE, settings={"linkers": {"similarity": False}}, model=None)
    await _tell(services, GARDEN)
    await consolidation.round()
    assert await _made(services) == []
    await _begin(services)
    consolidation._next_round = 0.0
    while consolidation._next_round == 0.0:
        await consolidation.round()
    assert len(await _made(services)) == 1
    await _tell(services, BOAT)
    consolidation._next_round = 0.0
    await consolidation.round()
    assert len(await _made(services)) == 1  # It is due in an hour.
    assert (await _whole(consolidation)).created == 1


async def test_an_unknown_namespace_is_not_made(services: Services, consolidation: Consolidation) -> None:
    with pytest.raises(NamespaceNotFound):
        await consolidation.run("nowhere")
