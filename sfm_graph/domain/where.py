"""Filters on memories: a small expression tree, and its one JSON form that every face takes.

    {"kind": {"eq": "episodic"}, "importance": {"gte": 2}, "payload": [{"path": ["task"], "eq": "x"}],
     "coordinate": {"min": [0, 0, 0], "max": [1, 1, 1]}, "_or": [...], "_not": {...}}

Members of one object are joined by and. Operators: eq, in on kind, key, title; eq, gt, gte, lt, lte on importance,
created_at, updated_at, valid_from, valid_to; eq, in, contains, exists, gt, gte, lt, lte on payload paths.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sfm_graph.domain import validate
from sfm_graph.domain.identity import Coordinate
from sfm_graph.domain.memory import MemoryKind
from sfm_graph.errors import InvalidCoordinate, InvalidInput

MAX_CONDITIONS = 100
MAX_DEPTH = 8
MAX_LIST_VALUES = 1_000
# In all lists of one filter together.
MAX_VALUES = 5_000


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


@dataclass(frozen=True, slots=True)
class AllOf:
    """True where every item is; true when empty."""

    items: tuple["Where", ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    """True where at least one item is; false when empty."""

    items: tuple["Where", ...]


@dataclass(frozen=True, slots=True)
class NotOf:
    """True where the item is not."""

    item: "Where"


@dataclass(frozen=True, slots=True)
class Compare:
    """A column against a value; a tuple of values for IN."""

    field: str
    operator: Operator
    value: Any


@dataclass(frozen=True, slots=True)
class InBox:
    """Coordinates with as many axes as the bounds, each within them, bounds included."""

    low: Coordinate
    high: Coordinate


@dataclass(frozen=True, slots=True)
class PayloadCompare:
    """The payload's value at a path of keys against a JSON value; a tuple of values for IN."""

    path: tuple[str, ...]
    operator: Operator
    value: Any


Where = AllOf | AnyOf | NotOf | Compare | InBox | PayloadCompare
EVERYTHING = AllOf(())


def parse_where(value: object) -> Where:
    """The tree of the JSON form; None and {} match everything. Raises InvalidInput naming what is wrong."""
    if value is None:
        return EVERYTHING
    parser = _Parser()
    return parser.where(value, 0)


def parse_filters(value: object) -> Where:
    """As `parse_where`, but a name that is none of its members is a key of the payload.

    Its value is either what the payload must hold there, or an object of operators:
    `{"task": "x", "step": {"in": [1, 2]}}`.
    """
    if not isinstance(value, Mapping):
        return parse_where(value)
    members = {name: item for name, item in value.items() if name in _MEMBERS}
    parser = _Parser()
    items = [parser.where(members, 0)] if members else []
    for name, item in value.items():
        if name not in _MEMBERS:
            items.extend(parser.payload_member(name, item))
    return items[0] if len(items) == 1 else AllOf(tuple(items))


def box(low: object, high: object) -> InBox:
    """A checked coordinate box. Raises InvalidCoordinate."""
    least, most = validate.coordinate(low, "min"), validate.coordinate(high, "max")
    if len(least) != len(most) or any(a > b for a, b in zip(least, most, strict=True)):
        raise InvalidCoordinate("min and max need the same number of axes, and min <= max on each", field="min")
    return InBox(least, most)


def ordered_paths(where: Where) -> set[tuple[str, ...]]:
    """The payload paths that are compared by order, which a namespace has to declare."""
    match where:
        case AllOf(items) | AnyOf(items):
            return set().union(*(ordered_paths(item) for item in items)) if items else set()
        case NotOf(item):
            return ordered_paths(item)
        case PayloadCompare(path, operator, _) if operator in ORDERED:
            return {path}
        case _:
            return set()


def _kind(value: object, field: str) -> str:
    return validate.choice(value, MemoryKind, field).value


def _text(value: object, field: str) -> str:
    return validate.text(value, field, max_chars=validate.MAX_TITLE_CHARS)


def _moment(value: object, field: str) -> object:
    if value is None:
        raise InvalidInput(f"{field} must be an ISO 8601 time", field=field)
    return validate.moment(value, field)


_EXACT = frozenset({Operator.EQ, Operator.IN})
_SCALAR = ORDERED | {Operator.EQ}
_FIELDS: dict[str, tuple[frozenset[Operator], Callable[[object, str], object]]] = {
    "kind": (_EXACT, _kind),
    "key": (_EXACT, _text),
    "title": (_EXACT, _text),
    "importance": (_SCALAR, validate.number),
    "created_at": (_SCALAR, _moment),
    "updated_at": (_SCALAR, _moment),
    "valid_from": (_SCALAR, _moment),
    "valid_to": (_SCALAR, _moment),
}

_MEMBERS = frozenset({"_and", "_or", "_not", "coordinate", "payload", *_FIELDS})


class _Parser:
    def __init__(self) -> None:
        self.conditions = 0
        self.values = 0

    def where(self, value: object, depth: int) -> Where:
        if not isinstance(value, Mapping):
            raise InvalidInput("where must be an object", field="where")
        if depth > MAX_DEPTH:
            raise InvalidInput(f"where is nested deeper than {MAX_DEPTH} levels", field="where")
        items: list[Where] = []
        for field, condition in value.items():
            if condition is not None:
                items.extend(self._member(str(field), condition, depth))
        if not items:
            self._count()
        return items[0] if len(items) == 1 else AllOf(tuple(items))

    def _member(self, field: str, condition: object, depth: int) -> list[Where]:
        if field == "_and":
            return [AllOf(self._list(condition, depth))]
        if field == "_or":
            return [AnyOf(self._list(condition, depth))]
        if field == "_not":
            return [NotOf(self.where(condition, depth + 1))]
        if field == "coordinate":
            self._count()
            if not isinstance(condition, Mapping) or set(condition) != {"min", "max"}:
                raise InvalidInput("coordinate takes min and max", field="where")
            return [box(condition["min"], condition["max"])]
        if field == "payload":
            entries = condition if isinstance(condition, Sequence) and not isinstance(condition, str) else [condition]
            return [item for entry in entries for item in self._payload(entry)]
        if field not in _FIELDS:
            raise InvalidInput(f"where has no field {field!r}; it has {', '.join(_FIELDS)}", field="where")
        return self._compare(field, condition)

    def _list(self, value: object, depth: int) -> tuple[Where, ...]:
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise InvalidInput("_and and _or take a list", field="where")
        if not value:
            self._count()
        return tuple(self.where(item, depth + 1) for item in value)

    def _compare(self, field: str, condition: object) -> list[Where]:
        operators, convert = _FIELDS[field]
        if not isinstance(condition, Mapping):
            condition = {"eq": condition}
        items: list[Where] = []
        for operator_name, operand in condition.items():
            if operand is None:
                continue
            operator = self._operator(operator_name, operators, field)
            if operator is Operator.IN:
                items.append(Compare(field, operator, tuple(convert(v, field) for v in self._values(operand))))
            else:
                items.append(Compare(field, operator, convert(operand, field)))
        return items

    def _payload(self, entry: object) -> list[Where]:
        if not isinstance(entry, Mapping) or "path" not in entry:
            raise InvalidInput('a payload condition looks like {"path": ["key"], "eq": 1}', field="where")
        keys = entry["path"]
        if isinstance(keys, str):
            keys = keys.split(".")
        if not isinstance(keys, Sequence) or not 1 <= len(keys) <= 16:
            raise InvalidInput("a payload path has 1 to 16 keys", field="where")
        path = tuple(validate.text(key, "path", max_chars=256) for key in keys)
        operands = {name: operand for name, operand in entry.items() if name != "path" and operand is not None}
        if not operands:
            self._count()
        return [self._payload_compare(path, name, operand) for name, operand in operands.items()]

    def payload_member(self, name: object, condition: object) -> list[Where]:
        """The conditions on one key of the payload; what is not an object of operators is the value itself."""
        path = (validate.text(name, "filters", max_chars=256),)
        if isinstance(condition, Mapping) and condition and set(condition) <= set(Operator):
            return self._payload({"path": path, **condition})
        self._count()
        return [PayloadCompare(path, Operator.EQ, _json_value(condition))]

    def _payload_compare(self, path: tuple[str, ...], name: str, operand: object) -> Where:
        operator = self._operator(name, frozenset(Operator), "payload")
        if operator is Operator.EXISTS:
            if not isinstance(operand, bool):
                raise InvalidInput("exists takes true or false", field="where")
            return PayloadCompare(path, operator, operand)
        if operator in ORDERED and (isinstance(operand, bool) or not isinstance(operand, int | float | str)):
            raise InvalidInput(f"{operator} on a payload path takes a number or a string", field="where")
        if operator is Operator.IN:
            return PayloadCompare(path, operator, tuple(_json_value(v) for v in self._values(operand)))
        return PayloadCompare(path, operator, _json_value(operand))

    def _operator(self, name: object, allowed: frozenset[Operator], field: str) -> Operator:
        self._count()
        for operator in allowed:
            if operator.value == name:
                return operator
        known = ", ".join(sorted(operator.value for operator in allowed))
        raise InvalidInput(f"{field} takes {known}, not {name!r}", field="where")

    def _values(self, value: object) -> Sequence[object]:
        if isinstance(value, str) or not isinstance(value, Sequence) or len(value) > MAX_LIST_VALUES:
            raise InvalidInput(f"in takes a list of at most {MAX_LIST_VALUES} values", field="where")
        self.values += len(value)
        if self.values > MAX_VALUES:
            raise InvalidInput(f"where has more than {MAX_VALUES} list values in all", field="where")
        return value

    def _count(self) -> None:
        self.conditions += 1
        if self.conditions > MAX_CONDITIONS:
            raise InvalidInput(f"where has more than {MAX_CONDITIONS} conditions", field="where")


def _json_value(value: object) -> object:
    return validate.json_object({"value": value}, "where")["value"]
