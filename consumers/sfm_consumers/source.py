"""Where events come from: partitions that this process has for a while, each read and confirmed in order."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


class Lost(Exception):
    """The partition belongs to another process by now; nothing of it may be confirmed here."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message as the bus has it, not yet looked at. `value` None is a tombstone of a compacted topic."""

    topic: str
    partition: int
    position: str
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]


class Claim(Protocol):
    """One partition for as long as this process has it. One task at a time uses it."""

    @property
    def topic(self) -> str:
        """The topic's name."""

    @property
    def partition(self) -> int:
        """The number within the topic."""

    async def fetch(self) -> Sequence[Message]:
        """The next messages in order; none when nothing came for a second or so. A bounded number.

        May be cancelled. Raises Lost, and EventBusUnavailable.
        """

    async def commit(self, position: str) -> None:
        """Everything up to and with this position never needs to come again.

        Raises Lost when the partition is another process's, and EventBusUnavailable.
        """

    async def lag(self) -> int | None:
        """How many messages are behind the last confirmed one; None when that is not known. Raises as `fetch`."""


class Listener(Protocol):
    """What a source tells about."""

    def gained(self, claim: Claim) -> None:
        """This process has the partition from now on."""

    async def lost(self, claims: Collection[Claim]) -> None:
        """Finish or abandon what is in hand of these within a deadline; afterwards nothing of them is confirmed."""

    def reachable(self, trouble: str | None) -> None:
        """The bus answers (None), or why it does not."""


class Source(Protocol):
    """A bus as one consumer group reads it."""

    async def run(self, listener: Listener) -> None:
        """Take part in the group until cancelled, through every failure of the bus.

        Returns only by an exception. A cancelled one has left the group: the other members go on at once.
        """

    async def dead_letter(self, message: Message, headers: Mapping[str, str]) -> None:
        """Put the message on `<topic>.dlq` with these headers in addition; returns when the bus has it for good.

        Raises EventBusUnavailable.
        """
