"""A hot namespace's graph: immutable adjacencies, one version per snapshot.

A version is a tuple of adjacencies, each with a mask of the links that are dead in it. A change adds a small
adjacency and marks the changed links dead in older ones; those of similar size are merged, so there are O(log n).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from sfm_graph.domain.link import Direction
from sfm_graph.domain.link_columns import LinkColumns
from sfm_graph.domain.snapshot import Snapshot
from sfm_graph.hot.graph.adjacency import (
    Adjacency,
    Bools,
    BothSides,
    Codes,
    Nodes32,
    NumberedLinks,
    Side,
    build_adjacency,
    numbered_links,
)
from sfm_graph.hot.graph.lens import Lens
from sfm_graph.hot.graph.nodes import Ints, Nodes, numbered
from sfm_graph.hot.graph.steps import Steps, run_of

# An adjacency is merged into the next older one unless that is so many times larger: few parts make quick steps.
LEVEL_RATIO = 8
# What Python takes for a version, and for a type's name in a dictionary.
BYTES_PER_VERSION = 1_000
BYTES_PER_NAME = 150
# And below this size in any case.
SMALLEST_LEVEL = 1_024
_UNKNOWN = -2


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """An adjacency and which of its links are dead in this version; None: all are alive."""

    adjacency: Adjacency
    dead: Bools | None = None
    dead_count: int = 0

    @property
    def nbytes(self) -> int:
        """Resident bytes."""
        return self.adjacency.nbytes + (self.dead.nbytes if self.dead is not None else 0)

    def without(self, places: Sequence[int]) -> "Part":
        """With the links at these places dead as well."""
        if not places:
            return self
        dead = np.zeros(len(self.adjacency), np.bool_) if self.dead is None else self.dead.copy()
        dead[list(places)] = True
        return Part(self.adjacency, dead, int(np.count_nonzero(dead)))


class Row(NamedTuple):
    """Where a frontier's links lie on one side of a part: starts and counts by node, and the sum of counts.

    Of a single node start and count are plain numbers.
    """

    part: Part
    side: Side | BothSides
    starts: Nodes32 | int
    counts: Nodes32 | int
    total: int


@dataclass(frozen=True, slots=True)
class Degrees:
    """Of every node the links out of it and into it, in the walk's direction; shape (n,) each.

    `exact`: the walk sees all of these links; False: some are filtered out.
    """

    leaving: Ints
    arriving: Ints
    exact: bool


@dataclass(frozen=True, slots=True)
class HotGraph:
    """One version: exactly the links visible in `snapshot`. `types` are codes by name."""

    snapshot: Snapshot
    nodes: Nodes
    types: Mapping[str, int]
    parts: tuple[Part, ...]

    @property
    def nbytes(self) -> int:
        """Resident bytes; parts shared with other versions count in each."""
        names = sum(BYTES_PER_NAME + len(name) for name in self.types)
        return BYTES_PER_VERSION + names + self.nodes.nbytes + sum(part.nbytes for part in self.parts)

    @property
    def size(self) -> int:
        """Nodes are numbered below this."""
        return len(self.nodes)

    @property
    def link_count(self) -> int:
        """Links alive, whether valid or not."""
        return sum(len(part.adjacency) - part.dead_count for part in self.parts)

    def at(self, snapshot: Snapshot) -> "HotGraph":
        """This version under a later snapshot in which nothing of it has changed."""
        return replace(self, snapshot=snapshot)

    def changed(self, snapshot: Snapshot, sources: Mapping[int, int], links: LinkColumns) -> "HotGraph":
        """The version at a later snapshot.

        `sources` holds each changed link's id and the memory that it leaves, 0 where that is unknown; `links` are
        those that still exist.
        """
        found = self.nodes.find(np.fromiter(sources.values(), np.int64)).tolist()
        nodes = {
            link_id: node if source else _UNKNOWN
            for (link_id, source), node in zip(sources.items(), found, strict=True)
        }
        parts = [part.without(_places(part.adjacency, nodes)) for part in self.parts]
        types = _with_names(self.types, links.type_names)
        if not len(links.ids):
            return self._compacted(snapshot, self.nodes, types, parts)
        numbers = self.nodes.extended(np.concatenate([links.sources, links.targets]))
        ends = (numbers.find(links.sources).astype(np.int32), numbers.find(links.targets).astype(np.int32))
        fresh = build_adjacency(_numbered(links, *ends, types), len(numbers))
        return self._compacted(snapshot, numbers, types, [*parts, Part(fresh)])

    def _compacted(self, snapshot: Snapshot, nodes: Nodes, types: Mapping[str, int], parts: list[Part]) -> "HotGraph":
        merged = _merged(parts, len(nodes))
        if not merged:
            return empty_graph(snapshot)
        if len(merged) == 1 and merged[0].dead is None and _is_scattered(nodes, merged[0], parts):
            nodes, merged = _renumbered(nodes, merged[0])
        return HotGraph(snapshot, nodes, types, tuple(merged))

    def rows(self, frontier: Ints, lens: Lens) -> list[Row]:
        """The rows of neighbours that a frontier's steps are taken from: what looking at them will cost."""
        found = []
        for part in self.parts:
            if len(frontier) == 1:
                for side in lens.sides(part.adjacency):
                    start, total = side.row(int(frontier[0]))
                    found.append(Row(part, side, start, total, total))
            else:
                for whole in lens.whole_sides(part.adjacency):
                    starts, counts = whole.spans(frontier)
                    found.append(Row(part, whole, starts, counts, int(counts.sum())))
        return [row for row in found if row.total]

    def steps(self, frontier: Ints, lens: Lens, rows: Sequence[Row] | None = None) -> Steps:
        """The steps out of a frontier that a lens admits. Walked both ways, a self-link is two steps."""
        steps = Steps([
            lens.filtered(run_of(row.part.adjacency, row.side, frontier, row.starts, row.counts), row.part.dead)
            for row in (self.rows(frontier, lens) if rows is None else rows)
        ])  # fmt: skip
        return steps

    def degree_column(self, direction: Direction) -> Nodes32:
        """For every node how many links are alive, admitted or not, shape (size,)."""
        everything = Lens(direction, 0)
        degrees = np.zeros(self.size, np.int32)
        for part in self.parts:
            for side in everything.sides(part.adjacency):
                counts = np.diff(side.offsets)
                if side.rows is None:
                    degrees[: len(counts) - 1] += counts[:-1]
                else:
                    degrees[side.rows] += counts
            if part.dead is not None:
                gone, out = np.flatnonzero(part.dead), part.adjacency.out
                if direction is not Direction.IN:
                    np.subtract.at(degrees, out.owners_of(gone), np.int32(1))
                if direction is not Direction.OUT:
                    np.subtract.at(degrees, out.neighbours[gone], np.int32(1))
        return degrees

    def degrees(self, direction: Direction, *, exact: bool) -> Degrees:
        """The degrees of all nodes for a walk in a direction; `exact`: it follows every link that is valid."""
        turned = {Direction.OUT: Direction.IN, Direction.IN: Direction.OUT}.get(direction, Direction.BOTH)
        leaving = self.degree_column(direction).astype(np.int64)
        arriving = leaving if turned is direction else self.degree_column(turned).astype(np.int64)
        bounded = any(part.adjacency.valid_from is not None for part in self.parts)
        return Degrees(leaving, arriving, exact and not bounded)

    def is_linked(self, node: int) -> bool:
        """Whether a link from or to the node is alive, valid or not."""
        for part in self.parts:
            for side in (part.adjacency.out, part.adjacency.into):
                start, count = side.row(node)
                if count and part.dead is None:
                    return True
                places = side.columns_at(np.arange(start, start + count))
                if part.dead is not None and not part.dead[places].all():
                    return True
        return False

    def ids(self, nodes: Ints) -> Ints:
        """Memory ids of nodes."""
        return self.nodes.ids(nodes)

    def find(self, ids: Ints) -> Ints:
        """Nodes of memory ids; -1 for a memory without links."""
        return self.nodes.find(ids)


def empty_graph(snapshot: Snapshot) -> HotGraph:
    """A version without links."""
    nothing = np.empty(0, np.int64)
    return HotGraph(snapshot, Nodes(nothing, nothing, nothing), {}, ())


def build_graph(snapshot: Snapshot, links: LinkColumns) -> HotGraph:
    """The version of all links of a namespace at a snapshot. About 0.25 us a link."""
    if not len(links.ids):
        return empty_graph(snapshot)
    nodes, (sources, targets) = numbered(links.sources, links.targets)
    types = _with_names({}, links.type_names)
    base = build_adjacency(_numbered(links, sources, targets, types), len(nodes))
    return HotGraph(snapshot, nodes, types, (Part(base),))


def _numbered(links: LinkColumns, sources: Nodes32, targets: Nodes32, types: Mapping[str, int]) -> NumberedLinks:
    dtype = np.uint16 if len(types) < 2**16 else np.uint32
    codes: Codes = np.array([types[name] for name in links.type_names], dtype)
    return NumberedLinks(
        links.ids, sources, targets, codes[links.types], links.weights, links.valid_from, links.valid_to
    )


def _with_names(types: Mapping[str, int], names: Sequence[str]) -> Mapping[str, int]:
    unknown = [name for name in dict.fromkeys(names) if name not in types]
    return {**types, **{name: len(types) + at for at, name in enumerate(unknown)}} if unknown else types


def _places(adjacency: Adjacency, nodes: Mapping[int, int]) -> list[int]:
    """Where changed links lie, by the nodes that they leave: -1 for one without links, _UNKNOWN makes it a scan."""
    if len(nodes) > SMALLEST_LEVEL or _UNKNOWN in nodes.values():
        return np.flatnonzero(np.isin(adjacency.link_ids, np.fromiter(nodes, np.int64))).tolist()
    found = [adjacency.place(node, link_id) for link_id, node in nodes.items() if node >= 0]
    return [place for place in found if place >= 0]


def _merged(parts: list[Part], node_count: int) -> list[Part]:
    parts = [part for part in parts if part.dead_count < len(part.adjacency)]
    while len(parts) > 1 and len(parts[-2].adjacency) < LEVEL_RATIO * len(parts[-1].adjacency) + SMALLEST_LEVEL:
        parts[-2:] = [_rebuilt(parts[-2:], node_count)]
    return [_rebuilt([part], node_count) if part.dead_count * 2 > len(part.adjacency) else part for part in parts]


def _is_scattered(nodes: Nodes, part: Part, before: Sequence[Part]) -> bool:
    """Whether late nodes are worth a renumbering: links were just built again, or so many nodes have come since."""
    rebuilt = all(part is not one for one in before)
    return len(nodes.late) > 0 and (rebuilt or LEVEL_RATIO * len(nodes.late) >= len(part.adjacency))


def _rebuilt(parts: Sequence[Part], node_count: int) -> Part:
    return Part(build_adjacency(numbered_links([(part.adjacency, part.dead) for part in parts]), node_count))


def _renumbered(nodes: Nodes, part: Part) -> tuple[Nodes, list[Part]]:
    """Nodes ascending by id again, without those that lost their last link."""
    links = numbered_links([(part.adjacency, None)])
    fresh, (sources, targets) = numbered(nodes.ids(links.sources), nodes.ids(links.targets))
    return fresh, [Part(build_adjacency(replace(links, sources=sources, targets=targets), len(fresh)))]
