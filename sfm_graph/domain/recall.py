"""Recall: what is asked, how legs are fused, and the explanation of every score.

Fusion is a convex sum of min-max normalised leg scores, which beats reciprocal-rank fusion at the head
(Bruch, Gai, Ingber 2023, "An Analysis of Fusion Functions for Hybrid Retrieval").
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from sfm_graph.domain.identity import MemoryId
from sfm_graph.domain.memory import Memory, MemoryKind
from sfm_graph.domain.where import EVERYTHING, Where

MAX_RECALL = 1_000
# Enough candidates from each leg that a memory strong in both is not missed at the head.
MIN_POOL = 100
# Term saturation and length normalisation of BM25.
BM25_K1 = 1.2
BM25_B = 0.75


class Leg(StrEnum):
    """One way to find candidates."""

    DENSE = "dense"
    LEXICAL = "lexical"


@dataclass(frozen=True, slots=True)
class RecallWeights:
    """The share of each leg in the fused score; scaled to sum to 1. A weight of 0 turns a leg off."""

    dense: float = 0.5
    lexical: float = 0.5

    def share(self, leg: Leg) -> float:
        """The leg's weight divided by the sum of weights, which must not be 0."""
        return (self.dense if leg is Leg.DENSE else self.lexical) / (self.dense + self.lexical)


@dataclass(frozen=True, slots=True)
class RecallQuery:
    """A validated recall. `embedding` replaces the query text's computed vector; `first` in [1, 1000]."""

    text: str
    first: int = 5
    kinds: tuple[MemoryKind, ...] = ()
    where: Where = EVERYTHING
    # None: the shares that suit the embedder.
    weights: RecallWeights | None = None
    embedding: NDArray[np.float32] | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Candidates:
    """What a leg found: memory ids and raw scores, best first, ties by id. Equal lengths."""

    ids: NDArray[np.int64]
    scores: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LegResult:
    """A leg's candidates, and its raw score of every candidate of all legs: shape of the union, 0.0 for none."""

    best: Candidates
    raw: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LegScore:
    """One leg's part in a hit. `rank` from 1 within the leg's candidates, None where it did not find the hit.

    `raw_score` is the leg's own measure (cosine, BM25); `contribution` = weight x normalised score.
    """

    leg: Leg
    rank: int | None
    raw_score: float
    weight: float
    contribution: float


@dataclass(frozen=True, slots=True)
class Hit:
    """A recalled memory: `score` in [0, 1] is the sum of its legs' contributions."""

    memory: Memory
    score: float
    legs: tuple[LegScore, ...]


@dataclass(frozen=True, slots=True)
class Recall:
    """The hits, best first, ties by id; and how they were found."""

    hits: tuple[Hit, ...]
    # False where a namespace over the memory budget was searched in SQL.
    hot: bool = True


@dataclass(frozen=True, slots=True)
class Scored:
    """A fused candidate before its memory is read."""

    id: MemoryId
    score: float
    legs: tuple[LegScore, ...]


def union_of(candidates: Iterable[Candidates]) -> NDArray[np.int64]:
    """The ids of all candidates, ascending, once each."""
    arrays = [found.ids for found in candidates]
    return np.unique(np.concatenate(arrays)) if arrays else np.empty(0, np.int64)


def fuse(ids: NDArray[np.int64], legs: Mapping[Leg, LegResult], weights: RecallWeights, first: int) -> list[Scored]:
    """The `first` best candidates by convex fusion, ties by id.

    `ids`: the union of all legs' candidates, ascending; each leg's `raw` is parallel to it. A leg's scores are scaled
    so that its best of the union is 1; a score below 0 counts as 0.
    """
    shares = {leg: weights.share(leg) * _scaled(result.raw) for leg, result in legs.items()}
    total = np.sum(list(shares.values()), axis=0) if shares else np.zeros(0)
    ranks = {leg: {int(one): place for place, one in enumerate(legs[leg].best.ids, start=1)} for leg in legs}
    order = np.lexsort((ids, -total))[:first]
    return [
        Scored(
            MemoryId(int(ids[i])),
            float(total[i]),
            tuple(
                LegScore(
                    leg,
                    ranks[leg].get(int(ids[i])),
                    float(legs[leg].raw[i]),
                    weights.share(leg),
                    float(shares[leg][i]),
                )
                for leg in legs
            ),
        )
        for i in order
    ]


def _scaled(raw: NDArray[np.float64]) -> NDArray[np.float64]:
    positive = np.maximum(raw, 0.0)
    top = positive.max(initial=0.0)
    return positive / top if top > 0 else positive


def pool_size(first: int) -> int:
    """How many candidates each leg brings for `first` hits."""
    return max(MIN_POOL, 3 * first)


def best_of(ids: NDArray[np.int64], scores: NDArray[np.float64], count: int) -> Candidates:
    """The `count` highest scores, best first, ties by id. `ids` in any order."""
    if len(ids) > count:
        # Everything that ties with the last place stays in, so that the ids decide, not the partition.
        threshold = np.partition(scores, len(scores) - count)[len(scores) - count]
        kept = scores >= threshold
        ids, scores = ids[kept], scores[kept]
    order = np.lexsort((ids, -scores))[:count]
    return Candidates(ids[order], scores[order])
