"""Ranking in a context: the formula, by hand."""

from datetime import UTC, datetime, timedelta

import pytest

from sfm_graph.domain.context import ContextScore, RecallContext, rank_in_context
from sfm_graph.domain.identity import MemoryId
from sfm_graph.domain.memory import Memory, MemoryKind
from sfm_graph.domain.recall import Hit, Leg, LegScore, Recall

NOW = datetime(2026, 5, 1, tzinfo=UTC)


def _hit(row: int, score: float, *, age_days: float = 0.0, valid_from: datetime | None = None) -> Hit:
    memory = Memory(
        MemoryId(row), "demo", None, (float(row), 0.0), MemoryKind.EPISODIC, None, "", {}, 1.0, 1,
        NOW - timedelta(days=age_days), NOW, valid_from, None,
    )  # fmt: skip
    return Hit(memory, score, (LegScore(Leg.DENSE, 1, score, 1.0, score),))


def _totals(by_query: list[Hit], by_text: list[Hit], context: RecallContext) -> dict[int, float]:
    ranked = rank_in_context(Recall(tuple(by_query)), Recall(tuple(by_text)), context, 10)
    return {hit.memory.id: hit.score.total for hit in ranked}


def test_without_a_context_the_scores_of_the_query_stay() -> None:
    totals = _totals([_hit(1, 0.9), _hit(2, 0.4)], [], RecallContext())
    assert list(totals.items()) == [(1, 0.9), (2, 0.4)]


def test_a_text_takes_three_tenths() -> None:
    totals = _totals([_hit(1, 1.0), _hit(2, 0.8)], [_hit(2, 1.0), _hit(3, 0.5)], RecallContext(text="x"))
    assert list(totals) == [2, 1, 3]
    assert totals == pytest.approx({2: 0.7 * 0.8 + 0.3, 1: 0.7, 3: 0.15})


def test_what_only_the_text_found_has_no_legs() -> None:
    ranked = rank_in_context(Recall((_hit(1, 1.0),)), Recall((_hit(3, 1.0),)), RecallContext(text="x"), 10)
    assert [len(hit.legs) for hit in ranked] == [1, 0]
    assert ranked[1].score == ContextScore(query=0.0, text=1.0, near=None, recent=None)


def test_nearness_counts_the_nearest_coordinate_of_as_many_axes() -> None:
    context = RecallContext(coordinates=((1.0, 3.0), (1.0, 0.0, 0.0), (50.0, 0.0)))
    totals = _totals([_hit(1, 0.5), _hit(49, 0.5)], [], context)
    assert totals == pytest.approx({49: 0.5 + 0.1 / 2, 1: 0.5 + 0.1 / 4})
    assert _totals([_hit(1, 0.5)], [], RecallContext(coordinates=((1.0,),))) == {1: 0.5}
    far = RecallContext(coordinates=((1.7e308, -1.7e308),))
    assert _totals([_hit(1, 0.5)], [], far) == {1: 0.5}


def test_a_week_halves_the_bonus_of_time_in_both_directions() -> None:
    hits = [_hit(1, 0.5), _hit(2, 0.5, age_days=7), _hit(3, 0.5, valid_from=NOW + timedelta(days=14))]
    totals = _totals(hits, [], RecallContext(time=NOW))
    assert totals == pytest.approx({1: 0.6, 2: 0.55, 3: 0.525})
    assert list(totals) == [1, 2, 3]


def test_ties_go_by_id_and_the_rest_is_cut() -> None:
    hits = tuple(_hit(row, 0.5) for row in (3, 1, 2))
    ranked = rank_in_context(Recall(hits), Recall(()), RecallContext(), 2)
    assert [hit.memory.id for hit in ranked] == [1, 2]
