"""Filters on memories and on links: a small expression tree, and its one JSON form that every face takes.

    {"kind": {"eq": "episodic"}, "importance": {"gte": 2}, "payload": [{"path": ["task"], "eq": "x"}],
     "coordinate": {"min": [0, 0, 0], "max": [1, 1, 1]}, "_or": [...], "_not": {...}}
    {"type": {"in": ["rail", "road"]}, "weight": {"lt": 2}, "properties": [{"path": ["toll"], "exists": false}]}

Members of one object are joined by and. Operators of memories: eq, in on kind, key, title; eq, gt, gte, lt, lte on
importance, created_at, updated_at, valid_from, valid_to; eq, in, contains, exists, gt, gte, lt, lte on payload paths.
Of links: eq, in on type; eq, gt, gte, lt, lte on weight and the same times; on paths of their properties all that
payload paths take.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sfm_graph.domain import validate
from sfm_graph.domain.identity import Coordinate
from sfm_graph.domain.where_fields import LINKS, MEMORIES, ORDERED, Subject
from sfm_graph.domain.where_fields import Operator as Operator
from sfm_graph.errors import InvalidCoordinate, InvalidInput

MAX_CONDITIONS = 100
MAX_DEPTH = 8
MAX_LIST_VALUES = 1_000
# In all lists of one filter together.
MAX_VALUES = 5_000


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
class JsonCompare:
    """A memory's payload or a link's properties at a path of keys against a JSON value; a tuple of values for IN."""

    path: tuple[str, ...]
    operator: Operator
    value: Any


Where = AllOf | AnyOf | NotOf | Compare | InBox | JsonCompare
EVERYTHING = AllOf(())


def parse_where(value: object) -> Where:
    """The tree of a filter on memories; None and {} match everything. Raises InvalidInput naming what is wrong."""
    return EVERYTHING if value is None else _Parser(MEMORIES).where(value, 0)


def parse_link_where(value: object) -> Where:
    """The tree of a filter on links; None and {} match everything. Raises InvalidInput naming what is wrong.

    Paths are compared by order without being declared: only links that a walk or a page meets are looked at.
    """
    return EVERYTHING if value is None else _Parser(LINKS).where(value, 0)


def parse_filters(value: object) -> Where:
    """As `parse_where`, but a name that is none of its members is a key of the payload.

    Its value is either what the payload must hold there, or an object of operators:
    `{"task": "x", "step": {"in": [1, 2]}}`.
    """
    if not isinstance(value, Mapping):
        return parse_where(value)
    known = MEMORIES.members
    members = {name: item for name, item in value.items() if name in known}
    parser = _Parser(MEMORIES)
    items = [parser.where(members, 0)] if members else []
    for name, item in value.items():
        if name not in known:
            items.extend(parser.document_member(name, item))
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
        case JsonCompare(path, operator, _) if operator in ORDERED:
            return {path}
        case _:
            return set()


class _Parser:
    def __init__(self, subject: Subject) -> None:
        self.subject = subject
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
        if field == "coordinate" and self.subject.has_coordinate:
            return [self._box(condition)]
        if field == self.subject.document:
            entries = condition if isinstance(condition, Sequence) and not isinstance(condition, str) else [condition]
            return [item for entry in entries for item in self._document(entry)]
        if field not in self.subject.fields:
            known = ", ".join(sorted(self.subject.members))
            raise InvalidInput(f"where has no field {field!r}; it has {known}", field="where")
        return self._compare(field, condition)

    def _box(self, condition: object) -> Where:
        self._count()
        if not isinstance(condition, Mapping) or set(condition) != {"min", "max"}:
            raise InvalidInput("coordinate takes min and max", field="where")
        return box(condition["min"], condition["max"])

    def _list(self, value: object, depth: int) -> tuple[Where, ...]:
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise InvalidInput("_and and _or take a list", field="where")
        if not value:
            self._count()
        return tuple(self.where(item, depth + 1) for item in value)

    def _compare(self, field: str, condition: object) -> list[Where]:
        known = self.subject.fields[field]
        if not isinstance(condition, Mapping):
            condition = {"eq": condition}
        items: list[Where] = []
        for operator_name, operand in condition.items():
            if operand is None:
                continue
            operator = self._operator(operator_name, known.operators, field)
            if operator is Operator.IN:
                items.append(Compare(field, operator, tuple(known.convert(v, field) for v in self._values(operand))))
            else:
                items.append(Compare(field, operator, known.convert(operand, field)))
        return items

    def _document(self, entry: object) -> list[Where]:
        if not isinstance(entry, Mapping) or "path" not in entry:
            raise InvalidInput(
                f'a {self.subject.document} condition looks like {{"path": ["key"], "eq": 1}}', field="where"
            )
        keys = entry["path"]
        if isinstance(keys, str):
            keys = keys.split(".")
        if not isinstance(keys, Sequence) or not 1 <= len(keys) <= 16:
            raise InvalidInput(f"a {self.subject.document} path has 1 to 16 keys", field="where")
        path = tuple(validate.text(key, "path", max_chars=256) for key in keys)
        operands = {name: operand for name, operand in entry.items() if name != "path" and operand is not None}
        if not operands:
            self._count()
        return [self._json_compare(path, name, operand) for name, operand in operands.items()]

    def document_member(self, name: object, condition: object) -> list[Where]:
        """The conditions on one key of the document; what is not an object of operators is the value itself."""
        path = (validate.text(name, "filters", max_chars=256),)
        if isinstance(condition, Mapping) and condition and set(condition) <= set(Operator):
            return self._document({"path": path, **condition})
        self._count()
        return [JsonCompare(path, Operator.EQ, _json_value(condition))]

    def _json_compare(self, path: tuple[str, ...], name: str, operand: object) -> Where:
        operator = self._operator(name, frozenset(Operator), self.subject.document)
        if operator is Operator.EXISTS:
            if not isinstance(operand, bool):
                raise InvalidInput("exists takes true or false", field="where")
            return JsonCompare(path, operator, operand)
        if operator in ORDERED and (isinstance(operand, bool) or not isinstance(operand, int | float | str)):
            raise InvalidInput(
                f"{operator} on a {self.subject.document} path takes a number or a string", field="where"
            )
        if operator is Operator.IN:
            return JsonCompare(path, operator, tuple(_json_value(v) for v in self._values(operand)))
        return JsonCompare(path, operator, _json_value(operand))

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
