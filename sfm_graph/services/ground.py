"""What a walk runs on: a graph in memory, or frontier queries in SQL when the namespace exceeds the memory budget."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol, TypeVar

import numpy as np

from sfm_graph.domain.link_filter import FilterColumns, admitted, microseconds, needs_rows
from sfm_graph.domain.namespace import Namespace
from sfm_graph.domain.walk import WalkFilter
from sfm_graph.domain.where import EVERYTHING, Where
from sfm_graph.hot.graph.adjacency import Adjacency, Bools
from sfm_graph.hot.graph.graph import HotGraph
from sfm_graph.hot.graph.lens import Lens
from sfm_graph.hot.graph.nodes import Ints
from sfm_graph.hot.walks.drive import Drive, Work
from sfm_graph.hot.walks.expansion import Algorithm
from sfm_graph.services.sql_ground import SqlGround
from sfm_graph.services.view import View
from sfm_graph.store import search

T = TypeVar("T")

# Links that a walk looks at on the event loop, about a millisecond; then it goes on in a thread.
INLINE_LINKS = 20_000


class Ground(Protocol):
    """Where walks of one namespace run."""

    @property
    def hot(self) -> bool:
        """Whether in memory; False: by queries."""

    async def run(self, ids: Ints, algorithm: Algorithm[T], work: Work) -> T:
        """Run an algorithm from the memories with these ids. Raises WalkTooLarge."""

    def type_names(self, codes: Ints) -> list[str]:
        """The link types that codes in an answer stand for."""


@dataclass(frozen=True, slots=True)
class HotGround:
    """A graph in memory and what the walk sees of it. `threads` bounds the walks that run beside the event loop."""

    graph: HotGraph
    lens: Lens
    threads: asyncio.Semaphore
    hot: bool = True

    async def run(self, ids: Ints, algorithm: Algorithm[T], work: Work) -> T:
        graph, nodes = self.numbered(ids)
        return await self.finished(self.begun(graph, nodes, algorithm, work))

    def begun(self, graph: HotGraph, nodes: Ints, algorithm: Algorithm[T], work: Work) -> Drive[T]:
        """As much of a run as the event loop has time for. `nodes` are those of `graph`."""
        drive = Drive(algorithm(graph, nodes), graph, self.lens, work)
        drive.advance(INLINE_LINKS)
        return drive

    async def finished(self, drive: Drive[T]) -> T:
        """The rest of it, in a thread."""
        if not drive.done:
            async with self.threads:
                await asyncio.to_thread(drive.finish)
        return drive.result

    def numbered(self, ids: Ints) -> tuple[HotGraph, Ints]:
        """The graph with a node for each of the memories, also for those without links."""
        nodes = self.graph.find(ids)
        if nodes.min(initial=0) >= 0:
            return self.graph, nodes
        graph = replace(self.graph, nodes=self.graph.nodes.extended(ids))
        return graph, graph.find(ids)

    def type_names(self, codes: Ints) -> list[str]:
        names = list(self.graph.types)
        return [names[code] for code in codes.tolist()]


def lens_of(graph: HotGraph, walk: WalkFilter, moment: datetime, allowed: Ints | None) -> Lens:
    """What a walk sees of a graph. `allowed`: the links that a filter keeps which needs rows, ascending."""
    types = None
    if walk.types:
        types = np.zeros(len(graph.types), np.bool_)
        types[[graph.types[name] for name in walk.types if name in graph.types]] = True
    condition = None
    if walk.where != EVERYTHING and allowed is None:
        condition = _condition(graph, walk.where)
    return Lens(walk.direction, microseconds(moment), types, allowed, condition=condition)


def _condition(graph: HotGraph, where: Where) -> Callable[[Adjacency, Ints], Bools]:
    def kept(adjacency: Adjacency, places: Ints) -> Bools:
        valid_from, valid_to = adjacency.valid_from, adjacency.valid_to
        bounded = valid_from is not None and valid_to is not None
        return admitted(where, FilterColumns(
            adjacency.types[places], graph.types, adjacency.weights[places],
            valid_from[places] if bounded and valid_from is not None else None,
            valid_to[places] if bounded and valid_to is not None else None,
        ))  # fmt: skip

    return kept


async def ground_of(
    view: View,
    namespace: Namespace,
    graph: HotGraph | None,
    walk: WalkFilter,
    moment: datetime,
    threads: asyncio.Semaphore,
) -> Ground:
    """The graph in memory when there is one, else SQL in the view."""
    if graph is None:
        return SqlGround(view, namespace, walk, moment)
    allowed = None
    if needs_rows(walk.where):
        allowed = await search.matching_link_ids(view.session, namespace.id, walk.where)
    return HotGround(graph, lens_of(graph, walk, moment, allowed), threads)
