"""Functional link types: at most one open link of the type from a memory, such as `works_at`.

A link is open when its validity has no end. One that opens closes those that are open: each ends where it begins.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sfm_graph.domain import validate
from sfm_graph.domain.identity import Entity, LinkId, MemoryId, encode_global_id
from sfm_graph.errors import Conflict, InvalidInput

MAX_FUNCTIONAL_TYPES = 50
# Clocks of several processes may differ by so much: what begins that soon is taken to have begun.
SKEW = timedelta(seconds=1)
_STEP = timedelta(microseconds=1)
# A beginning that is none, given as one.
ALWAYS = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class OpenLink:
    """An open link out of a memory. `begin` None: it always was valid."""

    id: LinkId
    target: MemoryId
    begin: datetime | None


@dataclass(frozen=True, slots=True)
class Room:
    """What becomes of a link that opens: its validity. `closed`: open links that end, each at the moment `at`."""

    begin: datetime | None
    end: datetime | None
    closed: tuple[LinkId, ...] = ()
    at: datetime | None = None


def functional_types(value: object) -> tuple[str, ...]:
    """Link types from their JSON form, a list of at most 50 names. Raises InvalidInput."""
    if not isinstance(value, list | tuple) or len(value) > MAX_FUNCTIONAL_TYPES:
        raise InvalidInput(
            f"functional_types is a list of at most {MAX_FUNCTIONAL_TYPES} link types", field="functional_types"
        )
    return tuple(
        sorted({validate.name(one, "functional_types", max_chars=validate.MAX_LINK_TYPE_CHARS) for one in value})
    )


def make_room(
    namespace: str,
    target: MemoryId,
    begin: datetime | None,
    others: Sequence[OpenLink],
    now: datetime,
    *,
    ended: datetime | None = None,
) -> Room:
    """What becomes of an open link to `target` beside the open ones of its type from the same memory.

    Without `begin` it goes on with the one to the same target, or begins now where it closes others, or where the
    stored link that it would replace has `ended`. One that begins before others ends where the first of them begins;
    ALWAYS begins before all. Raises Conflict where another begins at the same moment.
    """
    if begin is None:
        same = next((one for one in others if one.target == target), None)
        if same is not None and len(others) == 1:
            return Room(same.begin, None)
        begun = [_start(one.begin) for one in others if _start(one.begin) <= now + SKEW]
        if not begun and (ended is None or ended > now):
            return Room(None, min((one.begin for one in others if one.begin is not None), default=None))
        begin = max([now, *(one + _STEP for one in begun)])
    earlier = [one for one in others if _start(one.begin) < begin]
    later = [one.begin for one in others if one.begin is not None and one.begin > begin]
    for one in others:
        if _start(one.begin) == begin:
            there = encode_global_id(Entity.LINK, namespace, one.id)
            raise Conflict(
                f"the link {there} of this functional type begins at the same moment; end or remove it first",
                namespace=namespace, id=there,
            )  # fmt: skip
    closed = tuple(one.id for one in earlier)
    return Room(None if begin == ALWAYS else begin, min(later, default=None), closed, begin if earlier else None)


def _start(begin: datetime | None) -> datetime:
    return ALWAYS if begin is None else begin
