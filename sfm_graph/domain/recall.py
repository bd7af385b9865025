"""Recall: what is asked, the weights of its parts, and the explanation of every score."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from sfm_graph.domain.identity import LinkId, MemoryId, MemoryRef
from sfm_graph.domain.memory import Memory, MemoryKind
from sfm_graph.domain.where import EVERYTHING, Where

MAX_RECALL = 1_000
MAX_EXPAND = 20
# Enough candidates from each leg that a memory strong in both is not missed at the head.
MIN_POOL = 100
# Term saturation and length normalisation of BM25.
BM25_K1 = 1.2
BM25_B = 0.75


class Leg(StrEnum):
    """A part of a score: a way to find candidates, or what speaks for them beside it."""

    DENSE = "dense"
    LEXICAL = "lexical"
    DENSE_WINDOW = "dense_window"
    LEXICAL_WINDOW = "lexical_window"
    NAME = "name"
    AUTHOR = "author"
    DATE = "date"
    IMPORTANCE = "importance"
    PRODUCT = "product"
    RECENCY = "recency"
    NEAR = "near"
    GRAPH = "graph"
    RERANK = "rerank"
    SUPERSEDED = "superseded"


# The type of a link from what is true now to what it replaces.
SUPERSEDES = "supersedes"
# Links that were measured not to lead to answers: windows do the work of `next`, vectors that of `similar`. And what
# is superseded is not to gain by what supersedes it.
LINK_TYPE_FACTORS: Mapping[str, float] = {"next": 0.0, "similar": 0.0, SUPERSEDES: 0.0}


@dataclass(frozen=True, slots=True)
class RecallWeights:
    """How much each part of recall counts; 0 turns it off. docs/recall.md gives the formula and the measurements.

    `dense` and `lexical` are shares, scaled to sum to 1; None leaves them to the embedder. All others are >= 0.
    """

    dense: float | None = None
    lexical: float | None = None
    # Share in [0, 1] of the windows' legs; the memories' own legs have the rest.
    window: float = 0.6
    # Added where the query says the memory's title or alias, its author, its date.
    name: float = 0.5
    author: float = 0.1
    date: float = 0.2
    # Added times importance on the namespace's scale, and times 2 ** (-age / 30 days).
    importance: float = 0.05
    recency: float = 0.0
    # Added times max(0, cosine) x importance on the namespace's scale.
    product: float = 0.0
    # Added times nearness to `near`.
    near: float = 0.3
    # A link pulls its target this x 1 / (1 + its weight) of the way to the score of a seed that it leaves.
    link: float = 1.0
    # Factor by link type, 1 for one that is not named.
    link_types: Mapping[str, float] = field(default_factory=lambda: LINK_TYPE_FACTORS)
    # A proper name that a seed shares with n other memories pulls them this / sqrt(n) of the way.
    shared_name: float = 0.5
    # The share in [0, 1] of its score that a superseded memory loses.
    superseded: float = 0.5

    def shares(self, default_dense: float) -> tuple[float, float]:
        """The shares of dense and lexical; (0, 0) when both are off."""
        dense = default_dense if self.dense is None else self.dense
        lexical = 1 - default_dense if self.lexical is None else self.lexical
        total = dense + lexical
        return (dense / total, lexical / total) if total else (0.0, 0.0)


@dataclass(frozen=True, slots=True)
class RecallQuery:
    """A validated recall. `embedding` replaces the query text's computed vector; `first` in [1, 1000].

    `expand`: up to so many memories that hits are linked with come along after them, in [0, 20]. `diversity` in
    [0, 1]: how much likeness to better hits costs. `fold`: near-duplicates of a better hit are folded into it.
    `rerank` False: without the reranker, though the service has one.
    """

    text: str
    first: int = 5
    kinds: tuple[MemoryKind, ...] = ()
    where: Where = EVERYTHING
    weights: RecallWeights = field(default_factory=RecallWeights)
    embedding: NDArray[np.float32] | None = field(default=None, compare=False)
    near: MemoryRef | None = None
    expand: int = 0
    diversity: float = 0.0
    fold: bool = False
    rerank: bool = True


@dataclass(frozen=True, slots=True)
class Candidates:
    """What a leg found: memory ids and raw scores, best first, ties by id. Equal lengths."""

    ids: NDArray[np.int64]
    scores: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LegScore:
    """One part of a hit's score. `rank` from 1 within a leg's candidates, None where it did not find the hit.

    `raw_score` is the part's own measure (cosine, BM25, 1 for a name that was said, the share of a pull);
    `contribution` to the score is `weight` x the raw score scaled to [0, 1]; of a pull, what it added; negative, of
    being superseded, what it took away.
    """

    leg: Leg
    rank: int | None
    raw_score: float
    weight: float
    contribution: float


@dataclass(frozen=True, slots=True)
class Carrier:
    """What carried score from a seed to a hit: the strongest link between them, a proper name of both, or both."""

    seed: Memory
    share: float
    link: LinkId | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Hit:
    """A recalled memory: `score` in [0, 1] is the sum of its legs' contributions.

    `duplicates`: near-duplicates that were folded into it. `expanded`: it came along with a hit, by `carrier`.
    `superseded_by`: the memory that supersedes it, where that has cost it score.
    """

    memory: Memory
    score: float
    legs: tuple[LegScore, ...]
    carrier: Carrier | None = None
    duplicates: tuple[MemoryId, ...] = ()
    expanded: bool = False
    superseded_by: MemoryId | None = None


@dataclass(frozen=True, slots=True)
class Recall:
    """The hits, best first, ties by id; and how they were found.

    `hot` False: a namespace over the memory budget was searched in SQL, without windows and shared names.
    `reranked` False: there was no reranker, or it did not answer in time.
    """

    hits: tuple[Hit, ...]
    hot: bool = True
    reranked: bool = False


def union_of(candidates: Iterable[Candidates]) -> NDArray[np.int64]:
    """The ids of all candidates, ascending, once each."""
    arrays = [found.ids for found in candidates]
    return np.unique(np.concatenate(arrays)) if arrays else np.empty(0, np.int64)


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
