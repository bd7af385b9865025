"""Which memories are proposed as duplicates of which."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sfm_graph.domain.memory import Memory
from sfm_graph.domain.words import words

DEFAULT_THRESHOLD = 0.97
# Memories proposed for one merge.
MAX_MEMBERS = 20


class NearPair(NamedTuple):
    """Two memories by id, and the cosine of their vectors."""

    one: int
    other: int
    cosine: float


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A memory that says what another one says. `cosine`: with that one; `same_text`: the same words in the same
    order, in whatever spelling."""

    memory: Memory
    cosine: float
    same_text: bool


@dataclass(frozen=True, slots=True)
class DuplicateGroup:
    """The memory to keep, and those that would be merged into it, nearest first."""

    kept: Memory
    duplicates: tuple[Duplicate, ...]


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Groups by falling cosine of their nearest pair. `complete`: no more than these are known.

    `examined`: how many memories were compared.
    """

    groups: tuple[DuplicateGroup, ...]
    complete: bool
    examined: int


def same_words(one: Memory, other: Memory) -> bool:
    """Whether titles and contents hold the same words in the same order, whatever their case and punctuation."""
    return _words(one) == _words(other)


class Trait(NamedTuple):
    """What decides about a memory: its kind, whether it is the one to keep."""

    kind: str
    importance: float
    has_key: bool


class Proposal(NamedTuple):
    """The id of the memory to keep, and of those near to it with their cosines, nearest first."""

    kept: int
    others: tuple[tuple[int, float], ...]


def grouped(pairs: Sequence[NearPair], traits: Mapping[int, Trait]) -> list[Proposal]:
    """Groups out of pairs, nearest first; each memory is in one at most, and near to the one to keep.

    Pairs of two kinds are none. The one to keep of the nearest pair: the most important, then the one with a key,
    then the oldest. O(p log p) for p pairs, in whatever order they come.
    """
    found = sorted(
        (one for one in pairs if one.one in traits and one.other in traits and _same_kind(one, traits)),
        key=lambda one: (-one.cosine, one.one, one.other),
    )
    near: dict[int, list[tuple[int, float]]] = {}
    for one in found:
        near.setdefault(one.one, []).append((one.other, one.cosine))
        near.setdefault(one.other, []).append((one.one, one.cosine))
    taken: set[int] = set()
    groups: list[Proposal] = []
    for one in found:
        if one.one in taken or one.other in taken:
            continue
        kept = min((one.one, one.other), key=lambda id_: _rank(id_, traits[id_]))
        others = tuple((id_, cosine) for id_, cosine in near[kept] if id_ not in taken)[:MAX_MEMBERS]
        taken |= {kept, *(id_ for id_, _ in others)}
        groups.append(Proposal(kept, others))
    return groups


def _same_kind(pair: NearPair, traits: Mapping[int, Trait]) -> bool:
    return traits[pair.one].kind == traits[pair.other].kind


def _rank(id_: int, trait: Trait) -> tuple[float, bool, int]:
    return (-trait.importance, not trait.has_key, id_)


def _words(memory: Memory) -> list[str]:
    return words(f"{memory.title or ''}\n{memory.content}")
