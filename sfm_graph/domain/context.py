"""Recall in a context: what the asker is busy with shifts the order of what the query finds.

    score = (1 - t) query + t text + 0.1 near + 0.1 recent,    t = 0.3 with a context text, else 0

query, text: the fused recall score, in [0, 1], by the query and by the context's text; 0 where not found by it.
near: 1 / (1 + d), d the Euclidean distance to the nearest of the recent coordinates that has as many axes; else 0.
recent: 2 ** (-age / 7 days), age the distance in time from the context's time to valid_from, or created_at; else 0.
"""

import math
from dataclasses import dataclass
from datetime import datetime

from sfm_graph.domain.identity import Coordinate
from sfm_graph.domain.memory import Memory
from sfm_graph.domain.recall import Hit, LegScore, Recall

TEXT_SHARE = 0.3
NEAR_BONUS = 0.1
RECENT_BONUS = 0.1
HALF_LIFE_SECONDS = 7 * 86_400.0
MAX_RECENT_COORDINATES = 100


@dataclass(frozen=True, slots=True)
class RecallContext:
    """What the asker is busy with: a text, the coordinates last visited, a time to be near to; each optional."""

    text: str | None = None
    coordinates: tuple[Coordinate, ...] = ()
    time: datetime | None = None


@dataclass(frozen=True, slots=True)
class ContextScore:
    """The parts of a score, each in [0, 1], before they are weighted; None where the context does not have it."""

    query: float
    text: float | None
    near: float | None
    recent: float | None

    @property
    def total(self) -> float:
        """The score by the formula above, in [0, 1.2]."""
        share = 0.0 if self.text is None else TEXT_SHARE
        return (
            (1 - share) * self.query
            + share * (self.text or 0.0)
            + NEAR_BONUS * (self.near or 0.0)
            + RECENT_BONUS * (self.recent or 0.0)
        )


@dataclass(frozen=True, slots=True)
class ContextHit:
    """A memory with its score in context. `legs` explain the query's part; none where only the text found it."""

    memory: Memory
    score: ContextScore
    legs: tuple[LegScore, ...]


def rank_in_context(by_query: Recall, by_text: Recall, context: RecallContext, first: int) -> list[ContextHit]:
    """The `first` best of all memories that either recall found, best first, ties by id."""
    queried = {hit.memory.id: hit for hit in by_query.hits}
    related = {hit.memory.id: hit for hit in by_text.hits}
    hits = [
        _in_context(hit.memory, queried.get(one), related.get(one), context)
        for one, hit in (related | queried).items()
    ]
    return sorted(hits, key=lambda hit: (-hit.score.total, hit.memory.id))[:first]


def _in_context(memory: Memory, queried: Hit | None, related: Hit | None, context: RecallContext) -> ContextHit:
    score = ContextScore(
        query=queried.score if queried else 0.0,
        text=None if context.text is None else related.score if related else 0.0,
        near=_near(memory.coordinate, context.coordinates) if context.coordinates else None,
        recent=_recent(memory.valid_from or memory.created_at, context.time) if context.time else None,
    )
    return ContextHit(memory, score, queried.legs if queried else ())


def _near(place: Coordinate, recent: tuple[Coordinate, ...]) -> float:
    distances = [math.dist(place, one) for one in recent if len(one) == len(place)]
    return 1 / (1 + min(distances)) if distances else 0.0


def _recent(moment: datetime, time: datetime) -> float:
    return float(2 ** (-abs((moment - time).total_seconds()) / HALF_LIFE_SECONDS))
