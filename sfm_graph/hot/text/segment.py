"""Immutable pieces of a hot text index: the words, cues, validity and vectors of some memories."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from sfm_graph.domain.documents import Documents
from sfm_graph.hot.text.postings import (
    Bools,
    Floats,
    Ints,
    Postings,
    RowKeys,
    Rows,
    build_postings,
    keys_by_row,
    merge_postings,
)
from sfm_graph.hot.text.vectors import Vectors, build_vectors, merge_vectors


@dataclass(frozen=True, slots=True)
class Columns:
    """One value for each of n memories, as in Documents; shape (n,) each."""

    ids: Ints
    lengths: NDArray[np.float32]
    window_lengths: NDArray[np.float32]
    valid_from: Floats
    valid_to: Floats
    authors: Ints
    dates: NDArray[np.int32]
    importances: Floats
    created: Floats

    @property
    def nbytes(self) -> int:
        """Resident bytes of the arrays."""
        return sum(getattr(self, column.name).nbytes for column in fields(self))


@dataclass(frozen=True, slots=True)
class Segment:
    """The memories of some rows. `window_terms` and `window_vectors` have rows only for windows of their own."""

    columns: Columns
    terms: Postings
    window_terms: Postings
    names: Postings
    proper_names: Postings
    proper_names_of: RowKeys
    vectors: Vectors
    window_vectors: Vectors

    def __len__(self) -> int:
        """How many memories."""
        return len(self.columns.ids)

    @property
    def nbytes(self) -> int:
        """Resident bytes of the arrays."""
        return sum(getattr(self, part.name).nbytes for part in fields(self))

    def rows_of(self, ids: Ints) -> tuple[Ints, Bools]:
        """For each id its row and whether it has one; a missing id's row is meaningless."""
        own = self.columns.ids
        if not len(own):
            return np.zeros(len(ids), np.int64), np.zeros(len(ids), np.bool_)
        places = np.minimum(np.searchsorted(own, ids), len(own) - 1)
        return places, own[places] == ids


def build_segment(documents: Documents) -> Segment:
    """A segment of the documents. O(P log P); holds no reference to its input's lists."""
    ids = documents.ids
    proper_names = build_postings(documents.proper_names)
    return Segment(
        Columns(*(getattr(documents, column.name) for column in fields(Columns))),
        build_postings(documents.terms),
        build_postings(documents.window_terms),
        build_postings(documents.names),
        proper_names,
        keys_by_row(proper_names, len(ids)),
        build_vectors(ids, documents.vectors),
        build_vectors(ids, documents.window_vectors),
    )


def merge_segments(parts: Sequence[tuple[Segment, Bools]]) -> Segment:
    """One segment of the rows that are alive in each part. Ids of alive rows must be distinct across parts."""
    ids = np.concatenate([segment.columns.ids[alive] for segment, alive in parts])
    order = np.argsort(ids, kind="stable")
    moved = _new_rows(parts, order)

    def postings(chosen: Callable[[Segment], Postings]) -> Postings:
        return merge_postings([(chosen(segment), new) for (segment, _), new in zip(parts, moved, strict=True)])

    def vectors(chosen: Callable[[Segment], Vectors]) -> Vectors:
        return merge_vectors([(chosen(segment), new) for (segment, _), new in zip(parts, moved, strict=True)])

    columns = Columns(
        *(
            np.concatenate([getattr(segment.columns, column.name)[alive] for segment, alive in parts])[order]
            for column in fields(Columns)
        )
    )
    proper_names = postings(lambda segment: segment.proper_names)
    return Segment(
        columns,
        postings(lambda segment: segment.terms),
        postings(lambda segment: segment.window_terms),
        postings(lambda segment: segment.names),
        proper_names,
        keys_by_row(proper_names, len(ids)),
        vectors(lambda segment: segment.vectors),
        vectors(lambda segment: segment.window_vectors),
    )


def _new_rows(parts: Sequence[tuple[Segment, Bools]], order: Ints) -> list[Rows]:
    """For each part the merged row of each of its rows, -1 for a dead one."""
    places = np.empty(len(order), np.int32)
    places[order] = np.arange(len(order), dtype=np.int32)
    moved, start = [], 0
    for segment, alive in parts:
        rows = np.full(len(segment), -1, np.int32)
        count = int(alive.sum())
        rows[alive] = places[start : start + count]
        moved.append(rows)
        start += count
    return moved
