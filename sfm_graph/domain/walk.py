"""Walks over links: what is asked and what comes back. Tie-breaking is part of the contract.

Neighbours come in order of hops, then link id. Of equally short paths the one found by expanding memories and links
in id order is returned, so equal data gives equal answers.
"""

from dataclasses import dataclass

from sfm_graph.domain.identity import MemoryId
from sfm_graph.domain.link import Direction, Link
from sfm_graph.domain.memory import Memory

MAX_HOPS = 10
MAX_PATH_HOPS = 64
MAX_WALK_RESULTS = 10_000


@dataclass(frozen=True, slots=True)
class WalkFilter:
    """Which links a walk follows: those of `types` (any when empty) in `direction`."""

    direction: Direction = Direction.BOTH
    types: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A memory reached by a walk: over which link it was first reached, in how many hops."""

    memory: Memory
    link: Link
    hops: int


@dataclass(frozen=True, slots=True)
class Neighbourhood:
    """Neighbours in order of hops, then link id; `truncated` when the limit cut some off."""

    neighbours: tuple[Neighbour, ...]
    truncated: bool


@dataclass(frozen=True, slots=True)
class Subgraph:
    """Memories reached and every link between them that the filter admits, both by id."""

    memories: tuple[Memory, ...]
    links: tuple[Link, ...]
    truncated: bool


@dataclass(frozen=True, slots=True)
class Path:
    """A path: n + 1 memories joined by n links. `cost` is the sum of weights, or n when unweighted."""

    memories: tuple[Memory, ...]
    links: tuple[Link, ...]
    cost: float


@dataclass(frozen=True, slots=True)
class Step:
    """One link as a walk sees it: where it leads, and at what cost."""

    link_id: int
    to: MemoryId
    weight: float
