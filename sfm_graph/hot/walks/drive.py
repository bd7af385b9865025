"""Running an algorithm over a hot graph within bounds."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sfm_graph.errors import WalkTooLarge
from sfm_graph.hot.graph.graph import HotGraph
from sfm_graph.hot.graph.lens import Lens
from sfm_graph.hot.walks.expansion import Along, Expand, Walking

T = TypeVar("T")

# What one request of an algorithm costs beside its links, in links: about 20 us, and a pass over all nodes.
LINKS_PER_EXPANSION = 400
NODES_PER_LINK = 200


@dataclass(slots=True)
class Work:
    """What one walk may still do: links to look at, and a deadline by `time.monotonic`."""

    links: int
    deadline: float

    def spend(self, links: int) -> None:
        """Count links. Raises WalkTooLarge when they are too many or the time is over."""
        self.links -= links
        if self.links < 0:
            raise WalkTooLarge("the walk meets too many links; narrow types, where or the number of hops")
        if time.monotonic() > self.deadline:
            raise WalkTooLarge("the walk ran out of time; narrow types, where or the number of hops")


class Drive(Generic[T]):
    """One run of an algorithm, which may be paused: `advance` takes a share of work, `result` is there at its end."""

    def __init__(self, walking: Walking[T], graph: HotGraph, lens: Lens, work: Work) -> None:
        self._walking = walking
        self._graph = graph
        self._lenses = {Along.FORWARDS: lens}
        self._work = work
        self._per_expansion = LINKS_PER_EXPANSION + graph.size // NODES_PER_LINK
        self.result: T
        self.done = False
        self._request = self._resume(walking.send, None)

    def advance(self, share: int) -> bool:
        """Do about `share` links of work, fewer when the next request exceeds it. Whether the run is done."""
        while not self.done and self._request is not None:
            request = self._request
            lens = self._lenses.get(request.along) or self._turned(request.along)
            if request.without is not None:
                lens = lens.excluding(request.without)
            rows = self._graph.rows(request.frontier, lens)
            links = sum(row.total for row in rows)
            share -= links + self._per_expansion
            if share < 0:
                break
            try:
                self._work.spend(links)
            except WalkTooLarge as error:
                self._request = self._resume(self._walking.throw, error)
            else:
                self._request = self._resume(self._walking.send, self._graph.steps(request.frontier, lens, rows))
        return self.done

    def finish(self) -> T:
        """Run to the end."""
        self.advance(2**62)
        return self.result

    def _turned(self, along: Along) -> Lens:
        lens = self._lenses[Along.FORWARDS]
        self._lenses[along] = lens.reversed() if along is Along.BACKWARDS else lens.outwards()
        return self._lenses[along]

    def _resume(self, go: Callable[[Any], Expand], value: object) -> Expand | None:
        try:
            return go(value)
        except StopIteration as end:
            self.done, self.result = True, end.value
            return None
