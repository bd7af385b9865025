"""Walks answered as ids: what a caller needs who wants structure, and what `Traversal` fills with memories.

Without a view a walk in memory costs one statement, which says that nothing changed since the version at hand.
"""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from sfm_graph.domain.access import Scope
from sfm_graph.domain.identity import LinkId, MemoryId, MemoryRef
from sfm_graph.domain.walk import MAX_PATHS, PathMode, RankBy, RankQuery, Subgraph, Trail, WalkFilter
from sfm_graph.domain.where import EVERYTHING, Where
from sfm_graph.errors import InvalidInput, MemoryNotFound, WalkTooLarge
from sfm_graph.hot.graph.graph import HotGraph
from sfm_graph.hot.graph.nodes import Ints
from sfm_graph.hot.walks import several
from sfm_graph.hot.walks.cheapest import cheapest
from sfm_graph.hot.walks.expansion import Numbered, Walking
from sfm_graph.hot.walks.fewest import fewest, trails
from sfm_graph.hot.walks.pagerank import Ranked, personalised_pagerank
from sfm_graph.hot.walks.reach import Reached, reach, reach_count, region
from sfm_graph.hot.walks.similarity import Measure, similar
from sfm_graph.hot.walks.trail import NodeTrail
from sfm_graph.services.access.guard import needs
from sfm_graph.services.ground import HotGround
from sfm_graph.services.memory_reads import require_declared
from sfm_graph.services.view import View, Views
from sfm_graph.services.walk_runner import Walked, WalkRunner
from sfm_graph.services.whole_graph import WholeGraph
from sfm_graph.store import search

T = TypeVar("T")

# Links of a subgraph that are answered.
MAX_SUBGRAPH_LINKS = 100_000
# A personalised PageRank looks at so many links: 0.98 of the exact top 20 on a power-law graph of 1M links walked
# both ways, 0.93 or more walked one way or filtered.
PAGERANK_LINKS = 30_000
NOT_IN_MEMORY = "only namespaces in memory are ranked: this one exceeds SFM_HOT_BUDGET_BYTES, or is being loaded"
_MEASURES = {RankBy.JACCARD: Measure.JACCARD, RankBy.ADAMIC_ADAR: Measure.ADAMIC_ADAR}


class Walks:
    """The queries that follow links, answered as ids. A walk never leaves its namespace.

    Each raises MemoryNotFound for an unknown start, WalkTooLarge when it meets too much or runs out of time.
    """

    def __init__(self, views: Views, runner: WalkRunner, whole: WholeGraph) -> None:
        self._views = views
        self.runner = runner
        self._whole = whole

    @needs(Scope.READ)
    async def reach(
        self,
        view: View | None,
        namespace: str,
        start: MemoryRef,
        walk: WalkFilter,
        *,
        hops: int,
        limit: int,
        where: Where = EVERYTHING,
        after: tuple[int, int] | None = None,
    ) -> Walked[Reached]:
        """The nearest memories within `hops` links, each once; the start is not its own neighbour.

        `where` (on memories) and `after` (hops and link id of the last one seen) filter what is returned, not what is
        walked through.
        """
        wanted = None
        if where != EVERYTHING:
            if view is None:
                async with self._views.open() as opened:
                    return await self.reach(
                        opened, namespace, start, walk, hops=hops, limit=limit, where=where, after=after
                    )
            wanted = await self._matching(view, namespace, where)
        return await self.runner.run(
            view, namespace, [start], walk,
            lambda graph, nodes: reach(graph, nodes, hops, limit=limit, after=after, wanted=wanted),
        )  # fmt: skip

    @needs(Scope.READ)
    async def reach_count(
        self, view: View | None, namespace: str, start: MemoryRef, walk: WalkFilter, *, hops: int
    ) -> Walked[list[int]]:
        """How many memories are first reached at each hop, from 1."""
        return await self.runner.run(
            view, namespace, [start], walk, lambda graph, nodes: reach_count(graph, nodes, hops)
        )

    @needs(Scope.READ)
    async def subgraph(
        self,
        view: View | None,
        namespace: str,
        starts: Sequence[MemoryRef],
        walk: WalkFilter,
        *,
        depth: int,
        limit: int,
    ) -> Subgraph:
        """Memories within `depth` links of any start, nearest first up to `limit`, and the links among them."""
        found, ground = await self.runner.run_on(
            view, namespace, starts, walk,
            lambda graph, nodes: region(graph, nodes, depth, limit=limit, max_links=MAX_SUBGRAPH_LINKS),
        )  # fmt: skip
        codes, places = np.unique(found.types, return_inverse=True)
        return Subgraph(
            found.ids, found.links, found.sources, found.targets, places, found.weights,
            tuple(ground.type_names(codes)), found.truncated, ground.hot,
        )  # fmt: skip

    @needs(Scope.READ)
    async def shortest(
        self,
        view: View | None,
        namespace: str,
        ends: tuple[MemoryRef, MemoryRef],
        walk: WalkFilter,
        *,
        weighted: bool,
        max_hops: int,
    ) -> Walked[Trail | None]:
        """A path with the fewest links, or with `weighted` the least sum of weights; None when there is none.

        From a memory to itself the path has no links. `max_hops` bounds the links of the path.
        """

        def algorithm(graph: Numbered, nodes: Ints) -> Walking[Trail | None]:
            start, goal = nodes.tolist()
            if weighted:
                found = yield from cheapest(graph, start, goal, max_hops)
            else:
                stages = yield from fewest(graph, start, goal, max_hops)
                found = None if stages is None else next(trails(stages, start))
            return None if found is None else _named(graph, found)

        return await self.runner.run(view, namespace, ends, walk, algorithm)

    @needs(Scope.READ)
    async def paths(
        self,
        view: View | None,
        namespace: str,
        ends: tuple[MemoryRef, MemoryRef],
        walk: WalkFilter,
        *,
        mode: PathMode,
        count: int,
        weighted: bool,
        max_hops: int,
    ) -> Walked[list[Trail]]:
        """Up to `count` paths, none of which meets a memory twice. `weighted` is for SHORTEST_K only."""
        if not 1 <= count <= MAX_PATHS:
            raise InvalidInput(f"k is from 1 to {MAX_PATHS}", field="k")
        if weighted and mode is not PathMode.SHORTEST_K:
            raise InvalidInput(f"{mode.name} paths go by the number of links, not by weight", field="weighted")

        def algorithm(graph: Numbered, nodes: Ints) -> Walking[list[Trail]]:
            start, goal = nodes.tolist()
            match mode:
                case PathMode.SHORTEST_K:
                    found = yield from several.shortest_k(graph, start, goal, count, max_hops, weighted=weighted)
                case PathMode.ALL_SHORTEST:
                    found = yield from several.all_shortest(graph, start, goal, count, max_hops)
                case PathMode.SIMPLE:
                    found = yield from several.simple_paths(graph, start, goal, count, max_hops)
            return [_named(graph, one) for one in found]

        return await self.runner.run(view, namespace, ends, walk, algorithm)

    @needs(Scope.READ)
    async def rank(self, view: View | None, namespace: str, seeds: Sequence[MemoryRef], query: RankQuery) -> Ranked:
        """The best memories by structure. Raises InvalidInput where seeds are missing or not taken.

        Only in memory: raises WalkTooLarge for a namespace over the budget.
        """
        seeded = query.by in _MEASURES or (query.by is RankBy.PAGERANK and bool(seeds))
        if seeded and not seeds:
            raise InvalidInput(f"{query.by.name} ranks what is around memories: give seeds", field="seeds")
        if seeds and not seeded:
            raise InvalidInput(f"{query.by.name} ranks all memories: it takes no seeds", field="seeds")
        if query.unlinked and query.by not in _MEASURES:
            raise InvalidInput("unlinked goes with JACCARD and ADAMIC_ADAR", field="unlinked")
        if not seeded:
            return await self._rank_all(view, namespace, query)

        def algorithm(graph: Numbered, nodes: Ints) -> Walking[Ranked]:
            if not isinstance(graph, HotGraph):
                raise WalkTooLarge(NOT_IN_MEMORY)
            nodes = np.unique(nodes)
            if query.by is RankBy.PAGERANK:
                degrees = graph.degrees(query.walk.direction, exact=query.walk.is_plain)
                return personalised_pagerank(graph, degrees, nodes, limit=query.first, max_links=PAGERANK_LINKS)
            return similar(graph, nodes, _MEASURES[query.by], limit=query.first, unlinked=query.unlinked)

        return (await self.runner.run(view, namespace, seeds, query.walk, algorithm)).answer

    async def _rank_all(self, view: View | None, namespace: str, query: RankQuery) -> Ranked:
        if view is None:
            async with self._views.open() as opened:
                return await self._rank_all(opened, namespace, query)
        await view.existing_namespace(namespace)
        ground = await self.runner.ground(view, namespace, query.walk)
        if not isinstance(ground, HotGround):
            raise WalkTooLarge(NOT_IN_MEMORY)
        return await self._whole.rank(
            ground.graph, ground.lens, query.by, limit=query.first, seconds=self.runner.seconds()
        )

    async def _matching(self, view: View, namespace: str, where: Where) -> Ints:
        found = await view.namespace(namespace)
        if found is None:
            raise MemoryNotFound(f"there is no memory in {namespace!r}", namespace=namespace)
        require_declared(where, found.settings.payload_paths)
        return await search.matching_ids(view.session, found.id, where)


def _named(graph: Numbered, trail: NodeTrail) -> Trail:
    ids = graph.ids(np.array(trail.nodes, np.int64)).tolist()
    return Trail(tuple(map(MemoryId, ids)), tuple(map(LinkId, trail.links)), trail.weights)
