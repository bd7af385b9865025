"""Paths with the least sum of weights: Dijkstra's search from both ends, many nodes at a time.

A batch holds the nearest of the open nodes; a node whose label improves later is opened again, so labels end as
Dijkstra's do. The search ends when every path through two open nodes is dearer than the best that was met.
Of equally cheap paths one with the fewest links is found, of parallel links the one with the smallest id.
"""

import numpy as np

from sfm_graph.hot.graph.adjacency import Floats
from sfm_graph.hot.graph.nodes import Ints
from sfm_graph.hot.graph.steps import Steps
from sfm_graph.hot.walks.expansion import Along, Expand, Numbered, Walking
from sfm_graph.hot.walks.hop_bound import cheapest_within
from sfm_graph.hot.walks.trail import NOTHING_BARRED, Barred, NodeTrail

# Fewer nodes in a batch would be slower by numpy's cost per call than by the needless work of larger ones.
BATCH = 24


def cheapest(
    graph: Numbered, start: int, goal: int, max_hops: int, barred: Barred = NOTHING_BARRED
) -> Walking[NodeTrail | None]:
    """A path with the least sum of weights among those of at most `max_hops` links; None when there is none."""
    if start == goal:
        return NodeTrail((start,), ())
    ahead = _Side(graph.size, start, Along.FORWARDS, barred)
    behind = _Side(graph.size, goal, Along.BACKWARDS, barred)
    side, other = ahead, behind
    bound = np.inf
    while len(ahead.open) and len(behind.open):
        least = ahead.least() + behind.least()
        # At the bound as well: over links that cost nothing an equally cheap path may have fewer links.
        if least > bound:
            break
        batch = side.nearest(bound - other.least())
        steps = yield Expand(batch, side.along, barred.links)
        side.relax(steps, other, bound)
        totals = side.cost[side.improved] + other.cost[side.improved]
        bound = min(bound, float(totals.min(initial=np.inf)))
        # Turns, whatever the sizes: radii that grow alike keep both searches small (4x fewer rounds at p95).
        side, other = other, side
    trail = _joined(graph, ahead, behind)
    if trail is not None and len(trail.links) > max_hops:
        return (yield from cheapest_within(graph, start, goal, max_hops, barred))
    return trail


class _Side:
    """The labels of one end's search: cost, links so far, and the link and node that each came by."""

    def __init__(self, size: int, start: int, along: Along, barred: Barred) -> None:
        self.along = along
        self.cost = np.full(size, np.inf)
        self.cost[barred.nodes] = -np.inf
        self.cost[start] = 0.0
        self.hops = np.zeros(size, np.int64)
        self.link = np.empty(size, np.int64)
        self.weight = np.empty(size)
        self.parent = np.empty(size, np.int64)
        self._scratch = np.empty(size, np.int64)
        self.start = start
        self.open: Ints = np.array([start], np.int64)
        self.is_open = np.zeros(size, np.bool_)
        self.improved = self.open
        self.touched = [self.open]

    def least(self) -> float:
        """The least cost of an open node; infinite without one."""
        return float(self.cost[self.open].min(initial=np.inf))

    def nearest(self, useful: float) -> Ints:
        """Take a batch out of the open nodes; those dearer than `useful` are closed for good."""
        costs = self.cost[self.open]
        if useful < np.inf:
            near = costs <= useful
            self.is_open[self.open[~near]] = False
            self.open, costs = self.open[near], costs[near]
        if len(self.open) <= BATCH:
            batch, self.open = self.open, self.open[:0]
        else:
            near = costs <= np.partition(costs, BATCH)[BATCH]
            batch, self.open = self.open[near], self.open[~near]
        self.is_open[batch] = False
        return batch

    def relax(self, steps: Steps, other: "_Side", bound: float) -> None:
        """Improve labels by the steps that may lead to a path no dearer than `bound`."""
        weights, origins = steps.weights(), steps.origins()
        costs = self.cost[origins]
        costs += weights
        kept = np.flatnonzero(costs <= np.minimum(self.cost[steps.to], bound))
        to, costs = steps.to[kept], costs[kept]
        if bound < np.inf:
            # From a node that the other side has not met, the rest costs at least what its open nodes do.
            useful = np.flatnonzero(costs + np.minimum(other.cost[to], other.least()) <= bound)
            kept, to, costs = kept[useful], to[useful], costs[useful]
        cost_before = self.cost[to]
        np.minimum.at(self.cost, to, costs)
        best = np.flatnonzero(costs == self.cost[to])
        kept = kept[best]
        self._settle(to[best], origins[kept], weights[kept], steps.links(kept), cost_before[best])

    def _settle(self, to: Ints, origins: Ints, weights: Floats, links: Ints, cost_before: Floats) -> None:
        """Keep of the cheapest arrivals at each node that with the fewest links, then with the smallest link id."""
        hops = self.hops[origins] + 1
        self._scratch[to] = np.arange(len(to), dtype=np.int64)
        if len(to) and not (self._scratch[to] == np.arange(len(to))).all():
            # Equally cheap arrivals at one node. Sorting is 3 ms for a hub, so only then.
            order = np.lexsort((links, hops, to))
            order = order[np.append(True, to[order[1:]] != to[order[:-1]])]
            to, hops, links = to[order], hops[order], links[order]
            origins, weights, cost_before = origins[order], weights[order], cost_before[order]
        shorter = (self.cost[to] < cost_before) | (hops < self.hops[to])
        taken = shorter | ((hops == self.hops[to]) & (links < self.link[to]))
        chosen = to[taken]
        self.hops[chosen], self.link[chosen] = hops[taken], links[taken]
        self.parent[chosen], self.weight[chosen] = origins[taken], weights[taken]
        self.improved = to[shorter]
        self.open = np.concatenate([self.open, self.improved[~self.is_open[self.improved]]])
        self.is_open[self.improved] = True
        self.touched.append(self.improved)

    def trail(self, node: int) -> NodeTrail:
        """From `node` back to where this side began."""
        nodes, links, weights = [node], [], []
        while node != self.start:
            links.append(int(self.link[node]))
            weights.append(float(self.weight[node]))
            node = int(self.parent[node])
            nodes.append(node)
        return NodeTrail(tuple(nodes), tuple(links), tuple(weights))


def _joined(graph: Numbered, ahead: _Side, behind: _Side) -> NodeTrail | None:
    """The best path over a node that both sides have met; ties by links, then memory id."""
    nodes = np.concatenate(ahead.touched)
    totals = ahead.cost[nodes] + behind.cost[nodes]
    met = nodes[totals == totals.min()] if np.isfinite(totals).any() else nodes[:0]
    if not len(met):
        return None
    node = int(met[np.lexsort((graph.ids(met), ahead.hops[met] + behind.hops[met]))[0]])
    first, second = ahead.trail(node), behind.trail(node)
    return NodeTrail(
        (*first.nodes[::-1], *second.nodes[1:]),
        (*first.links[::-1], *second.links),
        (*first.weights[::-1], *second.weights),
    )
