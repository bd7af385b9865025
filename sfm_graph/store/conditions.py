"""`where` trees as conditions on the tables: built with SQLAlchemy Core, executed with psycopg."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import eq, ge, gt, le, lt
from typing import Any

import numpy as np
import orjson
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from sfm_graph.domain.where import AllOf, AnyOf, Compare, InBox, JsonCompare, NotOf, Operator, Where

_DIALECT = postgresql.dialect(paramstyle="pyformat")  # type: ignore[no-untyped-call]

_COMPARISONS = {
    Operator.EQ: eq,
    Operator.IN: eq,
    Operator.GT: gt,
    Operator.GTE: ge,
    Operator.LT: lt,
    Operator.LTE: le,
}

memories = sa.table(
    "memories",
    sa.column("namespace_id", sa.Integer),
    sa.column("id", sa.BigInteger),
    sa.column("key", sa.Text),
    sa.column("coordinate", ARRAY(sa.Double)),
    sa.column("kind", sa.Text),
    sa.column("title", sa.Text),
    sa.column("payload", JSONB),
    sa.column("importance", sa.Double),
    sa.column("created_at", sa.DateTime(timezone=True)),
    sa.column("updated_at", sa.DateTime(timezone=True)),
    sa.column("valid_from", sa.DateTime(timezone=True)),
    sa.column("valid_to", sa.DateTime(timezone=True)),
    sa.column("agent", sa.Text),
).alias("m")

links = sa.table(
    "links",
    sa.column("namespace_id", sa.Integer),
    sa.column("id", sa.BigInteger),
    sa.column("source_id", sa.BigInteger),
    sa.column("target_id", sa.BigInteger),
    sa.column("type", sa.Text),
    sa.column("weight", sa.Double),
    sa.column("properties", JSONB),
    sa.column("version", sa.Integer),
    sa.column("created_at", sa.DateTime(timezone=True)),
    sa.column("updated_at", sa.DateTime(timezone=True)),
    sa.column("valid_from", sa.DateTime(timezone=True)),
    sa.column("valid_to", sa.DateTime(timezone=True)),
    sa.column("maker", sa.Text),
    sa.column("agent", sa.Text),
).alias("l")


@dataclass(frozen=True, slots=True)
class Filtered:
    """A table that `where` applies to, and the column of JSON that its paths lead into."""

    table: sa.FromClause
    document: sa.ColumnElement[Any]


MEMORIES = Filtered(memories, memories.c.payload)
LINKS = Filtered(links, links.c.properties)


def compiled(query: sa.Select[Any]) -> tuple[str, dict[str, Any]]:
    """SQL with psycopg's named placeholders, and its parameters."""
    result = query.compile(dialect=_DIALECT)
    return str(result), dict(result.params)


def condition(where: Where, of: Filtered) -> sa.ColumnElement[bool]:
    """The SQL condition of a `where` tree on a table."""
    match where:
        case AllOf(items):
            return sa.and_(sa.true(), *(condition(item, of) for item in items))
        case AnyOf(items):
            return sa.or_(sa.false(), *(condition(item, of) for item in items))
        case NotOf(item):
            return sa.not_(sa.func.coalesce(condition(item, of), sa.false()))
        case InBox(low, high):
            return _in_box(of.table.c.coordinate, low, high)
        case Compare(field, operator, value):
            return _compare(of.table.c[field], operator, value)
        case JsonCompare(path, operator, value):
            return _json_compare(of.document, path, operator, value)


def _in_box(coordinate: sa.ColumnElement[Any], low: Sequence[float], high: Sequence[float]) -> sa.ColumnElement[bool]:
    axes = [coordinate[axis] for axis in range(1, len(low) + 1)]
    within = [sa.and_(axis >= a, axis <= b) for axis, a, b in zip(axes, low, high, strict=True)]
    return sa.and_(
        coordinate >= _floats(low), coordinate <= _floats(high), sa.func.cardinality(coordinate) == len(low), *within
    )


def _floats(values: Sequence[float]) -> sa.ColumnElement[Any]:
    return sa.cast(sa.literal("{" + ",".join(map(repr, values)) + "}", type_=sa.Text), ARRAY(sa.Double))


def _compare(column: sa.ColumnElement[Any], operator: Operator, value: Any) -> sa.ColumnElement[bool]:
    if operator is Operator.IN:
        value = sa.any_(text_array(value))
    compared: sa.ColumnElement[bool] = _COMPARISONS[operator](column, value)
    return compared


def _json_compare(
    document: sa.ColumnElement[Any], path: tuple[str, ...], operator: Operator, value: Any
) -> sa.ColumnElement[bool]:
    found = document.op("#>")(text_array(path))
    match operator:
        case Operator.EXISTS:
            # The first key is looked up by GIN; `#>` gives JSON null, not SQL's, for a null that is there.
            exists = sa.and_(document.bool_op("?")(path[0]), found.is_not(None))
            return exists if value else sa.not_(exists)
        case Operator.CONTAINS:
            return document.bool_op("@>")(_json(_nested(path, value)))
        case Operator.EQ:
            # Containment finds the rows by GIN; equality then refuses arrays and objects that merely contain it.
            return sa.and_(document.bool_op("@>")(_json(_nested(path, value))), found == _json(value))
        case Operator.IN:
            return sa.and_(
                document.bool_op("@>")(sa.any_(_jsons(_nested(path, one) for one in value))),
                found == sa.any_(_jsons(value)),
            )
        case _:
            kind = "string" if isinstance(value, str) else "number"
            return sa.and_(
                sa.func.jsonb_typeof(found) == kind,
                _compare(found, operator, _json(value)),
            )


def _json(value: Any) -> sa.ColumnElement[Any]:
    return sa.cast(sa.literal(orjson.dumps(value).decode(), type_=sa.Text), JSONB)


def text_array(values: Iterable[str]) -> sa.ColumnElement[Any]:
    """A parameter of type text[]."""
    return sa.cast(sa.literal(list(values), type_=ARRAY(sa.Text)), ARRAY(sa.Text))


def id_array(ids: NDArray[np.int64] | Sequence[int]) -> sa.ColumnElement[Any]:
    """A parameter of type bigint[]."""
    # As text: a list of 100,000 takes the driver 90 ms, in which nothing else runs.
    text = orjson.dumps(np.asarray(ids, np.int64), option=orjson.OPT_SERIALIZE_NUMPY).decode()
    return sa.cast(sa.literal("{" + text[1:-1] + "}", type_=sa.Text), ARRAY(sa.BigInteger))


def _jsons(values: Iterable[Any]) -> sa.ColumnElement[Any]:
    return sa.cast(text_array(orjson.dumps(value).decode() for value in values), ARRAY(JSONB))


def _nested(path: tuple[str, ...], value: Any) -> Any:
    for key in reversed(path):
        value = {key: value}
    return value
