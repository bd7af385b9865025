"""What a consumer has handled, so that an event that comes again has no second effect."""

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple, Protocol

from sfm_consumers.contract import Received


class Place(NamedTuple):
    """What one series of growing sequence numbers belongs to, within a topic.

    The log is part of it: after a restore events of the old log may come again between those of the new one, and
    neither may make the other look new.
    """

    log: str
    key: str


class Ledger(Protocol):
    """The last sequence handled of every place, of one consumer. One contract suite runs on every implementation."""

    async def last(self, topic: str, places: Collection[Place]) -> Mapping[Place, int]:
        """The last sequence of each of these places that has one. Raises DatabaseUnavailable."""

    async def record(self, topic: str, handled: Mapping[Place, int]) -> None:
        """Returns when these are durable; a place never goes back. Raises DatabaseUnavailable."""

    async def aclose(self) -> None:
        """Let go of file or connections."""


def place_of(event: Received) -> Place:
    """Where an event counts.

    The end of a namespace has no key and comes to each partition; of two namespaces the later change may end first,
    so that each is a series of its own.
    """
    if event.key is None:
        return Place(event.log, f"p{event.partition}/{event.attributes['subject']}")
    return Place(event.log, f"k{event.key}")


def handled_by(events: Iterable[Received]) -> dict[Place, int]:
    """What to record once all of these, of one partition, are handled."""
    handled: dict[Place, int] = {}
    for event in events:
        place = place_of(event)
        handled[place] = max(event.sequence, handled.get(place, -1))
    return handled


def fresh_of(events: Iterable[Received], last: Mapping[Place, int]) -> list[Received]:
    """The events that are behind the last of their place, also among themselves; order is kept."""
    seen = dict(last)
    fresh = []
    for event in events:
        place = place_of(event)
        if event.sequence > seen.get(place, -1):
            seen[place] = event.sequence
            fresh.append(event)
    return fresh
