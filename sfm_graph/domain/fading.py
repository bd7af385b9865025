"""How memories fade: the retention formula, the rules of a namespace, and what is done to a memory that has faded.

    R(t) = 2 ** (-(t - touched) / H)                          1 until `touched`, 1/2 after H, never 0
    H    = half_life(kind) * (1 + a * ln(1 + accesses)) * (1 + b * importance) * (1 + c * ln(1 + degree))

touched: the later of the last update and the last access. importance: `normalised`, in [0, 1). degree: links in and
out. R falls as time passes and never rises but by a touch; it rises with accesses, importance and degree. It falls
below a threshold T at one moment, `touched + H * log2(1 / T)`, which is stored and indexed: nobody looks at a memory
before then. What has grown meanwhile only moves that moment on.
"""

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sfm_graph.domain import validate
from sfm_graph.domain.memory import MemoryKind
from sfm_graph.errors import InvalidInput

MAX_DAYS = 36_500.0
MAX_MEMORIES = 1_000_000_000
# Of one request.
MAX_DECAY = 1_000
# No moment is later than a thousand years after the last touch: dates end with the year 9999.
_FURTHEST = timedelta(days=365_000)
_DAY_SECONDS = 86_400.0
_LEAST_THRESHOLD = 1e-6
_MAX_WEIGHT = 10.0


class Step(StrEnum):
    """What has been done to a memory that fades."""

    WHOLE = "whole"
    SUMMARISED = "summarised"
    FORGOTTEN = "forgotten"


class Act(StrEnum):
    """What is done next to a memory."""

    SUMMARISE = "summarise"
    FORGET = "forget"
    ERASE = "erase"


class Reason(StrEnum):
    """Why."""

    FADED = "faded"
    EXPIRED = "expired"
    CROWDED_OUT = "crowded_out"
    FORGOTTEN_LONG_AGO = "forgotten_long_ago"


@dataclass(frozen=True, slots=True)
class FadingRules:
    """How a namespace's memories fade. Days count 86,400 seconds."""

    episodic_days: float = 30.0
    semantic_days: float = 365.0
    entity_days: float = 365.0
    # A memory has faded when its retention is below this.
    threshold: float = 0.25
    # a, b and c of the formula.
    access_weight: float = 0.5
    importance_weight: float = 1.0
    link_weight: float = 0.25
    # Whether a faded memory is first cut down to a summary.
    summarise: bool = True
    # How long a summary stays before it is forgotten.
    grace_days: float = 7.0
    # How long what has been forgotten can be restored; None: until the log's retention ends.
    erase_after_days: float | None = None

    def half_life(self, kind: MemoryKind) -> timedelta:
        """Of a memory that is never accessed, of no importance, without links."""
        days = {
            MemoryKind.EPISODIC: self.episodic_days,
            MemoryKind.SEMANTIC: self.semantic_days,
            MemoryKind.ENTITY: self.entity_days,
        }
        return timedelta(days=days[kind])

    @property
    def grace(self) -> timedelta:
        """How long a summary stays."""
        return timedelta(days=self.grace_days)

    @property
    def erase_after(self) -> timedelta | None:
        """How long what has been forgotten stays."""
        return None if self.erase_after_days is None else timedelta(days=self.erase_after_days)

    def as_json(self) -> dict[str, Any]:
        """The JSON form that is stored and shown, read by `fading_rules`."""
        return {
            "half_life_days": {
                MemoryKind.EPISODIC.value: self.episodic_days,
                MemoryKind.SEMANTIC.value: self.semantic_days,
                MemoryKind.ENTITY.value: self.entity_days,
            },
            "threshold": self.threshold,
            "weights": {
                "access": self.access_weight,
                "importance": self.importance_weight,
                "links": self.link_weight,
            },
            "summarise": self.summarise,
            "grace_days": self.grace_days,
            "erase_after_days": self.erase_after_days,
        }


DEFAULT_RULES = FadingRules()


@dataclass(frozen=True, slots=True)
class Vitals:
    """What a memory's retention depends on. `importance` as stored, >= 0."""

    kind: MemoryKind
    importance: float
    touched: datetime
    accesses: int = 0
    degree: int = 0


def normalised(importance: float) -> float:
    """Raw importance in [0, 1): 0.5 for the default of 1, strictly growing while floats can tell.

    It does not depend on other memories: else each store would move the moments of all that is stored.
    """
    return importance / (1.0 + importance)


def half_life(rules: FadingRules, vitals: Vitals) -> timedelta:
    """H of the formula, at most a thousand years."""
    factor = (
        (1 + rules.access_weight * math.log1p(vitals.accesses))
        * (1 + rules.importance_weight * normalised(vitals.importance))
        * (1 + rules.link_weight * math.log1p(vitals.degree))
    )
    seconds = rules.half_life(vitals.kind).total_seconds() * factor
    return timedelta(seconds=min(seconds, _FURTHEST.total_seconds()))


def retention(rules: FadingRules, vitals: Vitals, at: datetime) -> float:
    """R at a moment, in (0, 1]."""
    age = (at - vitals.touched) / half_life(rules, vitals)
    return 1.0 if age <= 0 else max(2.0**-age, sys.float_info.min) if age < 1_022 else sys.float_info.min


def due_at(rules: FadingRules, vitals: Vitals) -> datetime:
    """The moment at which R falls below the threshold; at most a thousand years after the touch."""
    life = half_life(rules, vitals).total_seconds() * math.log2(1 / rules.threshold)
    return vitals.touched + timedelta(seconds=min(life, _FURTHEST.total_seconds()))


def fading_rules(value: object, base: FadingRules | None = None) -> FadingRules | None:
    """Rules from their JSON form: `false` for none; what is not given is as in `base`, or by default.

    Raises InvalidInput.
    """
    if value is False:
        return None
    base = base or DEFAULT_RULES
    given = _object(value, "fading", {*_PLAIN, "half_life_days", "weights", "summarise", "erase_after_days"})
    found = base.as_json() | {name: one for name, one in given.items() if one is not None}
    if given.get("erase_after_days", "") is None:
        found["erase_after_days"] = None
    days = base.as_json()["half_life_days"] | _object(
        found["half_life_days"], "fading.half_life_days", {kind.value for kind in MemoryKind}
    )
    weights = base.as_json()["weights"] | _object(
        found["weights"], "fading.weights", {"access", "importance", "links"}
    )
    if not isinstance(found["summarise"], bool):
        raise InvalidInput("fading.summarise is true or false", field="fading")
    erase = found["erase_after_days"]
    return FadingRules(
        **{f"{kind}_days": _between(one, f"half_life_days.{kind}", _MOMENT, MAX_DAYS) for kind, one in days.items()},
        **{_WEIGHTS[name]: _between(one, f"weights.{name}", 0.0, _MAX_WEIGHT) for name, one in weights.items()},
        **{name: _between(found[name], name, low, high) for name, (low, high) in _PLAIN.items()},
        summarise=found["summarise"],
        erase_after_days=None if erase is None else _between(erase, "erase_after_days", 0.0, MAX_DAYS),
    )


def max_memories(value: object) -> int | None:
    """The most memories that a namespace keeps; 0, which is shown as null, for no limit. Raises InvalidInput."""
    return validate.integer(value, "max_memories", low=0, high=MAX_MEMORIES) or None


# A hundredth of a second, in days: a half-life of 0 would be none.
_MOMENT = 0.01 / _DAY_SECONDS
_PLAIN = {"threshold": (_LEAST_THRESHOLD, 0.999), "grace_days": (0.0, MAX_DAYS)}
_WEIGHTS = {"access": "access_weight", "importance": "importance_weight", "links": "link_weight"}


def _object(value: object, field: str, known: set[str]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or value.keys() - known:
        raise InvalidInput(f"{field} takes {', '.join(sorted(known))}", field="fading")
    return value


def _between(value: object, field: str, low: float, high: float) -> float:
    checked = validate.number(value, f"fading.{field}")
    if not low <= checked <= high:
        raise InvalidInput(f"fading.{field} must be between {low:g} and {high:g}", field="fading")
    return checked
