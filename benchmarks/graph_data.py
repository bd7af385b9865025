"""Random directed graphs as agents' memories make them: most memories have few links, a few hubs have very many."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TYPES = ("mentions", "supports", "follows", "contradicts", "part_of")
TYPE_SHARES = (0.4, 0.25, 0.2, 0.1, 0.05)
# The memory of rank r gets links in proportion to r ** -EXPONENT. At 100k memories and 1M links the largest hub then
# has about 22,000 links, after links that repeat ends and type are drawn anew.
EXPONENT = 0.735

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Size:
    """How many memories and links."""

    memories: int
    links: int


SIZES = {"tiny": Size(2_000, 20_000), "small": Size(100_000, 1_000_000), "large": Size(1_000_000, 10_000_000)}


@dataclass(frozen=True)
class Graph:
    """Links as columns in order of link id; ends are places in `memory_ids`, which ascends."""

    memory_ids: Ints
    link_ids: Ints
    source: Ints
    target: Ints
    type: Ints
    weight: NDArray[np.float64]

    @property
    def nodes(self) -> int:
        """Number of memories; a node is a place in `memory_ids`."""
        return len(self.memory_ids)

    @property
    def degrees(self) -> Ints:
        """Links at each node, in and out."""
        return np.bincount(np.concatenate((self.source, self.target)), minlength=self.nodes)

    def described(self) -> dict[str, int]:
        """Sizes, for the report."""
        pairs = len(np.unique(self.source * self.nodes + self.target))
        return {
            "memories": self.nodes,
            "links": len(self.link_ids),
            "parallel_links": len(self.link_ids) - pairs,
            "largest_hub": int(self.degrees.max()),
        }


def power_law_graph(size: Size, seed: int) -> Graph:
    """A graph of that size, the same for the same seed; ids count from 1.

    No link leads from a memory to itself. Links between the same two memories differ in type.
    """
    chosen = np.random.default_rng(seed)
    cumulative = np.cumsum(np.arange(1, size.memories + 1, dtype=np.float64) ** -EXPONENT)
    # Hubs shall not be the memories that were stored first.
    places = chosen.permutation(size.memories)

    def ends(count: int) -> Ints:
        return places[np.searchsorted(cumulative, chosen.random(count) * cumulative[-1])]

    links = np.empty(0, dtype=np.int64)
    while len(links) < size.links:
        count = size.links - len(links) + 1_000
        source, target = ends(count), ends(count)
        types = chosen.choice(len(TYPES), count, p=TYPE_SHARES)
        drawn = (source * size.memories + target) * len(TYPES) + types
        links = np.concatenate((links, drawn[source != target]))
        links = links[np.sort(np.unique(links, return_index=True)[1])]
    pairs, types = np.divmod(links[: size.links], len(TYPES))
    source, target = np.divmod(pairs, size.memories)
    return Graph(
        memory_ids=np.arange(1, size.memories + 1),
        link_ids=np.arange(1, size.links + 1),
        source=source,
        target=target,
        type=types,
        weight=chosen.uniform(0.1, 10, size.links),
    )


def blocks(count: int, length: int) -> Iterator[slice]:
    """Consecutive slices that cover `count` items."""
    for start in range(0, count, length):
        yield slice(start, min(start + length, count))
