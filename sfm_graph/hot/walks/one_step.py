"""The links out of some memories: where score may flow."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from sfm_graph.hot.graph.adjacency import Codes, Floats
from sfm_graph.hot.graph.nodes import Ints
from sfm_graph.hot.walks.expansion import Expand, Numbered, Walking


@dataclass(frozen=True, slots=True)
class OneStep:
    """n links as columns of shape (n,): memory ids of both ends as walked, link ids, weights, type codes."""

    origins: Ints
    targets: Ints
    links: Ints
    weights: Floats
    types: Codes


OneStepWalk: TypeAlias = Walking[OneStep]


def one_step(graph: Numbered, nodes: Ints) -> OneStepWalk:
    """The steps out of nodes; of a hub with too many the first ones by link id."""
    steps = yield Expand(np.unique(nodes), partly=True)
    return OneStep(graph.ids(steps.origins()), graph.ids(steps.to), steps.links(), steps.weights(), steps.types())
