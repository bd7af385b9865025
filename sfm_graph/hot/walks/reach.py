"""Who is within some hops: neighbours in order, their number, and the part of the graph around memories."""

from dataclasses import dataclass

import numpy as np

from sfm_graph.errors import WalkTooLarge
from sfm_graph.hot.graph.adjacency import Bools, Floats
from sfm_graph.hot.graph.nodes import Ints
from sfm_graph.hot.graph.steps import Steps
from sfm_graph.hot.walks.expansion import Along, Expand, Marks, Numbered, Walking


@dataclass(frozen=True, slots=True)
class Reached:
    """Memories in order of hops, then of the link by which they were first reached. All columns of shape (n,)."""

    ids: Ints
    links: Ints
    hops: Ints
    truncated: bool


def reach(
    graph: Numbered,
    starts: Ints,
    hops: int,
    *,
    limit: int,
    after: tuple[int, int] | None = None,
    wanted: Ints | None = None,
) -> Walking[Reached]:
    """The `limit` nearest memories within `hops` links of the starts, which are not among them.

    `after` (hops and link id) and `wanted` (ascending memory ids) choose what is returned, not what is walked
    through.
    """
    marks = Marks(graph.size)
    marks.of[starts] = 1
    frontier, found, truncated = starts, list[tuple[Ints, Ints, Ints]](), False
    for hop in range(1, hops + 1):
        try:
            steps = yield Expand(frontier, partly=True)
        except WalkTooLarge:
            truncated = True
            break
        truncated |= steps.cut
        frontier, links = _arrivals(steps, marks)
        ids = graph.ids(frontier)
        if after is not None or wanted is not None:
            kept = _kept(ids, links, hop, after, wanted)
            ids, links = ids[kept], links[kept]
        found.append((ids, links, np.full(len(ids), hop)))
        if not len(frontier) or sum(len(one[0]) for one in found) > limit:
            break
    ids, links, reached_in = found[0] if len(found) == 1 else _concatenated(found)
    return Reached(ids[:limit], links[:limit], reached_in[:limit], truncated or len(ids) > limit)


def reach_count(graph: Numbered, starts: Ints, hops: int) -> Walking[list[int]]:
    """How many memories are first reached at each hop, from 1 to the last that reaches any."""
    marks = Marks(graph.size)
    marks.of[starts] = 1
    frontier, counts, met = starts, [], len(starts)
    for hop in range(hops):
        if not len(frontier):
            break
        steps = yield Expand(frontier)
        marks.of[steps.to[marks.of[steps.to] == 0]] = hop + 2
        if hop + 1 < hops:
            frontier = np.flatnonzero(marks.of == hop + 2).astype(np.int64)
            counts.append(len(frontier))
        else:
            counts.append(int(np.count_nonzero(marks.of)) - met)
        met += counts[-1]
    return counts if not counts or counts[-1] else counts[:-1]


@dataclass(frozen=True, slots=True)
class Region:
    """Memories ascending by id and the links among them ascending by id; source and target are places in `ids`."""

    ids: Ints
    links: Ints
    sources: Ints
    targets: Ints
    types: Ints
    weights: Floats
    truncated: bool


def region(graph: Numbered, starts: Ints, depth: int, *, limit: int, max_links: int) -> Walking[Region]:
    """The `limit` nearest memories within `depth` links of the starts, and the first `max_links` links among them."""
    marks = Marks(graph.size)
    starts = starts[marks.firsts(starts)]
    nodes, truncated = starts[:limit], len(starts) > limit
    marks.of[nodes] = 1
    frontier = nodes
    for _ in range(depth):
        if not len(frontier):
            break
        try:
            steps = yield Expand(frontier, partly=True)
        except WalkTooLarge:
            truncated = True
            break
        truncated |= steps.cut
        frontier, _ = _arrivals(steps, marks)
        room = limit - len(nodes)
        if len(frontier) > room:
            truncated = True
            marks.of[frontier[room:]] = 0
            frontier = frontier[:room]
        nodes = np.concatenate([nodes, frontier])
        if truncated:
            break
    return (yield from _among(graph, nodes, marks, truncated, max_links))


def _among(graph: Numbered, nodes: Ints, marks: Marks, truncated: bool, max_links: int) -> Walking[Region]:
    ids = graph.ids(nodes)
    order = np.argsort(ids)
    try:
        steps = yield Expand(nodes[order], Along.OUTWARDS, partly=True)
    except WalkTooLarge:
        links, ends, types = _nothing()
        return Region(ids[order], links, ends, ends, types, np.empty(0), truncated=True)
    truncated |= steps.cut
    inside = np.flatnonzero(marks.of[steps.to] == 1)
    links = steps.links(inside)
    truncated |= len(links) > max_links
    by_id = np.argsort(links)[:max_links]
    places = np.empty(graph.size, np.int64)
    places[nodes[order]] = np.arange(len(nodes))
    return Region(
        ids[order], links[by_id], places[steps.origins(inside)[by_id]], places[steps.to[inside[by_id]]],
        steps.types(inside)[by_id].astype(np.int64), steps.weights(inside)[by_id], truncated,
    )  # fmt: skip


def _arrivals(steps: Steps, marks: Marks) -> tuple[Ints, Ints]:
    """Nodes that are met for the first time, with the smallest link id that leads to each, in link order."""
    fresh = np.flatnonzero(marks.of[steps.to] == 0)
    links = steps.links(fresh)
    order = np.argsort(links, kind="stable")
    nodes, links = steps.to[fresh[order]], links[order]
    firsts = marks.firsts(nodes)
    nodes = nodes[firsts]
    marks.of[nodes] = 1
    return nodes, links[firsts]


def _kept(ids: Ints, links: Ints, hop: int, after: tuple[int, int] | None, wanted: Ints | None) -> Bools:
    kept = np.ones(len(ids), np.bool_)
    if after is not None:
        kept &= hop > after[0] if hop != after[0] else links > after[1]
    if wanted is not None:
        kept &= np.isin(ids, wanted)
    return kept


def _concatenated(columns: list[tuple[Ints, Ints, Ints]]) -> tuple[Ints, Ints, Ints]:
    ids, links, hops = (np.concatenate(column) for column in zip(_nothing(), *columns, strict=True))
    return ids, links, hops


def _nothing() -> tuple[Ints, Ints, Ints]:
    return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.int64)
