"""The hot text index against a naive one, over random histories."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sfm_graph.domain.documents import Documents, Lists, OwnedVectors
from sfm_graph.domain.snapshot import Snapshot
from sfm_graph.hot.cache import HotBudget, HotCache
from sfm_graph.hot.text.index import TextIndex, empty_index
from sfm_graph.hot.text.scores import Scores

DIMENSION = 4
NOW = 1_000.0
EVERY_ID = np.arange(1, 14)

Terms = tuple[tuple[int, int], ...]
Vector = tuple[float, ...]


@dataclass(frozen=True)
class Window:
    """The words of a window, and its vector unless that is still to be made."""

    terms: Terms
    vector: Vector | None


@dataclass(frozen=True)
class Doc:
    id: int
    terms: Terms = ()
    vectors: tuple[Vector, ...] = ()
    valid_from: float = -np.inf
    valid_to: float = np.inf
    window: Window | None = None
    names: tuple[int, ...] = ()
    proper_names: tuple[int, ...] = ()
    author: int = -1
    date: int = 0
    importance: float = 1.0
    created: float = 0.0

    @property
    def own(self) -> dict[int, int]:
        return dict(self.terms)

    @property
    def around(self) -> dict[int, int]:
        """The counts of its window; it is its own without one."""
        return dict(self.window.terms) if self.window else self.own

    @property
    def is_valid(self) -> bool:
        return self.valid_from <= NOW < self.valid_to


History = list[tuple[list[Doc], list[int]]]
Alive = dict[int, Doc]

vectors = st.tuples(*[st.floats(-1, 1, width=16)] * DIMENSION)
terms = st.dictionaries(st.integers(1, 5), st.integers(1, 4), max_size=4).map(lambda d: tuple(sorted(d.items())))
# Ids of names are as large as 63 bits.
some_names = st.sets(st.sampled_from([1, 2, 2**40, 2**63 - 1]), max_size=3).map(lambda found: tuple(sorted(found)))
docs = st.builds(
    Doc,
    st.integers(1, 12),
    terms,
    st.lists(vectors, max_size=3).map(tuple),
    st.sampled_from([-np.inf, -np.inf, 500.0, 1000.0, 2000.0]),
    st.sampled_from([np.inf, np.inf, np.inf, 1000.0, 1.0]),
    st.none() | st.builds(Window, terms, st.none() | vectors),
    some_names,
    some_names,
    st.sampled_from([-1, 2**63 - 1]),
    st.sampled_from([0, 1_035_944]),
    st.sampled_from([0.0, 1.0, 2.5]),
    st.sampled_from([0.0, 999.0, 1_500.0]),
)
# One step: memories stored (a later one replaces an earlier one of the same id), and ids forgotten.
steps = st.lists(st.tuples(st.lists(docs, max_size=6), st.lists(st.integers(1, 12), max_size=3)), max_size=12)
queries = st.lists(st.integers(1, 6), min_size=1, max_size=4, unique=True)


def _lists(rows: Sequence[Sequence[int]], dtype: Any, counts: Sequence[int] = ()) -> Lists:
    starts = np.cumsum([0, *map(len, rows)]).astype(np.int64)
    return Lists(starts, np.array([key for row in rows for key in row], dtype), np.array(counts, np.float32))


def _term_lists(rows: Sequence[Terms]) -> Lists:
    return _lists([[term for term, _ in row] for row in rows], np.uint32, [count for row in rows for _, count in row])


def _owned(pairs: Sequence[tuple[int, Vector]]) -> OwnedVectors:
    return OwnedVectors(
        np.array([one for one, _ in pairs], np.int64),
        np.array([vector for _, vector in pairs], np.float32).reshape(len(pairs), DIMENSION),
    )


def _documents(chosen: Sequence[Doc]) -> Documents:
    chosen = sorted(chosen, key=lambda doc: doc.id)
    windows = [doc.window for doc in chosen]
    return Documents(
        np.array([doc.id for doc in chosen], np.int64),
        np.array([sum(doc.own.values()) for doc in chosen], np.float32),
        np.array([sum(doc.around.values()) if doc.window else -1 for doc in chosen], np.float32),
        np.array([doc.valid_from for doc in chosen]),
        np.array([doc.valid_to for doc in chosen]),
        np.array([doc.author for doc in chosen], np.int64),
        np.array([doc.date for doc in chosen], np.int32),
        np.array([doc.importance for doc in chosen], np.float32),
        np.array([doc.created for doc in chosen]),
        _term_lists([doc.terms for doc in chosen]),
        _term_lists([window.terms if window else () for window in windows]),
        _lists([doc.proper_names for doc in chosen], np.int64),
        _lists([doc.names for doc in chosen], np.int64),
        _owned([(doc.id, vector) for doc in chosen for vector in doc.vectors]),
        _owned([(doc.id, doc.window.vector) for doc in chosen if doc.window and doc.window.vector]),
    )


def _replay(history: History) -> tuple[TextIndex, Alive]:
    index = empty_index(Snapshot("1:1:"), 1)
    alive: Alive = {}
    for number, (stored, forgotten) in enumerate(history, start=2):
        fresh = {doc.id: doc for doc in stored if doc.id not in forgotten}
        changed = np.array(sorted(set(fresh) | {doc.id for doc in stored} | set(forgotten)), np.int64)
        alive = {one: doc for one, doc in alive.items() if one not in changed} | fresh
        index = index.changed(Snapshot(f"{number}:{number}:"), changed, _documents(list(fresh.values())))
    return index, alive


def _bm25(alive: Alive, query: list[int], counts: Callable[[Doc], dict[int, int]]) -> dict[int, float]:
    lengths = {one: sum(counts(doc).values()) for one, doc in alive.items()}
    average = sum(lengths.values()) / len(alive) if alive and sum(lengths.values()) else 1.0
    scores: dict[int, float] = {}
    for term in query:
        holders = {one: counts(doc)[term] for one, doc in alive.items() if term in counts(doc)}
        idf = np.log(1 + (len(alive) - len(holders) + 0.5) / (len(holders) + 0.5))
        for one, count in holders.items():
            norm = 1.2 * (0.25 + 0.75 * lengths[one] / average)
            scores[one] = scores.get(one, 0.0) + idf * count * 2.2 / (count + norm)
    return scores


def _assert_scores(scores: Scores, expected: dict[int, float], alive: Alive) -> None:
    """Candidates are those valid with a score; `of` gives the score of each memory that exists, else 0."""
    shown = {one: score for one, score in expected.items() if alive[one].is_valid}
    best = scores.best(100)
    assert set(best.ids.tolist()) == set(shown)
    np.testing.assert_allclose(best.scores, [shown[one] for one in best.ids.tolist()], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(best.scores, sorted(shown.values(), reverse=True), rtol=1e-5, atol=1e-6)
    few = scores.best(3)
    np.testing.assert_array_equal(few.ids, best.ids[:3])
    of_all = dict(zip(EVERY_ID.tolist(), scores.of(EVERY_ID).tolist(), strict=True))
    for one, score in of_all.items():
        np.testing.assert_allclose(score, expected.get(one, 0.0), rtol=1e-5, atol=1e-6)


@settings(max_examples=80, deadline=None)
@given(history=steps, query=queries)
def test_lexical_equals_a_naive_bm25(history: History, query: list[int]) -> None:
    index, alive = _replay(history)
    mask = index.eligible(NOW, None)
    _assert_scores(index.lexical(query, mask), _bm25(alive, query, lambda doc: doc.own), alive)
    _assert_scores(index.lexical_windows(query, mask), _bm25(alive, query, lambda doc: doc.around), alive)


def _cosines(alive: Alive, vector: NDArray[np.float32]) -> dict[int, float]:
    return {
        one: max(float(np.array(part, np.float32) @ vector) for part in doc.vectors)
        for one, doc in alive.items()
        if doc.vectors
    }


@settings(max_examples=80, deadline=None)
@given(history=steps, query=vectors)
def test_dense_equals_a_naive_scan(history: History, query: Vector) -> None:
    index, alive = _replay(history)
    vector = np.array(query, np.float32)
    own = _cosines(alive, vector)
    found = index.dense(vector, index.eligible(NOW, None))
    _assert_scores(found, own, alive)
    windows = {
        one: float(np.array(doc.window.vector, np.float32) @ vector)
        for one, doc in alive.items()
        if doc.window and doc.window.vector
    }
    _assert_scores(index.dense_windows(vector, found), own | windows, alive)
    assert index.live_vector_count == sum(len(doc.vectors) for doc in alive.values()) + len(windows)
    assert index.vector_count >= index.live_vector_count


@settings(max_examples=80, deadline=None)
@given(history=steps, allowed=st.none() | st.sets(st.integers(1, 13)))
def test_only_what_is_valid_and_allowed_is_eligible(history: History, allowed: set[int] | None) -> None:
    index, alive = _replay(history)
    mask = index.eligible(NOW, None if allowed is None else np.array(sorted(allowed), np.int64))
    expected = {one for one, doc in alive.items() if doc.is_valid and (allowed is None or one in allowed)}
    assert set(EVERY_ID[index.is_eligible(EVERY_ID, mask)].tolist()) == expected
    everything = index.dense(np.ones(DIMENSION, np.float32), mask).best(100)
    assert set(everything.ids.tolist()) == {one for one in expected if alive[one].vectors}
    windows = [doc.window for doc in alive.values() if doc.window]
    assert index.has_windows or not any(window.terms for window in windows)
    assert windows or not index.has_windows


@settings(max_examples=80, deadline=None)
@given(history=steps)
def test_names_lead_to_the_living(history: History) -> None:
    index, alive = _replay(history)
    for name in (1, 2, 3, 2**40, 2**63 - 1):
        assert index.called(name).tolist() == sorted(one for one, doc in alive.items() if name in doc.names)
        bearers = sorted(one for one, doc in alive.items() if name in doc.proper_names)
        assert index.bearers(name, len(bearers)).tolist() == bearers
        assert index.bearers(name, len(bearers) - 1).tolist() == []
    asked = [2**63 - 1, 3, 1, 2**40]
    assert index.known_names(asked) == {name for doc in alive.values() for name in doc.names} & set(asked)
    assert index.known_names([]) == set()
    for one in EVERY_ID.tolist():
        assert index.proper_names_of(one) == (list(alive[one].proper_names) if one in alive else [])


@settings(max_examples=80, deadline=None)
@given(history=steps, ids=st.lists(st.integers(1, 13), max_size=8))
def test_traits_are_those_of_each_id(history: History, ids: list[int]) -> None:
    index, alive = _replay(history)
    found = index.traits(np.array(ids, np.int64), NOW)
    for place, one in enumerate(ids):
        doc = alive.get(one)
        traits = (found.authors[place], found.dates[place], found.importances[place], found.ages[place])
        if doc is None:
            assert traits == (-1, 0, 0.0, 0.0)
        else:
            since = doc.created if np.isinf(doc.valid_from) else doc.valid_from
            assert traits == (doc.author, doc.date, doc.importance, max(NOW - since, 0.0))


def test_ties_go_by_the_lower_id_in_whatever_segments_they_are() -> None:
    index = empty_index(Snapshot("1:1:"), 1)
    for number, one in enumerate([9, 3, 7, 1, 12, 5], start=2):
        doc = Doc(one, ((1, 1),), ((1.0, 0, 0, 0),))
        index = index.changed(Snapshot(f"{number}:{number}:"), np.array([one]), _documents([doc]))
    mask = index.eligible(NOW, None)
    for scores in (index.lexical([1], mask), index.dense(np.eye(DIMENSION, dtype=np.float32)[0], mask)):
        assert scores.best(4).ids.tolist() == [1, 3, 5, 7]


@pytest.mark.parametrize("count", [5, 13, 20])
def test_equal_vectors_tie_in_whatever_segments_they_are(count: int) -> None:
    chosen = np.random.default_rng(count)
    vector = chosen.standard_normal(DIMENSION)
    vector /= np.linalg.norm(vector)
    index = empty_index(Snapshot("1:1:"), 1)
    for number, one in enumerate(chosen.permutation(count).tolist(), start=2):
        doc = Doc(one + 1, ((1, 1),), (tuple(vector.tolist()),))
        index = index.changed(Snapshot(f"{number}:{number}:"), np.array([one + 1]), _documents([doc]))
    for _ in range(8):
        query = chosen.standard_normal(DIMENSION).astype(np.float32)
        best = index.dense(query / np.linalg.norm(query), index.eligible(NOW, None)).best(count)
        assert best.ids.tolist() == list(range(1, count + 1))
        assert len(set(best.scores.tolist())) == 1


def _lexical(index: TextIndex) -> Scores:
    return index.lexical([1], index.eligible(NOW, None))


def test_segments_stay_few_and_old_versions_stay_whole() -> None:
    index = empty_index(Snapshot("1:1:"), 1)
    versions = [index]
    for number in range(1, 400):
        doc = Doc(number, ((1, 1),), ((1.0, 0, 0, 0),))
        index = index.changed(Snapshot(f"{number}:{number}:"), np.array([number]), _documents([doc]))
        versions.append(index)
    assert len(index.parts) <= 6
    for number in (5, 100, 399):
        assert len(_lexical(versions[number]).best(1_000).ids) == number


def test_the_cache_keeps_to_its_budget_and_never_goes_back() -> None:
    one = empty_index(Snapshot("1:1:"), 1)
    full = one.changed(Snapshot("5:5:"), np.array([1]), _documents([Doc(1, ((1, 1),))]))
    cache: HotCache[TextIndex] = HotCache(HotBudget(int(full.nbytes * 2.5)))
    for namespace in range(4):
        cache.publish(namespace, full)
    assert sorted(cache.sizes()) == [2, 3]
    cache.publish(3, replace(full, snapshot=Snapshot("4:4:")))
    newest = cache.newest(3)
    assert newest is not None
    assert newest.snapshot == full.snapshot
    pinned = cache.pinned()
    cache.drop(3)
    assert cache.newest(3) is None
    assert pinned[3] is full


def test_structures_share_one_budget_and_the_least_recently_used_goes() -> None:
    full = empty_index(Snapshot("1:1:"), 1).changed(Snapshot("5:5:"), np.array([1]), _documents([Doc(1, ((1, 1),))]))
    budget = HotBudget(full.nbytes * 2)
    one: HotCache[TextIndex] = HotCache(budget)
    other: HotCache[TextIndex] = HotCache(budget)
    one.publish(1, full)
    other.publish(1, full)
    one.publish(1, full.at(Snapshot("6:6:")))
    one.publish(2, full)
    assert (sorted(one.sizes()), sorted(other.sizes())) == ([1, 2], [])
    one.drop(1)
    other.publish(1, full)
    assert (sorted(one.sizes()), sorted(other.sizes())) == ([2], [1])
