"""What a walk sees of a graph: direction, link types, validity at a time, admitted links."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sfm_graph.domain.link import Direction
from sfm_graph.hot.graph.adjacency import Adjacency, Bools, BothSides, Nodes32, Side
from sfm_graph.hot.graph.nodes import Ints
from sfm_graph.hot.graph.steps import Run

_SIDES: dict[Direction, Callable[[Adjacency], tuple[Side, ...]]] = {
    Direction.OUT: lambda one: (one.out,),
    Direction.IN: lambda one: (one.into,),
    Direction.BOTH: lambda one: (one.out, one.into),
}
_REVERSED = {Direction.OUT: Direction.IN, Direction.IN: Direction.OUT}


@dataclass(frozen=True, slots=True)
class Lens:
    """A compiled filter. `moment` is in microseconds since 2000-01-01 UTC.

    `types` says for each type code whether it is walked, None: all are; `admitted` are link ids, ascending, None:
    all are, but for the few `excluded`; `condition` keeps links by their columns: it is given an adjacency and places
    in it.
    """

    direction: Direction
    moment: int
    types: Bools | None = None
    admitted: Ints | None = None
    excluded: Ints | None = None
    condition: Callable[[Adjacency, Any], Bools] | None = None

    def reversed(self) -> "Lens":
        """The same filter, links walked the other way."""
        return self if self.direction is Direction.BOTH else replace(self, direction=_REVERSED[self.direction])

    def outwards(self) -> "Lens":
        """The same filter, links walked from source to target."""
        return replace(self, direction=Direction.OUT)

    def excluding(self, links: Ints) -> "Lens":
        """The same filter without these links."""
        return replace(self, excluded=links)

    def sides(self, adjacency: Adjacency) -> tuple[Side, ...]:
        """The sides of an adjacency that are walked."""
        return _SIDES[self.direction](adjacency)

    def whole_sides(self, adjacency: Adjacency) -> Sequence[Side | BothSides]:
        """The same steps by as few pieces as there are."""
        if self.direction is Direction.BOTH and adjacency.both is not None:
            return (adjacency.both,)
        return self.sides(adjacency)

    def filtered(self, run: Run, dead: Bools | None) -> Run:
        """The steps of a run that are alive and admitted."""
        if dead is None and not self._restricts(run.adjacency):
            return run
        kept = np.flatnonzero(self._mask(run.adjacency, run.places(None), dead))
        return Run(run.adjacency, run.side, run.frontier, run.counts, run.ends, run.flat, kept, run.to[kept])

    def alive(self, adjacency: Adjacency, dead: Bools | None) -> Bools:
        """For every link of an adjacency whether it is alive and admitted."""
        return self._mask(adjacency, np.arange(len(adjacency)), dead)

    def _restricts(self, adjacency: Adjacency) -> bool:
        return not (
            adjacency.valid_from is None
            and self.types is None
            and self.admitted is None
            and self.excluded is None
            and self.condition is None
        )

    def _mask(self, adjacency: Adjacency, places: Ints | Nodes32, dead: Bools | None) -> Bools:
        mask = np.ones(len(places), np.bool_) if dead is None else ~dead[places]
        if self.types is not None:
            mask &= self.types[adjacency.types[places]]
        if adjacency.valid_from is not None and adjacency.valid_to is not None:
            mask &= adjacency.valid_from[places] <= self.moment
            mask &= adjacency.valid_to[places] > self.moment
        if self.condition is not None:
            mask &= self.condition(adjacency, places)
        if self.excluded is not None:
            mask &= ~np.isin(adjacency.link_ids[places], self.excluded)
        if self.admitted is not None:
            mask &= _among(self.admitted, adjacency.link_ids[places])
        return mask


def _among(ascending: Ints, ids: Ints) -> Bools:
    if not len(ascending):
        return np.zeros(len(ids), np.bool_)
    places = np.minimum(np.searchsorted(ascending, ids), len(ascending) - 1)
    return np.asarray(ascending[places] == ids)
