"""How many of something may be under way at once, and where a WebSocket counts."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from starlette.types import Scope

from sfm_graph.domain.deadline import Deadline, under
from sfm_graph.errors import Overloaded

# Of a WebSocket's scope: its place. Of a request's: what is called once its answer is a stream.
PLACE: Final = "sfm_graph.place"
BECOMES_STREAM: Final = "sfm_graph.becomes_stream"


class Gate:
    """Lets at most `limit` of something in at once."""

    def __init__(self, limit: int, what: str) -> None:
        self._limit = limit
        self._what = what
        self.inside = 0

    def enter(self) -> None:
        """Raises Overloaded when it is full."""
        self.check()
        self.inside += 1

    def check(self) -> None:
        """Raises Overloaded when it is full."""
        if self.inside >= self._limit:
            raise Overloaded(f"{self._limit} {self._what} are under way, and more would only be late; try again")

    def leave(self) -> None:
        """Make room for the next one."""
        self.inside -= 1


class Newcomers:
    """WebSockets that have not said yet who they are: so many at once, and so many of one network."""

    def __init__(self, limit: int, limit_each: int) -> None:
        self._every = Gate(limit, "WebSockets that are not acknowledged")
        self._limit_each = limit_each
        self._of: Counter[str] = Counter()

    def enter(self, network: str) -> None:
        """Raises Overloaded when there are too many."""
        if self._of[network] >= self._limit_each:
            raise Overloaded(f"{self._limit_each} WebSockets from there are not acknowledged yet; try again")
        self._every.enter()
        self._of[network] += 1

    def leave(self, network: str) -> None:
        """Make room for the next one."""
        self._every.leave()
        self._of[network] -= 1
        if not self._of[network]:
            del self._of[network]


class Place:
    """Where one WebSocket counts: among the newcomers until it is acknowledged, then among the streams. What is asked
    on it, unless it is a subscription, counts as a request and has its deadline."""

    def __init__(
        self, newcomers: Newcomers, streams: Gate, requests: Gate, *, network: str, milliseconds: int
    ) -> None:
        """Enters among the newcomers. Raises Overloaded, also when there is no place for another stream."""
        streams.check()
        newcomers.enter(network)
        self._newcomers: Newcomers | None = newcomers
        self._streams = streams
        self._requests = requests
        self._network = network
        self._seconds = milliseconds / 1000

    def acknowledge(self) -> None:
        """Count among the streams from now on. Raises Overloaded."""
        if self._newcomers is not None:
            self._streams.enter()
            self._newcomers.leave(self._network)
            self._newcomers = None

    def leave(self) -> None:
        """The socket has ended."""
        if self._newcomers is not None:
            self._newcomers.leave(self._network)
        else:
            self._streams.leave()

    @contextmanager
    def request(self) -> Iterator[Deadline]:
        """One query or mutation. Raises Overloaded."""
        self._requests.enter()
        try:
            with under(Deadline(time.monotonic() + self._seconds)) as deadline:
                yield deadline
        finally:
            self._requests.leave()


def place_of(scope: Scope) -> Place | None:
    """The place of a WebSocket; None where nothing admits."""
    found: Place | None = scope.get(PLACE)
    return found


def begin_stream(scope: Scope) -> None:
    """Let the answer of a request be a stream from now on: counted as one, without a deadline. Raises Overloaded."""
    begins = scope.get(BECOMES_STREAM)
    if begins is not None:
        begins()
