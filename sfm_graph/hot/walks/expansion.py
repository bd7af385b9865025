"""How an algorithm asks for links: it yields an `Expand` and is sent the `Steps`.

So an algorithm is written once, blocks nothing, and runs the same over a hot graph and over frontier queries in SQL.
Whoever drives it counts the links that it looks at and throws WalkTooLarge into it when they are too many.
"""

from collections.abc import Callable, Generator
from enum import Enum, auto
from typing import NamedTuple, Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from sfm_graph.hot.graph.adjacency import Bools
from sfm_graph.hot.graph.nodes import Ints
from sfm_graph.hot.graph.steps import Steps

T = TypeVar("T")


class Along(Enum):
    """Which way links are walked: as the walk's direction says, against it, or from source to target."""

    FORWARDS = auto()
    BACKWARDS = auto()
    OUTWARDS = auto()


class Expand(NamedTuple):
    """A request for the steps out of distinct nodes, over all admitted links but those in `without`.

    `partly`: where there are too many, the first of them by link id will do, and the steps say that they were `cut`.
    """

    frontier: Ints
    along: Along = Along.FORWARDS
    without: Ints | None = None
    partly: bool = False


Walking: TypeAlias = Generator[Expand, Steps, T]


class Numbered(Protocol):
    """What an algorithm knows of the graph beside its links: numbers for memories."""

    @property
    def size(self) -> int:
        """Nodes are numbered below this."""

    def ids(self, nodes: Ints) -> Ints:
        """Memory ids of nodes."""


# Begins a walk at some nodes of a graph.
Algorithm: TypeAlias = Callable[[Numbered, Ints], Walking[T]]


class Marks:
    """Which nodes a search has met, and a scratch column to tell first arrivals by. Untouched pages cost nothing."""

    def __init__(self, size: int) -> None:
        self.of: NDArray[np.uint8] = np.zeros(size, np.uint8)
        self._scratch = np.empty(size, np.int64)

    def firsts(self, nodes: Ints) -> Bools:
        """For each place whether it is the first with its node."""
        order = np.arange(len(nodes), dtype=np.int64)
        self._scratch[nodes[::-1]] = order[::-1]
        return np.asarray(self._scratch[nodes] == order)
