"""What a filter may compare: the operators, and for memories and for links the fields with their kinds of values."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sfm_graph.domain import validate
from sfm_graph.domain.memory import MemoryKind
from sfm_graph.errors import InvalidInput


class Operator(StrEnum):
    """How a field is compared."""

    EQ = "eq"
    IN = "in"
    GT = "gt"
    GTE = "gte"
    LT = "lt"
    LTE = "lte"
    CONTAINS = "contains"
    EXISTS = "exists"


ORDERED = frozenset({Operator.GT, Operator.GTE, Operator.LT, Operator.LTE})
_EXACT = frozenset({Operator.EQ, Operator.IN})
_SCALAR = ORDERED | {Operator.EQ}


@dataclass(frozen=True, slots=True)
class Field:
    """A column: the operators that it takes, and what checks an operand (value, field name)."""

    operators: frozenset[Operator]
    convert: Callable[[object, str], object]


@dataclass(frozen=True, slots=True)
class Subject:
    """What is filtered: its columns, the name of its JSON document, and whether it has a place."""

    fields: Mapping[str, Field]
    document: str
    has_coordinate: bool

    @property
    def members(self) -> frozenset[str]:
        """Every name that the JSON form of a filter may have at its top."""
        place = {"coordinate"} if self.has_coordinate else set()
        return frozenset({"_and", "_or", "_not", self.document, *place, *self.fields})


def _kind(value: object, field: str) -> str:
    return validate.choice(value, MemoryKind, field).value


def _text(value: object, field: str) -> str:
    return validate.text(value, field, max_chars=validate.MAX_TITLE_CHARS)


def _moment(value: object, field: str) -> datetime:
    moment = validate.moment(value, field)
    if moment is None:
        raise InvalidInput(f"{field} must be an ISO 8601 time", field=field)
    return moment


_TIMES = {name: Field(_SCALAR, _moment) for name in ("created_at", "updated_at", "valid_from", "valid_to")}

MEMORIES = Subject(
    {
        "kind": Field(_EXACT, _kind),
        "key": Field(_EXACT, _text),
        "title": Field(_EXACT, _text),
        "importance": Field(_SCALAR, validate.number),
        "agent": Field(_EXACT, _text),
        **_TIMES,
    },
    document="payload",
    has_coordinate=True,
)
LINKS = Subject(
    {
        "type": Field(_EXACT, _text),
        "weight": Field(_SCALAR, validate.number),
        "agent": Field(_EXACT, _text),
        **_TIMES,
    },
    document="properties",
    has_coordinate=False,
)
