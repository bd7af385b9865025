"""Versions: how a memory or link looked between two changes of it, and what is different between two of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, TypeVar

import orjson

from sfm_graph.domain.change import Operation
from sfm_graph.domain.link import Link
from sfm_graph.domain.memory import Memory, WriteOperation

T = TypeVar("T", Memory, Link)

# What a version says of itself rather than of what was remembered.
_BOOKKEEPING = frozenset({"id", "version", "created_at", "updated_at"})


@dataclass(frozen=True, slots=True)
class Version(Generic[T]):
    """How a memory or link looked until the next change of it.

    `known_from` and `known_to` are stamps of commits: what was known at a moment from `known_from` until before
    `known_to`. `known_from` is None where the log does not say when it began, `known_to` None of the present version.
    `operation`: what brought it about, None where the log does not say; `ended_by`: what ended it.
    `trace`: the request that wrote it, as a W3C `traceparent`, where that was traced.
    """

    state: T
    operation: Operation | None
    known_from: datetime | None
    known_to: datetime | None
    ended_by: Operation | None
    trace: str | None = None

    @property
    def version(self) -> int:
        """The number that it has: 1 at first."""
        return self.state.version


@dataclass(frozen=True, slots=True)
class Restored:
    """A memory as it is again: CREATED when it was forgotten, with the `links` that came back with it."""

    memory: Memory
    operation: WriteOperation
    links: tuple[Link, ...] = ()


class DifferenceKind(StrEnum):
    """What became of a value between two versions."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"


@dataclass(frozen=True, slots=True)
class Difference:
    """One value that differs: `path` is a field, or the keys under one, with dots between them.

    Values are JSON; `before` is None of what was added, `after` of what was removed.
    """

    path: str
    kind: DifferenceKind
    before: Any
    after: Any


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Difference]:
    """What turns one state into another, by path. States are JSON as `domain.states` makes it.

    Objects are compared key by key, lists as a whole; so is an object with a key that is empty or holds a dot, whose
    path could not be told from another. What a version says of itself (id, version, created_at, updated_at) is left
    out.
    """
    return sorted(_compared((), _telling(before), _telling(after)), key=lambda one: one.path)


def applied(state: Mapping[str, Any], changes: Sequence[Difference]) -> dict[str, Any]:
    """A state with the values of `after`: the inverse of `differences`, as far as that tells."""
    result = _copied(state)
    for one in changes:
        *way, last = one.path.split(".")
        place = result
        for key in way:
            place = place[key]
        if one.kind is DifferenceKind.REMOVED:
            del place[last]
        else:
            place[last] = one.after
    return result


def _telling(state: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in state.items() if name not in _BOOKKEEPING}


def _compared(path: tuple[str, ...], before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Difference]:
    for key in before.keys() | after.keys():
        here = (*path, key)
        if key not in after:
            yield Difference(".".join(here), DifferenceKind.REMOVED, before[key], None)
        elif key not in before:
            yield Difference(".".join(here), DifferenceKind.ADDED, None, after[key])
        elif _descends(before[key], after[key]):
            yield from _compared(here, before[key], after[key])
        elif _text(before[key]) != _text(after[key]):
            yield Difference(".".join(here), DifferenceKind.CHANGED, before[key], after[key])


def _descends(before: Any, after: Any) -> bool:
    return all(isinstance(one, Mapping) and all(key and "." not in key for key in one) for one in (before, after))


def _text(value: Any) -> bytes:
    # True, 1 and 1.0 are equal in Python, not in JSON.
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def _copied(value: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copied(one) if isinstance(one, Mapping) else one for key, one in value.items()}
