"""Keyset pages: bounded slices of an ordered listing, and the cursors that name a place in it."""

import base64
import binascii
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, TypeVar

import orjson

from sfm_graph.domain import validate
from sfm_graph.errors import InvalidCursor

T = TypeVar("T")
MAX_PAGE = 100
MAX_CURSOR_CHARS = 4_096


class OrderField(StrEnum):
    """What a listing of memories is ordered by; ties by id."""

    ID = "id"
    CREATED_AT = "created_at"
    UPDATED_AT = "updated_at"
    IMPORTANCE = "importance"
    KEY = "key"
    COORDINATE = "coordinate"


@dataclass(frozen=True, slots=True)
class OrderBy:
    """The order of a listing. Ordering by KEY lists only memories that have one."""

    field: OrderField = OrderField.ID
    descending: bool = False


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One slice: items with a cursor each, and whether more follow."""

    items: tuple[T, ...]
    cursors: tuple[str, ...]
    has_next: bool

    @property
    def end_cursor(self) -> str | None:
        """Where the next page starts; None for an empty page."""
        return self.cursors[-1] if self.cursors else None


def page_size(first: object, *, default: int = 20, most: int = MAX_PAGE) -> int:
    """`first` in [1, most]. Raises InvalidInput."""
    return default if first is None else validate.integer(first, "first", low=1, high=most)


def cut_page(rows: Sequence[T], cursors: Sequence[str], first: int) -> Page[T]:
    """A page from up to `first` + 1 rows in order: the extra row only tells that more follow."""
    return Page(tuple(rows[:first]), tuple(cursors[:first]), len(rows) > first)


def fingerprint(*query: object) -> str:
    """A short hash of everything that determines a listing's order and members."""
    return hashlib.blake2b(repr(query).encode(), digest_size=6).hexdigest()


def encode_cursor(query: str, place: Sequence[Any]) -> str:
    """An opaque cursor for `place` (JSON values) in the listing with this fingerprint."""
    return base64.urlsafe_b64encode(orjson.dumps([query, *place])).decode().rstrip("=")


def decode_cursor(query: str, cursor: str | None) -> list[Any] | None:
    """The place that a cursor names; None without one. Raises InvalidCursor when it is of another query."""
    if cursor is None:
        return None
    if len(cursor) > MAX_CURSOR_CHARS:
        raise InvalidCursor("the cursor is damaged; start without one")
    try:
        raw = base64.b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        value = orjson.loads(raw)
    except (ValueError, binascii.Error) as exc:
        raise InvalidCursor("the cursor is damaged; start without one") from exc
    if not isinstance(value, list) or not value or value[0] != query:
        raise InvalidCursor("the cursor belongs to another query; start without one")
    return value[1:]
