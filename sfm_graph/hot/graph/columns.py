"""All that a lens sees of a hot graph, as columns: what whole-graph jobs are given."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfm_graph.domain.link import Direction
from sfm_graph.hot.graph.adjacency import Bools, Nodes32
from sfm_graph.hot.graph.graph import HotGraph, Part
from sfm_graph.hot.graph.lens import Lens
from sfm_graph.hot.graph.nodes import Ints


@dataclass(frozen=True, slots=True, eq=False)
class Arcs:
    """Directed steps between memories. `memories`: those with a step, ascending by id, of shape (n,).

    Of shape (m,): `sources` and `targets`, places in `memories`, and `weights`. Steps are ordered by link id, so
    that equal links give equal columns, whatever happened before.
    """

    memories: Ints
    sources: Nodes32
    targets: Nodes32
    weights: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def size(self) -> int:
        """How many memories have a step."""
        return len(self.memories)

    def ids(self, nodes: NDArray[np.integer]) -> Ints:
        """Memory ids of places in `memories`."""
        ids: Ints = self.memories[nodes]
        return ids


def arcs(graph: HotGraph, lens: Lens) -> Arcs:
    """The steps that a lens admits, in its direction. BOTH: each link both ways, a self-link two steps as well.

    About 0.2 us a link; 50 bytes a link while it runs.
    """
    kept = [(part.adjacency, _admitted(part, lens)) for part in graph.parts]
    links = _joined([_column(one.link_ids, mask) for one, mask in kept], np.int64)
    order = np.argsort(links, kind="stable")
    sources = _joined([_column(one.out.owners(), mask) for one, mask in kept], np.int32)[order]
    targets = _joined([_column(one.out.neighbours, mask) for one, mask in kept], np.int32)[order]
    weights = _joined([_column(one.weights, mask) for one, mask in kept], np.float64)[order]
    memories, place = _places(graph, sources, targets)
    return _turned(lens.direction, Arcs(memories, place[sources], place[targets], weights))


def _turned(direction: Direction, outwards: Arcs) -> Arcs:
    sources, targets, weights = outwards.sources, outwards.targets, outwards.weights
    match direction:
        case Direction.OUT:
            return outwards
        case Direction.IN:
            return Arcs(outwards.memories, targets, sources, weights)
        case Direction.BOTH:
            both_ways = (np.concatenate([sources, targets]), np.concatenate([targets, sources]))
            return Arcs(outwards.memories, *both_ways, np.concatenate([weights, weights]))


def _admitted(part: Part, lens: Lens) -> Bools | None:
    """Which links are seen; None for all."""
    mask = lens.alive(part.adjacency, part.dead)
    return None if mask.all() else mask


def _places(graph: HotGraph, sources: Nodes32, targets: Nodes32) -> tuple[Ints, Nodes32]:
    """The ids of all ends, ascending, and for each node of the graph the place of its id."""
    present = np.zeros(graph.size, np.bool_)
    present[sources] = True
    present[targets] = True
    nodes = np.flatnonzero(present)
    ids = graph.ids(nodes.astype(np.int32))
    ascending = np.argsort(ids, kind="stable")
    place = np.empty(graph.size, np.int32)
    place[nodes[ascending]] = np.arange(len(nodes), dtype=np.int32)
    return ids[ascending], place


def _column(column: NDArray[Any], mask: Bools | None) -> NDArray[Any]:
    return column if mask is None else column[mask]


def _joined(columns: list[NDArray[Any]], dtype: type) -> NDArray[Any]:
    return np.concatenate(columns) if columns else np.empty(0, dtype)
