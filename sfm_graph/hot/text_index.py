"""A hot namespace's text: BM25 and exact vector search over immutable segments, one version per snapshot.

A version is a tuple of segments with a mask of the rows that are alive in each. A change adds a small segment and
clears the changed rows in older masks; segments of similar size are merged, so there are O(log n) of them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sfm_graph.domain.documents import Documents
from sfm_graph.domain.recall import BM25_B, BM25_K1, Candidates, best_of
from sfm_graph.domain.snapshot import Snapshot
from sfm_graph.hot.segment import Bools, Floats, Ints, Segment, build_segment, merge_segments


@dataclass(frozen=True, slots=True)
class TextIndex:
    """One version: exactly the memories visible in `snapshot`. `has_vectors` False: too many to scan exactly."""

    snapshot: Snapshot
    parts: tuple[tuple[Segment, Bools], ...]
    has_vectors: bool

    @property
    def nbytes(self) -> int:
        """Resident bytes; parts shared with other versions count in each."""
        return sum(segment.nbytes + alive.nbytes for segment, alive in self.parts)

    @property
    def vector_count(self) -> int:
        """Vectors held, those of dead rows included."""
        return sum(len(segment.vector_rows) for segment, _ in self.parts)

    @property
    def live_vector_count(self) -> int:
        """Vectors of memories that exist. O(vectors)."""
        return sum(int(alive[segment.vector_rows].sum()) for segment, alive in self.parts)

    def changed(self, snapshot: Snapshot, ids: Ints, documents: Documents) -> "TextIndex":
        """The version at a later snapshot: `ids` are all changed memories, `documents` those that still exist."""
        parts = [(segment, _without(segment, alive, ids)) for segment, alive in self.parts]
        if len(documents.ids):
            fresh = build_segment(documents)
            parts.append((fresh, np.ones(len(fresh.ids), np.bool_)))
        return TextIndex(snapshot, _compacted(parts), self.has_vectors)

    def at(self, snapshot: Snapshot) -> "TextIndex":
        """This version under a later snapshot in which nothing of it has changed."""
        return TextIndex(snapshot, self.parts, self.has_vectors)

    def lexical(self, terms: Sequence[int], now: float, allowed: Ints | None) -> "Scores":
        """BM25 of every memory: Robertson & Zaragoza 2009, with idf = ln(1 + (N - df + .5) / (df + .5))."""
        total = sum(int(alive.sum()) for _, alive in self.parts)
        words = sum(float(segment.lengths[alive].sum()) for segment, alive in self.parts)
        average = words / total if total and words else 1.0
        scores = [np.zeros(len(segment.ids)) for segment, _ in self.parts]
        norms = [BM25_K1 * (1 - BM25_B + BM25_B * segment.lengths / average) for segment, _ in self.parts]
        for term in terms:
            found = [segment.postings(term) for segment, _ in self.parts]
            frequency = sum(int(alive[rows].sum()) for (rows, _), (_, alive) in zip(found, self.parts, strict=True))
            idf = math.log(1 + (total - frequency + 0.5) / (frequency + 0.5))
            for (rows, counts), score, norm in zip(found, scores, norms, strict=True):
                score[rows] += idf * counts * (BM25_K1 + 1) / (counts + norm[rows])
        return Scores(self.parts, tuple(scores), self._eligible(now, allowed), floor=0.0)

    def dense(self, query: NDArray[np.float32], now: float, allowed: Ints | None) -> "Scores":
        """Cosine of every memory to a unit vector of shape (D,), the best of its parts."""
        scores = tuple(segment.similarities(query) for segment, _ in self.parts)
        return Scores(self.parts, scores, self._eligible(now, allowed), floor=-np.inf)

    def _eligible(self, now: float, allowed: Ints | None) -> tuple[Bools, ...]:
        masks = []
        for segment, alive in self.parts:
            mask = alive & (segment.valid_from <= now) & (segment.valid_to > now)
            if allowed is not None:
                rows, known = segment.rows_of(allowed)
                chosen = np.zeros(len(mask), np.bool_)
                chosen[rows[known]] = True
                mask &= chosen
            masks.append(mask)
        return tuple(masks)


@dataclass(frozen=True, slots=True)
class Scores:
    """A leg's score of every memory of a version; only eligible rows above `floor` are candidates."""

    parts: tuple[tuple[Segment, Bools], ...]
    scores: tuple[Floats, ...]
    eligible: tuple[Bools, ...]
    floor: float

    def best(self, count: int) -> Candidates:
        """The best `count` candidates, ties by id; fewer only when there are fewer."""
        ids, scores = [np.empty(0, np.int64)], [np.empty(0)]
        for (segment, _), score, mask in zip(self.parts, self.scores, self.eligible, strict=True):
            rows = np.flatnonzero(mask & (score > self.floor))
            ids.append(segment.ids[rows])
            scores.append(score[rows])
        return best_of(np.concatenate(ids), np.concatenate(scores), count)

    def of(self, ids: Ints) -> Floats:
        """The score of each id; 0.0 for a memory without one."""
        found = np.zeros(len(ids))
        for (segment, alive), score in zip(self.parts, self.scores, strict=True):
            rows, known = segment.rows_of(ids)
            known &= alive[rows] if len(segment.ids) else False
            found[known] = score[rows[known]]
        return np.where(np.isfinite(found), found, 0.0)


def empty_index(snapshot: Snapshot, *, has_vectors: bool) -> TextIndex:
    """A version without memories."""
    return TextIndex(snapshot, (), has_vectors)


def _without(segment: Segment, alive: Bools, ids: Ints) -> Bools:
    rows, known = segment.rows_of(ids)
    if not known.any():
        return alive
    remaining = alive.copy()
    remaining[rows[known]] = False
    return remaining


def _compacted(parts: list[tuple[Segment, Bools]]) -> tuple[tuple[Segment, Bools], ...]:
    """Merge from the newest while the older neighbour is not at least twice as large: O(log n) segments remain."""
    while len(parts) > 1 and len(parts[-2][0].ids) < 2 * len(parts[-1][0].ids) + 16:
        merged = merge_segments(parts[-2:])
        parts[-2:] = [(merged, np.ones(len(merged.ids), np.bool_))]
    return tuple(parts)
