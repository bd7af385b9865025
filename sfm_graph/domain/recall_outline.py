"""The outline of an answered recall: ids, scores and explanations, no word of any memory.

As bytes it is JSON, [format, reranked, [hit, ...]]; a hit is [id, score, expanded, legs, carrier, duplicates,
superseded by or null], a leg [name, rank, raw score, weight, contribution], a carrier [seed, share, link, name] or
null. A name is its place among the proper names of the seed.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson

from sfm_graph.domain.identity import MAX_ROW_ID, LinkId, MemoryId
from sfm_graph.domain.memory import Memory
from sfm_graph.domain.names import proper_names
from sfm_graph.domain.recall import MAX_EXPAND, MAX_RECALL, Carrier, Hit, Leg, LegScore, Recall

T = TypeVar("T")

FORMAT = 2
# Some 150 hits: to read more would stall the event loop for more than a millisecond.
MAX_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Carried:
    """A carrier by ids; `name`: a place among the seed's proper names."""

    seed: MemoryId
    share: float
    link: LinkId | None
    name: int | None


@dataclass(frozen=True, slots=True)
class OutlinedHit:
    """A hit by ids."""

    id: MemoryId
    score: float
    expanded: bool
    legs: tuple[LegScore, ...]
    carried: Carried | None
    duplicates: tuple[MemoryId, ...]
    superseded_by: MemoryId | None


@dataclass(frozen=True, slots=True)
class RecallOutline:
    """A recall by ids, in the order of its hits."""

    hits: tuple[OutlinedHit, ...]
    reranked: bool

    @property
    def ids(self) -> set[MemoryId]:
        """The memories that the recall shows: its hits and what carried them."""
        return {hit.id for hit in self.hits} | {hit.carried.seed for hit in self.hits if hit.carried is not None}

    def filled(self, memories: Mapping[MemoryId, Memory]) -> Recall:
        """The recall, with its memories. Raises LookupError when one is missing, or a name of one."""
        return Recall(tuple(_filled(hit, memories) for hit in self.hits), hot=True, reranked=self.reranked)


def outlined(recall: Recall) -> bytes | None:
    """The outline of a recall as bytes, None when they are more than MAX_BYTES."""
    hits = [
        [
            hit.memory.id, hit.score, hit.expanded, [_leg(leg) for leg in hit.legs], _carried(hit.carrier),
            hit.duplicates, hit.superseded_by,
        ]
        for hit in recall.hits
    ]  # fmt: skip
    text = orjson.dumps([FORMAT, recall.reranked, hits], option=orjson.OPT_SERIALIZE_NUMPY)
    return text if len(text) <= MAX_BYTES else None


def read_outline(text: bytes) -> RecallOutline:
    """An outline from bytes of anyone. Raises ValueError for what is none."""
    if len(text) > MAX_BYTES:
        raise ValueError("an outline is shorter")
    version, reranked, hits = _list(orjson.loads(text), 3)
    if version != FORMAT:
        raise ValueError("an outline of another format")
    read = tuple(_read_hit(hit) for hit in _list(hits, most=MAX_RECALL + MAX_EXPAND))
    if len({hit.id for hit in read}) < len(read):
        raise ValueError("a memory is twice in it")
    return RecallOutline(read, _bool(reranked))


def _leg(leg: LegScore) -> list[Any]:
    return [leg.leg.value, leg.rank, leg.raw_score, leg.weight, leg.contribution]


def _carried(carrier: Carrier | None) -> list[Any] | None:
    if carrier is None:
        return None
    name = None if carrier.name is None else _names(carrier.seed).index(carrier.name)
    return [carrier.seed.id, carrier.share, carrier.link, name]


def _filled(hit: OutlinedHit, memories: Mapping[MemoryId, Memory]) -> Hit:
    carrier = None
    if hit.carried is not None:
        seed = memories[hit.carried.seed]
        name = None if hit.carried.name is None else _names(seed)[hit.carried.name]
        carrier = Carrier(seed, hit.carried.share, hit.carried.link, name)
    return Hit(memories[hit.id], hit.score, hit.legs, carrier, hit.duplicates, hit.expanded, hit.superseded_by)


def _names(memory: Memory) -> list[str]:
    return [" ".join(name) for name in proper_names(f"{memory.title or ''}\n{memory.content}")]


def _read_hit(value: object) -> OutlinedHit:
    id_, score, expanded, legs, carrier, duplicates, superseded_by = _list(value, 7)
    return OutlinedHit(
        MemoryId(_integer(id_, low=1)), _number(score), _bool(expanded),
        tuple(_read_leg(leg) for leg in _list(legs, most=len(Leg))),
        None if carrier is None else _read_carried(carrier),
        tuple(MemoryId(_integer(one, low=1)) for one in _list(duplicates, most=MAX_RECALL)),
        _optional(superseded_by, lambda one: MemoryId(_integer(one, low=1))),
    )  # fmt: skip


def _read_leg(value: object) -> LegScore:
    leg, rank, *numbers = _list(value, 5)
    raw, weight, contribution = map(_number, numbers)
    return LegScore(Leg(leg), _optional(rank, _integer), raw, weight, contribution)


def _read_carried(value: object) -> Carried:
    seed, share, link, name = _list(value, 4)
    return Carried(
        MemoryId(_integer(seed, low=1)), _number(share), _optional(link, lambda one: LinkId(_integer(one, low=1))),
        _optional(name, _integer),
    )  # fmt: skip


def _list(value: object, length: int | None = None, *, most: int = 0) -> list[Any]:
    if not isinstance(value, list) or (len(value) != length if length is not None else len(value) > most):
        raise ValueError("not such a list")
    return value


def _integer(value: object, *, low: int = 0) -> int:
    if type(value) is not int or not low <= value <= MAX_ROW_ID:
        raise ValueError("not such an integer")
    return value


def _number(value: object) -> float:
    if type(value) is not float or not math.isfinite(value):
        raise ValueError("not a number")
    return value


def _bool(value: object) -> bool:
    if value is not True and value is not False:
        raise ValueError("neither true nor false")
    return value


def _optional(value: object, read: Callable[[object], T]) -> T | None:
    return None if value is None else read(value)
