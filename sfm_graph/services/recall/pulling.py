"""The graph's part in a recall: what pulls memories towards the best few, and what supersedes some of them.

Links that leave the best few pull, and proper names that both bear.
"""

from collections.abc import Mapping

import numpy as np

from sfm_graph.domain.fusion import (
    NAME_CAP,
    SEEDS,
    Board,
    Floats,
    Ints,
    Pulls,
    Superseded,
    concatenated,
    joined_pulls,
    ranking,
    superseded,
)
from sfm_graph.domain.link import Direction
from sfm_graph.domain.recall import SUPERSEDES
from sfm_graph.domain.walk import WalkFilter
from sfm_graph.hot.walks.one_step import OneStep, one_step
from sfm_graph.services.ground import Ground, HotGround
from sfm_graph.services.recall.legs import HotLegs, Legs
from sfm_graph.services.view import View
from sfm_graph.services.walk_runner import WalkRunner

_OUTWARDS = WalkFilter(Direction.OUT)
_EITHER_WAY = WalkFilter(Direction.BOTH)
_SUPERSEDING = WalkFilter(Direction.IN, (SUPERSEDES,))


class Pulling:
    """The graph's part in one recall."""

    def __init__(self, runner: WalkRunner, view: View, namespace: str, legs: Legs) -> None:
        self._runner, self._view, self._namespace, self._legs = runner, view, namespace, legs

    async def pulls(self, board: Board) -> Pulls:
        """The pulls of the board's best candidates, towards memories that may be hits."""
        weights = self._legs.question.query.weights
        seeds = ranking(board.ids, board.base)[:SEEDS]
        if not len(seeds) or not (weights.link or weights.shared_name):
            return concatenated([])
        steps = await self._steps(board.ids[seeds], _OUTWARDS) if weights.link else None
        found = [self._of_seed(int(seed), int(board.ids[seed]), steps) for seed in seeds]
        pulls = concatenated([one for one in found if one is not None])
        if not len(pulls.targets):
            return pulls
        kept = await self._legs.eligible(pulls.targets)
        return Pulls(*(getattr(pulls, name)[kept] for name in Pulls.__slots__))

    async def superseded(self, ids: Ints) -> Superseded:
        """Which of some memories a valid link says to be superseded, by a memory that is valid; the filter does not
        matter to that."""
        share = self._legs.question.query.weights.superseded
        nothing = Superseded(np.full(len(ids), -1, np.int64), share)
        if not share or not len(ids):
            return nothing
        ground = await self._runner.ground(self._view, self._namespace, _SUPERSEDING)
        linked = ids
        if isinstance(ground, HotGround):
            if SUPERSEDES not in ground.graph.types:
                return nothing
            # To number those without links would copy the numbers of all.
            linked = ids[ground.graph.find(ids) >= 0]
        steps = await ground.run(linked, one_step, self._runner.work())
        if not len(steps.targets):
            return nothing
        holds = await self._legs.valid(steps.targets)
        return superseded(ids, steps.origins[holds], steps.targets[holds], share)

    async def neighbours(self, ids: Ints) -> tuple[OneStep, Floats]:
        """The links of memories, either way, and the strength of each: 1 / (1 + weight)."""
        steps, _ = await self._steps(ids, _EITHER_WAY)
        return steps, 1 / (1 + steps.weights)

    async def _steps(self, ids: Ints, walk: WalkFilter) -> tuple[OneStep, Ground]:
        ground = await self._runner.ground(self._view, self._namespace, walk)
        return await ground.run(ids, one_step, self._runner.work()), ground

    def _of_seed(self, place: int, memory_id: int, steps: tuple[OneStep, Ground] | None) -> Pulls | None:
        by_link = self._by_link(memory_id, *steps) if steps and len(steps[0].origins) else _NOTHING
        by_name = self._by_name(memory_id)
        if not len(by_link[0]) and not len(by_name[0]):
            return None
        return joined_pulls(place, by_link, by_name)

    def _by_link(self, memory_id: int, steps: OneStep, ground: Ground) -> tuple[Ints, Floats, Ints]:
        weights = self._legs.question.query.weights
        mine = np.flatnonzero((steps.origins == memory_id) & (steps.targets != memory_id))
        factors = _factors(ground.type_names(steps.types[mine].astype(np.int64)), weights.link_types)
        shares = np.minimum(weights.link * factors / (1 + steps.weights[mine]), 1.0)
        telling = shares > 0
        return steps.targets[mine][telling], shares[telling], steps.links[mine][telling]

    def _by_name(self, memory_id: int) -> tuple[Ints, Floats, Ints]:
        """By each name that the seed and 1 to 50 others bear, unless the query says it: both are found by it then."""
        weight, said = self._legs.question.query.weights.shared_name, self._legs.question.said.spans
        if not weight or not isinstance(self._legs, HotLegs):
            return _NOTHING
        targets, shares, names = [], [], []
        for name, bearers in self._legs.bearers(memory_id, NAME_CAP).items():
            if len(bearers) > 1 and name not in said:
                others = bearers[bearers != memory_id]
                targets.append(others)
                shares.append(np.full(len(others), min(weight / np.sqrt(len(others)), 1.0)))
                names.append(np.full(len(others), name))
        if not targets:
            return _NOTHING
        return np.concatenate(targets), np.concatenate(shares), np.concatenate(names)


_NOTHING = (np.empty(0, np.int64), np.empty(0), np.empty(0, np.int64))


def _factors(types: list[str], by_type: Mapping[str, float]) -> Floats:
    return np.array([by_type.get(name, 1.0) for name in types], np.float64)
