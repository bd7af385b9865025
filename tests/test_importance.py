"""Importance on a namespace's scale: the formula's properties, its summary, and what recall makes of both."""

import random
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import SecretStr

from sfm_graph.domain.as_of import AsOf
from sfm_graph.domain.identity import MemoryRef
from sfm_graph.domain.importance import ALL_EQUAL, LEAST, MOST, ImportanceScale, distribution
from sfm_graph.domain.recall import Leg, Recall, RecallQuery, RecallWeights
from sfm_graph.runtime import open_runtime
from sfm_graph.services.registry import Services
from sfm_graph.settings import Settings
from sfm_graph.store import traits

Floats = NDArray[np.float64]

raws = st.floats(0, 1.7e308) | st.integers(0, 10).map(float) | st.sampled_from([0.0, 5e-324, 1.0, 1.0004, 3.0, 5.0])
many = st.lists(raws, min_size=1, max_size=60).map(lambda values: np.array(values, np.float64))


def _scale(values: Floats) -> ImportanceScale:
    return distribution(values).scale()


@example(values=np.array([0.0, 1.7e308]), asked=[0.0, 1.0, 1.7e308])
@example(values=np.array([0.0] * 5 + [1.7e308]), asked=[0.0, 1.7e308])
@example(values=np.array([0.0] * 5 + [5e-324]), asked=[0.0, 5e-324])
@example(values=np.array([1.0] * 99 + [3.0]), asked=[3.0, 5.0])
@given(values=many, asked=st.lists(raws, min_size=1, max_size=12))
def test_more_important_never_counts_less(values: Floats, asked: list[float]) -> None:
    """Over the whole range: inside of what the namespace holds and outside of it."""
    ascending = np.sort(np.array([*asked, *values, 3.0, 5.0]))
    found = _scale(values).of(ascending)
    assert np.isfinite(found).all()
    assert (found >= LEAST).all()
    assert (found <= MOST).all()
    assert (np.diff(found) >= 0).all()
    three, five = _scale(values).of(np.array([3.0, 5.0]))
    assert five >= three > 0


@given(value=raws, count=st.integers(1, 9))
def test_equal_importances_are_in_the_middle(value: float, count: int) -> None:
    assert _scale(np.full(count, value)).of(np.array([value])).tolist() == [ALL_EQUAL]


@given(values=many)
def test_equal_raw_values_are_equal_and_never_zero(values: Floats) -> None:
    found = _scale(values).of(values)
    by_raw: dict[float, float] = {}
    for raw, value in zip(values.tolist(), found.tolist(), strict=True):
        assert by_raw.setdefault(raw, value) == value > 0


@given(values=many, order=st.randoms(use_true_random=False))
def test_the_order_of_values_does_not_matter(values: Floats, order: random.Random) -> None:
    shuffled = values.tolist()
    order.shuffle(shuffled)
    assert _scale(np.array(shuffled)) == _scale(values)


@given(values=many, gone=st.data(), fresh=many)
def test_a_changed_summary_is_that_of_the_changed_values(values: Floats, gone: st.DataObject, fresh: Floats) -> None:
    leaving = np.array(gone.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values))))
    changed = distribution(values).changed(values[leaving], fresh)
    anew = distribution(np.concatenate([values[~leaving], fresh]))
    np.testing.assert_array_equal(changed.bins, anew.bins)
    np.testing.assert_array_equal(changed.counts, anew.counts)
    assert changed.scale() == anew.scale()
    assert not len(changed.changed(np.concatenate([values[~leaving], fresh]), np.empty(0)).bins)


@given(values=st.lists(st.integers(0, 6).map(float), min_size=4, max_size=40).map(np.array))
def test_light_tails_are_measured_by_their_ends(values: Floats) -> None:
    """Against the definition, by numpy."""
    lower, upper = np.quantile(values, [0.25, 0.75], method="inverted_cdf")
    low, high, reach = values.min(), values.max(), 3 * (upper - lower)
    if low == high or high - upper > reach or lower - low > reach:
        return
    expected = LEAST + (MOST - LEAST) * (values - low) / (high - low)
    np.testing.assert_allclose(_scale(values).of(values), expected)


def test_an_outlier_does_not_press_the_others_together() -> None:
    usual = np.array([1.0, 2.0, 3.0, 4.0, 5.0] * 20)
    found = _scale(np.append(usual, 1e9)).of(np.array([1.0, 3.0, 5.0, 1e9]))
    assert found[1] == pytest.approx(0.5)
    assert found[2] - found[0] > 0.3
    assert found[3] == pytest.approx(MOST)
    # Most are equal, as where callers say it of a few only: those few are still told apart.
    found = _scale(np.array([1.0] * 500 + [3.0, 5.0])).of(np.array([1.0, 3.0, 5.0]))
    assert found[0] == pytest.approx(0.5)
    assert np.diff(found).min() > 0.1


async def _store(services: Services, importances: dict[str, float]) -> None:
    items = [{"key": key, "content": f"red cat {key}", "importance": one} for key, one in importances.items()]
    await services.memory_writes.store_many("demo", items)


async def _recall(services: Services, as_of: AsOf | None = None, **weights: Any) -> Recall:
    async with services.views.open(*(() if as_of is None else (as_of,))) as view:
        return await services.recalls.recall(
            view, "demo", RecallQuery("red cat", 20, weights=RecallWeights(**weights))
        )


def _of(recall: Recall, leg: Leg) -> dict[str, float]:
    return {
        hit.memory.key or "": one.contribution / one.weight
        for hit in recall.hits
        for one in hit.legs
        if one.leg is leg
    }


@pytest.fixture(params=[True, False], ids=["hot", "sql"])
async def both(request: pytest.FixtureRequest, settings: Settings, database_dsn: str) -> Any:
    """Services that hold namespaces in memory, and such that never do."""
    budget = settings.hot_budget_bytes if request.param else 0
    chosen = settings.model_copy(update={"hot_budget_bytes": budget, "postgres_url": SecretStr(database_dsn)})
    async with open_runtime(chosen, maintenance=False) as services:
        yield services


async def test_recall_follows_the_distribution_as_it_moves(both: Services) -> None:
    await _store(both, {"a": 1.0, "b": 1.0, "c": 1.0})
    assert _of(await _recall(both), Leg.IMPORTANCE) == pytest.approx({"a": 0.5, "b": 0.5, "c": 0.5})
    await _store(both, {"b": 3.0, "c": 5.0})
    assert _of(await _recall(both), Leg.IMPORTANCE) == pytest.approx({"a": LEAST, "b": 0.5, "c": MOST})
    await both.memory_writes.forget_many("demo", [MemoryRef(key="c")])
    assert _of(await _recall(both), Leg.IMPORTANCE) == pytest.approx({"a": LEAST, "b": MOST})
    await _store(both, {"b": 1.0})
    assert _of(await _recall(both), Leg.IMPORTANCE) == pytest.approx({"a": 0.5, "b": 0.5})


async def test_a_view_of_the_past_has_the_scale_of_then(both: Services) -> None:
    await _store(both, {"a": 1.0, "b": 3.0})
    known = datetime.now(UTC)
    await _store(both, {"a": 9.0, "c": 40.0})
    assert _of(await _recall(both, AsOf(known=known)), Leg.IMPORTANCE) == pytest.approx({"a": LEAST, "b": MOST})


async def test_memory_and_sql_measure_alike(services: Services) -> None:
    """All of a small namespace; of a large one its ends, and a sample."""
    chosen = random.Random(7)
    few = [chosen.choice([1.0, 1.0, 2.0, 5.0]) for _ in range(60)]
    await _store(services, {f"m{place}": one for place, one in enumerate(few)})
    await _recall(services)
    async with services.views.open() as view:
        namespace = await view.existing_namespace("demo")
        index = await services.recalls.hot_text.at(view, namespace)
        assert index is not None
        assert await traits.importance_scale(view.session, namespace.id, past=False) == index.totals.scale
    many_more = {f"n{place}": chosen.lognormvariate(0, 1) for place in range(1_000)}
    await _store(services, many_more)
    async with services.views.open() as view:
        index = await services.recalls.hot_text.at(view, namespace)
        assert index is not None
        sampled = await traits.importance_scale(view.session, namespace.id, past=False)
        assert (sampled.low, sampled.high) == (index.totals.scale.low, index.totals.scale.high)
        assert sampled.median == pytest.approx(index.totals.scale.median, rel=0.3)
        assert sampled == await traits.importance_scale(view.session, namespace.id, past=True)


async def test_the_product_of_cosine_and_importance_is_a_part_of_its_own(both: Services) -> None:
    await _store(both, {"a": 1.0, "b": 3.0, "c": 5.0})
    assert _of(await _recall(both), Leg.PRODUCT) == {}
    recall = await _recall(both, product=2.0, importance=0.0)
    for hit in recall.hits:
        legs = {one.leg: one for one in hit.legs}
        scale = {"a": LEAST, "b": 0.5, "c": MOST}[hit.memory.key or ""]
        assert legs[Leg.PRODUCT].raw_score == pytest.approx(max(0.0, legs[Leg.DENSE].raw_score) * scale)
        assert Leg.IMPORTANCE not in legs
        assert sum(one.contribution for one in hit.legs) == pytest.approx(hit.score)
    assert [hit.memory.key for hit in recall.hits] == ["c", "b", "a"]


async def test_the_product_has_no_cosine_without_vectors(services: Services) -> None:
    await _store(services, {"a": 1.0, "b": 5.0})
    recall = await _recall(services, dense=0.0, product=9.0)
    assert len(recall.hits) == 2
    assert _of(recall, Leg.PRODUCT) == {}
