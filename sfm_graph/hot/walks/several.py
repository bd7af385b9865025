"""Several paths between two nodes: the k best, all shortest, and simple paths, none of which meets a node twice.

Two paths differ when a link differs: parallel links make several paths. All come in order of length, then of their
link ids from the start; weighted ones in order of cost, then length.
"""

import heapq
import itertools
from collections.abc import Callable, Sequence
from itertools import islice

import numpy as np

from sfm_graph.hot.graph.nodes import Ints
from sfm_graph.hot.walks.cheapest import cheapest
from sfm_graph.hot.walks.expansion import Along, Expand, Numbered, Walking
from sfm_graph.hot.walks.fewest import fewest, trails
from sfm_graph.hot.walks.trail import NOTHING_BARRED, Barred, NodeTrail

# So many steps of a search through known links, about a millisecond, before it asks whether it may go on.
STEPS_PER_REQUEST = 2_000

# Finds the best path from a node to the goal in at most so many links, without what is barred.
_Search = Callable[[int, int, Barred], Walking[NodeTrail | None]]


def all_shortest(graph: Numbered, start: int, goal: int, count: int, max_hops: int) -> Walking[list[NodeTrail]]:
    """The first `count` of the paths with the fewest links."""
    stages = yield from fewest(graph, start, goal, max_hops)
    return [] if stages is None else list(islice(trails(stages, start), count))


def shortest_k(
    graph: Numbered, start: int, goal: int, count: int, max_hops: int, *, weighted: bool
) -> Walking[list[NodeTrail]]:
    """The `count` shortest simple paths: Yen 1971, each search from both ends."""
    search = _cheapest_to(graph, goal) if weighted else _fewest_to(graph, goal)
    best = yield from search(start, max_hops, NOTHING_BARRED)
    found: list[NodeTrail] = [best] if best is not None else []
    waiting: list[tuple[float, int, tuple[int, ...], NodeTrail]] = []
    known = {trail.links for trail in found}
    while found and len(found) < count and found[-1].links:
        yield from _branch(search, found, max_hops, waiting, known, weighted=weighted)
        if not waiting:
            break
        found.append(heapq.heappop(waiting)[-1])
    return found


def simple_paths(graph: Numbered, start: int, goal: int, count: int, max_hops: int) -> Walking[list[NodeTrail]]:
    """The first `count` simple paths of at most `max_hops` links: depth first for each length in turn.

    A branch is left as soon as the goal is farther away than there are links to go.
    """
    if start == goal:
        return [NodeTrail((start,), ())]
    away = yield from _distances(graph, goal, max_hops)
    found: list[NodeTrail] = []
    known: dict[int, list[tuple[int, int, float]]] = {}
    for length in range(int(away[start]), max_hops + 1):
        yield from _of_length(graph, start, goal, length, away, known, found, count)
        if len(found) == count:
            break
    return found


def _branch(
    search: _Search,
    found: Sequence[NodeTrail],
    max_hops: int,
    waiting: list[tuple[float, int, tuple[int, ...], NodeTrail]],
    known: set[tuple[int, ...]],
    *,
    weighted: bool,
) -> Walking[None]:
    """The best path that leaves the newest one at each of its nodes."""
    last = found[-1]
    for at in range(min(len(last.links), max_hops)):
        root = last.links[:at]
        taken = {one.links[at] for one in found if len(one.links) > at and one.links[:at] == root}
        barred = Barred(np.array(last.nodes[:at], np.int64), np.array(sorted(taken), np.int64))
        rest = yield from search(last.nodes[at], max_hops - at, barred)
        if rest is None or (*root, *rest.links) in known:
            continue
        trail = NodeTrail(last.nodes[:at] + rest.nodes, root + rest.links, last.weights[:at] + rest.weights)
        known.add(trail.links)
        order = (trail.cost if weighted else 0.0, len(trail.links), trail.links)
        heapq.heappush(waiting, (*order, trail))


def _cheapest_to(graph: Numbered, goal: int) -> _Search:
    def search(start: int, max_hops: int, barred: Barred) -> Walking[NodeTrail | None]:
        return (yield from cheapest(graph, start, goal, max_hops, barred))

    return search


def _fewest_to(graph: Numbered, goal: int) -> _Search:
    def search(start: int, max_hops: int, barred: Barred) -> Walking[NodeTrail | None]:
        stages = yield from fewest(graph, start, goal, max_hops, barred)
        return None if stages is None else next(trails(stages, start))

    return search


def _distances(graph: Numbered, goal: int, max_hops: int) -> Walking[Ints]:
    """For each node how many links the goal is away, max_hops + 1 where more."""
    away = np.full(graph.size, max_hops + 1, np.int64)
    away[goal] = 0
    frontier = np.array([goal], np.int64)
    for hop in range(1, max_hops + 1):
        if not len(frontier):
            break
        steps = yield Expand(frontier, Along.BACKWARDS)
        frontier = np.unique(steps.to[away[steps.to] > max_hops])
        away[frontier] = hop
    return away


def _of_length(
    graph: Numbered,
    start: int,
    goal: int,
    length: int,
    away: Ints,
    known: dict[int, list[tuple[int, int, float]]],
    found: list[NodeTrail],
    count: int,
) -> Walking[None]:
    nodes, taken = [start], list[tuple[int, float]]()
    yield from _learn(start, known)
    ways = [iter(known[start])]
    for turn in itertools.count(1):
        if not ways or len(found) == count:
            break
        if turn % STEPS_PER_REQUEST == 0:
            # Nodes are learnt once, dead ends may be tried without end: let the deadline be looked at.
            yield Expand(np.empty(0, np.int64))
        step = next(ways[-1], None)
        if step is None:
            ways.pop()
            nodes.pop()
            if taken:
                taken.pop()
            continue
        link, to, weight = step
        left = length - len(nodes)
        if to == goal and left == 0:
            links, weights = zip(*taken, (link, weight), strict=True)
            found.append(NodeTrail((*nodes, to), links, weights))
        elif to != goal and away[to] <= left and to not in nodes:
            yield from _learn(to, known)
            nodes.append(to)
            taken.append((link, weight))
            ways.append(iter(known[to]))


def _learn(node: int, known: dict[int, list[tuple[int, int, float]]]) -> Walking[None]:
    if node not in known:
        steps = yield Expand(np.array([node], np.int64))
        known[node] = sorted(zip(steps.links().tolist(), steps.to.tolist(), steps.weights().tolist(), strict=True))
