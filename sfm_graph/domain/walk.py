"""Walks over links: what is asked and what comes back. Order and tie-breaking are part of the contract.

Neighbours come in order of hops, then of the smallest link id that leads to them. Paths come in order of length, or
of cost, then length, when weighted; unweighted ones of one length in order of their link ids from the start. Of
equally cheap paths one with the fewest links is found. All this depends on the links alone: equal data gives equal
answers.
"""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from sfm_graph.domain.identity import LinkId, MemoryId
from sfm_graph.domain.link import Direction, Link
from sfm_graph.domain.memory import Memory
from sfm_graph.domain.page import Page
from sfm_graph.domain.where import EVERYTHING, Where

MAX_HOPS = 10
MAX_PATH_HOPS = 64
MAX_PATHS = 100
MAX_WALK_RESULTS = 10_000
MAX_RANKED = 1_000


@dataclass(frozen=True, slots=True)
class WalkFilter:
    """Which links a walk follows: those of `types` (any when empty) in `direction` that `where` keeps.

    Only links that are valid at `at`; None is now.
    """

    direction: Direction = Direction.BOTH
    types: tuple[str, ...] = ()
    where: Where = EVERYTHING
    at: datetime | None = None

    @property
    def is_plain(self) -> bool:
        """Whether every link is followed, either way; but for those that are not valid."""
        return self.direction is Direction.BOTH and not self.types and self.where == EVERYTHING


class PathMode(StrEnum):
    """Which of the paths between two memories are wanted; no path meets a memory twice."""

    SHORTEST_K = "shortest_k"
    ALL_SHORTEST = "all_shortest"
    SIMPLE = "simple"


class RankBy(StrEnum):
    """What memories are ranked by."""

    PAGERANK = "pagerank"
    DEGREE = "degree"
    JACCARD = "jaccard"
    ADAMIC_ADAR = "adamic_adar"
    WEAK_COMPONENTS = "weak_components"
    STRONG_COMPONENTS = "strong_components"
    COMMUNITIES = "communities"


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A memory reached by a walk: over which link it was first reached, in how many hops."""

    memory: Memory
    link: Link
    hops: int


@dataclass(frozen=True, slots=True)
class Neighbourhood:
    """Neighbours in order of hops, then link id; `truncated` when the limit cut some off.

    `hot`: walked in memory; False: by frontier queries, the namespace being larger than the memory budget.
    """

    neighbours: tuple[Neighbour, ...]
    truncated: bool
    hot: bool


@dataclass(frozen=True, slots=True)
class NeighbourPage:
    """A page of neighbours. `cut`: the walk met its bounds, so memories may be missing behind the last one.

    `hot`: walked in memory.
    """

    page: Page[Neighbour]
    cut: bool
    hot: bool


@dataclass(frozen=True, slots=True, eq=False)
class Subgraph:
    """Memories reached and every link between them that the filter admits, both ascending by id.

    Columns: `ids` of shape (n,); of shape (m,): `links`, `sources` and `targets` (places in `ids`), `types` (places
    in `type_names`), `weights`.
    """

    ids: NDArray[np.int64]
    links: NDArray[np.int64]
    sources: NDArray[np.int64]
    targets: NDArray[np.int64]
    types: NDArray[np.int64]
    weights: NDArray[np.float64]
    type_names: tuple[str, ...]
    truncated: bool
    hot: bool


@dataclass(frozen=True, slots=True)
class Trail:
    """A path as ids: n + 1 memories joined by n links, with the links' weights."""

    memories: tuple[MemoryId, ...]
    links: tuple[LinkId, ...]
    weights: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Path:
    """A path: n + 1 memories joined by n links. `cost` is the sum of weights, or n when unweighted."""

    memories: tuple[Memory, ...]
    links: tuple[Link, ...]
    cost: float
    hot: bool


@dataclass(frozen=True, slots=True)
class RankQuery:
    """A ranking of a namespace's memories, or of those around `seeds`.

    `unlinked` leaves out what a seed is linked to already: the rest are suggestions.
    """

    by: RankBy = RankBy.PAGERANK
    walk: WalkFilter = field(default_factory=WalkFilter)
    first: int = 20
    unlinked: bool = False


@dataclass(frozen=True, slots=True)
class RankedMemory:
    """A memory with its score; for components and communities the number of its group, 0 being the largest."""

    memory: Memory
    score: float
    group: int | None


@dataclass(frozen=True, slots=True)
class Ranking:
    """Memories by falling score, ties by id; groups by falling size, members by id.

    `truncated`: more have a score. `estimated`: which part of all score is an estimate, from 0 to 1.
    """

    memories: tuple[RankedMemory, ...]
    truncated: bool
    estimated: float
