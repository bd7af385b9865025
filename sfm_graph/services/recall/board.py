"""The board of one recall: every candidate with the parts of its score."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sfm_graph.domain.dates import PartialDate
from sfm_graph.domain.fusion import (
    Board,
    Floats,
    Ints,
    Part,
    Pulled,
    Pulls,
    Superseded,
    product_value,
    recency_value,
    scaled,
)
from sfm_graph.domain.identity import Coordinate
from sfm_graph.domain.recall import Leg, union_of
from sfm_graph.services.recall.legs import Legs

# A name that more memories have is a bonus to those that a leg finds, and brings no candidates.
MAX_NAMED = 1_000
# Nearness of a memory that is linked with the one asked for.
LINKED = 0.5


@dataclass(frozen=True, slots=True)
class Nearness:
    """What `near` means: the memory, its neighbours, its coordinate; each where there is one."""

    memory_id: int | None
    coordinate: Coordinate | None
    neighbours: Ints
    places: Mapping[int, Coordinate] = field(default_factory=dict)

    def of(self, ids: Ints) -> Floats:
        """1 for the memory itself, 0.5 for its neighbours, or 1 / (1 + distance) if that is more; shape (n,)."""
        linked = np.where(np.isin(ids, self.neighbours), LINKED, 0.0)
        linked[ids == self.memory_id] = 1.0
        return np.maximum(linked, [self._closeness(self.places.get(one)) for one in ids.tolist()])

    def _closeness(self, place: Coordinate | None) -> float:
        if self.coordinate is None or place is None or len(place) != len(self.coordinate):
            return 0.0
        return 1 / (1 + math.dist(place, self.coordinate))


class Boards:
    """Makes boards of the same parts for the candidates of one recall."""

    def __init__(self, legs: Legs, named: Ints) -> None:
        self._legs = legs
        self._named = named
        self._tops = {
            leg: float(found.scores[0]) if len(found.scores) else 0.0 for leg, found in legs.candidates.items()
        }
        # Bonuses that some candidate gets: what could be reached in this recall.
        self._offered: set[Leg] = set()

    async def candidates(self) -> Ints:
        """The ids that a leg has found, and the memories that the query names; ascending."""
        found = union_of(self._legs.candidates.values())
        if len(self._named) > MAX_NAMED or self._legs.question.query.weights.name == 0:
            return found
        fresh = self._named[~np.isin(self._named, found)]
        return np.union1d(found, fresh[await self._legs.eligible(fresh)])

    async def of(self, ids: Ints, near: Nearness | None) -> Board:
        """The board of some memories."""
        weights, said = self._legs.question.query.weights, self._legs.question.said
        raws = await self._legs.raws(ids)
        parts = {
            leg: Part(share, raws[leg], scaled(raws[leg], self._tops[leg]))
            for leg, share in self._legs.shares.items()
        }
        traits = await self._legs.traits(ids)
        said_ids = np.fromiter(said.spans, np.int64)
        bonuses = {
            Leg.NAME: (weights.name, np.isin(ids, self._named)),
            Leg.AUTHOR: (weights.author, np.isin(traits.authors, said_ids)),
            Leg.DATE: (weights.date, _agreeing(traits.dates, said.dates)),
        }
        for leg, (weight, holds) in bonuses.items():
            if weight > 0:
                parts[leg] = _plain(weight, holds.astype(np.float64))
                if holds.any():
                    self._offered.add(leg)
        if weights.importance > 0 or weights.product > 0:
            values = (await self._legs.importance_scale()).of(traits.importances)
            if weights.importance > 0:
                parts[Leg.IMPORTANCE] = Part(weights.importance, traits.importances, values)
            if weights.product > 0 and Leg.DENSE in raws:
                parts[Leg.PRODUCT] = _plain(weights.product, product_value(raws[Leg.DENSE], values))
        if weights.recency > 0:
            parts[Leg.RECENCY] = _plain(weights.recency, recency_value(traits.ages))
        if near is not None and weights.near > 0:
            parts[Leg.NEAR] = _plain(weights.near, near.of(ids))
        return Board(ids, parts)

    def reach(self, board: Board) -> float:
        """The highest base that a memory could have in this recall: by what scores are divided, at least 1."""
        always = {Leg.IMPORTANCE, Leg.PRODUCT, Leg.RECENCY, Leg.NEAR} | self._legs.shares.keys()
        total = sum(part.weight for leg, part in board.parts.items() if leg in always or leg in self._offered)
        return max(total, 1e-9)


@dataclass(frozen=True, slots=True)
class Ranked:
    """Every candidate with its score before and after what is superseded has lost its share; `order`: places on the
    board, best first by what is left."""

    board: Board
    pulls: Pulls
    final: Pulled
    superseded: Superseded
    left: Floats
    order: Ints
    reach: float


def _plain(weight: float, values: Floats) -> Part:
    return Part(weight, values, values)


def _agreeing(dates: Ints, asked: Sequence[PartialDate]) -> NDArray[np.bool_]:
    if not asked:
        return np.zeros(len(dates), np.bool_)
    return np.array([bool(one) and any(date.agrees(one) for date in asked) for one in dates.tolist()], np.bool_)
