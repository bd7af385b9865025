"""igraph: the graph in C. Under the GPL, so it is compared with and never shipped or imported by the product."""

import warnings
from math import inf

import igraph
import numpy as np

from benchmarks.graph_data import Graph
from benchmarks.graph_questions import DAMPING, TOP


class Igraph:
    """A directed graph, walked against its direction too; edge ids follow link ids."""

    def __init__(self) -> None:
        self._graph = igraph.Graph()
        self._link_ids: list[int] = []

    def load(self, graph: Graph) -> None:
        # An answer here: there is no path.
        warnings.filterwarnings("ignore", "Couldn't reach some vertices", RuntimeWarning)
        edges = np.column_stack((graph.source, graph.target))
        self._graph = igraph.Graph(graph.nodes, edges, directed=True)
        self._graph.es["weight"] = graph.weight
        self._graph.es["strength"] = 1 / (1 + graph.weight)
        self._link_ids = graph.link_ids.tolist()

    def neighbours(self, node: int, limit: int) -> list[int]:
        first: dict[int, int] = {}
        for edge in sorted(self._graph.incident(node, mode="all")):
            source, target = self._graph.es[edge].tuple
            first.setdefault(target if source == node else source, edge)
            if len(first) == limit:
                break
        return [self._link_ids[edge] for edge in first.values()]

    def two_hops(self, node: int) -> int:
        return self._within(node, 2)

    def three_hops(self, node: int) -> int:
        return self._within(node, 3)

    def _within(self, node: int, hops: int) -> int:
        return int(self._graph.neighborhood_size(node, order=hops, mode="all", mindist=1))

    def shortest(self, start: int, goal: int) -> int | None:
        # Unlike `distances` it ends at the goal.
        path = self._graph.get_shortest_path(start, goal, mode="all", output="epath")
        return len(path) if path or start == goal else None

    def cheapest(self, start: int, goal: int) -> float | None:
        cost = self._graph.distances(start, goal, weights="weight", mode="all")[0][0]
        return None if cost == inf else cost

    def pagerank(self, seeds: list[int]) -> list[int]:
        scores = self._graph.personalized_pagerank(
            directed=False, damping=DAMPING, reset_vertices=seeds, weights="strength"
        )
        return np.argsort(scores)[::-1][:TOP].tolist()

    def close(self) -> None:
        self._graph = igraph.Graph()
