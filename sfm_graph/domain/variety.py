"""Variety among hits: near-duplicates folded, likeness to better hits weighed against relevance."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# Cosine from which two memories say the same.
SAME = 0.97


def folded(vectors: NDArray[np.float32]) -> list[list[int]]:
    """Groups of near-duplicates among n unit vectors, best first, shape (n, D); each group by its best, in order.

    A vector joins the first group whose best it is as near as 0.97 to; a row of zeros joins none.
    """
    groups: list[list[int]] = []
    heads = np.empty_like(vectors)
    for place, vector in enumerate(vectors):
        near = np.flatnonzero(heads[: len(groups)] @ vector >= SAME)
        if len(near):
            groups[int(near[0])].append(place)
        else:
            heads[len(groups)] = vector
            groups.append([place])
    return groups


def diversified(scores: Sequence[float], vectors: NDArray[np.float32], diversity: float, first: int) -> list[int]:
    """The places of `first` of n hits by maximal marginal relevance, in the order they are chosen.

    Carbonell and Goldstein 1998: the next is the one with the greatest (1 - d) score - d max cosine to those chosen;
    ties by place. `scores` best first, scaled so that the best is 1. O(first x n x D).
    """
    relevance = np.asarray(scores, np.float64)
    if len(relevance) and relevance[0] > 0:
        relevance = relevance / relevance[0]
    closest = np.zeros(len(relevance))
    left = np.ones(len(relevance), np.bool_)
    chosen: list[int] = []
    while len(chosen) < min(first, len(relevance)):
        worth = np.where(left, (1 - diversity) * relevance - diversity * closest, -np.inf)
        best = int(np.argmax(worth))
        chosen.append(best)
        left[best] = False
        np.maximum(closest, vectors @ vectors[best], out=closest)
    return chosen
