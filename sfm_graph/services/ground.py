"""What a walk runs on: a graph in memory, or frontier queries in SQL when the namespace exceeds the memory budget."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Protocol, TypeVar

import numpy as np

from sfm_graph.domain.link import Direction
from sfm_graph.domain.link_filter import FilterColumns, admitted, microseconds, needs_rows
from sfm_graph.domain.namespace import Namespace
from sfm_graph.domain.walk import WalkFilter
from sfm_graph.domain.where import EVERYTHING, Where
from sfm_graph.errors import WalkTooLarge
from sfm_graph.hot.graph.adjacency import Adjacency, Bools
from sfm_graph.hot.graph.graph import HotGraph
from sfm_graph.hot.graph.lens import Lens
from sfm_graph.hot.graph.nodes import Ints
from sfm_graph.hot.graph.steps import ReadSteps
from sfm_graph.hot.walks.drive import Drive, Work
from sfm_graph.hot.walks.expansion import Along, Expand, Numbered, Walking
from sfm_graph.services.view import View
from sfm_graph.store import links, search

T = TypeVar("T")
Algorithm = Callable[[Numbered, Ints], Walking[T]]

# Links that a walk looks at on the event loop, about a millisecond; then it goes on in a thread.
INLINE_LINKS = 20_000
# Read by one query.
MAX_STEPS = 100_000
# Links that a walk in SQL reads in all.
MAX_READ = 1_000_000
# Memories that a walk in SQL numbers.
MAX_NUMBERED = 1_000_000


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
    """A graph in memory and what the walk sees of it."""

    graph: HotGraph
    lens: Lens
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
            await asyncio.to_thread(drive.finish)
        return drive.result

    def numbered(self, ids: Ints) -> tuple[HotGraph, Ints]:
        """The graph with a node for each of the memories, also for those without links."""
        nodes = self.graph.find(ids)
        if nodes.min(initial=0) >= 0:
            return self.graph, nodes.astype(np.int64)
        graph = replace(self.graph, nodes=self.graph.nodes.extended(ids))
        return graph, graph.find(ids).astype(np.int64)

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


class SqlGround:
    """Frontier queries in a view. Memories are numbered as they are met."""

    hot = False

    def __init__(self, view: View, namespace: Namespace, walk: WalkFilter, moment: datetime) -> None:
        self._view = view
        self._namespace = namespace
        self._walk = walk
        self._moment = moment
        self._numbers: dict[int, int] = {}
        self._ids: list[int] = []
        self._types: dict[str, int] = {}

    @property
    def size(self) -> int:
        """Nodes are numbered below this."""
        return MAX_NUMBERED

    def ids(self, nodes: Ints) -> Ints:
        """Memory ids of nodes."""
        return np.array([self._ids[node] for node in nodes.tolist()], np.int64)

    def type_names(self, codes: Ints) -> list[str]:
        names = list(self._types)
        return [names[code] for code in codes.tolist()]

    async def run(self, ids: Ints, algorithm: Algorithm[T], work: Work) -> T:
        work = Work(min(work.links, MAX_READ), work.deadline)
        walking = algorithm(self, self._number(ids.tolist()))
        try:
            request = next(walking)
            while True:
                try:
                    steps = await self._steps(request, work)
                except WalkTooLarge as error:
                    request = walking.throw(error)
                else:
                    # Answering may take long for a large frontier.
                    request = await asyncio.to_thread(_sent, walking, steps)
        except (StopIteration, _Ended) as end:
            answer: T = end.value
            return answer

    async def _steps(self, request: Expand, work: Work) -> ReadSteps:
        walk = replace(self._walk, direction=_direction(self._walk.direction, request.along))
        rows, cut = await self._rows(self.ids(request.frontier).tolist(), walk, work, partly=request.partly)
        if self._walk.where != EVERYTHING:
            found = np.unique(np.array([row.link_id for row in rows], np.int64))
            kept = await search.matching_link_ids(self._view.session, self._namespace.id, self._walk.where, found)
            known = set(kept.tolist())
            rows = [row for row in rows if row.link_id in known]
        if request.without is not None:
            without = set(request.without.tolist())
            rows = [row for row in rows if row.link_id not in without]
        steps = await asyncio.to_thread(self._columns, rows)
        steps.cut = cut
        return steps

    async def _rows(
        self, frontier: list[int], walk: WalkFilter, work: Work, *, partly: bool
    ) -> tuple[list[links.Step], bool]:
        """Steps out of memories, and whether there are more. Read by halves where one query would give too many."""
        rows = await links.steps_from(
            self._view.session, self._namespace.id, frontier, walk, self._moment, MAX_STEPS + 1
        )
        work.spend(min(len(rows), MAX_STEPS))
        if len(rows) <= MAX_STEPS or partly:
            return rows[:MAX_STEPS], len(rows) > MAX_STEPS
        if len(frontier) == 1:
            raise WalkTooLarge(f"the walk meets a memory with more than {MAX_STEPS} links; narrow types or where")
        middle = len(frontier) // 2
        first, _ = await self._rows(frontier[:middle], walk, work, partly=False)
        second, _ = await self._rows(frontier[middle:], walk, work, partly=False)
        return first + second, False

    def _columns(self, rows: Sequence[links.Step]) -> ReadSteps:
        for row in rows:
            self._types.setdefault(row.type, len(self._types))
        return ReadSteps(
            self._number([row.origin for row in rows]),
            np.array([row.link_id for row in rows], np.int64),
            self._number([row.to for row in rows]),
            np.array([row.weight for row in rows], np.float64),
            np.array([self._types[row.type] for row in rows], np.uint32),
        )

    def _number(self, ids: list[int]) -> Ints:
        for one in ids:
            if one not in self._numbers:
                self._numbers[one] = len(self._ids)
                self._ids.append(one)
        if len(self._ids) > MAX_NUMBERED:
            raise WalkTooLarge(f"the walk meets more than {MAX_NUMBERED} memories; narrow types, where or hops")
        return np.array([self._numbers[one] for one in ids], np.int64)


class _Ended(Exception):
    """A generator's return value on its way out of a thread, where StopIteration may not pass."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value


def _sent(walking: Walking[T], steps: ReadSteps) -> Expand:
    try:
        return walking.send(steps)
    except StopIteration as end:
        raise _Ended(end.value) from None


def _direction(direction: Direction, along: Along) -> Direction:
    if along is Along.OUTWARDS:
        return Direction.OUT
    if along is Along.FORWARDS or direction is Direction.BOTH:
        return direction
    return Direction.IN if direction is Direction.OUT else Direction.OUT


async def ground_of(
    view: View, namespace: Namespace, graph: HotGraph | None, walk: WalkFilter, moment: datetime
) -> Ground:
    """The graph in memory when there is one, else SQL in the view."""
    if graph is None:
        return SqlGround(view, namespace, walk, moment)
    allowed = None
    if needs_rows(walk.where):
        allowed = await search.matching_link_ids(view.session, namespace.id, walk.where)
    return HotGround(graph, lens_of(graph, walk, moment, allowed))
