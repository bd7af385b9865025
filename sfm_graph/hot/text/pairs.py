"""Pairs of vectors that are nearly the same, among all of a namespace's.

Up to EXACT_FROM vectors each is compared with each. Of more, those are compared whose signs along BITS random
directions agree in one of BANDS bands of 16 (M. Charikar, "Similarity estimation techniques from rounding
algorithms", STOC 2002): two vectors at an angle a agree in a sign with probability p = 1 - a / pi, in a band with
p^16, so that a pair of cosine c is found with probability 1 - (1 - p^16)^BANDS: .999 for c = .98, .99 for .97, .96
for .95, .75 for .9.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sfm_graph.hot.text.index import TextIndex
from sfm_graph.hot.text.postings import Floats, Ints
from sfm_graph.hot.text.vectors import Matrix

EXACT_FROM = 6_000
BANDS, BAND_BITS = 16, 16
BITS = BANDS * BAND_BITS
# Rows compared at once: 512 x 6,000 products take 12 MB.
BLOCK = 512
# Of those that agree in a band, each is compared with so many of the next: a thousand equal vectors are no million
# pairs.
NEXT = 24
# Pairs kept at most, the nearest; and candidates that a block of directions is multiplied with at once.
MAX_PAIRS = 20_000
_CHUNK = 50_000


@dataclass(frozen=True, slots=True)
class Pairs:
    """Ids of memories, `ones` < `others`, and their cosines, falling, ties by ids; each pair once.

    `complete`: all that were found are told.
    """

    ones: Ints
    others: Ints
    cosines: Floats
    complete: bool


def near_pairs(index: TextIndex, threshold: float, now: float) -> Pairs:
    """The pairs of memories, valid at `now`, whose texts' beginnings have a cosine of at least `threshold`.

    n vectors of D dimensions take n^2 * D products up to EXACT_FROM, then n * D * BITS and about NEXT * BANDS
    comparisons of 32 bytes each: 100,000 of 384 dimensions take some seconds. Holds the vectors once more meanwhile,
    and of pairs a few times as many as are told.
    """
    ids, vectors = _beginnings(index, now)
    if len(ids) < 2:
        return Pairs(ids[:0], ids[:0], np.empty(0), complete=True)
    found = _exact(vectors, threshold) if len(ids) <= EXACT_FROM else _banded(vectors, threshold)
    one, other, cosines = found
    low, high = np.minimum(ids[one], ids[other]), np.maximum(ids[one], ids[other])
    order = np.lexsort((high, low, -cosines))
    kept = order[:MAX_PAIRS]
    return Pairs(low[kept], high[kept], cosines[kept], complete=len(order) <= MAX_PAIRS)


def _beginnings(index: TextIndex, now: float) -> tuple[Ints, Matrix]:
    """Ids and the first vector of each memory that has one."""
    ids, vectors = [np.empty(0, np.int64)], []
    for (segment, _), eligible in zip(index.parts, index.eligible(now, None), strict=True):
        rows, firsts = np.unique(segment.vectors.rows, return_index=True)
        live = eligible[rows]
        if live.any():
            ids.append(segment.columns.ids[rows[live]])
            vectors.append(segment.vectors.original[firsts[live]])
    return np.concatenate(ids), np.concatenate(vectors) if vectors else np.empty((0, 0), np.float32)


def _exact(vectors: Matrix, threshold: float) -> tuple[Ints, Ints, Floats]:
    found: list[tuple[Ints, Ints, Floats]] = []
    for start in range(0, len(vectors), BLOCK):
        cosines = vectors[start : start + BLOCK] @ vectors[start:].T
        near = np.flatnonzero(np.triu(cosines >= threshold, 1))
        values = cosines.ravel()[near]
        kept = _nearest(values)
        one, other = np.divmod(near[kept], cosines.shape[1])
        found.append((one + start, other + start, values[kept].astype(np.float64)))
    return _joined(found)


def _nearest(cosines: NDArray[np.floating]) -> Ints:
    """The places of the highest, the first of equal ones: one more than are told, which says that there are more."""
    if len(cosines) <= MAX_PAIRS:
        return np.arange(len(cosines))
    most = MAX_PAIRS + 1
    least = np.partition(cosines, -most)[-most]
    above, equal = np.flatnonzero(cosines > least), np.flatnonzero(cosines == least)
    return np.concatenate((above, equal[: most - len(above)]))


def _banded(vectors: Matrix, threshold: float) -> tuple[Ints, Ints, Floats]:
    directions = np.random.default_rng(0).standard_normal((vectors.shape[1], BITS)).astype(np.float32)
    signs = np.concatenate(
        [
            np.packbits(vectors[start : start + _CHUNK] @ directions > 0, axis=1)
            for start in range(0, len(vectors), _CHUNK)
        ]
    )
    bands = signs.view(np.uint16)
    found = _joined([])
    for band in range(BANDS):
        near = [found]
        # Those that agree in more bands stand closer together, should there be many.
        order = np.lexsort((*(bands[:, (band + step) % BANDS] for step in (2, 1)), bands[:, band]))
        keys = bands[order, band]
        for step in range(1, NEXT + 1):
            same = np.flatnonzero(keys[step:] == keys[:-step])
            if not len(same):
                break
            near.append(_cut(_measured(vectors, order[same], order[same + step], threshold)))
        found = _cut(_distinct(_joined(near), len(vectors)))
    return found


def _cut(found: tuple[Ints, Ints, Floats]) -> tuple[Ints, Ints, Floats]:
    one, other, cosines = found
    kept = _nearest(cosines)
    return one[kept], other[kept], cosines[kept]


def _measured(vectors: Matrix, one: Ints, other: Ints, threshold: float) -> tuple[Ints, Ints, Floats]:
    kept: list[tuple[Ints, Ints, Floats]] = []
    for start in range(0, len(one), _CHUNK):
        some, others = one[start : start + _CHUNK], other[start : start + _CHUNK]
        cosines = np.einsum("nd,nd->n", vectors[some], vectors[others]).astype(np.float64)
        near = cosines >= threshold
        kept.append((np.minimum(some, others)[near], np.maximum(some, others)[near], cosines[near]))
    return _joined(kept)


def _joined(found: list[tuple[Ints, Ints, Floats]]) -> tuple[Ints, Ints, Floats]:
    if not found:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)
    ones, others, cosines = zip(*found, strict=True)
    return np.concatenate(ones), np.concatenate(others), np.concatenate(cosines)


def _distinct(found: tuple[Ints, Ints, Floats], count: int) -> tuple[Ints, Ints, Floats]:
    one, other, cosines = found
    _, first = np.unique(one * count + other, return_index=True)
    return one[first], other[first], cosines[first]
