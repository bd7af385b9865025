"""Whether a vector index that names fewer memories than one asks for has no more, or has lost some."""

import logging
import time
from dataclasses import dataclass

from sfm_graph.domain.recall import Candidates
from sfm_graph.ports.vector_index import Collection

log = logging.getLogger(__name__)

# How long it is believed that there are no more memories than the index named, once Postgres had no more either.
BELIEVED_SECONDS = 60.0
MAX_BELIEFS = 10_000

# What is searched: a collection, a namespace, and whether its windows.
Scope = tuple[Collection, int, bool]


@dataclass(frozen=True, slots=True)
class Few:
    """All that an index has of a namespace: its points, and how many memories that were looked for are among them."""

    points: int
    memories: int


class Beliefs:
    """Of which namespaces an index has all points, though it names fewer memories than one asks for.

    An index that was emptied looks like one of few memories: only Postgres can tell.
    """

    def __init__(self) -> None:
        self._points: dict[Scope, tuple[int, float]] = {}
        self._warned = -BELIEVED_SECONDS

    def holds(self, scope: Scope, points: int) -> bool:
        """Whether so many points are as many as there were when Postgres had no more."""
        known, until = self._points.get(scope, (0, 0.0))
        return time.monotonic() < until and points >= known

    def learn(self, scope: Scope, few: Few, answer: Candidates, *, whole: bool) -> None:
        """Compare with Postgres's answer to the same search; `whole`: no filter left anything out."""
        now = time.monotonic()
        if len(answer.ids) > few.memories:
            self._points.pop(scope, None)
            self._warn(scope, few, len(answer.ids), now)
        elif whole:
            if len(self._points) >= MAX_BELIEFS:
                self._points.clear()
            self._points[scope] = (few.points, now + BELIEVED_SECONDS)

    def _warn(self, scope: Scope, few: Few, there: int, now: float) -> None:
        if now - self._warned < BELIEVED_SECONDS:
            return
        self._warned = now
        log.warning(
            "the vector index has %d memories of namespace %d, Postgres at least %d; when this does not pass, points"
            " were lost: forget its position to have it filled anew", few.memories, scope[1], there,
        )  # fmt: skip
