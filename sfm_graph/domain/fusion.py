"""Fusion: one score from many parts. Pure functions over arrays; ties are broken by the lower id everywhere.

Legs are joined by a convex sum of scaled scores, which beats reciprocal-rank fusion at the head (Bruch, Gai, Ingber
2023, "An Analysis of Fusion Functions for Hybrid Retrieval"). What a query says of a memory beside its text is added
as a bonus. Then memories are pulled along links and shared names towards the best few, never past them
(docs/decisions/0006). At last what is superseded loses a share of its score.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sfm_graph.domain.recall import Leg, LegScore

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SEEDS = 4
# Memories that only links lead to, whose own scores have to be read.
MAX_EXPANDED = 64
# A name that more memories bear connects nothing.
NAME_CAP = 50
HALF_LIFE_SECONDS = 30 * 86_400.0


@dataclass(frozen=True, slots=True)
class Part:
    """One part of n candidates' scores: raw measures and the same scaled to [0, 1], shape (n,), and the weight."""

    weight: float
    raw: Floats
    values: Floats


@dataclass(frozen=True, slots=True)
class Board:
    """n candidates, in any order, and the parts of their scores before anything is pulled."""

    ids: Ints
    parts: Mapping[Leg, Part]

    @property
    def base(self) -> Floats:
        """The weighted sum of the parts, shape (n,)."""
        total = np.zeros(len(self.ids))
        for part in self.parts.values():
            total += part.weight * part.values
        return total

    def extended(self, other: "Board") -> "Board":
        """With the candidates of another board of the same parts behind its own."""
        parts = {
            leg: Part(
                part.weight,
                np.concatenate([part.raw, other.parts[leg].raw]),
                np.concatenate([part.values, other.parts[leg].values]),
            )
            for leg, part in self.parts.items()
        }
        return Board(np.concatenate([self.ids, other.ids]), parts)


def scaled(raw: Floats, top: float) -> Floats:
    """Scores so that a leg's best, `top`, is 1; a score below 0 counts as 0."""
    return np.clip(raw, 0.0, top) / top if top > 0 else np.zeros(len(raw))


def product_value(cosines: Floats, importances: Floats) -> Floats:
    """max(0, cosine) x importance on its scale: in [0, 1], monotone in both."""
    return np.clip(cosines, 0.0, 1.0) * importances


def recency_value(ages: Floats) -> Floats:
    """2 ** (-age / 30 days), age in seconds >= 0."""
    return np.exp2(-ages / HALF_LIFE_SECONDS)


def ranking(ids: Ints, scores: Floats) -> Ints:
    """Places of candidates, best first, ties by id."""
    return np.lexsort((ids, -scores))


@dataclass(frozen=True, slots=True)
class Pulls:
    """m connections from seeds to other memories; shape (m,) each.

    `seeds`: places on the board; `shares` in [0, 1]; `links`: a link's id, -1 for none; `names`: a proper name's id,
    -1 for none.
    """

    seeds: Ints
    targets: Ints
    shares: Floats
    links: Ints
    names: Ints


def joined_pulls(seed: int, by_link: tuple[Ints, Floats, Ints], by_name: tuple[Ints, Floats, Ints]) -> Pulls:
    """The pulls of one seed. Of each kind (targets, shares, link or name ids) the strongest for a target counts.

    A target that a link and a name lead to gets 1 - (1 - a)(1 - b).
    """
    link_targets, link_shares, links = _strongest(*by_link)
    name_targets, name_shares, names = _strongest(*by_name)
    targets = np.union1d(link_targets, name_targets)
    stay = np.ones(len(targets))
    chosen_links, chosen_names = np.full(len(targets), -1, np.int64), np.full(len(targets), -1, np.int64)
    at = np.searchsorted(targets, link_targets)
    stay[at] *= 1 - link_shares
    chosen_links[at] = links
    at = np.searchsorted(targets, name_targets)
    stay[at] *= 1 - name_shares
    chosen_names[at] = names
    return Pulls(np.full(len(targets), seed, np.int64), targets, 1 - stay, chosen_links, chosen_names)


def _strongest(targets: Ints, shares: Floats, carriers: Ints) -> tuple[Ints, Floats, Ints]:
    """Each target once, ascending, with its greatest share; of equal ones the lowest carrier."""
    order = np.lexsort((carriers, -shares, targets))
    targets, shares, carriers = targets[order], shares[order], carriers[order]
    first = np.ones(len(targets), np.bool_)
    first[1:] = targets[1:] != targets[:-1]
    return targets[first], shares[first], carriers[first]


def concatenated(pulls: Sequence[Pulls]) -> Pulls:
    """All pulls, seed after seed."""
    empty = np.empty(0, np.int64)
    if not pulls:
        return Pulls(empty, empty, np.empty(0), empty, empty)
    return Pulls(*(np.concatenate([getattr(one, name) for one in pulls]) for name in Pulls.__slots__))


def to_be_read(board: Board, pulls: Pulls) -> Ints:
    """The targets that no leg has found whose scores should be read: those to which most can be lent."""
    if not len(pulls.targets):
        return pulls.targets
    fresh = ~np.isin(pulls.targets, board.ids)
    lent = pulls.shares[fresh] * board.base[pulls.seeds[fresh]]
    targets, lent, _ = _strongest(pulls.targets[fresh], lent, np.zeros(len(lent), np.int64))
    return targets[ranking(targets, lent)[:MAX_EXPANDED]]


@dataclass(frozen=True, slots=True)
class Pulled:
    """n candidates' final scores, and for each the place in Pulls of what has raised it, -1 for nothing."""

    scores: Floats
    by: Ints


def pulled(board: Board, pulls: Pulls) -> Pulled:
    """Each candidate part of the way up to the seed that raises it most: base + share x (seed's base - base)."""
    base = board.base
    scores, by = base.copy(), np.full(len(base), -1, np.int64)
    if not len(pulls.targets) or not len(base):
        return Pulled(scores, by)
    order = np.argsort(board.ids, kind="stable")
    rows = order[np.minimum(np.searchsorted(board.ids, pulls.targets, sorter=order), len(order) - 1)]
    gaps = np.where(board.ids[rows] == pulls.targets, base[pulls.seeds] - base[rows], 0.0)
    raising = np.flatnonzero(gaps > 0)
    raised = base[rows[raising]] + pulls.shares[raising] * gaps[raising]
    targets, best, places = _strongest(rows[raising], raised, raising)
    better = best > scores[targets]
    scores[targets[better]], by[targets[better]] = best[better], places[better]
    return Pulled(scores, by)


@dataclass(frozen=True, slots=True)
class Superseded:
    """Which of n candidates are superseded: by the memory with this id, -1 for none, shape (n,); the share of its
    score in [0, 1] that each of them loses."""

    by: Ints
    share: float

    def left(self, scores: Floats) -> Floats:
        """What is left of scores >= 0, shape (n,)."""
        return np.where(self.by >= 0, scores * (1 - self.share), scores)


def superseded(ids: Ints, targets: Ints, sources: Ints, share: float) -> Superseded:
    """What supersedes each of some memories, the newest of several, that is the one with the highest id.

    `targets`, `sources`: the ends of m links, shape (m,) each; a memory does not supersede itself.
    """
    by = np.full(len(ids), -1, np.int64)
    if not len(ids):
        return Superseded(by, share)
    order = np.argsort(ids, kind="stable")
    rows = order[np.minimum(np.searchsorted(ids, targets, sorter=order), len(ids) - 1)]
    chosen = (ids[rows] == targets) & (targets != sources)
    np.maximum.at(by, rows[chosen], sources[chosen])
    return Superseded(by, share)


def explained(
    board: Board, final: Pulled, pulls: Pulls, row: int, ranks: Mapping[Leg, Mapping[int, int]], reach: float,
    without: Superseded | None = None,
) -> tuple[LegScore, ...]:  # fmt: skip
    """The parts of one candidate's score, divided by what could be reached, so that they sum to at most 1.

    Legs always; what is beside them where it contributes. `ranks`: of each leg's candidates, by memory id.
    """
    memory_id = int(board.ids[row])
    legs = [
        LegScore(
            leg,
            ranks[leg].get(memory_id) if leg in ranks else None,
            float(part.raw[row]),
            part.weight / reach,
            float(part.weight * part.values[row] / reach),
        )
        for leg, part in board.parts.items()
        if leg in ranks or part.values[row] > 0
    ]
    place = int(final.by[row])
    if place >= 0:
        share = float(pulls.shares[place])
        gained = float(final.scores[row] - board.base[row]) / reach
        legs.append(LegScore(Leg.GRAPH, None, share, share, gained))
    if without is not None and without.share and without.by[row] >= 0:
        lost = float(without.share * final.scores[row]) / reach
        legs.append(LegScore(Leg.SUPERSEDED, None, 1.0, without.share, -lost))
    return tuple(legs)
