"""Filters on links answered from columns in memory, with the meaning that they have in SQL."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from operator import eq, ge, gt, le, lt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfm_graph.domain.link_columns import ALWAYS_FROM, ALWAYS_TO
from sfm_graph.domain.where import AllOf, AnyOf, Compare, NotOf, Operator, Where

Bools = NDArray[np.bool_]

_IN_MEMORY = frozenset({"type", "weight", "valid_from", "valid_to"})
_COMPARISONS: dict[Operator, Callable[[Any, Any], Any]] = {
    Operator.EQ: eq,
    Operator.GT: gt,
    Operator.GTE: ge,
    Operator.LT: lt,
    Operator.LTE: le,
}
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, eq=False)
class FilterColumns:
    """What is known of n links, columns of shape (n,): `types` are codes, `codes` the codes by name.

    `valid_from`, `valid_to` are microseconds since 2000-01-01 UTC, open ends the extremes; None: all are open.
    """

    types: NDArray[np.integer]
    codes: Mapping[str, int]
    weights: NDArray[np.float64]
    valid_from: NDArray[np.int64] | None = None
    valid_to: NDArray[np.int64] | None = None


def microseconds(moment: datetime) -> int:
    """Microseconds since 2000-01-01 UTC, as Postgres stores times. Exact."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def needs_rows(where: Where) -> bool:
    """Whether a filter on links looks at more than type, weight and validity, and so needs the stored rows."""
    match where:
        case AllOf(items) | AnyOf(items):
            return any(needs_rows(item) for item in items)
        case NotOf(item):
            return needs_rows(item)
        case Compare(field, _, _):
            return field not in _IN_MEMORY
        case _:
            return True


def admitted(where: Where, columns: FilterColumns) -> Bools:
    """Which links a filter keeps, shape (n,), a fresh array. Raises ValueError for a filter that needs rows."""
    match where:
        case AllOf(items):
            every = np.ones(len(columns.weights), np.bool_)
            for item in items:
                every &= admitted(item, columns)
            return every
        case AnyOf(items):
            some = np.zeros(len(columns.weights), np.bool_)
            for item in items:
                some |= admitted(item, columns)
            return some
        case NotOf(item):
            return ~admitted(item, columns)
        case Compare("type", operator, value):
            return _of_types(columns, value if operator is Operator.IN else (value,))
        case Compare("weight", operator, value):
            return _compared(columns.weights, operator, value)
        case Compare("valid_from", operator, value):
            return _compared(_or_open(columns.valid_from, columns, ALWAYS_FROM), operator, microseconds(value))
        case Compare("valid_to", operator, value):
            return _compared(_or_open(columns.valid_to, columns, ALWAYS_TO), operator, microseconds(value))
        case _:
            raise ValueError("the filter needs the links' rows")


def _of_types(columns: FilterColumns, names: tuple[str, ...]) -> Bools:
    codes = [columns.codes[name] for name in names if name in columns.codes]
    return columns.types == codes[0] if len(codes) == 1 else np.isin(columns.types, codes)


def _compared(column: NDArray[Any], operator: Operator, value: float) -> Bools:
    kept: Bools = _COMPARISONS[operator](column, value)
    return kept


def _or_open(column: NDArray[np.int64] | None, columns: FilterColumns, end: int) -> NDArray[np.int64]:
    return np.full(len(columns.weights), end, np.int64) if column is None else column
