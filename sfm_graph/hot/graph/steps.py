"""The steps out of a frontier of nodes: which links lead where. Columns are gathered only when asked for."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sfm_graph.hot.graph.adjacency import Adjacency, BothSides, Codes, Floats, Nodes32, Scalar, Side
from sfm_graph.hot.graph.nodes import Ints

# So few steps are looked up one by one sooner than by numpy.
FEW = 4


class Run(NamedTuple):
    """Steps over one side of one adjacency: rows of the frontier one after the other, then only those in `kept`.

    `flat` are places in the side's arrays; counts[i] of them, up to ends[i], are the row of frontier[i]. Of a single
    node `counts` is a number, and `ends` None.
    """

    adjacency: Adjacency
    side: Side | BothSides
    frontier: Ints
    counts: Nodes32 | int
    ends: Ints | None
    flat: Ints | slice
    kept: Ints | None
    to: Nodes32

    @property
    def size(self) -> int:
        """How many steps."""
        return len(self.to)

    def places(self, chosen: Ints | None) -> Ints | Nodes32:
        """Where the chosen steps, all when None, lie in the adjacency's columns."""
        at = self.kept if chosen is None else self._unfiltered(chosen)
        if isinstance(self.flat, slice):
            flat = at + self.flat.start if at is not None else np.arange(self.flat.start, self.flat.stop)
        else:
            flat = self.flat if at is None else self.flat[at]
        return self.side.columns_at(flat)

    def origins(self, chosen: Ints | None) -> Ints:
        """The frontier node that each chosen step leaves, all when None."""
        if chosen is None:
            everything = np.repeat(self.frontier, self.counts)
            return everything if self.kept is None else everything[self.kept]
        if self.ends is None:
            return np.full(len(chosen), self.frontier[0])
        return self.frontier[self.ends.searchsorted(self._unfiltered(chosen), side="right")]

    def link(self, step: int) -> int:
        """Link id of a single step."""
        if self.kept is not None:
            step = int(self.kept[step])
        flat = self.flat.start + step if isinstance(self.flat, slice) else int(self.flat[step])
        return int(self.adjacency.link_ids[self.side.column_at(flat)])

    def _unfiltered(self, chosen: Ints) -> Ints:
        return chosen if self.kept is None else self.kept[chosen]


class Steps:
    """All steps out of a frontier. Places in `to` name single steps; those `chosen` are given ascending."""

    __slots__ = ("_runs", "cut", "to")

    def __init__(self, runs: Sequence[Run]) -> None:
        self._runs = [run for run in runs if run.size]
        # Whether there are more, which were left out.
        self.cut = False
        # The node that each step leads to.
        # As indices 64-bit numbers are three times quicker than the 32 bits they are kept in.
        self.to: Ints = _joined([run.to for run in self._runs], np.int32).astype(np.int64)

    def __len__(self) -> int:
        return len(self.to)

    def links(self, chosen: Ints | None = None) -> Ints:
        """Link ids of the chosen steps, of all when None."""
        if chosen is not None and len(chosen) <= FEW:
            return np.array([self._link(step) for step in chosen.tolist()], np.int64)
        return self._gather(chosen, lambda run, at: run.adjacency.link_ids[run.places(at)], np.int64)

    def weights(self, chosen: Ints | None = None) -> Floats:
        """Link weights of the chosen steps."""
        return self._gather(chosen, lambda run, at: run.adjacency.weights[run.places(at)], np.float64)

    def types(self, chosen: Ints | None = None) -> Codes:
        """Type codes of the chosen steps."""
        return self._gather(chosen, lambda run, at: run.adjacency.types[run.places(at)], np.uint32)

    def origins(self, chosen: Ints | None = None) -> Ints:
        """The frontier nodes that the chosen steps leave."""
        return self._gather(chosen, Run.origins, np.int64)

    def _link(self, step: int) -> int:
        for run in self._runs:
            if step < run.size:
                return run.link(step)
            step -= run.size
        raise IndexError(step)

    def _gather(
        self, chosen: Ints | None, pick: Callable[[Run, Ints | None], NDArray[Scalar]], dtype: type[Scalar]
    ) -> NDArray[Scalar]:
        if chosen is None:
            return _joined([pick(run, None) for run in self._runs], dtype)
        if len(self._runs) == 1:
            return pick(self._runs[0], chosen)
        found: list[NDArray[Scalar]] = []
        first = start = 0
        for run in self._runs:
            last = int(chosen.searchsorted(start + run.size))
            if last > first:
                found.append(pick(run, chosen[first:last] - start))
            first, start = last, start + run.size
        return _joined(found, dtype)


class ReadSteps(Steps):
    """Steps read as columns of shape (n,), already filtered: from, over which link, to, its weight and type."""

    __slots__ = ("_links", "_origins", "_types", "_weights")

    def __init__(
        self,
        origins: Ints,
        links: Ints,
        to: Ints,
        weights: Floats,
        types: Codes,
    ) -> None:
        super().__init__(())
        self.to = to
        self._origins, self._links, self._weights, self._types = origins, links, weights, types

    def links(self, chosen: Ints | None = None) -> Ints:
        return self._links if chosen is None else self._links[chosen]

    def weights(self, chosen: Ints | None = None) -> Floats:
        return self._weights if chosen is None else self._weights[chosen]

    def types(self, chosen: Ints | None = None) -> Codes:
        return self._types if chosen is None else self._types[chosen]

    def origins(self, chosen: Ints | None = None) -> Ints:
        return self._origins if chosen is None else self._origins[chosen]


def _joined(columns: Sequence[NDArray[Scalar]], dtype: type[Scalar]) -> NDArray[Scalar]:
    if not columns:
        return np.empty(0, dtype)
    return columns[0] if len(columns) == 1 else np.concatenate(columns)


def run_of(
    adjacency: Adjacency, side: Side | BothSides, frontier: Ints, starts: Nodes32 | int, counts: Nodes32 | int
) -> Run:
    """All steps over a side, unfiltered. `starts` and `counts` as its `spans` gave, plain numbers for one node."""
    if isinstance(starts, int) or isinstance(counts, int):
        span = slice(int(starts), int(starts) + int(counts))
        return Run(adjacency, side, frontier, counts, None, span, None, side.neighbours[span])
    if isinstance(side, BothSides):
        frontier = np.concatenate([frontier, frontier])
    ends = counts.cumsum(dtype=np.int64)
    flat = np.arange(ends[-1])
    flat += (starts - ends + counts).repeat(counts)
    return Run(adjacency, side, frontier, counts, ends, flat, None, side.neighbours[flat])
