"""What a consumer is written against: the events it gets, what it promises, how it refuses one."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from sfm_graph.settings import Settings

SOURCE_PREFIX = "urn:sfm-graph:"


class Poison(Exception):
    """This one event can never be handled: it goes to the dead letters with the reason, the rest goes on.

    A handler that was given several events names the one at fault. What stands before it is handled again, by itself,
    and what stands behind it afterwards.
    """

    def __init__(self, reason: str, event: "Received | None" = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.event = event


class Retry(Exception):
    """Not now: the same events come again later, after a growing pause or `after_seconds`."""

    def __init__(self, reason: str, after_seconds: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.after_seconds = after_seconds


@dataclass(frozen=True, slots=True)
class Received:
    """One event as it came from the bus; what a consumer gets to see has passed `sfm_consumers.inspection`.

    `position` is a Kafka offset or a Redis entry id. `key` is the namespace and the entity's id, None for the end of
    a namespace, which comes once in every partition. `attributes` are CloudEvents context attributes without `ce_`.
    `data` is a JSON object that docs/events describes.
    """

    topic: str
    partition: int
    position: str
    key: str | None
    attributes: Mapping[str, str]
    data: bytes

    @property
    def id(self) -> str:
        """The same at each delivery, unique within the source: an idempotency key."""
        return self.attributes["id"]

    @property
    def log(self) -> str:
        """The change log that `sequence` belongs to: a restored database has another."""
        return self.attributes["source"].removeprefix(SOURCE_PREFIX)

    @property
    def sequence(self) -> int:
        """Of one key within one log, later changes have a larger one."""
        return int(self.attributes["sequence"])

    def value(self) -> dict[str, Any]:
        """The data, parsed: change, namespace, entity, entity_id, id, operation, at, before, after.

        Raises Poison when the data is not a JSON object.
        """
        try:
            value = orjson.loads(self.data)
        except orjson.JSONDecodeError as error:
            raise Poison(f"the data is not JSON: {error}", self) from error
        if not isinstance(value, dict):
            raise Poison("the data is not a JSON object", self)
        return value


def printable(text: str) -> str:
    """Text from elsewhere, fit for a log or a header: what is not printable is escaped, be it a line break, a
    terminal's sequence, or what changes the direction of letters."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


class Consumer(Protocol):
    """Something that is done with events."""

    @property
    def name(self) -> str:
        """What metrics, the ledger and dead letters call it."""

    @property
    def topics(self) -> Sequence[str]:
        """What it reads: `memory.events`, `link.events` or both."""

    async def handle(self, events: Sequence[Received]) -> None:
        """Take these events, of one partition and in its order; the effect is durable when this returns.

        Calls for different partitions overlap. No event comes that the ledger knows as handled; one whose effect a
        crash let happen unrecorded comes again. Raises Poison for one event that can never be handled, and Retry,
        OSError, an httpx transport error or an SfmError of status 503 for what will pass. What else it raises is
        tried a few times, then the event at fault goes to the dead letters. It may be cancelled in the middle.
        """

    async def aclose(self) -> None:
        """Let go of what it holds; no `handle` is running any more."""


Options = Mapping[str, str]
# What an entry point of the group `sfm_consumers.consumers` names. Raises SettingsError for options it cannot use,
# and what is a Retry when it cannot reach what it writes to.
Open = Callable[[Settings, Options], Awaitable[Consumer]]
