"""A reader's place in the change log, and the signed text that carries it outside.

A place is a snapshot, not a number: changes become visible in another order than they are numbered. A delta too large
for one page is read by id between two snapshots, so a place may also lie inside of a delta.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from uuid import UUID

from sfm_graph.domain.change import Change
from sfm_graph.domain.snapshot import Snapshot
from sfm_graph.errors import CursorExpired, InvalidCursor

# 1,000 transactions in progress take about 2,100 characters, 10,000 half of this.
MAX_CHARS = 65_536
_VERSION = 1
_MAC_BYTES = 16
# Tells a damaged cursor from one of another log, whose signature cannot be checked.
_CHECKSUM_BYTES = 4
_LOG_BYTES = 8


@dataclass(frozen=True, slots=True)
class Position:
    """All that `seen` sees was read, and of what `until` sees beyond it the changes up to id `last_id`."""

    seen: Snapshot
    until: Snapshot | None = None
    last_id: int = 0

    def after(self, part: "Slice") -> "Position":
        """The place behind a slice that was read from here."""
        if part.complete:
            return Position(part.until)
        return Position(self.seen, part.until, part.changes[-1].id if part.changes else self.last_id)

    def within(self, until: Snapshot, last_id: int) -> "Position":
        """The place behind one change of a delta that goes up to `until`."""
        return Position(self.seen, until, last_id)


@dataclass(frozen=True, slots=True)
class Slice:
    """Changes by id from a place on, out of those that `until` sees; all of these when `complete`."""

    until: Snapshot
    changes: tuple[Change, ...]
    complete: bool


@dataclass(frozen=True, slots=True)
class ChangeLog:
    """What cursors are signed with and name. `pruned_xid`: changes up to this transaction may be gone."""

    epoch: UUID
    key: bytes
    pruned_xid: int

    @property
    def id(self) -> str:
        """16 hexadecimal digits: what events call the log that their sequences belong to."""
        return self.epoch.bytes[:_LOG_BYTES].hex()

    def keeps(self, seen: Snapshot) -> bool:
        """Whether everything that a snapshot has not seen is still there."""
        return seen.covers(self.pruned_xid)

    def serves(self, before: "ChangeLog", seen: Snapshot) -> bool:
        """Whether a reader that began with the log as it was `before` can go on behind a snapshot."""
        return self.epoch == before.epoch and self.keeps(seen)

    @property
    def beginning(self) -> Position:
        """The place before all that is surely still there."""
        return Position(Snapshot(f"{self.pruned_xid + 1}:{self.pruned_xid + 1}:"))

    def encode(self, namespace_id: int, position: Position) -> str:
        """The cursor of a place in a namespace's changes: opaque, URL-safe, some 80 characters."""
        parts = [position.seen] if position.until is None else [position.seen, position.until]
        body = bytearray([_VERSION]) + self.epoch.bytes[:_LOG_BYTES]
        body += _varint(namespace_id) + _varint(position.last_id) + _varint(len(parts))
        for snapshot in parts:
            body += _packed(snapshot)
        body += _checksum(body)
        return base64.urlsafe_b64encode(bytes(body) + self._mac(body)).decode().rstrip("=")

    def decode(self, cursor: str) -> tuple[int, Position]:
        """Namespace id and place. Raises InvalidCursor for what this service never gave out, CursorExpired for a
        cursor of another log or of changes that are gone."""
        raw = _raw(cursor)
        body, mac = raw[:-_MAC_BYTES], raw[-_MAC_BYTES:]
        place, checksum = body[:-_CHECKSUM_BYTES], body[-_CHECKSUM_BYTES:]
        if len(place) <= 1 + _LOG_BYTES or place[0] != _VERSION or checksum != _checksum(place):
            raise InvalidCursor(_DAMAGED)
        if place[1 : 1 + _LOG_BYTES] != self.epoch.bytes[:_LOG_BYTES]:
            # Whoever signed it may have had another key: what came after it is not known here.
            raise expired("the cursor belongs to another change log")
        if not hmac.compare_digest(mac, self._mac(body)):
            raise InvalidCursor(_DAMAGED)
        namespace_id, position = _unpacked(place[1 + _LOG_BYTES :])
        if not self.keeps(position.seen):
            raise expired("the changes after this cursor are no longer kept")
        return namespace_id, position

    def _mac(self, body: bytes | bytearray) -> bytes:
        return hmac.digest(self.key, bytes(body), hashlib.sha256)[:_MAC_BYTES]


_DAMAGED = "the cursor is damaged; beside a cursor, `beginning` and `now` are places to begin at"
RESUME = "export the namespace, then follow from the cursor that the export names"


def expired(reason: str) -> CursorExpired:
    """The error of a cursor from which nothing can be read on."""
    return CursorExpired(f"{reason}; {RESUME}", resume=RESUME)


def _raw(cursor: str) -> bytes:
    if len(cursor) > MAX_CHARS:
        raise InvalidCursor(_DAMAGED)
    try:
        return base64.b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error) as error:
        raise InvalidCursor(_DAMAGED) from error


def _checksum(body: bytes | bytearray) -> bytes:
    return hashlib.blake2b(body, digest_size=_CHECKSUM_BYTES).digest()


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


@lru_cache(maxsize=256)
def _packed(snapshot: Snapshot) -> bytes:
    """The first id, the distance to the end, and the distances between transactions in progress."""
    start, end, running = snapshot.bounds()
    steps, last = [], start
    for xid in running:
        steps.append(xid - last)
        last = xid
    return b"".join(map(_varint, (start, end - start, len(steps), *steps)))


def _unpacked(body: bytes) -> tuple[int, Position]:
    numbers = _numbers(body)
    namespace_id, last_id, count = numbers[:3]
    place, snapshots = 3, []
    for _ in range(count):
        start, length, running = numbers[place : place + 3]
        place += 3
        xids, last = [], start
        for step in numbers[place : place + running]:
            last += step
            xids.append(last)
        place += running
        snapshots.append(Snapshot(f"{start}:{start + length}:{','.join(map(str, xids))}"))
    return namespace_id, Position(snapshots[0], snapshots[1] if count > 1 else None, last_id)


def _numbers(body: bytes) -> Sequence[int]:
    found, number, shift = [], 0, 0
    for byte in body:
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            found.append(number)
            number, shift = 0, 0
    return found
