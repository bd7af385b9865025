"""Immutable pieces of a hot text index: word postings, lengths, validity and vectors of some memories.

Layout of a segment with n memories, P postings of V distinct terms, m vectors of D dimensions:
postings are sorted by term, `rows[offsets[t]:offsets[t + 1]]` are the memories that hold term t; vectors are stored
one column each, so that a scan is one matrix product that streams through memory (D x m, 3 ms for 256 x 100k).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sfm_graph.domain.documents import Documents

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Segment:
    """Built postings and vectors. `valid_from`, `valid_to`: seconds since 1970, infinite where open."""

    ids: Ints
    lengths: NDArray[np.float32]
    valid_from: Floats
    valid_to: Floats
    terms: NDArray[np.uint32]
    offsets: Ints
    rows: NDArray[np.int32]
    counts: NDArray[np.float32]
    vector_rows: NDArray[np.int32]
    vectors: NDArray[np.float32]

    @property
    def nbytes(self) -> int:
        """Resident bytes of the arrays."""
        return sum(getattr(self, name).nbytes for name in self.__slots__)

    def postings(self, term: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Rows that hold a term, ascending, and how often; empty for an unknown term."""
        place = int(np.searchsorted(self.terms, term))
        if place == len(self.terms) or self.terms[place] != term:
            return self.rows[:0], self.counts[:0]
        span = slice(self.offsets[place], self.offsets[place + 1])
        return self.rows[span], self.counts[span]

    def similarities(self, query: NDArray[np.float32]) -> Floats:
        """Each row's best inner product over its parts; -inf for a row without a vector. Shape (n,)."""
        scores = np.full(len(self.ids), -np.inf)
        if len(self.vector_rows):
            np.maximum.at(scores, self.vector_rows, (query @ self.vectors).astype(np.float64))
        return scores

    def rows_of(self, ids: Ints) -> tuple[NDArray[np.int64], Bools]:
        """For each id its row and whether it has one; a missing id's row is meaningless."""
        if not len(self.ids):
            return np.zeros(len(ids), np.int64), np.zeros(len(ids), np.bool_)
        places = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
        return places, self.ids[places] == ids


def build_segment(documents: Documents) -> Segment:
    """A segment of the documents. O(P log P); holds no reference to its input's postings."""
    per_row = np.diff(documents.starts)
    owners = np.repeat(np.arange(len(documents.ids), dtype=np.int32), per_row)
    order = np.argsort(documents.term_ids, kind="stable")
    return _assemble(
        documents.ids, documents.lengths, documents.valid_from, documents.valid_to,
        documents.term_ids[order], owners[order], documents.term_counts[order],
        np.searchsorted(documents.ids, documents.vector_ids).astype(np.int32),
        np.ascontiguousarray(documents.vectors.T),
    )  # fmt: skip


def merge_segments(parts: Sequence[tuple[Segment, Bools]]) -> Segment:
    """One segment of the rows that are alive in each part. Ids of alive rows must be distinct across parts."""
    ids = np.concatenate([segment.ids[alive] for segment, alive in parts])
    order = np.argsort(ids, kind="stable")
    # new_row[part][old row] = row in the merged segment
    places = np.empty(len(ids), np.int32)
    places[order] = np.arange(len(ids), dtype=np.int32)
    new_rows = []
    start = 0
    for segment, alive in parts:
        rows = np.full(len(segment.ids), -1, np.int32)
        count = int(alive.sum())
        rows[alive] = places[start : start + count]
        new_rows.append(rows)
        start += count

    def gathered(name: str) -> NDArray[np.float64]:
        joined: NDArray[np.float64] = np.concatenate([getattr(segment, name)[alive] for segment, alive in parts])
        return joined[order]

    terms, owners, counts = _live_postings(parts, new_rows)
    vector_rows = np.concatenate(
        [rows[segment.vector_rows] for (segment, _), rows in zip(parts, new_rows, strict=True)]
    )
    vectors = np.concatenate(
        [segment.vectors for segment, _ in parts if segment.vectors.size] or [parts[0][0].vectors], axis=1
    )
    live = np.flatnonzero(vector_rows >= 0)
    vector_order = live[np.argsort(vector_rows[live], kind="stable")]
    return _assemble(
        ids[order], gathered("lengths").astype(np.float32), gathered("valid_from"), gathered("valid_to"),
        terms, owners, counts, vector_rows[vector_order], np.ascontiguousarray(vectors[:, vector_order]),
    )  # fmt: skip


def _live_postings(
    parts: Sequence[tuple[Segment, Bools]], new_rows: Sequence[NDArray[np.int32]]
) -> tuple[NDArray[np.uint32], NDArray[np.int32], NDArray[np.float32]]:
    terms = np.concatenate([np.repeat(segment.terms, np.diff(segment.offsets)) for segment, _ in parts])
    owners = np.concatenate([rows[segment.rows] for (segment, _), rows in zip(parts, new_rows, strict=True)])
    counts = np.concatenate([segment.counts for segment, _ in parts])
    live = np.flatnonzero(owners >= 0)
    order = live[np.lexsort((owners[live], terms[live]))]
    return terms[order], owners[order], counts[order]


def _assemble(
    ids: Ints,
    lengths: NDArray[np.float32],
    valid_from: Floats,
    valid_to: Floats,
    sorted_terms: NDArray[np.uint32],
    owners: NDArray[np.int32],
    counts: NDArray[np.float32],
    vector_rows: NDArray[np.int32],
    vectors: NDArray[np.float32],
) -> Segment:
    terms, firsts = np.unique(sorted_terms, return_index=True)
    offsets = np.append(firsts, len(sorted_terms)).astype(np.int64)
    return Segment(ids, lengths, valid_from, valid_to, terms, offsets, owners, counts, vector_rows, vectors)
