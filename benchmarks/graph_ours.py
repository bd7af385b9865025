"""The service's own walks, called in process without a view: each call says by one statement that it is fresh."""

from benchmarks.graph_data import Graph
from benchmarks.graph_load import NAMESPACE
from benchmarks.graph_questions import Unfinished
from sfm_graph.domain.identity import MemoryId, MemoryRef
from sfm_graph.domain.walk import MAX_PATH_HOPS, RankBy, RankQuery, Trail, WalkFilter
from sfm_graph.errors import WalkTooLarge
from sfm_graph.services.registry import Services

_ANY = WalkFilter()


class Ours:
    """Opened services, asked about the benchmark's namespace."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._walks = services.walks
        self._refs: list[MemoryRef] = []
        self._places: dict[int, int] = {}

    def load(self, graph: Graph) -> None:
        ids = graph.memory_ids.tolist()
        self._refs = [MemoryRef(id=MemoryId(one)) for one in ids]
        self._places = {one: place for place, one in enumerate(ids)}

    async def neighbours(self, node: int, limit: int) -> list[int]:
        found = await self._walks.reach(None, NAMESPACE, self._refs[node], _ANY, hops=1, limit=limit)
        return found.answer.links.tolist()

    async def two_hops(self, node: int) -> int:
        return await self._within(node, 2)

    async def three_hops(self, node: int) -> int:
        return await self._within(node, 3)

    async def _within(self, node: int, hops: int) -> int:
        counts = await self._walks.reach_count(None, NAMESPACE, self._refs[node], _ANY, hops=hops)
        return sum(counts.answer)

    async def shortest(self, start: int, goal: int) -> int | None:
        trail = await self._path(start, goal, weighted=False)
        return None if trail is None else len(trail.links)

    async def cheapest(self, start: int, goal: int) -> float | None:
        trail = await self._path(start, goal, weighted=True)
        return None if trail is None else sum(trail.weights)

    async def _path(self, start: int, goal: int, *, weighted: bool) -> Trail | None:
        ends = self._refs[start], self._refs[goal]
        try:
            found = await self._walks.shortest(None, NAMESPACE, ends, _ANY, weighted=weighted, max_hops=MAX_PATH_HOPS)
        except WalkTooLarge as exc:
            raise Unfinished("too large") from exc
        return found.answer

    async def pagerank(self, seeds: list[int]) -> list[int]:
        query = RankQuery(RankBy.PAGERANK, _ANY, first=20)
        found = await self._walks.rank(None, NAMESPACE, [self._refs[one] for one in seeds], query)
        return [self._places[one] for one in found.ids.tolist()]

    async def read_neighbours(self, node: int, limit: int) -> int:
        """The neighbours as memories and links, read in the same snapshot."""
        async with self._services.views.open() as view:
            found = await self._services.traversal.neighbours(
                view, NAMESPACE, self._refs[node], _ANY, hops=1, limit=limit
            )
        return len(found.neighbours)

    async def cold_load(self) -> None:
        """Forget what is held in memory of the namespace, and load it again."""
        async with self._services.views.open() as view:
            scope = await view.existing_namespace(NAMESPACE)
        self._walks.runner.graphs.cache.drop(scope.id)
        await self._walks.reach(None, NAMESPACE, self._refs[0], _ANY, hops=1, limit=1)

    async def resident_bytes(self) -> int:
        """Memory that the loaded links take."""
        return sum(self._services.namespaces.hot_bytes()["graph"].values())
