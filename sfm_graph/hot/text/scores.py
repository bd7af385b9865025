"""A leg's score of every memory of a version of a hot text index."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sfm_graph.domain.recall import Candidates, best_of
from sfm_graph.hot.text.postings import Bools, Floats, Ints
from sfm_graph.hot.text.segment import Segment
from sfm_graph.hot.text.vectors import Matrix, VectorSearch

# Of how many rows cosines are measured exactly where they are only roughly known: so many for each one wanted.
EXACT_LEAST = 2_000
EXACT_FACTOR = 10
# A matrix product rounds equal columns differently, by some 1e-7: without this equal memories would not tie.
DIGITS = 6
NOISE = 2e-6
# Scores of which only the highest is looked at first, and how many of these there are for each one wanted.
MAX_BLOCK = 64
BLOCKS_PER_SCORE = 4

Parts = Sequence[tuple[Segment, Bools]]


class Scores(Protocol):
    """One leg's score of every row; only eligible rows are candidates."""

    def best(self, count: int) -> Candidates:
        """The best `count` candidates, ties by id; fewer only when there are fewer."""

    def of(self, ids: Ints) -> Floats:
        """The score of each id; 0.0 for a memory without one."""


@dataclass(frozen=True, slots=True)
class WordScores:
    """Scores known for all rows; only those above 0 are candidates."""

    parts: Parts
    scores: Sequence[Floats]
    eligible: Sequence[Bools]

    def best(self, count: int) -> Candidates:
        found = []
        for (segment, _), score, mask in zip(self.parts, self.scores, self.eligible, strict=True):
            kept = np.where(mask, score, -np.inf)
            rows = _highest(kept, count)
            rows = rows[kept[rows] > 0]
            found.append((segment.columns.ids[rows], score[rows]))
        return _best(found, count)

    def of(self, ids: Ints) -> Floats:
        return _of(self.parts, ids, lambda part, rows: self.scores[part][rows])


@dataclass(frozen=True, slots=True)
class VectorScores:
    """Cosines: rough ones of all rows first, exact ones of those that are asked for.

    `windows`: where given, a row's window counts instead of itself, if it has a vector.
    """

    parts: Parts
    own: Sequence[VectorSearch]
    eligible: Sequence[Bools]
    windows: Sequence[VectorSearch] | None = None

    def best(self, count: int) -> Candidates:
        found = []
        for part, ((segment, _), mask) in enumerate(zip(self.parts, self.eligible, strict=True)):
            rough = np.where(mask, self._rough(part), -np.inf)
            wanted = max(EXACT_LEAST, EXACT_FACTOR * count) if self._is_rough(part) else count
            rows = _highest(rough, wanted, slack=NOISE)
            rows = rows[np.isfinite(rough[rows])]
            found.append((segment.columns.ids[rows], self._exact(part, rows)))
        return _best(found, count)

    def of(self, ids: Ints) -> Floats:
        scores = _of(self.parts, ids, self._exact)
        return np.where(np.isfinite(scores), scores, 0.0)

    def _is_rough(self, part: int) -> bool:
        return not (self.own[part].is_exact and (self.windows is None or self.windows[part].is_exact))

    def _rough(self, part: int) -> Matrix:
        own = self.own[part].rough
        if self.windows is None:
            return own
        window = self.windows[part].rough
        rough: Matrix = np.where(np.isfinite(window), window, own)
        return rough

    def _exact(self, part: int, rows: Ints) -> Floats:
        scores = self.own[part].exact(rows)
        if self.windows is not None:
            window = self.windows[part].exact(rows)
            scores = np.where(np.isfinite(window), window, scores)
        return np.round(scores, DIGITS)


def _best(found: Sequence[tuple[Ints, Floats]], count: int) -> Candidates:
    ids = np.concatenate([np.empty(0, np.int64), *(ids for ids, _ in found)])
    return best_of(ids, np.concatenate([np.empty(0), *(scores for _, scores in found)]), count)


def _of(parts: Parts, ids: Ints, score: Callable[[int, Ints], Floats]) -> Floats:
    found = np.zeros(len(ids))
    for part, (segment, alive) in enumerate(parts):
        rows, known = segment.rows_of(ids)
        known &= alive[rows] if len(segment) else False
        found[known] = score(part, rows[known])
    return found


def _highest(scores: NDArray[np.floating], count: int, slack: float = 0.0) -> Ints:
    """The rows of the `count` highest scores, ascending, and some more: those that miss it by `slack` too."""
    return np.flatnonzero(scores >= _threshold(scores, count) - slack)


def _threshold(scores: NDArray[np.floating], count: int) -> float:
    """What at least `count` scores reach, and not many more; -inf for fewer scores.

    The `count` highest of the blocks' highest scores are so many scores: a fifth of the time of a partition of all.
    """
    if len(scores) <= count:
        return -np.inf
    block = min(MAX_BLOCK, len(scores) // (BLOCKS_PER_SCORE * count))
    if block > 1:
        scores = scores[: len(scores) // block * block].reshape(block, -1).max(axis=0)
    return float(np.partition(scores, len(scores) - count)[len(scores) - count])
