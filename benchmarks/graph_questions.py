"""What every store is asked, and what counts as the same answer. Every walk follows links in both directions.

A store is a class with `load(graph)` and a method for each operation that it offers, named as the operation. A node
is a place in `Graph.memory_ids`.

    neighbours(node, 50)  link ids: the first link to each neighbour, the lowest 50 in order
    two_hops(node)        number of other memories within 2 links
    three_hops(node)      number of other memories within 3 links
    shortest(a, b)        links of a path with the fewest, or None
    cheapest(a, b)        sum of weights of a path with the least, or None
    read_neighbours(node, 50)  how many of these it read whole, memories and links; ours only
    pagerank(seeds)       the 20 nodes of highest personalised PageRank; damping 0.85, a link is taken in
                          proportion to its strength 1 / (1 + weight); overlaps are reported, not checked
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.graph_data import Graph, Ints

FIRST_LINKS = 50
SEEDS = 10
TOP = 20
DAMPING = 0.85

OPERATIONS = ("neighbours", "two_hops", "three_hops", "shortest", "cheapest", "pagerank", "read_neighbours")


class Unfinished(Exception):
    """The question was given up, at a time limit or at a bound of the store; its answer is not compared."""


class NotOffered(Exception):
    """The store cannot do this."""


@dataclass(frozen=True)
class Question:
    """One call: arguments of the operation's method."""

    number: int
    arguments: tuple[Any, ...]


def questions(graph: Graph, operation: str, count: int, seed: int) -> list[Question]:
    """`count` questions, the same for the same seed; half of the nodes drawn by degree, half uniformly."""
    chosen = np.random.default_rng([seed, OPERATIONS.index(operation)])
    asked: list[tuple[Any, ...]]
    if operation in ("neighbours", "read_neighbours"):
        asked = [(node, FIRST_LINKS) for node in _nodes(graph, count, chosen).tolist()]
    elif operation in ("two_hops", "three_hops"):
        asked = [(node,) for node in _nodes(graph, count, chosen).tolist()]
    elif operation == "pagerank":
        linked = np.flatnonzero(graph.degrees)
        asked = [(chosen.choice(linked, SEEDS, replace=False).tolist(),) for _ in range(count)]
    else:
        pairs = zip(_nodes(graph, 2 * count, chosen).tolist(), _nodes(graph, 2 * count, chosen).tolist(), strict=True)
        asked = [pair for pair in pairs if pair[0] != pair[1]][:count]
    return [Question(number, arguments) for number, arguments in enumerate(asked)]


def first_links(links: Callable[[int], Sequence[Sequence[int]]], limit: int) -> list[int]:
    """The first link to each of `limit` neighbours, of a store that lists links and the memories they lead to.

    links: up to so many (link id, memory) of one memory by link id. Listing some more than needed is quicker than
    grouping all links of a hub.
    """
    asked = 2 * limit
    while True:
        rows = links(asked)
        first: dict[int, int] = {}
        for link_id, other in rows:
            first.setdefault(other, link_id)
        if len(first) >= limit or len(rows) < asked:
            return list(first.values())[:limit]
        asked *= 8


def _nodes(graph: Graph, count: int, chosen: np.random.Generator) -> Ints:
    degrees = graph.degrees
    by_degree = chosen.choice(graph.nodes, count - count // 2, p=degrees / degrees.sum())
    return chosen.permutation(np.concatenate((by_degree, chosen.integers(graph.nodes, size=count // 2))))


class Answers:
    """The first answer to each question; every later one has to agree."""

    def __init__(self) -> None:
        self._first: dict[tuple[str, int], tuple[str, Any]] = {}
        self._overlaps: dict[str, list[float]] = {}

    @property
    def overlaps(self) -> dict[str, dict[str, float]]:
        """By store the mean and least part of its PageRank top 20 that the first store's holds."""
        return {
            store: {"mean": round(sum(found) / len(found), 4), "least": min(found)}
            for store, found in self._overlaps.items()
        }

    def check(self, store: str, operation: str, question: Question, answer: Any) -> None:
        """Raises RuntimeError when two stores disagree."""
        other, known = self._first.setdefault((operation, question.number), (store, answer))
        if operation == "pagerank":
            if other != store:
                self._overlaps.setdefault(store, []).append(len(set(known) & set(answer)) / TOP)
            return
        if not _same(operation, known, answer):
            arguments = ", ".join(map(str, question.arguments))
            raise RuntimeError(f"{operation}({arguments}): {other} says {known}, {store} says {answer}")


def _same(operation: str, one: Any, other: Any) -> bool:
    if operation == "cheapest" and None not in (one, other):
        return math.isclose(one, other, rel_tol=1e-9)
    return bool(one == other)
