"""The cheapest path of at most so many links: Bellman's and Ford's rounds, each over the nodes that improved."""

import numpy as np

from sfm_graph.hot.graph.adjacency import Floats
from sfm_graph.hot.graph.nodes import Ints
from sfm_graph.hot.walks.expansion import Expand, Numbered, Walking
from sfm_graph.hot.walks.trail import Barred, NodeTrail

# Nodes that improved in a round, ascending, with the node and the link that they were reached by.
_Round = tuple[Ints, Ints, Ints, Floats]


def cheapest_within(
    graph: Numbered, start: int, goal: int, max_hops: int, barred: Barred
) -> Walking[NodeTrail | None]:
    """As `cheapest`, whatever a path with more links would cost. O(max_hops x links) at worst."""
    cost = np.full(graph.size, np.inf)
    cost[barred.nodes] = -np.inf
    cost[start] = 0.0
    frontier = np.array([start], np.int64)
    rounds: list[_Round] = []
    for _ in range(max_hops):
        if not len(frontier):
            break
        steps = yield Expand(frontier, without=barred.links)
        weights, origins = steps.weights(), steps.origins()
        costs = cost[origins] + weights
        # What already costs as much as a path to the goal cannot begin a cheaper one.
        better = np.flatnonzero((costs < cost[steps.to]) & (costs < cost[goal]))
        links = steps.links(better)
        by_node = np.lexsort((links, costs[better], steps.to[better]))
        order = better[by_node]
        first = np.ones(len(order), np.bool_)
        first[1:] = steps.to[order][1:] != steps.to[order][:-1]
        chosen = order[first]
        frontier = steps.to[chosen]
        cost[frontier] = costs[chosen]
        rounds.append((frontier, origins[chosen], links[by_node][first], weights[chosen]))
    return _trail(rounds, start, goal) if np.isfinite(cost[goal]) else None


def _trail(rounds: list[_Round], start: int, goal: int) -> NodeTrail:
    nodes, links, weights = [goal], [], []
    for reached, origins, link_ids, link_weights in reversed(rounds):
        if nodes[-1] == start:
            break
        # A node's label is that of the last round, so far, in which it improved.
        at = int(np.searchsorted(reached, nodes[-1]))
        if at < len(reached) and reached[at] == nodes[-1]:
            links.append(int(link_ids[at]))
            weights.append(float(link_weights[at]))
            nodes.append(int(origins[at]))
    return NodeTrail(tuple(nodes[::-1]), tuple(links[::-1]), tuple(weights[::-1]))
