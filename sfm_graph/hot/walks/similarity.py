"""Memories that share neighbours with a seed: similarity, and links that may be missing.

Jaccard: shared neighbours over all neighbours of the two. Adamic and Adar 2003: the sum over shared neighbours of
1 / ln(number of memories that it is a neighbour of), so that a hub says little. Neighbours are distinct memories,
without the memory itself; walked one way, those that its links lead to.
"""

from enum import Enum, auto

import numpy as np

from sfm_graph.hot.graph.adjacency import Floats
from sfm_graph.hot.graph.nodes import Ints
from sfm_graph.hot.graph.steps import Steps
from sfm_graph.hot.walks.expansion import Along, Expand, Numbered, Walking
from sfm_graph.hot.walks.pagerank import Ranked, best_ranked


class Measure(Enum):
    """How much two neighbourhoods are alike."""

    JACCARD = auto()
    ADAMIC_ADAR = auto()


def similar(graph: Numbered, seeds: Ints, measure: Measure, *, limit: int, unlinked: bool) -> Walking[Ranked]:
    """The `limit` most similar to any of the seeds, which are not among them; the best of a memory's scores counts.

    `unlinked` leaves out the neighbours of the seed: suggestions for links.
    """
    scores = np.zeros(graph.size)
    for seed in seeds.tolist():
        around = _distinct((yield Expand(np.array([seed], np.int64))), graph.size)[1].astype(np.int64)
        if not len(around):
            continue
        # Back from the neighbours: to those who have them too.
        through, others = _distinct((yield Expand(around, Along.BACKWARDS)), graph.size)
        if measure is Measure.JACCARD:
            mine = yield from _jaccard(graph, seed, around, others)
        else:
            mine = _adamic_adar(graph.size, seed, through, others)
        if unlinked:
            mine[around] = 0.0
        np.maximum(scores, mine, out=scores)
    scores[seeds] = 0.0
    return best_ranked(graph, np.flatnonzero(scores), scores, limit)


def _adamic_adar(size: int, seed: int, through: Ints, others: Ints) -> Floats:
    neighbours = np.bincount(through, minlength=size)
    with np.errstate(divide="ignore"):
        # One that is the neighbour of the seed only hands nothing on.
        credit = np.where(neighbours > 1, 1 / np.log(np.maximum(neighbours, 1)), 0.0)
    scores = np.bincount(others, credit[through], minlength=size).astype(np.float64)
    scores[seed] = 0.0
    return scores


def _jaccard(graph: Numbered, seed: int, around: Ints, others: Ints) -> Walking[Floats]:
    shared = np.bincount(others, minlength=graph.size)
    shared[seed] = 0
    candidates = np.flatnonzero(shared).astype(np.int64)
    scores = np.zeros(graph.size)
    if len(candidates):
        owners, _ = _distinct((yield Expand(candidates)), graph.size)
        degrees = np.bincount(owners, minlength=graph.size)[candidates]
        scores[candidates] = shared[candidates] / (degrees + len(around) - shared[candidates])
    return scores


def _distinct(steps: Steps, size: int) -> tuple[Ints, Ints]:
    """Origins and ends of steps, parallel links once, self-links not at all."""
    origins, to = steps.origins().astype(np.int64), steps.to
    pairs = np.unique(origins[origins != to] * size + to[origins != to])
    return pairs // size, pairs % size
