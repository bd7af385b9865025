"""Fusion's properties, variety's, and the whole of recall against its pure reference."""

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from benchmarks import recall_rules_index as rules
from sfm_graph.adapters.embedders.hashing import HashingEmbedder
from sfm_graph.domain.fusion import (
    MAX_EXPANDED,
    Board,
    Part,
    Pulled,
    Pulls,
    concatenated,
    explained,
    joined_pulls,
    pulled,
    ranking,
    recency_value,
    scaled,
    to_be_read,
)
from sfm_graph.domain.names import name_of
from sfm_graph.domain.recall import Hit, Leg, RecallQuery, RecallWeights
from sfm_graph.domain.variety import SAME, diversified, folded
from sfm_graph.services.registry import Services

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

units = st.floats(0, 1)
weights = st.floats(0, 2)
LEGS = [Leg.DENSE, Leg.LEXICAL, Leg.NAME, Leg.DATE]


@dataclass(frozen=True)
class Case:
    """A board and pulls from some of its candidates; targets may be unknown to it."""

    board: Board
    pulls: Pulls

    @property
    def final(self) -> Pulled:
        return pulled(self.board, self.pulls)


@st.composite
def boards(draw: st.DrawFn, least: int = 1) -> Board:
    ids = draw(st.lists(st.integers(1, 40), min_size=least, max_size=12, unique=True))
    chosen = draw(st.lists(st.sampled_from(LEGS), min_size=1, unique=True))
    column = st.lists(units | st.sampled_from([0.0, 0.5, 1.0]), min_size=len(ids), max_size=len(ids)).map(np.array)
    parts = {leg: Part(draw(weights), values := draw(column), values) for leg in chosen}
    return Board(np.array(ids, np.int64), parts)


@st.composite
def pulls_on(draw: st.DrawFn, board: Board) -> Pulls:
    found = []
    for seed in draw(st.sets(st.integers(0, len(board.ids) - 1), max_size=4)):
        by_link, by_name = (
            draw(st.lists(st.tuples(st.integers(1, 45), units, st.integers(0, 9)), max_size=6)) for _ in "ab"
        )
        found.append(joined_pulls(seed, _columns(by_link), _columns(by_name)))
    return concatenated(found)


def _columns(rows: list[tuple[int, float, int]]) -> tuple[Ints, Floats, Ints]:
    return (
        np.array([row[0] for row in rows], np.int64),
        np.array([row[1] for row in rows], np.float64),
        np.array([row[2] for row in rows], np.int64),
    )


cases = boards().flatmap(lambda board: pulls_on(board).map(lambda found: Case(board, found)))


def _reach(board: Board) -> float:
    return max(sum(part.weight for part in board.parts.values()), 1e-9)


@given(case=cases)
def test_scores_are_within_bounds_and_contributions_sum_to_them(case: Case) -> None:
    reach, final = _reach(case.board), case.final
    ranks = {leg: {int(case.board.ids[0]): 1} for leg in (Leg.DENSE, Leg.LEXICAL) if leg in case.board.parts}
    for row in range(len(case.board.ids)):
        score = final.scores[row] / reach
        assert -1e-12 <= score <= 1 + 1e-9
        legs = explained(case.board, final, case.pulls, row, ranks, reach)
        assert sum(leg.contribution for leg in legs) == pytest.approx(score, abs=1e-9)
        assert len({leg.leg for leg in legs}) == len(legs)
        assert {leg.leg for leg in legs} >= ranks.keys()
        assert all(leg.contribution >= 0 for leg in legs)
        assert any(leg.leg is Leg.GRAPH for leg in legs) == (final.by[row] >= 0)


@given(case=cases)
def test_nothing_is_pulled_down_or_past_its_seed(case: Case) -> None:
    base, final = case.board.base, case.final
    assert (final.scores >= base).all()
    for row, place in enumerate(final.by.tolist()):
        if place < 0:
            assert final.scores[row] == base[row]
            continue
        assert case.pulls.targets[place] == case.board.ids[row]
        seed, share = base[case.pulls.seeds[place]], case.pulls.shares[place]
        assert base[row] < final.scores[row] <= seed + 1e-12
        assert final.scores[row] == pytest.approx(base[row] + share * (seed - base[row]))


@given(case=cases)
def test_the_best_pull_counts_as_in_a_naive_loop(case: Case) -> None:
    base = case.board.base
    best = base.copy()
    places = {int(one): row for row, one in enumerate(case.board.ids)}
    for seed, target, share in zip(case.pulls.seeds, case.pulls.targets, case.pulls.shares, strict=True):
        if int(target) in places and base[seed] > base[row := places[int(target)]]:
            best[row] = max(best[row], base[row] + share * (base[seed] - base[row]))
    np.testing.assert_allclose(case.final.scores, best)


@given(case=cases, order=st.randoms(use_true_random=False))
def test_the_order_of_candidates_and_pulls_does_not_matter(case: Case, order: random.Random) -> None:
    rows = list(range(len(case.board.ids)))
    order.shuffle(rows)
    board = Board(
        case.board.ids[rows],
        {leg: Part(part.weight, part.raw[rows], part.values[rows]) for leg, part in case.board.parts.items()},
    )
    moved = np.argsort(rows)
    ours = list(range(len(case.pulls.targets)))
    order.shuffle(ours)
    pulls = Pulls(
        moved[case.pulls.seeds[ours]] if ours else case.pulls.seeds,
        *(getattr(case.pulls, name)[ours] for name in ("targets", "shares", "links", "names")),
    )
    one, other = case.final, pulled(board, pulls)
    ids = case.board.ids[ranking(case.board.ids, one.scores)]
    np.testing.assert_array_equal(ids, board.ids[ranking(board.ids, other.scores)])
    np.testing.assert_array_equal(to_be_read(case.board, case.pulls), to_be_read(board, pulls))


@given(ids=st.lists(st.integers(1, 99), min_size=1, max_size=20, unique=True), data=st.data())
def test_ranking_is_by_score_and_then_by_the_lower_id(ids: list[int], data: st.DataObject) -> None:
    scores = data.draw(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=len(ids), max_size=len(ids)))
    places = ranking(np.array(ids), np.array(scores))
    assert [(scores[place], ids[place]) for place in places] == sorted(
        zip(scores, ids, strict=True), key=lambda pair: (-pair[0], pair[1])
    )


@given(a=units, b=units)
def test_a_link_and_a_name_pull_as_if_one_after_the_other(a: float, b: float) -> None:
    target = np.array([7])
    both = joined_pulls(3, (target, np.array([a]), np.array([11])), (target, np.array([b]), np.array([13])))
    assert both.shares[0] == pytest.approx(1 - (1 - a) * (1 - b))
    assert (both.seeds.tolist(), both.links.tolist(), both.names.tolist()) == ([3], [11], [13])


@given(rows=st.lists(st.tuples(st.integers(1, 5), units, st.integers(0, 9)), max_size=12))
def test_of_each_kind_the_strongest_counts_and_of_equal_ones_the_oldest(rows: list[tuple[int, float, int]]) -> None:
    found = joined_pulls(0, _columns(rows), _columns([]))
    expected = {target: min((-share, link) for one, share, link in rows if one == target) for target, _, _ in rows}
    assert found.targets.tolist() == sorted(expected)
    for target, share, link in zip(found.targets.tolist(), found.shares, found.links, strict=True):
        assert (-share, link) == pytest.approx(expected[target])
    assert (found.names == -1).all()


def test_only_the_64_targets_that_most_is_lent_to_are_read() -> None:
    board = Board(np.array([1]), {Leg.DENSE: Part(1.0, np.ones(1), np.ones(1))})
    targets = np.arange(1, 200)
    shares = np.where(targets < 100, 0.5, 0.6)
    pulls = joined_pulls(0, (targets, shares, targets), _columns([]))
    assert to_be_read(board, pulls).tolist() == list(range(100, 100 + MAX_EXPANDED))


@given(board=boards(), other=boards())
def test_an_extended_board_holds_both(board: Board, other: Board) -> None:
    same = Board(other.ids + 100, {leg: Part(part.weight, *[_cycled(part.raw, len(other.ids))] * 2)
                                   for leg, part in board.parts.items()})  # fmt: skip
    both = board.extended(same)
    np.testing.assert_array_equal(both.ids, [*board.ids, *same.ids])
    np.testing.assert_allclose(both.base, [*board.base, *same.base])


def _cycled(values: Floats, count: int) -> Floats:
    return np.resize(values, count)


@example(raw=[1.0], top=2.225073858507203e-309)
@given(raw=st.lists(st.floats(-2, 2), max_size=8), top=st.floats(-1, 2))
def test_scaling_makes_the_best_1_and_keeps_the_order(raw: list[float], top: float) -> None:
    found = scaled(np.array(raw, np.float64), top)
    assert ((found >= 0) & (found <= 1)).all()
    if top <= 0:
        assert not found.any()
        return
    assert scaled(np.array([top]), top)[0] == 1
    for one, score in zip(raw, found, strict=True):
        assert score == pytest.approx(min(max(one / top, 0), 1))


@given(values=st.lists(st.floats(0, 1e300), min_size=2, max_size=8))
def test_recency_is_monotone_within_bounds(values: list[float]) -> None:
    ascending = np.sort(np.array(values))
    found = recency_value(ascending)
    assert ((found >= 0) & (found <= 1)).all()
    assert (np.diff(found) <= 0).all()
    assert recency_value(np.array([0.0, 30 * 86_400.0])).tolist() == [1.0, 0.5]


def _unit(matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.linalg.norm(matrix, axis=1, keepdims=True)
    return np.where(norms > 0.01, matrix / np.maximum(norms, 0.01), 0).astype(np.float32)


matrices = arrays.arrays(
    np.float32, st.tuples(st.integers(0, 8), st.just(3)), elements=st.floats(-1, 1, width=16)
).map(_unit)


@given(vectors=matrices, copies=st.lists(st.integers(0, 7), max_size=4))
def test_folding_groups_what_is_near_its_best(vectors: NDArray[np.float32], copies: list[int]) -> None:
    vectors = np.concatenate([vectors, *(vectors[one : one + 1] for one in copies)])
    groups = folded(vectors)
    assert sorted(place for group in groups for place in group) == list(range(len(vectors)))
    heads = [group[0] for group in groups]
    assert heads == sorted(heads)
    assert all(group == sorted(group) for group in groups)
    assert all(float(vectors[group[0]] @ vectors[one]) >= SAME - 1e-6 for group in groups for one in group[1:])
    for at, head in enumerate(heads):
        assert all(float(vectors[head] @ vectors[before]) < SAME + 1e-6 for before in heads[:at])
    zeros = {place for place in range(len(vectors)) if not vectors[place].any()}
    assert zeros <= {group[0] for group in groups if len(group) == 1}


@given(vectors=matrices, data=st.data(), first=st.integers(0, 10))
def test_no_diversity_keeps_the_order(vectors: NDArray[np.float32], data: st.DataObject, first: int) -> None:
    count = len(vectors)
    scores = sorted(data.draw(st.lists(units, min_size=count, max_size=count)), reverse=True)
    assert diversified(scores, vectors, 0.0, first) == list(range(min(first, count)))
    chosen = diversified(scores, vectors, 0.5, first)
    assert len(chosen) == len(set(chosen)) == min(first, count)
    assert chosen[:1] == ([0] if chosen else [])


def test_diversity_pushes_duplicates_down() -> None:
    vectors = np.eye(3, dtype=np.float32)[[0, 0, 1, 2]]
    scores = [1.0, 0.99, 0.5, 0.4]
    assert diversified(scores, vectors, 0.0, 4) == [0, 1, 2, 3]
    assert diversified(scores, vectors, 0.5, 4) == [0, 2, 3, 1]
    assert diversified(scores, vectors, 1.0, 2) == [0, 2]
    assert diversified([0.0, 0.0], vectors[:2], 0.7, 5) == [0, 1]


# The whole of recall through the service, against benchmarks/recall_rules_index.py.

PEOPLE = ["Ada Moor", "Grace Fell", "Tom Reed", "Nora Stone", "Ivo Lund"]
PLACES = ["Windhoek", "Tromso", "Ushuaia", "Leeds"]
WORDS = ["bridge", "garden", "winter", "music", "engine", "harbour", "lantern", "ledger", "orchard"]
# The reference does not read dates like 2023-06-01.
DATES = ["8 May 2023", "1 June, 2023", "June 2023", "1998"]
# The rules know neither importance nor a factor for `next`; mentions are links of weight 2 sqrt(n) - 1 to both.
AS_RULES = RecallWeights(importance=0.0)


def _corpus(seed: int) -> list[rules.Memory]:
    chosen = random.Random(seed)
    memories = []
    for number in range(40):
        words = " ".join(chosen.choices(WORDS, k=chosen.randint(2, 7)))
        content = f"it was {words} near {chosen.choice(PLACES)}"
        if chosen.random() < 0.4:
            content += f" with {chosen.choice(PEOPLE)}"
        is_turn = chosen.random() < 0.5
        memories.append(
            rules.Memory(
                f"m{number:02}",
                content,
                title=chosen.choice(PEOPLE) + chosen.choice(["", " (sailor)"]) if not is_turn and number % 3 else "",
                author=chosen.choice(["Zoe", "Max Bohr"]) if is_turn else "",
                sequence=chosen.choice(["s", "t"]) if is_turn else "",
                position=chosen.randrange(9) if is_turn else 0,
                date=chosen.choice(DATES) if is_turn else "",
            )
        )
    return memories


def _fields(one: rules.Memory) -> dict[str, Any]:
    payload = {"author": one.author, "session": one.sequence, "position": one.position, "date": one.date}
    return {
        "key": one.id,
        "content": one.content,
        "title": one.title or None,
        "payload": {name: value for name, value in payload.items() if value != ""},
    }


QUERIES = (
    "where was the bridge in winter?", "what did Ada Moor do with the ledger", "Zoe on the harbour in June 2023",
    "Grace Fell and Tom Reed near Windhoek", "music engine 8 May", "Max Bohr 1998 lantern", "orchard",
)  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
async def test_recall_equals_its_reference(services: Services, seed: int) -> None:
    corpus = _corpus(seed)
    await services.memory_writes.store_many("demo", [_fields(one) for one in corpus])
    embedder = HashingEmbedder()
    index = rules.build_index(corpus)
    own = (await embedder.embed([rules.embedded_text(one) for one in corpus])).astype(np.float16).astype(float)
    windows = await embedder.embed([rules.window_text(corpus, rows) for rows in index.windows])
    windows = windows.astype(np.float16).astype(float)
    compared = 0
    for text in QUERIES:
        # The service passes over a shared name that the query says as one run, the reference over one whose words
        # it says anywhere: they part only where the query says the words apart.
        query = (await embedder.embed([text]))[0].astype(float)
        found = rules.recall(index, text, own @ query, windows @ query, 40, rules.Weights(dense=0.2))
        expected = {corpus[row].id: score for row, score in found}
        async with services.views.open() as view:
            recall = await services.recalls.recall(view, "demo", RecallQuery(text, 40, weights=AS_RULES))
        scores = {hit.memory.key or "": hit.score for hit in recall.hits}
        assert scores.keys() == expected.keys()
        # One scale for the whole answer: what could be reached in this query.
        reach = max(expected.values()) / max(scores.values())
        for key, score in scores.items():
            assert score * reach == pytest.approx(expected[key], abs=1e-5), (text, key, _shown(recall.hits, key))
        ranked = [corpus[row].id for row, _ in found]
        for place, hit in enumerate(recall.hits):
            assert expected[hit.memory.key or ""] == pytest.approx(expected[ranked[place]], abs=1e-5)
        compared += any(hit.carrier for hit in recall.hits)
    assert compared >= 4
    assert name_of("Ada Moor") == ("ada", "moor")


def _shown(hits: tuple[Hit, ...], key: str) -> Any:
    return next((hit.legs, hit.carrier) for hit in hits if hit.memory.key == key)
