"""Running an algorithm where a namespace's links are: in memory when they are hot, in SQL when they are too many."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Generic, TypeVar

import numpy as np

from sfm_graph.domain.deadline import at_most
from sfm_graph.domain.identity import MemoryRef
from sfm_graph.domain.link_filter import needs_rows
from sfm_graph.domain.walk import WalkFilter
from sfm_graph.errors import MemoryNotFound, WalkTooLarge
from sfm_graph.hot.graph.nodes import Ints
from sfm_graph.hot.walks.drive import Work
from sfm_graph.hot.walks.expansion import Algorithm
from sfm_graph.services.ground import Ground, HotGround, ground_of, lens_of
from sfm_graph.services.hot_graph import FreshGraphs, HotGraphs
from sfm_graph.services.view import View, Views
from sfm_graph.store import memories
from sfm_graph.telemetry.stages import stage

T = TypeVar("T")

# Walks that run in threads at once: each takes the interpreter's lock in turns with the event loop.
THREADS = 2
# What one walk looks at most, links; the deadline ends most walks earlier.
MAX_LINKS = 20_000_000
# Of the time that a request has left.
WALK_SHARE = 0.9


@dataclass(frozen=True, slots=True)
class Walked(Generic[T]):
    """An answer; `hot`: from memory, False: by frontier queries in SQL."""

    answer: T
    hot: bool


class WalkRunner:
    """Finds the ground of a walk, its starts, and runs it within the deadline."""

    def __init__(self, views: Views, graphs: HotGraphs, fresh: FreshGraphs, *, deadline_ms: int) -> None:
        self._views = views
        self.graphs = graphs
        self._fresh = fresh
        self.deadline_seconds = deadline_ms / 1000
        self._threads = asyncio.Semaphore(THREADS)

    async def run(
        self,
        view: View | None,
        namespace: str,
        refs: Sequence[MemoryRef],
        walk: WalkFilter,
        algorithm: Algorithm[T],
    ) -> Walked[T]:
        """The answer of an algorithm that begins at some memories.

        Without a view a walk from ids, in memory, costs one statement. Raises MemoryNotFound, WalkTooLarge.
        """
        answer, ground = await self.run_on(view, namespace, refs, walk, algorithm)
        return Walked(answer, ground.hot)

    async def run_on(
        self,
        view: View | None,
        namespace: str,
        refs: Sequence[MemoryRef],
        walk: WalkFilter,
        algorithm: Algorithm[T],
    ) -> tuple[T, Ground]:
        """As `run`, with the ground that it ran on."""
        work = self.work()
        if view is not None:
            ground = await self.ground(view, namespace, walk)
            ids = await self._resolved(view, namespace, refs)
            with stage("walk.search"):
                return await ground.run(ids, algorithm, work), ground
        in_memory = await self._in_memory(namespace, refs, walk, algorithm, work)
        if in_memory is not None:
            return in_memory
        async with self._views.open() as opened:
            return await self.run_on(opened, namespace, refs, walk, algorithm)

    async def _in_memory(
        self, namespace: str, refs: Sequence[MemoryRef], walk: WalkFilter, algorithm: Algorithm[T], work: Work
    ) -> tuple[T, Ground] | None:
        """Without a view, when ids of linked memories are given and nothing changed."""
        ids = [ref.id for ref in refs]
        candidate = self._fresh.candidate(namespace)
        if candidate is None or None in ids or needs_rows(walk.where):
            return None
        namespace_id, graph = candidate
        nodes = graph.find(np.array(ids, np.int64))
        # A live link holds its ends; only a memory that has one is sure to exist.
        for node in nodes.tolist():
            if node < 0 or not graph.is_linked(node):
                return None
        ground = HotGround(graph, lens_of(graph, walk, walk.at or datetime.now(UTC), None), self._threads)
        unchanged = asyncio.create_task(self._fresh.is_unchanged(namespace, namespace_id, graph))
        try:
            # The statement goes out; the walk begins while the database answers, and counts if nothing has changed.
            await asyncio.sleep(0)
            with stage("walk.search"):
                drive = ground.begun(graph, nodes, algorithm, work)
            if not await unchanged:
                return None
        except WalkTooLarge:
            if await unchanged:
                raise
            return None
        finally:
            unchanged.cancel()
        if drive.done:
            return await ground.finished(drive), ground
        with stage("walk.search"):
            return await ground.finished(drive), ground

    def work(self) -> Work:
        """What one walk that begins now may do."""
        return Work(MAX_LINKS, time.monotonic() + self.seconds())

    def seconds(self) -> float:
        """How long one walk that begins now may take: of the request's time something is left for its answer."""
        return WALK_SHARE * at_most(self.deadline_seconds / WALK_SHARE)

    async def ground(self, view: View, namespace: str, walk: WalkFilter) -> Ground:
        """Where walks of a namespace run at a view's snapshot. Raises MemoryNotFound for an unknown namespace."""
        found = await view.namespace(namespace)
        if found is None:
            raise MemoryNotFound(f"there is no memory in {namespace!r}", namespace=namespace)
        with stage("walk.load"):
            graph = await self.graphs.at(view, found)
            self._fresh.learn(found)
            return await ground_of(view, found, graph, walk, walk.at or view.now, self._threads)

    async def _resolved(self, view: View, namespace: str, refs: Sequence[MemoryRef]) -> Ints:
        scope = await view.existing_namespace(namespace)
        found = await memories.locate(view.session, scope.id, refs)
        for ref in refs:
            if ref not in found:
                raise MemoryNotFound(f"no memory with {ref} in {namespace!r}", namespace=namespace)
        return np.array([found[ref] for ref in refs], np.int64)
