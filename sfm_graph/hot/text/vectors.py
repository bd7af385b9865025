"""Vectors in memory: scanned by their most telling directions, then measured exactly.

A large set is rotated so that most of what tells its vectors apart lies in the first few coordinates, the heads:
its principal components. A scan of the heads alone names candidates, whose exact cosines then need the tails of these
few. MiniLM, 100k x 384: heads of 128 hold .84 of the squared lengths, and .9993 of the 10 nearest are among the 2,000
best by heads. A small set, or one that no few directions tell apart, is scanned whole.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sfm_graph.domain.documents import OwnedVectors
from sfm_graph.hot.text.postings import Floats, Ints, Rows

Matrix = NDArray[np.float32]

# So many vectors are scanned whole in half a millisecond.
SPLIT_FROM = 20_000
# The share of the squared lengths that heads must hold, and how long they may be at most.
HEAD_ENERGY = 0.8
MAX_HEAD_SHARE = 0.6
HEAD_STEP = 32
SAMPLE = 4_000


@dataclass(frozen=True, slots=True)
class Vectors:
    """m vectors of D dimensions, rotated by `basis` (D, D) unless it is None.

    `rows`: the row that owns each, ascending; `distinct`: no row owns two. `heads`: (h, m), one column each, so that
    a scan is one matrix product that streams through memory; `tails`: (m, D - h), one row each.
    """

    rows: Rows
    distinct: bool
    heads: Matrix
    tails: Matrix
    basis: Matrix | None

    @property
    def nbytes(self) -> int:
        """Resident bytes of the arrays."""
        return self.rows.nbytes + self.heads.nbytes + self.tails.nbytes

    @property
    def original(self) -> Matrix:
        """All vectors as they were given, but for rounding; shape (m, D)."""
        rotated = np.concatenate([self.heads.T, self.tails], axis=1)
        return rotated if self.basis is None else rotated @ self.basis.T


class VectorSearch:
    """One query against a set of vectors of n rows. Rows without a vector score -inf."""

    def __init__(self, vectors: Vectors, query: Matrix, count: int) -> None:
        self._vectors = vectors
        self._query = query if vectors.basis is None else query @ vectors.basis
        head = len(vectors.heads)
        # Without a vector there is no dimension either.
        by_heads = self._query[:head] @ vectors.heads if len(vectors.rows) else ()
        self._by_heads: Matrix = np.asarray(by_heads, np.float32)
        # Inner products by heads alone: the best of each row's, shape (n,). They are exact where there are no tails.
        self.rough: Matrix = self._by_heads
        # The common case: row i owns vector i.
        self._is_even = vectors.distinct and len(vectors.rows) == count
        if not self._is_even:
            self.rough = np.full(count, -np.inf, np.float32)
            np.maximum.at(self.rough, vectors.rows, self._by_heads)

    @property
    def is_exact(self) -> bool:
        """Whether `rough` is exact."""
        return not self._vectors.tails.shape[1]

    def exact(self, rows: Ints) -> Floats:
        """The best inner product of each of some rows."""
        if self.is_exact:
            return self.rough[rows].astype(np.float64)
        if self._is_even:
            return self._exact_at(rows).astype(np.float64)
        owners = self._vectors.rows
        starts, ends = np.searchsorted(owners, rows, "left"), np.searchsorted(owners, rows, "right")
        places = np.repeat(ends - np.cumsum(ends - starts), ends - starts) + np.arange(int((ends - starts).sum()))
        found = np.full(len(rows), -np.inf)
        np.maximum.at(found, np.repeat(np.arange(len(rows)), ends - starts), self._exact_at(places))
        return found

    def _exact_at(self, places: Ints) -> Matrix:
        vectors = self._vectors
        by_tails = vectors.tails[places] @ self._query[len(vectors.heads) :]
        return np.asarray(self._by_heads[places] + by_tails, np.float32)


def build_vectors(ids: Ints, owned: OwnedVectors) -> Vectors:
    """The vectors of memories with these ids, ascending; every owner is one of them."""
    return _split(np.searchsorted(ids, owned.owners).astype(np.int32), owned.vectors)


def merge_vectors(parts: Sequence[tuple[Vectors, Rows]]) -> Vectors:
    """One of several; with each the new row of each of its rows, -1 for a row that is dropped."""
    rows = np.concatenate([new[vectors.rows] for vectors, new in parts])
    live = np.flatnonzero(rows >= 0)
    order = live[np.argsort(rows[live], kind="stable")]
    filled = [vectors.original for vectors, _ in parts if len(vectors.rows)]
    if not filled:
        return _split(rows[:0], parts[0][0].original)
    return _split(rows[order], np.concatenate(filled)[order])


def _split(rows: Rows, vectors: Matrix) -> Vectors:
    distinct = not bool((rows[1:] == rows[:-1]).any())
    basis, head = _principal(vectors)
    if basis is None:
        return Vectors(rows, distinct, np.ascontiguousarray(vectors.T), vectors[:, :0], None)
    rotated = vectors @ basis
    return Vectors(
        rows, distinct, np.ascontiguousarray(rotated[:, :head].T), np.ascontiguousarray(rotated[:, head:]), basis
    )


def _principal(vectors: Matrix) -> tuple[Matrix | None, int]:
    """The directions of a set from the most telling one on, (D, D), and how many make a head; None: not worth it."""
    count, dimension = vectors.shape
    if count < SPLIT_FROM:
        return None, dimension
    sample = vectors[:: max(1, count // SAMPLE)]
    energies, directions = np.linalg.eigh(sample.T @ sample)
    shares = np.cumsum(energies[::-1]) / energies.sum()
    head = -(-(int(np.searchsorted(shares, HEAD_ENERGY)) + 1) // HEAD_STEP) * HEAD_STEP
    if head > MAX_HEAD_SHARE * dimension:
        return None, dimension
    return np.ascontiguousarray(directions[:, ::-1]), head
