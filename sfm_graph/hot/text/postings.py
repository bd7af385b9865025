"""Postings: for each key the rows that hold it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sfm_graph.domain.documents import Lists

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Rows = NDArray[np.int32]
# Term ids have 32 bits, name ids 64.
Keys = NDArray[np.int64 | np.uint32]


@dataclass(frozen=True, slots=True)
class Postings:
    """Sorted by key: `rows[offsets[k]:offsets[k + 1]]` hold `keys[k]`, ascending.

    `counts`, parallel to `rows`, tells how often; it is empty where each counts once.
    """

    keys: Keys
    offsets: Ints
    rows: Rows
    counts: NDArray[np.float32]

    @property
    def nbytes(self) -> int:
        """Resident bytes of the arrays."""
        return self.keys.nbytes + self.offsets.nbytes + self.rows.nbytes + self.counts.nbytes

    def place(self, key: int) -> slice:
        """Where a key's rows and counts are; empty for an unknown key."""
        at = int(np.searchsorted(self.keys, key))
        if at == len(self.keys) or self.keys[at] != key:
            return slice(0, 0)
        return slice(int(self.offsets[at]), int(self.offsets[at + 1]))

    def holds(self, keys: Ints) -> Bools:
        """Whether each of some keys has postings."""
        if not len(self.keys):
            return np.zeros(len(keys), np.bool_)
        at = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.asarray(self.keys[at] == keys)

    def owned(self) -> tuple[Keys, Rows, NDArray[np.float32]]:
        """Every posting as (key, row, count), by key and row."""
        return np.repeat(self.keys, np.diff(self.offsets)), self.rows, self.counts


@dataclass(frozen=True, slots=True)
class RowKeys:
    """The other way: row i holds `keys[starts[i]:starts[i + 1]]`."""

    starts: Ints
    keys: Keys

    @property
    def nbytes(self) -> int:
        """Resident bytes of the arrays."""
        return self.starts.nbytes + self.keys.nbytes

    def of(self, row: int) -> Keys:
        """The keys of a row."""
        return self.keys[self.starts[row] : self.starts[row + 1]]


def build_postings(lists: Lists) -> Postings:
    """Postings of rows' lists. O(P log P)."""
    owners = np.repeat(np.arange(len(lists.starts) - 1, dtype=np.int32), np.diff(lists.starts))
    order = np.argsort(lists.keys, kind="stable")
    counts = lists.counts[order] if len(lists.counts) else lists.counts
    return _assembled(lists.keys[order], owners[order], counts)


def merge_postings(parts: Sequence[tuple[Postings, Rows]]) -> Postings:
    """One of several; with each the new row of each of its rows, -1 for a row that is dropped."""
    owned = [postings.owned() for postings, _ in parts]
    keys = np.concatenate([keys for keys, _, _ in owned])
    rows = np.concatenate([new[rows] for (_, rows, _), (_, new) in zip(owned, parts, strict=True)])
    live = np.flatnonzero(rows >= 0)
    order = live[np.lexsort((rows[live], keys[live]))]
    counts = np.concatenate([counts for _, _, counts in owned])
    return _assembled(keys[order], rows[order], counts[order] if len(counts) else counts)


def keys_by_row(postings: Postings, count: int) -> RowKeys:
    """The keys of each of `count` rows, ascending."""
    keys, rows, _ = postings.owned()
    order = np.argsort(rows, kind="stable")
    starts = np.zeros(count + 1, np.int64)
    np.cumsum(np.bincount(rows, minlength=count), out=starts[1:])
    return RowKeys(starts, keys[order])


def _assembled(sorted_keys: Keys, rows: Rows, counts: NDArray[np.float32]) -> Postings:
    keys, firsts = np.unique(sorted_keys, return_index=True)
    return Postings(keys, np.append(firsts, len(sorted_keys)).astype(np.int64), rows.astype(np.int32), counts)
