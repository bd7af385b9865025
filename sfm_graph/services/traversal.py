"""Walking by structure: neighbours, subgraphs and shortest paths by frontier queries in one view."""

import asyncio
import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sfm_graph.domain.identity import LinkId, MemoryId, MemoryRef
from sfm_graph.domain.link import Direction, Link
from sfm_graph.domain.memory import Memory
from sfm_graph.domain.namespace import Namespace
from sfm_graph.domain.walk import Neighbour, Neighbourhood, Path, Step, Subgraph, WalkFilter
from sfm_graph.domain.where import EVERYTHING, Where
from sfm_graph.errors import MemoryNotFound, WalkTooLarge
from sfm_graph.services.memory_reads import require_declared
from sfm_graph.services.view import View
from sfm_graph.store import links, memories, search

# A path search that meets more than this gives up, and says so.
MAX_EXPANDED = 200_000
# Steps read for one frontier; a hub's further links are left out and the answer is marked truncated.
MAX_STEPS = 100_000
# Memories whose links a weighted search fetches at once.
WEIGHTED_BATCH = 256
# Steps and ways to a memory that a weighted search keeps: about 300 MB.
MAX_KEPT = 1_000_000
# Steps taken before other tasks get a turn: less than 2 ms of work.
TURN = 500


class Traversal:
    """The queries that follow links. A link counts when it is valid now; a walk never leaves its namespace."""

    async def neighbours(
        self,
        view: View,
        namespace: str,
        ref: MemoryRef,
        walk: WalkFilter,
        *,
        hops: int,
        limit: int,
        where: Where = EVERYTHING,
        after: tuple[int, int] | None = None,
    ) -> Neighbourhood:
        """Memories within `hops` links, each once, by hops, then link id; the start is not its own neighbour.

        `where` and `after` (the hops and link id of the last one seen) filter what is returned, not what is walked
        through. Raises MemoryNotFound.
        """
        walker = await _Walker.open(view, namespace, walk)
        start = await walker.resolve(ref)
        allowed = await walker.allowed(where)
        reached: dict[MemoryId, tuple[LinkId, int]] = {}
        seen = {start}
        frontier = [start]
        truncated = False
        for hop in range(1, hops + 1):
            steps, cut = await walker.steps(frontier)
            truncated |= cut
            frontier = []
            for taken, (_, step) in enumerate(steps):
                await _turn(taken)
                if step.to not in seen:
                    seen.add(step.to)
                    frontier.append(step.to)
                    seen_before = after is not None and (hop, step.link_id) <= after
                    if not seen_before and (allowed is None or _holds(allowed, step.to)):
                        reached[step.to] = (LinkId(step.link_id), hop)
            if not frontier or len(reached) > limit:
                break
        kept = dict(list(reached.items())[:limit])
        found = await walker.memories(kept)
        joined = await walker.links(link_id for link_id, _ in kept.values())
        neighbours = tuple(Neighbour(found[one], joined[link_id], hop) for one, (link_id, hop) in kept.items())
        return Neighbourhood(neighbours, truncated or len(reached) > limit)

    async def subgraph(
        self,
        view: View,
        namespace: str,
        starts: Sequence[MemoryRef],
        walk: WalkFilter,
        *,
        depth: int,
        limit: int,
    ) -> Subgraph:
        """Memories within `depth` links of any start, nearest first up to `limit`, and the links among them."""
        walker = await _Walker.open(view, namespace, walk)
        frontier = list(dict.fromkeys([await walker.resolve(ref) for ref in starts]))
        seen = dict.fromkeys(frontier[:limit])
        truncated = len(frontier) > limit
        for _ in range(depth):
            steps, cut = await walker.steps(frontier)
            truncated |= cut
            frontier = []
            for taken, (_, step) in enumerate(steps):
                await _turn(taken)
                if step.to in seen:
                    continue
                if len(seen) == limit:
                    truncated = True
                    break
                seen[step.to] = None
                frontier.append(step.to)
            if not frontier:
                break
        found = await walker.memories(seen)
        joined = await links.among(view.session, walker.namespace.id, namespace, seen, walk.types, MAX_STEPS + 1)
        return Subgraph(
            tuple(found[one] for one in sorted(found)),
            tuple(joined[:MAX_STEPS]),
            truncated or len(joined) > MAX_STEPS,
        )

    async def shortest_path(
        self,
        view: View,
        namespace: str,
        source: MemoryRef,
        target: MemoryRef,
        walk: WalkFilter,
        *,
        weighted: bool,
        max_hops: int,
    ) -> Path | None:
        """A path with the fewest links, or with `weighted` the least sum of weights; None when there is none.

        From a memory to itself the path has no links. `max_hops` bounds the links of the path.
        Raises MemoryNotFound for an unknown end, WalkTooLarge when the search meets too many memories.
        """
        walker = await _Walker.open(view, namespace, walk)
        start, goal = await walker.resolve(source), await walker.resolve(target)
        if weighted:
            trail = await _cheapest(walker, start, goal, max_hops)
        else:
            trail = await _fewest(walker, start, goal, max_hops)
        if trail is None:
            return None
        nodes = [start, *(step.to for step in trail)]
        found = await walker.memories(nodes)
        joined = await walker.links(LinkId(step.link_id) for step in trail)
        cost = float(sum(step.weight for step in trail)) if weighted else float(len(trail))
        return Path(tuple(found[one] for one in nodes), tuple(joined[LinkId(step.link_id)] for step in trail), cost)


@dataclass(frozen=True, slots=True)
class _Walker:
    """One walk's reads."""

    view: View
    namespace: Namespace
    walk: WalkFilter

    @classmethod
    async def open(cls, view: View, namespace: str, walk: WalkFilter) -> "_Walker":
        found = await view.namespace(namespace)
        if found is None:
            raise MemoryNotFound(f"there is no memory in {namespace!r}", namespace=namespace)
        return cls(view, found, walk)

    async def resolve(self, ref: MemoryRef) -> MemoryId:
        found = (await memories.find(self.view.session, self.namespace.id, self.namespace.name, [ref]))[0]
        if found is None:
            raise MemoryNotFound(f"no memory with {ref} in {self.namespace.name!r}", namespace=self.namespace.name)
        return found.id

    async def allowed(self, where: Where) -> NDArray[np.int64] | None:
        """The ids that a filter keeps, ascending; None for all."""
        if where == EVERYTHING:
            return None
        require_declared(where, self.namespace.settings.payload_paths)
        return await search.matching_ids(self.view.session, self.namespace.id, where)

    async def steps(
        self, frontier: Iterable[MemoryId], *, backwards: bool = False
    ) -> tuple[list[tuple[MemoryId, Step]], bool]:
        """Steps out of a frontier in link id order, and whether some were cut off."""
        walk = WalkFilter(_reversed(self.walk.direction), self.walk.types) if backwards else self.walk
        found = await links.steps_from(self.view.session, self.namespace.id, frontier, walk, MAX_STEPS + 1)
        return found[:MAX_STEPS], len(found) > MAX_STEPS

    async def all_steps(
        self, frontier: Iterable[MemoryId], *, backwards: bool = False
    ) -> list[tuple[MemoryId, Step]]:
        steps, cut = await self.steps(frontier, backwards=backwards)
        if cut:
            raise WalkTooLarge(f"the search meets more than {MAX_STEPS} links at once; narrow types or max_hops")
        return steps

    async def memories(self, ids: Iterable[MemoryId]) -> Mapping[MemoryId, Memory]:
        return await memories.by_ids(self.view.session, self.namespace.id, self.namespace.name, set(ids))

    async def links(self, ids: Iterable[LinkId]) -> Mapping[LinkId, Link]:
        return await links.by_ids(self.view.session, self.namespace.id, self.namespace.name, set(ids))


async def _turn(taken: int) -> None:
    """Called at each step of a long loop, lets other tasks run now and then."""
    if taken % TURN == TURN - 1:
        await asyncio.sleep(0)


def _holds(ascending: NDArray[np.int64], one: int) -> bool:
    place = int(np.searchsorted(ascending, one))
    return place < len(ascending) and int(ascending[place]) == one


def _reversed(direction: Direction) -> Direction:
    return {Direction.OUT: Direction.IN, Direction.IN: Direction.OUT}.get(direction, Direction.BOTH)


async def _fewest(walker: _Walker, start: MemoryId, goal: MemoryId, max_hops: int) -> list[Step] | None:
    """Breadth-first search from both ends, the smaller frontier first."""
    if start == goal:
        return []
    ahead: dict[MemoryId, tuple[MemoryId, Step] | None] = {start: None}
    behind: dict[MemoryId, tuple[MemoryId, Step] | None] = {goal: None}
    fronts = ([start], [goal])
    for _ in range(max_hops):
        backwards = len(fronts[1]) < len(fronts[0])
        mine, other = (behind, ahead) if backwards else (ahead, behind)
        frontier = []
        meeting = None
        for taken, (origin, step) in enumerate(await walker.all_steps(fronts[backwards], backwards=backwards)):
            await _turn(taken)
            if step.to in mine:
                continue
            mine[step.to] = (origin, step)
            frontier.append(step.to)
            if step.to in other and meeting is None:
                meeting = step.to
        if meeting is not None:
            return [*_trail(ahead, meeting), *_trail_back(behind, meeting)]
        if not frontier:
            return None
        if len(ahead) + len(behind) > MAX_EXPANDED:
            raise WalkTooLarge(f"the search met more than {MAX_EXPANDED} memories; narrow types or max_hops")
        fronts = (fronts[0], frontier) if backwards else (frontier, fronts[1])
    return None


def _trail(parents: Mapping[MemoryId, tuple[MemoryId, Step] | None], end: MemoryId) -> list[Step]:
    trail = []
    while (parent := parents[end]) is not None:
        end, step = parent
        trail.append(step)
    return trail[::-1]


def _trail_back(parents: Mapping[MemoryId, tuple[MemoryId, Step] | None], begin: MemoryId) -> list[Step]:
    trail = []
    while (parent := parents[begin]) is not None:
        origin, step = parent
        trail.append(Step(step.link_id, origin, step.weight))
        begin = origin
    return trail


async def _cheapest(walker: _Walker, start: MemoryId, goal: MemoryId, max_hops: int) -> list[Step] | None:
    """Dijkstra over (memory, hops)."""
    heap: list[tuple[float, int, MemoryId]] = [(0.0, 0, start)]
    parents: dict[tuple[MemoryId, int], tuple[MemoryId, Step]] = {}
    best: dict[tuple[MemoryId, int], float] = {(start, 0): 0.0}
    # The fewest hops a memory was settled with: a later, dearer arrival with as many hops cannot help.
    settled: dict[MemoryId, int] = {}
    known = _KnownSteps(walker)
    taken = 0
    while heap:
        taken += 1
        await _turn(taken)
        cost, hops, node = heapq.heappop(heap)
        if settled.get(node, max_hops + 1) <= hops:
            continue
        settled[node] = hops
        if node == goal:
            return _hop_trail(parents, node, hops)
        if hops == max_hops:
            continue
        for step in await known.of(node, heap):
            taken += 1
            await _turn(taken)
            arrival = (step.to, hops + 1)
            total = cost + step.weight
            if total < best.get(arrival, float("inf")) and settled.get(step.to, max_hops + 1) > hops + 1:
                best[arrival] = total
                parents[arrival] = (node, step)
                heapq.heappush(heap, (total, hops + 1, step.to))
        if len(settled) > MAX_EXPANDED or known.held + len(heap) + len(best) > MAX_KEPT:
            raise WalkTooLarge("the search met too many memories and links; narrow types or max_hops")
    return None


class _KnownSteps:
    """The steps out of memories, read for many of the nearest at once."""

    def __init__(self, walker: _Walker) -> None:
        self._walker = walker
        self._known: dict[MemoryId, list[Step]] = {}
        self._batch = WEIGHTED_BATCH
        self.held = 0

    async def of(self, node: MemoryId, heap: list[tuple[float, int, MemoryId]]) -> list[Step]:
        """Steps out of `node`; with them those out of memories at the heap's front are read, as likely the next."""
        if node not in self._known:
            upcoming = [one for _, _, one in heap[: self._batch] if one not in self._known]
            await self._read(list(dict.fromkeys([node, *upcoming]))[: self._batch])
        return self._known[node]

    async def _read(self, wanted: list[MemoryId]) -> None:
        steps, cut = await self._walker.steps(wanted)
        if cut:
            # Only the first is needed. Where the others have so many links, fewer are read ahead from now on.
            self._batch = max(1, self._batch // 4)
            wanted = wanted[:1]
            steps = await self._walker.all_steps(wanted)
        self._known |= {one: [] for one in wanted}
        self.held += len(steps)
        for taken, (origin, step) in enumerate(steps):
            await _turn(taken)
            self._known[origin].append(step)


def _hop_trail(
    parents: Mapping[tuple[MemoryId, int], tuple[MemoryId, Step]], node: MemoryId, hops: int
) -> list[Step]:
    trail = []
    while hops:
        node, step = parents[node, hops]
        trail.append(step)
        hops -= 1
    return trail[::-1]
