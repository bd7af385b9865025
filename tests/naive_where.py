"""Conditions on JSON documents, evaluated without SQL: what filters are compared with."""

from collections.abc import Mapping
from operator import ge, gt, le, lt
from typing import Any

ORDERS = {"gt": gt, "gte": ge, "lt": lt, "lte": le}
ABSENT = object()


def entry_matches(entry: Mapping[str, Any], document: Mapping[str, Any]) -> bool:
    """Whether a document holds what a condition on one of its paths asks for."""
    value: Any = document
    for key in entry["path"]:
        value = value.get(key, ABSENT) if isinstance(value, Mapping) else ABSENT
    operands = {name: operand for name, operand in entry.items() if name != "path" and operand is not None}
    return all(_compares(name, value, operand) for name, operand in operands.items())


def _compares(name: str, value: Any, operand: Any) -> bool:
    if name == "exists":
        return (value is not ABSENT) is operand
    if value is ABSENT:
        return False
    if name == "eq":
        return same(value, operand)
    if name == "in":
        return any(same(value, one) for one in operand)
    if name == "contains":
        return _contains(value, operand)
    return _type(value) == _type(operand) and bool(ORDERS[name](value, operand))


def _type(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return repr(value)
    if isinstance(value, Mapping):
        return "object"
    return "number" if isinstance(value, int | float) else "string" if isinstance(value, str) else "array"


def same(one: Any, other: Any) -> bool:
    """Equality of JSON: true is not 1, and 1 is 1.0."""
    if _type(one) != _type(other):
        return False
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if _type(one) == "array":
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def _contains(value: Any, wanted: Any) -> bool:
    if isinstance(value, Mapping) and isinstance(wanted, Mapping):
        return all(key in value and _contains(value[key], one) for key, one in wanted.items())
    if _type(value) == _type(wanted) == "array":
        return all(any(_contains(have, one) for have in value) for one in wanted)
    return same(value, wanted)
