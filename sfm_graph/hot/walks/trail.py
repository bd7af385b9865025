"""A path as nodes and links, before anything is read about them."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from sfm_graph.hot.graph.nodes import Ints


class NodeTrail(NamedTuple):
    """n + 1 nodes joined by n links, with the links' weights."""

    nodes: tuple[int, ...]
    links: tuple[int, ...]
    weights: tuple[float, ...] = ()

    @property
    def cost(self) -> float:
        """The sum of weights from the start on."""
        return float(sum(self.weights))


@dataclass(frozen=True, slots=True)
class Barred:
    """What a search must not use; of the nodes neither end."""

    nodes: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    links: Ints | None = None


NOTHING_BARRED = Barred()
