"""Immutable pieces of a hot graph: links by source and by target.

Layout of n links (30 bytes each, 46 with validity): the columns `link_ids`, `types`, `weights` and validity lie in
the order of `out`; `out.neighbours` are targets by source. `into.neighbours` are sources by target, and
`into.places` says where in the columns each of these links lies. In every row links ascend by id.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from sfm_graph.domain.link_columns import ALWAYS_FROM, ALWAYS_TO
from sfm_graph.hot.graph.nodes import Ints

Bools = NDArray[np.bool_]
Nodes32 = NDArray[np.int32]
Codes = NDArray[np.uint16 | np.uint32]
Floats = NDArray[np.float64]
Scalar = TypeVar("Scalar", bound=np.generic)

# From this many links per node on, a row for every node is smaller than a list of the rows that are there.
DENSE_FROM = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """Rows of neighbours: that of node `rows[r]`, or of node r when `rows` is None, is neighbours[offsets[r]:...].

    Without `rows` two equal offsets stand at the end, an empty row for every node that came later.
    """

    rows: Nodes32 | None
    offsets: Nodes32
    neighbours: Nodes32
    places: Nodes32 | None

    @property
    def nbytes(self) -> int:
        """Resident bytes."""
        arrays = (self.rows, self.offsets, self.neighbours, self.places)
        return sum(array.nbytes for array in arrays if array is not None)

    def spans(self, nodes: Ints) -> tuple[Nodes32, Nodes32]:
        """Where each node's row begins, and how long it is."""
        if self.rows is None:
            at = np.minimum(nodes, len(self.offsets) - 2)
            starts = self.offsets[at]
            return starts, self.offsets[at + 1] - starts
        at = np.minimum(np.searchsorted(self.rows, nodes), len(self.rows) - 1)
        starts = self.offsets[at]
        return starts, np.where(self.rows[at] == nodes, self.offsets[at + 1] - starts, 0).astype(np.int32)

    def row(self, node: int) -> tuple[int, int]:
        """As `spans` for one node, several times quicker."""
        at = min(node, len(self.offsets) - 2) if self.rows is None else int(self.rows.searchsorted(node))
        if self.rows is not None and (at == len(self.rows) or self.rows[at] != node):
            return 0, 0
        start = int(self.offsets[at])
        return start, int(self.offsets[at + 1]) - start

    def columns_at(self, flat: Ints) -> Ints | Nodes32:
        """Where links lie in the columns, by their places among the neighbours."""
        return flat if self.places is None else self.places[flat]

    def column_at(self, flat: int) -> int:
        """As `columns_at` for one place, many times quicker."""
        return flat if self.places is None else int(self.places[flat])

    def owners(self) -> Nodes32:
        """The node of each place."""
        if self.rows is None:
            return np.repeat(np.arange(len(self.offsets) - 1, dtype=np.int32), np.diff(self.offsets))
        return np.repeat(self.rows, np.diff(self.offsets))

    def owners_of(self, places: Ints) -> Nodes32 | Ints:
        """The nodes of some places."""
        at = self.offsets.searchsorted(places, side="right") - 1
        return at if self.rows is None else self.rows[at]


@dataclass(frozen=True, slots=True, eq=False)
class BothSides:
    """The rows of both sides as one: a frontier's rows by source, then those by target.

    `neighbours` of shape (2n,): both sides' columns are views of its halves, `offsets` (2, rows + 1) those of them.
    """

    offsets: Nodes32
    neighbours: Nodes32
    into_places: Nodes32

    def spans(self, nodes: Ints) -> tuple[Nodes32, Nodes32]:
        """As Side.spans, twice as many: for each node by source, then for each by target."""
        at = np.minimum(nodes, self.offsets.shape[1] - 2)
        starts = self.offsets[:, at]
        counts = self.offsets[:, at + 1] - starts
        return starts.ravel(), counts.ravel()

    def columns_at(self, flat: Ints) -> Ints:
        """As Side.columns_at."""
        count = len(self.into_places)
        places = flat.copy()
        inward = flat >= count
        places[inward] = self.into_places[flat[inward] - count]
        return places

    def column_at(self, flat: int) -> int:
        """As Side.column_at."""
        count = len(self.into_places)
        return flat if flat < count else int(self.into_places[flat - count])


@dataclass(frozen=True, slots=True, eq=False)
class Adjacency:
    """Some links of a graph, walkable both ways.

    `both` shares the memory of the sides; it is there when both have a row for every node.
    """

    out: Side
    into: Side
    both: BothSides | None
    link_ids: Ints
    types: Codes
    weights: Floats
    valid_from: Ints | None
    valid_to: Ints | None

    def __len__(self) -> int:
        return len(self.link_ids)

    @property
    def nbytes(self) -> int:
        """Resident bytes."""
        columns = (self.link_ids, self.types, self.weights, self.valid_from, self.valid_to)
        shared = 0 if self.both is None else self.both.offsets[1].nbytes
        return (
            shared
            + self.out.nbytes
            + self.into.nbytes
            + sum(column.nbytes for column in columns if column is not None)
        )

    def place(self, source: int, link_id: int) -> int:
        """The place of a link that leaves node `source`; -1 when it is not here."""
        start, count = self.out.row(source)
        row = self.link_ids[start : start + count]
        at = int(np.searchsorted(row, link_id))
        return start + at if at < count and row[at] == link_id else -1


@dataclass(frozen=True, slots=True, eq=False)
class NumberedLinks:
    """Links ascending by id whose ends are nodes: what an adjacency is built from. All columns of shape (n,)."""

    ids: Ints
    sources: Nodes32
    targets: Nodes32
    types: Codes
    weights: Floats
    valid_from: Ints | None
    valid_to: Ints | None


def build_adjacency(links: NumberedLinks, node_count: int) -> Adjacency:
    """An adjacency of the links. O(n log n), about 0.2 us a link."""
    by_source = _order(links.sources)
    place_of = np.empty(len(links.ids), np.int32)
    place_of[by_source] = np.arange(len(by_source), dtype=np.int32)
    by_target = _order(links.targets)
    bounded = links.valid_from is not None and links.valid_to is not None
    out = _side(links.sources, by_source, links.targets, None, node_count)
    into = _side(links.targets, by_target, links.sources, place_of, node_count)
    both = None
    if out.rows is None and into.rows is None and into.places is not None:
        out, into, both = _joined_sides(out, into, into.places)
    return Adjacency(
        out,
        into,
        both,
        links.ids[by_source],
        links.types[by_source],
        links.weights[by_source],
        links.valid_from[by_source] if bounded and links.valid_from is not None else None,
        links.valid_to[by_source] if bounded and links.valid_to is not None else None,
    )


def _joined_sides(out: Side, into: Side, into_places: Nodes32) -> tuple[Side, Side, BothSides]:
    count = len(into_places)
    neighbours = np.concatenate([out.neighbours, into.neighbours])
    offsets = np.stack([out.offsets, into.offsets + np.int32(count)])
    return (
        Side(None, offsets[0], neighbours[:count], None),
        Side(None, into.offsets, neighbours[count:], into_places),
        BothSides(offsets, neighbours, into_places),
    )


def numbered_links(parts: Sequence[tuple[Adjacency, Bools | None]]) -> NumberedLinks:
    """The links of several adjacencies, without those that are marked dead, ascending by id."""
    ids = _alive(parts, lambda one: one.link_ids)
    order = np.argsort(ids, kind="stable")
    valid_from = valid_to = None
    if any(one.valid_from is not None for one, _ in parts):
        valid_from = _alive(parts, lambda one: _or_full(one.valid_from, one, ALWAYS_FROM))[order]
        valid_to = _alive(parts, lambda one: _or_full(one.valid_to, one, ALWAYS_TO))[order]
    return NumberedLinks(
        ids[order],
        _alive(parts, lambda one: one.out.owners())[order],
        _alive(parts, lambda one: one.out.neighbours)[order],
        _alive(parts, lambda one: one.types)[order],
        _alive(parts, lambda one: one.weights)[order],
        valid_from,
        valid_to,
    )


def _alive(
    parts: Sequence[tuple[Adjacency, Bools | None]], column: Callable[[Adjacency], NDArray[Scalar]]
) -> NDArray[Scalar]:
    return np.concatenate([column(one) if dead is None else column(one)[~dead] for one, dead in parts])


def _or_full(column: Ints | None, one: Adjacency, value: int) -> Ints:
    return np.full(len(one), value, np.int64) if column is None else column


def _order(nodes: Nodes32) -> Ints:
    """The stable order of nodes. Distinct keys let the quicker unstable sort do: 57 ms a million, not 77."""
    places = np.arange(len(nodes), dtype=np.int64)
    return np.sort((nodes.astype(np.int64) << 32) | places) & 0xFFFFFFFF


def _side(owners: Nodes32, order: Ints, neighbours: Nodes32, place_of: Nodes32 | None, node_count: int) -> Side:
    counts = np.bincount(owners, minlength=node_count) if len(owners) >= DENSE_FROM * node_count else None
    places = None if place_of is None else place_of[order]
    if counts is not None:
        offsets = np.zeros(node_count + 2, np.int32)
        np.cumsum(counts, out=offsets[1:-1])
        offsets[-1] = offsets[-2]
        return Side(None, offsets, neighbours[order], places)
    rows, firsts = np.unique(owners[order], return_index=True)
    return Side(rows, np.append(firsts, len(owners)).astype(np.int32), neighbours[order], places)
