"""The hot text index against a naive one, over random histories."""

from dataclasses import dataclass, replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sfm_graph.domain.documents import Documents
from sfm_graph.domain.snapshot import Snapshot
from sfm_graph.hot.cache import HotBudget, HotCache
from sfm_graph.hot.text_index import TextIndex, empty_index

DIMENSION = 4
NOW = 1_000.0


@dataclass(frozen=True)
class Doc:
    id: int
    terms: tuple[tuple[int, int], ...]
    vectors: tuple[tuple[float, ...], ...]
    valid_to: float = np.inf


docs = st.builds(
    Doc,
    st.integers(1, 12),
    st.dictionaries(st.integers(1, 5), st.integers(1, 4), max_size=4).map(lambda d: tuple(sorted(d.items()))),
    st.lists(st.tuples(*[st.floats(-1, 1, width=16)] * DIMENSION), max_size=3).map(tuple),
    st.sampled_from([np.inf, np.inf, np.inf, 1.0]),
)
# One step: memories stored (a later one replaces an earlier one of the same id), and ids forgotten.
steps = st.lists(st.tuples(st.lists(docs, max_size=6), st.lists(st.integers(1, 12), max_size=3)), max_size=12)


def _documents(chosen: list[Doc]) -> Documents:
    chosen = sorted(chosen, key=lambda doc: doc.id)
    terms = [pair for doc in chosen for pair in doc.terms]
    vectors = [(doc.id, vector) for doc in chosen for vector in doc.vectors]
    return Documents(
        np.array([doc.id for doc in chosen], np.int64),
        np.array([sum(count for _, count in doc.terms) for doc in chosen], np.float32),
        np.full(len(chosen), -np.inf),
        np.array([doc.valid_to for doc in chosen]),
        np.cumsum([0] + [len(doc.terms) for doc in chosen]).astype(np.int64),
        np.array([term for term, _ in terms], np.uint32),
        np.array([count for _, count in terms], np.float32),
        np.array([one for one, _ in vectors], np.int64),
        np.array([vector for _, vector in vectors], np.float32).reshape(len(vectors), DIMENSION),
    )


def _replay(history: list[tuple[list[Doc], list[int]]]) -> tuple[TextIndex, dict[int, Doc]]:
    index = empty_index(Snapshot("1:1:"), has_vectors=True)
    alive: dict[int, Doc] = {}
    for number, (stored, forgotten) in enumerate(history, start=2):
        fresh = {doc.id: doc for doc in stored if doc.id not in forgotten}
        changed = np.array(sorted(set(fresh) | {doc.id for doc in stored} | set(forgotten)), np.int64)
        alive = {one: doc for one, doc in alive.items() if one not in changed} | fresh
        index = index.changed(Snapshot(f"{number}:{number}:"), changed, _documents(list(fresh.values())))
    return index, alive


def _bm25(alive: dict[int, Doc], query: list[int]) -> dict[int, float]:
    lengths = {one: sum(count for _, count in doc.terms) for one, doc in alive.items()}
    average = sum(lengths.values()) / len(alive) if alive and sum(lengths.values()) else 1.0
    scores: dict[int, float] = {}
    for term in query:
        holders = {one: dict(doc.terms)[term] for one, doc in alive.items() if term in dict(doc.terms)}
        idf = np.log(1 + (len(alive) - len(holders) + 0.5) / (len(holders) + 0.5))
        for one, count in holders.items():
            norm = 1.2 * (0.25 + 0.75 * lengths[one] / average)
            scores[one] = scores.get(one, 0.0) + idf * count * 2.2 / (count + norm)
    return {one: score for one, score in scores.items() if alive[one].valid_to > NOW}


@settings(max_examples=150, deadline=None)
@given(history=steps, query=st.lists(st.integers(1, 6), min_size=1, max_size=4, unique=True))
def test_lexical_equals_a_naive_bm25(history: list[tuple[list[Doc], list[int]]], query: list[int]) -> None:
    index, alive = _replay(history)
    expected = _bm25(alive, query)
    best = index.lexical(query, NOW, None).best(100)
    np.testing.assert_allclose(best.scores, [expected[one] for one in best.ids.tolist()], rtol=1e-5)
    assert set(best.ids.tolist()) == set(expected)
    some = np.array(sorted(alive)[::2], np.int64)
    kept = index.lexical(query, NOW, some).best(100)
    assert set(kept.ids.tolist()) == set(expected) & set(some.tolist())


@settings(max_examples=150, deadline=None)
@given(history=steps, query=st.tuples(*[st.floats(-1, 1, width=16)] * DIMENSION), count=st.integers(1, 5))
def test_dense_equals_a_naive_scan(
    history: list[tuple[list[Doc], list[int]]], query: tuple[float, ...], count: int
) -> None:
    index, alive = _replay(history)
    vector = np.array(query, np.float32)
    expected = {
        one: max(float(np.array(part, np.float32) @ vector) for part in doc.vectors)
        for one, doc in alive.items()
        if doc.vectors and doc.valid_to > NOW
    }
    scores = index.dense(vector, NOW, None)
    best = scores.best(count)
    assert len(best.ids) == min(count, len(expected))
    np.testing.assert_allclose(best.scores, sorted(expected.values(), reverse=True)[:count], atol=1e-4)
    everything = np.array(range(1, 14), np.int64)
    present = {one: doc for one, doc in alive.items() if doc.vectors}
    of_all = scores.of(everything)
    for one, score in zip(everything.tolist(), of_all.tolist(), strict=True):
        if one not in present:
            assert score == 0.0
        elif one in expected:
            np.testing.assert_allclose(score, expected[one], atol=1e-4)


def test_segments_stay_few_and_old_versions_stay_whole() -> None:
    index = empty_index(Snapshot("1:1:"), has_vectors=True)
    versions = [index]
    for number in range(1, 400):
        doc = Doc(number, ((1, 1),), ((1.0, 0, 0, 0),))
        index = index.changed(Snapshot(f"{number}:{number}:"), np.array([number]), _documents([doc]))
        versions.append(index)
    assert len(index.parts) <= 6
    for number in (5, 100, 399):
        assert len(versions[number].lexical([1], NOW, None).best(1_000).ids) == number


def test_the_cache_keeps_to_its_budget_and_never_goes_back() -> None:
    one = empty_index(Snapshot("1:1:"), has_vectors=True)
    full = one.changed(Snapshot("5:5:"), np.array([1]), _documents([Doc(1, ((1, 1),), ())]))
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
    full = empty_index(Snapshot("1:1:"), has_vectors=True).changed(
        Snapshot("5:5:"), np.array([1]), _documents([Doc(1, ((1, 1),), ())])
    )
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
