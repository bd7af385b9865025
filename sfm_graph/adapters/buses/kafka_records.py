"""Events as Kafka's records, and what of them is sent together."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sfm_graph.domain.event import CONTENT_TYPE, Event

log = logging.getLogger(__name__)

# No broker should be asked to take more as one message: it would have to allow requests beyond its default 100 MB.
MAX_EVENT_BYTES = 8 * 1024**2
# What is sent before anything is waited for; bounds memory, and requests while every partition takes part.
ROUND_BYTES = 8 * 1024**2

_STATES = b',"before":'
_NO_STATES = b',"before":null,"after":null,"truncated":true}'


@dataclass(slots=True)
class Record:
    """One message. `id` is its event's."""

    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]
    id: str

    @property
    def size(self) -> int:
        """Bytes of the value."""
        return len(self.value or b"")

    @property
    def is_least(self) -> bool:
        """Nothing can be left out."""
        return self.value is None or self.value.endswith(_NO_STATES)

    def cut(self) -> "Record":
        """The same without the states, for a broker that does not take them."""
        log.warning("event %s is too large for Kafka (%d bytes): sent without its states", self.id, self.size)
        return replace(self, value=without_states(self.value or b""))


@dataclass(slots=True)
class Lane:
    """What one partition gets. The first `done` records are acknowledged; `refused` after them were too large."""

    topic: str
    partition: int
    records: list[Record]
    done: int = 0
    refused: int = 0

    def fill(self, batch: Any, start: int, max_bytes: int) -> int:
        """Put records from `start` on into a batch, one at least, and close it; returns how many."""
        count = 0
        for at in range(start, len(self.records)):
            record = self.records[at]
            if count and batch.size() + record.size > max_bytes:
                break
            if batch.append(timestamp=None, key=record.key, value=record.value, headers=record.headers) is None:
                break
            count += 1
        batch.close()
        return count


def records_of(event: Event, *, tombstones: bool) -> list[Record]:
    """The event's record, and its tombstone where topics are compacted and nothing of the entity is left."""
    headers = [(f"ce_{name}", value.encode()) for name, value in event.attributes]
    headers.append(("content-type", CONTENT_TYPE.encode()))
    if event.trace is not None:
        # As instrumented consumers of Kafka look for it, beside CloudEvents' own.
        headers.append(("traceparent", event.trace.encode()))
    record = Record(_key(event, tombstones), event.data, headers, event.id)
    if record.size > MAX_EVENT_BYTES:
        record = record.cut()
    if tombstones and event.ends and event.key is not None:
        return [record, Record(record.key, None, headers, event.id)]
    return [record]


def without_states(data: bytes) -> bytes:
    """An event's data with `before` and `after` null and `truncated` true."""
    # Inside of JSON strings quotes are escaped, so the first match is the member itself. Parsing could take a second.
    return data[: data.index(_STATES)] + _NO_STATES


def rounds(events: Sequence[Event]) -> Iterator[Sequence[Event]]:
    """The events in order, in runs of ROUND_BYTES."""
    start = size = 0
    for at, event in enumerate(events):
        bytes_here = min(len(event.data), MAX_EVENT_BYTES)
        if at > start and size + bytes_here > ROUND_BYTES:
            yield events[start:at]
            start, size = at, 0
        size += bytes_here
    if start < len(events):
        yield events[start:]


def _key(event: Event, compacted: bool) -> bytes | None:
    if event.key is not None:
        return event.key.encode()
    # Compacted topics refuse messages without a key. Those of memories and links have an id after the last slash.
    return f"{dict(event.attributes)['subject'].rpartition('/')[0]}/".encode() if compacted else None
