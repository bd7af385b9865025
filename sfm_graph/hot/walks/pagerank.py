"""Personalised PageRank around seeds: residual pushing (Andersen, Chung & Lang 2006), many nodes at a time.

A step is taken with a probability in proportion to the link's strength 1 / (1 + weight); from a node without steps
the walk returns to a seed. Every node keeps a score and a residual that still has to walk on, both sum to 1. What is
left of it at the end is spread as a long walk would: a share where it stands, the rest by the links that arrive at
each node, which is where a random walk both ways converges to: over all nodes that a seed reaches, or, where a filter
makes degrees inexact, over those that were met.
"""

from dataclasses import dataclass

import numpy as np

from sfm_graph.errors import WalkTooLarge
from sfm_graph.hot.graph.adjacency import Bools, Floats
from sfm_graph.hot.graph.graph import Degrees
from sfm_graph.hot.graph.nodes import Ints
from sfm_graph.hot.graph.steps import Steps
from sfm_graph.hot.walks.expansion import Along, Expand, Numbered, Walking

DAMPING = 0.85
# A node waits until its residual per link exceeds this bar, which falls from round to round.
FIRST_BAR = 1e-4
BAR_RATIO = 0.2
# A residual below this sum cannot change a ranking that anyone looks at.
PRECISION = 1e-6


@dataclass(frozen=True, slots=True)
class Ranked:
    """Memories by falling score, ties by id; `truncated`: the limit cut some off. `groups`: see `rank`.

    `residual`: which part of all score is estimated, from 0 to 1.
    """

    ids: Ints
    scores: Floats
    truncated: bool
    groups: Ints | None = None
    residual: float = 0.0


def personalised_pagerank(
    graph: Numbered, degrees: Degrees, seeds: Ints, *, limit: int, max_links: int
) -> Walking[Ranked]:
    """The `limit` best after looking at some `max_links` links. Only what a seed reaches is ranked."""
    score, residual = np.zeros(graph.size), np.zeros(graph.size)
    residual[seeds] = 1 / len(seeds)
    links = np.maximum(degrees.leaving, 1).astype(np.float64)
    bar, looked_at = FIRST_BAR, 0
    while looked_at < max_links and float(residual.sum()) > PRECISION:
        frontier = np.flatnonzero(residual > bar * links)
        if not len(frontier):
            bar *= BAR_RATIO
            continue
        try:
            steps = yield Expand(frontier)
        except WalkTooLarge:
            break
        looked_at += len(steps)
        _push(steps, frontier, seeds, score, residual)
    left = float(residual.sum())
    reached = score + residual > 0
    score += (1 - DAMPING) * residual
    everywhere = degrees.exact and left > PRECISION
    share = degrees.arriving * 1.0 if everywhere else degrees.arriving * reached
    if total := float(share.sum()):
        score += DAMPING * left / total * share
    else:
        score[seeds] += DAMPING * left / len(seeds)
    if everywhere:
        yield from _keep_reached(score, reached, limit)
    return best_ranked(graph, np.flatnonzero(score), score, limit, residual=DAMPING * left)


def _keep_reached(score: Floats, reached: Bools, limit: int) -> Walking[None]:
    """Take their score from those of the best that no link joins to what the walk has reached."""
    count = limit
    while True:
        nodes = np.flatnonzero(score)
        if len(nodes) > count:
            nodes = nodes[np.argpartition(-score[nodes], count)[: count + 1]]
        # Where few are reached many have to be asked.
        count *= 8
        doubtful = nodes[~reached[nodes]]
        if not len(doubtful):
            return
        steps = yield Expand(doubtful, Along.BACKWARDS)
        reached[steps.origins()[reached[steps.to]]] = True
        score[doubtful[~reached[doubtful]]] = 0.0


def best_ranked(graph: Numbered, nodes: Ints, scores: Floats, limit: int, residual: float = 0.0) -> Ranked:
    """The `limit` best of some nodes; `scores` of all nodes, shape (n,), to 32 bits: 9 digits, integers exactly."""
    values, truncated = scores[nodes], len(nodes) > limit
    if truncated:
        cut = np.partition(values, len(values) - limit)[len(values) - limit]
        kept = values >= cut * (1 - 2**-30)
        nodes, values = nodes[kept], values[kept]
    # Sums differ in their last bits with the order of links in memory; ties must not.
    mantissa, exponent = np.frexp(values)
    values = np.ldexp(np.rint(mantissa * 2**32), exponent - 32)
    ids = graph.ids(nodes)
    order = np.lexsort((ids, -values))[:limit]
    return Ranked(ids[order], values[order], truncated, residual=residual)


def _push(steps: Steps, frontier: Ints, seeds: Ints, score: Floats, residual: Floats) -> None:
    """Score a share of the frontier's residual and hand the rest on over its steps."""
    mass = residual[frontier]
    residual[frontier] = 0.0
    score[frontier] += (1 - DAMPING) * mass
    strength = 1 / (1 + steps.weights())
    place = np.empty(len(residual), np.int64)
    place[frontier] = np.arange(len(frontier), dtype=np.int64)
    owner = place[steps.origins()]
    total = np.bincount(owner, strength, minlength=len(frontier))
    share = np.divide(DAMPING * mass, total, out=np.zeros(len(frontier)), where=total > 0)
    np.add.at(residual, steps.to, share[owner] * strength)
    residual[seeds] += DAMPING * float(mass[total == 0].sum()) / len(seeds)
