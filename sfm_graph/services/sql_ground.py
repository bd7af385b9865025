"""Walking by frontier queries in SQL: a namespace that exceeds the memory budget."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, TypeVar

import numpy as np

from sfm_graph.domain.link import Direction
from sfm_graph.domain.namespace import Namespace
from sfm_graph.domain.walk import WalkFilter
from sfm_graph.domain.where import EVERYTHING
from sfm_graph.errors import WalkTooLarge
from sfm_graph.hot.graph.nodes import Ints
from sfm_graph.hot.graph.steps import ReadSteps
from sfm_graph.hot.walks.drive import Work
from sfm_graph.hot.walks.expansion import Algorithm, Along, Expand, Walking
from sfm_graph.services.view import View
from sfm_graph.store import links, search

T = TypeVar("T")

# Steps read by one query: the driver takes the whole answer over at once, some 5 ms.
PAGE = 8_000
# Memories whose steps are read by one query, so that few pages sort the same steps again.
MEMORIES_AT_ONCE = 500
# Steps of a frontier where the first of them will do.
MAX_STEPS = 50_000
# Links that a walk in SQL reads in all.
MAX_READ = 1_000_000
# Memories that a walk in SQL numbers.
MAX_NUMBERED = 1_000_000


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
        # Also for an empty frontier, by which an algorithm asks whether it may go on.
        work.spend(0)
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
        """Steps out of memories, and whether there are more: `partly` the first by link id, else all."""
        if partly:
            return await self._pages(frontier, walk, work, most=MAX_STEPS)
        rows: list[links.Step] = []
        for start in range(0, len(frontier), MEMORIES_AT_ONCE):
            found, _ = await self._pages(frontier[start : start + MEMORIES_AT_ONCE], walk, work, most=MAX_READ)
            rows += found
        return rows, False

    async def _pages(
        self, frontier: list[int], walk: WalkFilter, work: Work, *, most: int
    ) -> tuple[list[links.Step], bool]:
        rows: list[links.Step] = []
        while len(rows) <= most:
            page = await links.steps_from(
                self._view.session, self._namespace.id, frontier, walk, self._moment,
                after=rows[-1].link_id if rows else 0, limit=PAGE,
            )  # fmt: skip
            work.spend(len(page))
            rows += page
            if len(page) < PAGE:
                break
        return rows[:most], len(rows) > most

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
