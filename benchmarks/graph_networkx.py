"""NetworkX: the graph as dictionaries of Python objects."""

import heapq

import networkx as nx

from benchmarks.graph_data import Graph
from benchmarks.graph_questions import DAMPING, TOP

# The tolerance is for the sum over all nodes divided by their number.
TOLERANCE = 1e-12


class NetworkX:
    """An undirected multigraph whose keys are link ids."""

    def __init__(self) -> None:
        self._graph: nx.MultiGraph[int] = nx.MultiGraph()

    def load(self, graph: Graph) -> None:
        self._graph.add_nodes_from(range(graph.nodes))
        columns = (graph.source, graph.target, graph.link_ids, graph.weight)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        self._graph.add_edges_from(
            (source, target, key, {"weight": weight, "strength": 1 / (1 + weight)})
            for source, target, key, weight in rows
        )

    def neighbours(self, node: int, limit: int) -> list[int]:
        return heapq.nsmallest(limit, (min(keys) for other, keys in self._graph.adj[node].items() if other != node))

    def two_hops(self, node: int) -> int:
        return self._within(node, 2)

    def three_hops(self, node: int) -> int:
        return self._within(node, 3)

    def _within(self, node: int, hops: int) -> int:
        return len(nx.single_source_shortest_path_length(self._graph, node, cutoff=hops)) - 1

    def shortest(self, start: int, goal: int) -> int | None:
        try:
            return len(nx.bidirectional_shortest_path(self._graph, start, goal)) - 1
        except nx.NetworkXNoPath:
            return None

    def cheapest(self, start: int, goal: int) -> float | None:
        try:
            return float(nx.bidirectional_dijkstra(self._graph, start, goal, weight="weight")[0])
        except nx.NetworkXNoPath:
            return None

    def pagerank(self, seeds: list[int]) -> list[int]:
        scores = nx.pagerank(
            self._graph, DAMPING, personalization=dict.fromkeys(seeds, 1.0), weight="strength", tol=TOLERANCE,
            max_iter=500,
        )  # fmt: skip
        return heapq.nlargest(TOP, scores, key=scores.__getitem__)

    def close(self) -> None:
        self._graph.clear()
