"""Duplicates: which memories are proposed, and what becomes of them and their links when they are merged."""

import asyncio
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfm_graph.domain.duplicates import Duplicates, NearPair, Trait, grouped
from sfm_graph.domain.identity import Entity, LinkId, MemoryId, MemoryRef, encode_global_id
from sfm_graph.domain.link import Direction, Link
from sfm_graph.domain.memory import Memory, MemoryKind
from sfm_graph.domain.merging import MergeResult, merged_memory, moved_links
from sfm_graph.domain.walk import WalkFilter
from sfm_graph.errors import IdempotencyConflict, InvalidInput, LegalHold, MemoryNotFound, NamespaceNotFound
from sfm_graph.hot.text import pairs as module
from sfm_graph.services import duplicates
from sfm_graph.services.idempotency import idempotency_key
from sfm_graph.services.registry import Services

SPACE = "notes"
START = datetime(2025, 1, 1, tzinfo=UTC)


# Pairs of vectors.


def _vectors(count: int, seed: int = 0) -> Any:
    """Unit vectors, every other one near to the one before it."""
    generator = np.random.default_rng(seed)
    found = generator.standard_normal((count, 48)).astype(np.float32)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    noise = generator.standard_normal((count // 2, 48)).astype(np.float32) * 0.1 / np.sqrt(48)
    found[1::2] = found[: 2 * (count // 2) : 2] + noise
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    return found


@given(st.integers(2, 60), st.integers(0, 1_000), st.floats(0.5, 0.999))
def test_pairs_are_those_of_the_whole_matrix(count: int, seed: int, threshold: float) -> None:
    vectors = _vectors(count, seed)
    one, other, cosines = module._exact(vectors, threshold)
    matrix = vectors @ vectors.T
    wanted = {(low, high) for low in range(count) for high in range(low + 1, count) if matrix[low, high] >= threshold}
    found = set(zip(one.tolist(), other.tolist(), strict=True))
    assert {pair for pair in wanted ^ found if abs(matrix[pair] - threshold) > 1e-5} == set()
    assert np.allclose(cosines, matrix[one, other], atol=1e-5)


def test_bands_find_the_near_pairs_of_many_vectors_and_no_others() -> None:
    vectors = _vectors(3_000)
    one, other, cosines = module._banded(vectors, 0.97)
    exact = set(zip(*(part.tolist() for part in module._exact(vectors, 0.97)[:2]), strict=True))
    found = list(zip(one.tolist(), other.tolist(), strict=True))
    assert len(found) == len(set(found))
    assert set(found) <= exact
    assert len(exact) > 1_000
    assert len(found) >= 0.97 * len(exact)
    assert (cosines >= 0.97).all()


def test_a_thousand_equal_vectors_are_no_million_pairs() -> None:
    vectors = np.repeat(_vectors(2)[:1], 1_000, axis=0)
    one, _, _ = module._banded(vectors, 0.97)
    assert 999 <= len(one) <= 1_000 * module.NEXT


@pytest.mark.parametrize("search", [module._exact, module._banded])
def test_of_many_pairs_the_nearest_are_kept_as_they_are_found(search: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = _vectors(700)
    wanted = np.sort(search(vectors, 0.9)[2])[::-1]
    monkeypatch.setattr(module, "MAX_PAIRS", 20)
    assert len(wanted) > 100
    assert np.allclose(np.sort(search(vectors, 0.9)[2])[::-1][:21], wanted[:21])
    equal = np.repeat(vectors[:1], 600, axis=0)
    # Of each of two blocks, or of all bands, one more than are told: there are more.
    assert 20 < len(search(equal, 0.97)[0]) <= 42


async def test_who_gives_up_leaves_the_turn_to_the_search_that_goes_on(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    await services.memory_writes.store_many(SPACE, [{"key": key, "content": "one and the same"} for key in "ab"])
    running: list[str] = []
    begun, go_on = threading.Event(), threading.Event()
    search = duplicates.near_pairs

    def held(*given: Any) -> Any:
        running.append("begun")
        begun.set()
        go_on.wait(30)
        running.append("over")
        return search(*given)

    monkeypatch.setattr(duplicates, "near_pairs", held)
    first = asyncio.create_task(_propose(services))
    assert await asyncio.to_thread(begun.wait, 30)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    second = asyncio.create_task(_propose(services))
    for _ in range(20):
        await asyncio.sleep(0.01)
    assert running == ["begun"]
    go_on.set()
    assert len((await second).groups) == 1
    assert running == ["begun", "over"] * 2


@given(
    st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12), st.sampled_from([0.97, 0.98, 1.0])), max_size=30),
    st.integers(0, 2**32),
)
def test_groups_are_disjoint_of_one_kind_and_all_near_to_the_one_to_keep(
    drawn: list[tuple[int, int, float]], seed: int
) -> None:
    near = {(min(one, other), max(one, other)): cosine for one, other, cosine in drawn if one != other}
    pairs = [NearPair(*ends, cosine) for ends, cosine in near.items()]
    generator = np.random.default_rng(seed)
    traits = {
        id_: Trait("se"[int(generator.integers(2))], float(generator.integers(3)), False) for id_ in range(1, 12)
    }
    groups = grouped(pairs, traits)
    members = [id_ for one in groups for id_ in (one.kept, *(other for other, _ in one.others))]
    assert len(members) == len(set(members))
    for kept, others in groups:
        assert others
        for id_, cosine in others:
            assert near[min(kept, id_), max(kept, id_)] == cosine
            assert traits[id_].kind == traits[kept].kind
    for low, high in near:
        if low in traits and high in traits and traits[low].kind == traits[high].kind:
            assert {low, high} & set(members)
    assert grouped(pairs[::-1], traits) == groups


# Proposals.


async def _propose(services: Services, **more: Any) -> Duplicates:
    async with services.views.open() as view:
        return await services.duplicates.propose(view, SPACE, **more)


async def _store(services: Services, *items: dict[str, Any]) -> list[MemoryId]:
    return [one.memory.id for one in (await services.memory_writes.store_many(SPACE, list(items))).stored]


async def test_the_same_text_of_one_kind_is_proposed(services: Services) -> None:
    one, two, three, _ = await _store(
        services,
        {"content": "The fence fell in the storm."},
        {"content": "the fence FELL, in the storm", "importance": 3},
        {"content": "The fence fell in the storm.", "kind": "semantic"},
        {"content": "Something else altogether"},
    )
    (group,) = (found := await _propose(services)).groups
    assert found.complete
    assert found.examined == 4
    assert group.kept.id == two
    (duplicate,) = group.duplicates
    assert duplicate.memory.id == one
    assert duplicate.same_text
    assert duplicate.cosine == pytest.approx(1, abs=1e-3)
    await services.memory_writes.forget_many(SPACE, [MemoryRef(id=one)])
    assert (await _propose(services)).groups == ()
    assert three


async def test_near_vectors_are_proposed_from_the_threshold_on(services: Services) -> None:
    await services.namespaces.put(SPACE, settings=None, model={"name": "own", "dimension": 2})
    for angle in (0.0, 0.1, 0.4):
        await _store(services, {"content": f"angle {angle}", "embedding": [np.cos(angle), np.sin(angle)]})
    (group,) = (await _propose(services)).groups
    assert len(group.duplicates) == 1
    assert not group.duplicates[0].same_text
    assert len((await _propose(services, threshold=0.9)).groups[0].duplicates) == 2
    assert (await _propose(services, threshold=1)).groups == ()


async def test_of_a_namespace_that_is_not_in_memory_the_newest_are_looked_up(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = await _store(services, {"content": "The fence fell."}, {"content": "The fence fell."})

    async def nothing(*_: object) -> None:
        return None

    monkeypatch.setattr(services.duplicates._hot, "at", nothing)
    found = await _propose(services)
    assert not found.complete
    assert [(one.kept.id, one.duplicates[0].memory.id) for one in found.groups] == [(first, second)]


@pytest.mark.parametrize("wrong", [{"threshold": 0.5}, {"threshold": 1.1}, {"threshold": float("nan")}, {"first": 0}])
async def test_wrong_questions_are_refused(services: Services, wrong: dict[str, Any]) -> None:
    await _store(services, {"content": "x"})
    with pytest.raises(InvalidInput):
        await _propose(services, **wrong)


async def test_an_unknown_namespace_has_no_duplicates(services: Services) -> None:
    with pytest.raises(NamespaceNotFound):
        await _propose(services)


# What merging does, by a naive model.

_ENDS = st.integers(1, 6)
_LINKS = st.lists(
    st.tuples(_ENDS, _ENDS, st.sampled_from("ab"), st.integers(0, 2), st.integers(0, 3), st.booleans(),
              st.sampled_from([None, None, None, "mention"])),
    max_size=25, unique_by=lambda one: one[:4],
)  # fmt: skip


def _link(place: int, drawn: tuple[Any, ...]) -> Link:
    source, target, type_, begins, weight, ends, maker = drawn
    return Link(
        LinkId(place), SPACE, MemoryId(source), MemoryId(target), type_, float(weight), {f"p{weight}": place}, 1,
        START, START, START + timedelta(days=begins) if begins else None,
        START + timedelta(days=9) if ends else None, maker,
    )  # fmt: skip


@given(_LINKS)
def test_links_move_as_in_a_naive_model(drawn: list[tuple[Any, ...]]) -> None:
    links = [_link(place, one) for place, one in enumerate(drawn, start=1)]
    gone = {MemoryId(5), MemoryId(6)}
    touching = [one for one in links if one.source_id in gone or one.target_id in gone]
    own = [one for one in links if one not in touching]
    made, dropped = moved_links(MemoryId(1), gone, touching, own)
    wanted: dict[Any, list[Link]] = {}
    loops = 0
    for link in touching:
        if link.maker is None:
            source, target = (1 if end in gone else end for end in (link.source_id, link.target_id))
            if source == target:
                loops += 1
            else:
                wanted.setdefault((source, target, link.type, link.valid_from), []).append(link)
    assert dropped == loops
    found = {(one.source.id, one.target.id, one.type, one.valid_from): one for one in made}
    assert len(found) == len(made)
    assert found.keys() == wanted.keys()
    for place, one in found.items():
        standing = [
            two for two in own
            if (two.source_id, two.target_id, two.type, two.valid_from) == place and two.maker is None
        ]  # fmt: skip
        all_ = standing + wanted[place]
        assert one.weight == min(two.weight for two in all_)
        assert set(one.properties or {}) == {name for two in all_ for name in two.properties}
        ends = [two.valid_to for two in all_]
        assert one.valid_to == (None if None in ends else START + timedelta(days=9))


async def _links_of(services: Services, ref: MemoryId) -> dict[tuple[int, int, str], Link]:
    async with services.views.open() as view:
        pages = await services.links.pages_of(view, SPACE, [ref], WalkFilter(Direction.BOTH, ()), 100, None)
    return {(one.source_id, one.target_id, one.type): one for one in pages[ref].items}


async def _get(services: Services, id_: MemoryId) -> Memory | None:
    async with services.views.open() as view:
        return (await services.memory_reads.find_many(view, SPACE, [MemoryRef(id=id_)]))[0]


async def _merge(services: Services, into: MemoryId, others: Sequence[MemoryId], **more: Any) -> MergeResult:
    return await services.merging.merge(SPACE, MemoryRef(id=into), [MemoryRef(id=one) for one in others], **more)


async def test_one_memory_stays_with_the_links_of_all(services: Services) -> None:
    kept, two, three, far = await _store(
        services,
        {"content": "Ada", "title": "Ada", "payload": {"a": 1, "aliases": ["Countess"]}, "importance": 1},
        {"content": "Ada L.", "title": "Ada Lovelace", "payload": {"a": 2, "b": 2}, "importance": 5},
        {"content": "A. L.", "title": "Ada", "payload": {"b": 3, "c": 3, "aliases": "Lady"}, "importance": 2},
        {"content": "far away"},
    )
    for source, target, weight, name in (
        (kept, far, 3, "x"), (two, far, 1, "y"), (far, three, 2, "z"), (two, three, 1, "w"), (kept, two, 1, "v"),
    ):  # fmt: skip
        fields = {"type": "knows", "weight": weight, "properties": {name: 1}}
        await services.links.link(SPACE, {"id": _id(source)}, {"id": _id(target)}, fields)
    before = await _get(services, two), await _get(services, three)
    done = await _merge(services, kept, [two, three, two])
    assert (done.merged, done.moved, done.dropped) == ((two, three), 2, 2)
    assert await _get(services, kept) == done.memory
    assert done.memory.payload == {
        "a": 1, "b": 2, "c": 3, "aliases": ["Countess", "Ada Lovelace", "Lady"],
        "merged_from": [one.global_id for one in before if one],
    }  # fmt: skip
    assert done.memory.importance == 5
    assert (done.memory.content, done.memory.title, done.memory.version) == ("Ada", "Ada", 2)
    assert await _get(services, two) is None
    links = await _links_of(services, kept)
    callers = {place: one for place, one in links.items() if one.maker is None}
    assert callers.keys() == {(kept, far, "knows"), (far, kept, "knows")}
    joined = callers[kept, far, "knows"]
    assert (joined.weight, joined.properties) == (1, {"x": 1, "y": 1})


def _id(memory_id: MemoryId) -> str:
    return encode_global_id(Entity.MEMORY, SPACE, memory_id)


async def test_the_same_merge_again_gives_the_first_answer(services: Services) -> None:
    kept, two, three = await _store(services, {"content": "a"}, {"content": "b"}, {"content": "c"})
    key = idempotency_key("me", "k", "body")
    first = await _merge(services, kept, [two], key=key)
    assert await _merge(services, kept, [two], key=key) == first
    with pytest.raises(IdempotencyConflict):
        await _merge(services, kept, [three], key=idempotency_key("me", "k", "other"))
    assert await _get(services, three) is not None


async def test_what_cannot_be_merged_stays_as_it_was(services: Services) -> None:
    kept, two = await _store(services, {"content": "a"}, {"content": "b"})
    with pytest.raises(InvalidInput):
        await _merge(services, kept, [two, kept])
    with pytest.raises(InvalidInput):
        await _merge(services, kept, [])
    with pytest.raises(MemoryNotFound):
        await _merge(services, kept, [two, MemoryId(10**9)])
    with pytest.raises(MemoryNotFound):
        await services.merging.merge("nowhere", MemoryRef(key="a"), [MemoryRef(key="b")])
    await services.holds.hold(SPACE, MemoryRef(id=two))
    with pytest.raises(LegalHold):
        await _merge(services, kept, [two])
    found = await _get(services, kept)
    assert found is not None
    assert found.version == 1
    assert await _get(services, two) is not None


async def test_of_two_merges_at_once_one_wins(services: Services) -> None:
    one, two = await _store(services, {"content": "a"}, {"content": "b"})
    results = await asyncio.gather(_merge(services, one, [two]), _merge(services, two, [one]), return_exceptions=True)
    assert sorted(isinstance(result, MergeResult) for result in results) == [False, True]
    assert [type(result) for result in results if not isinstance(result, MergeResult)] == [MemoryNotFound]
    assert len([id_ for id_ in (one, two) if await _get(services, id_) is not None]) == 1


def test_aliases_that_are_no_names_are_left_alone() -> None:
    kept = _memory(1, "Ada", {"aliases": {"odd": 1}})
    assert merged_memory(kept, [_memory(2, "Bea", {})]).payload == {
        "aliases": {"odd": 1},
        "merged_from": [_id(MemoryId(2))],
    }
    again = merged_memory(_memory(1, None, {"merged_from": ["x"]}), [_memory(2, "Bea", {"merged_from": ["y"]})])
    assert again.title == "Bea"
    assert again.payload == {"merged_from": ["x", "y", _id(MemoryId(2))]}


def _memory(id_: int, title: str | None, payload: dict[str, Any]) -> Memory:
    return Memory(
        MemoryId(id_), SPACE, None, (float(id_),), MemoryKind.EPISODIC, title, "text", payload, 1.0, 1, START, START,
        None, None,
    )  # fmt: skip
