"""A hot namespace's text: BM25, names and exact vector search over immutable segments, one version per snapshot.

A version is a tuple of segments with a mask of the rows that are alive in each. A change adds a small segment and
clears the changed rows in older masks; segments of similar size are merged, so there are O(log n) of them.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sfm_graph.domain.documents import Documents
from sfm_graph.domain.importance import NO_IMPORTANCES, Distribution, ImportanceScale
from sfm_graph.domain.recall import BM25_B, BM25_K1
from sfm_graph.domain.snapshot import Snapshot
from sfm_graph.hot.text.postings import Bools, Floats, Ints, Postings, Rows
from sfm_graph.hot.text.scores import VectorScores, WordScores
from sfm_graph.hot.text.segment import Segment, build_segment, merge_segments
from sfm_graph.hot.text.vectors import VectorSearch

Counts = NDArray[np.float32]


class Traits(NamedTuple):
    """Of some memories what is weighed beside legs; shape (n,) each, as in Documents."""

    authors: Ints
    dates: Ints
    importances: Floats
    ages: Floats  # seconds since valid_from, or since creation where that is open; never negative


class Totals(NamedTuple):
    """Of the memories that exist: how many, their words, the words of their windows, and what importance counts."""

    memories: int
    words: float
    window_words: float
    importances: Distribution
    scale: ImportanceScale


@dataclass(frozen=True, slots=True)
class TextIndex:
    """One version: exactly the memories visible in `snapshot`.

    `model_id`: whose vectors it holds, by row id; None: none, there being too many to scan exactly, or no model.
    """

    snapshot: Snapshot
    parts: tuple[tuple[Segment, Bools], ...]
    model_id: int | None
    totals: Totals

    @property
    def nbytes(self) -> int:
        """Resident bytes; parts shared with other versions count in each."""
        return sum(segment.nbytes + alive.nbytes for segment, alive in self.parts)

    @property
    def vector_count(self) -> int:
        """Vectors held, those of dead rows and of windows included."""
        return sum(len(segment.vectors.rows) + len(segment.window_vectors.rows) for segment, _ in self.parts)

    @property
    def live_vector_count(self) -> int:
        """Vectors of memories that exist. O(vectors)."""
        return sum(
            int(alive[segment.vectors.rows].sum() + alive[segment.window_vectors.rows].sum())
            for segment, alive in self.parts
        )

    @property
    def has_vectors(self) -> bool:
        """Whether vectors are searched here."""
        return self.model_id is not None

    @property
    def has_windows(self) -> bool:
        """Whether some memory has a window of its own. O(memories)."""
        return any(
            bool(len(segment.window_terms.keys)) and bool((alive & (segment.columns.window_lengths >= 0)).any())
            for segment, alive in self.parts
        )

    def changed(self, snapshot: Snapshot, ids: Ints, documents: Documents) -> "TextIndex":
        """The version at a later snapshot: `ids` are all changed memories, `documents` those that still exist."""
        importances = self.totals.importances.changed(self._importances(ids), documents.importances)
        parts = [(segment, _without(segment, alive, ids)) for segment, alive in self.parts]
        if len(documents.ids):
            fresh = build_segment(documents)
            parts.append((fresh, np.ones(len(fresh), np.bool_)))
        compacted = _compacted(parts)
        return TextIndex(snapshot, compacted, self.model_id, _totals(compacted, importances))

    def at(self, snapshot: Snapshot) -> "TextIndex":
        """This version under a later snapshot in which nothing of it has changed."""
        return TextIndex(snapshot, self.parts, self.model_id, self.totals)

    def eligible(self, now: float, allowed: Ints | None) -> list[Bools]:
        """For each part the rows that exist, are valid at a time, and are allowed (ids; None: all)."""
        masks = []
        for segment, alive in self.parts:
            mask = alive & (segment.columns.valid_from <= now) & (segment.columns.valid_to > now)
            if allowed is not None:
                rows, known = segment.rows_of(allowed)
                chosen = np.zeros(len(mask), np.bool_)
                chosen[rows[known]] = True
                mask &= chosen
            masks.append(mask)
        return masks

    def lexical(self, terms: Sequence[int], eligible: Sequence[Bools]) -> WordScores:
        """BM25 of every memory: Robertson & Zaragoza 2009, with idf = ln(1 + (N - df + .5) / (df + .5))."""
        lengths = [segment.columns.lengths for segment, _ in self.parts]
        return self._bm25(terms, eligible, lengths, self.totals.words, _own_postings)

    def lexical_windows(self, terms: Sequence[int], eligible: Sequence[Bools]) -> WordScores:
        """BM25 of every memory's window; a memory without one of its own is its own window."""
        lengths = [_window_lengths(segment) for segment, _ in self.parts]
        return self._bm25(terms, eligible, lengths, self.totals.window_words, _window_postings)

    def _bm25(
        self,
        terms: Sequence[int],
        eligible: Sequence[Bools],
        lengths: Sequence[NDArray[np.float32]],
        words: float,
        postings: Callable[[Segment, int], tuple[Rows, Counts]],
    ) -> WordScores:
        total = self.totals.memories
        average = words / total if total and words else 1.0
        scores = [np.zeros(len(segment)) for segment, _ in self.parts]
        for term in terms:
            found = [postings(segment, term) for segment, _ in self.parts]
            frequency = sum(
                int(np.count_nonzero(alive[rows])) for (rows, _), (_, alive) in zip(found, self.parts, strict=True)
            )
            idf = math.log(1 + (total - frequency + 0.5) / (frequency + 0.5))
            for (rows, counts), score, length in zip(found, scores, lengths, strict=True):
                norms = BM25_K1 * (1 - BM25_B + BM25_B / average * length[rows])
                score[rows] += idf * (BM25_K1 + 1) * (counts / (counts + norms))
        return WordScores(self.parts, scores, eligible)

    def dense(self, query: NDArray[np.float32], eligible: Sequence[Bools]) -> VectorScores:
        """Cosine of every memory to a unit vector of shape (D,), the best of its parts."""
        own = [VectorSearch(segment.vectors, query, len(segment)) for segment, _ in self.parts]
        return VectorScores(self.parts, own, eligible)

    def dense_windows(self, query: NDArray[np.float32], own: VectorScores) -> VectorScores:
        """Cosine of every memory's window; without a vector of its own it is `own`'s."""
        windows = [VectorSearch(segment.window_vectors, query, len(segment)) for segment, _ in self.parts]
        return VectorScores(self.parts, own.own, own.eligible, windows)

    def called(self, name_id: int) -> Ints:
        """Ids of the memories with this name, ascending."""
        return self._holders(name_id, lambda segment: segment.names)

    def bearers(self, name_id: int, most: int) -> Ints:
        """Ids of the memories whose text says this proper name, ascending; none when they are more than `most`."""
        count = 0
        for segment, alive in self.parts:
            place = segment.proper_names.place(name_id)
            held = place.stop - place.start
            # A hub's rows are not looked at unless some of them are gone.
            count += held if held > most and alive.all() else int(alive[segment.proper_names.rows[place]].sum())
        if count > most:
            return np.empty(0, np.int64)
        return self._holders(name_id, lambda segment: segment.proper_names)

    def _holders(self, key: int, postings: Callable[[Segment], Postings]) -> Ints:
        found = [np.empty(0, np.int64)]
        for segment, alive in self.parts:
            chosen = postings(segment)
            rows = chosen.rows[chosen.place(key)]
            found.append(segment.columns.ids[rows[alive[rows]]])
        ids = np.concatenate(found)
        ids.sort()
        return ids

    def known_names(self, name_ids: Iterable[int]) -> set[int]:
        """Those of the ids that are some memory's name."""
        wanted = np.fromiter(name_ids, np.int64)
        known: set[int] = set()
        for segment, alive in self.parts:
            names = segment.names
            for one in wanted[names.holds(wanted)].tolist():
                if alive[names.rows[names.place(one)]].any():
                    known.add(one)
        return known

    def proper_names_of(self, memory_id: int) -> list[int]:
        """The ids of the proper names that a memory's text says, ascending."""
        for segment, alive in self.parts:
            rows, known = segment.rows_of(np.array([memory_id]))
            if known[0] and alive[rows[0]]:
                return [int(key) for key in segment.proper_names_of.of(int(rows[0]))]
        return []

    def is_eligible(self, ids: Ints, eligible: Sequence[Bools]) -> Bools:
        """Whether each id is among the eligible rows."""
        found = np.zeros(len(ids), np.bool_)
        for (segment, _), mask in zip(self.parts, eligible, strict=True):
            rows, known = segment.rows_of(ids)
            if len(segment):
                found |= known & mask[rows]
        return found

    def valid(self, ids: Ints, now: float) -> Bools:
        """Whether each id is a memory that is valid at a time."""
        found = np.zeros(len(ids), np.bool_)
        for segment, alive in self.parts:
            rows, known = segment.rows_of(ids)
            rows = rows[known]
            columns = segment.columns
            found[known] |= alive[rows] & (columns.valid_from[rows] <= now) & (columns.valid_to[rows] > now)
        return found

    def _importances(self, ids: Ints) -> Floats:
        """The raw importance of each of the memories that exist, in no order."""
        found = [np.empty(0)]
        for segment, alive in self.parts:
            rows, known = segment.rows_of(ids)
            rows = rows[known]
            found.append(segment.columns.importances[rows[alive[rows]]])
        return np.concatenate(found)

    def traits(self, ids: Ints, now: float) -> Traits:
        """The traits of memories, in the order of their ids; those of a memory that is not here are neutral."""
        authors, dates = np.full(len(ids), -1, np.int64), np.zeros(len(ids), np.int64)
        importances, since = np.zeros(len(ids)), np.full(len(ids), now)
        for segment, alive in self.parts:
            rows, known = segment.rows_of(ids)
            known &= alive[rows] if len(segment) else False
            rows = rows[known]
            columns = segment.columns
            authors[known], dates[known] = columns.authors[rows], columns.dates[rows]
            importances[known] = columns.importances[rows]
            start = columns.valid_from[rows]
            since[known] = np.where(np.isfinite(start), start, columns.created[rows])
        return Traits(authors, dates, importances, np.maximum(now - since, 0.0))


def empty_index(snapshot: Snapshot, model_id: int | None) -> TextIndex:
    """A version without memories."""
    return TextIndex(snapshot, (), model_id, Totals(0, 0.0, 0.0, NO_IMPORTANCES, NO_IMPORTANCES.scale()))


def _totals(parts: Sequence[tuple[Segment, Bools]], importances: Distribution) -> Totals:
    return Totals(
        sum(int(np.count_nonzero(alive)) for _, alive in parts),
        sum(float(segment.columns.lengths.sum(where=alive, dtype=np.float64)) for segment, alive in parts),
        sum(float(_window_lengths(segment).sum(where=alive, dtype=np.float64)) for segment, alive in parts),
        importances,
        importances.scale(),
    )


def _window_lengths(segment: Segment) -> NDArray[np.float32]:
    own, windows = segment.columns.lengths, segment.columns.window_lengths
    return np.where(windows < 0, own, windows)


def _own_postings(segment: Segment, term: int) -> tuple[Rows, Counts]:
    place = segment.terms.place(term)
    return segment.terms.rows[place], segment.terms.counts[place]


def _window_postings(segment: Segment, term: int) -> tuple[Rows, Counts]:
    """Of windows, and of the memories that are their own window."""
    place = segment.window_terms.place(term)
    rows, counts = _own_postings(segment, term)
    alone = segment.columns.window_lengths[rows] < 0
    return (
        np.concatenate([segment.window_terms.rows[place], rows[alone]]),
        np.concatenate([segment.window_terms.counts[place], counts[alone]]),
    )


def _without(segment: Segment, alive: Bools, ids: Ints) -> Bools:
    rows, known = segment.rows_of(ids)
    if not known.any():
        return alive
    remaining = alive.copy()
    remaining[rows[known]] = False
    return remaining


def _compacted(parts: list[tuple[Segment, Bools]]) -> tuple[tuple[Segment, Bools], ...]:
    """Merge from the newest while the older neighbour is not at least twice as large: O(log n) segments remain."""
    while len(parts) > 1 and len(parts[-2][0]) < 2 * len(parts[-1][0]) + 16:
        merged = merge_segments(parts[-2:])
        parts[-2:] = [(merged, np.ones(len(merged), np.bool_))]
    return tuple(parts)
