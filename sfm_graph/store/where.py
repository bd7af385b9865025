"""`where` trees and listings as SQL: built with SQLAlchemy Core, executed with psycopg."""

from collections.abc import Iterable, Sequence
from operator import eq, ge, gt, le, lt
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from sfm_graph.domain.page import OrderBy, OrderField
from sfm_graph.domain.where import AllOf, AnyOf, Compare, InBox, NotOf, Operator, PayloadCompare, Where
from sfm_graph.store.rows import MEMORY_COLUMNS

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
).alias("m")

_CASTS: dict[OrderField, Any] = {
    OrderField.COORDINATE: ARRAY(sa.Double),
    OrderField.CREATED_AT: sa.DateTime(timezone=True),
}
_CASTS[OrderField.UPDATED_AT] = _CASTS[OrderField.CREATED_AT]


def listing(
    namespace_id: int, where: Where, order: OrderBy, after: Sequence[Any] | None, limit: int
) -> tuple[str, dict[str, Any]]:
    """A keyset page of memories: SQL and parameters; `after` is the place [value, id] of the last row seen."""
    value = memories.c[order.field.value]
    columns = [value] if order.field is OrderField.ID else [value, memories.c.id]
    query = _select(sa.text(MEMORY_COLUMNS), namespace_id, where)
    if order.field is OrderField.KEY:
        query = query.where(value.is_not(None))
    if after is not None:
        place = [
            sa.cast(sa.literal(after[0], type_=sa.Text), _CASTS[order.field]) if order.field in _CASTS else after[0],
            *after[1:],
        ]
        left, right = sa.tuple_(*columns), sa.tuple_(*place)
        query = query.where(left < right if order.descending else left > right)
    query = query.order_by(*[column.desc() if order.descending else column.asc() for column in columns])
    return compiled(query.limit(limit))


def matching_ids(
    namespace_id: int, where: Where, limit: int | None = None, *, lock: bool = False
) -> tuple[str, dict[str, Any]]:
    """The ids of the memories that a filter keeps, ascending, as packed big-endian int8s in one value."""
    query = _select(memories.c.id, namespace_id, where).order_by(memories.c.id).limit(limit)
    if lock:
        query = query.with_for_update(of=memories)
    text, parameters = compiled(query)
    return f"select string_agg(int8send(q.id), ''::bytea order by q.id) from ({text}) q", parameters  # noqa: S608


def compiled(query: sa.Select[Any]) -> tuple[str, dict[str, Any]]:
    """SQL with psycopg's named placeholders, and its parameters."""
    result = query.compile(dialect=_DIALECT)
    return str(result), dict(result.params)


def _select(what: Any, namespace_id: int, where: Where) -> sa.Select[Any]:
    return (
        sa.select(what).select_from(memories).where(memories.c.namespace_id == namespace_id).where(condition(where))
    )


def condition(where: Where) -> sa.ColumnElement[bool]:
    """The SQL condition of a `where` tree."""
    match where:
        case AllOf(items):
            return sa.and_(sa.true(), *(condition(item) for item in items))
        case AnyOf(items):
            return sa.or_(sa.false(), *(condition(item) for item in items))
        case NotOf(item):
            return sa.not_(sa.func.coalesce(condition(item), sa.false()))
        case InBox(low, high):
            axes = [memories.c.coordinate[axis] for axis in range(1, len(low) + 1)]
            within = [sa.and_(axis >= a, axis <= b) for axis, a, b in zip(axes, low, high, strict=True)]
            return sa.and_(
                memories.c.coordinate >= _floats(low),
                memories.c.coordinate <= _floats(high),
                sa.func.cardinality(memories.c.coordinate) == len(low),
                *within,
            )
        case Compare(field, operator, value):
            return _compare(memories.c[field], operator, value)
        case PayloadCompare(path, operator, value):
            return _payload(path, operator, value)


def _floats(values: Sequence[float]) -> sa.ColumnElement[Any]:
    return sa.cast(sa.literal("{" + ",".join(map(repr, values)) + "}", type_=sa.Text), ARRAY(sa.Double))


def _compare(column: sa.ColumnElement[Any], operator: Operator, value: Any) -> sa.ColumnElement[bool]:
    if operator is Operator.IN:
        value = sa.any_(sa.cast(sa.literal(list(value), type_=ARRAY(sa.Text)), ARRAY(sa.Text)))
    compared: sa.ColumnElement[bool] = _COMPARISONS[operator](column, value)
    return compared


def _payload(path: tuple[str, ...], operator: Operator, value: Any) -> sa.ColumnElement[bool]:
    match operator:
        case Operator.EXISTS:
            # The first key is looked up by GIN; `#>` gives JSON null, not SQL's, for a null that is there.
            exists = sa.and_(memories.c.payload.bool_op("?")(path[0]), _at(path).is_not(None))
            return exists if value else sa.not_(exists)
        case Operator.CONTAINS:
            return memories.c.payload.bool_op("@>")(_json(_nested(path, value)))
        case Operator.EQ:
            # Containment finds the rows by GIN; equality then refuses arrays and objects that merely contain it.
            return sa.and_(memories.c.payload.bool_op("@>")(_json(_nested(path, value))), _at(path) == _json(value))
        case Operator.IN:
            return sa.and_(
                memories.c.payload.bool_op("@>")(sa.any_(_jsons(_nested(path, one) for one in value))),
                _at(path) == sa.any_(_jsons(value)),
            )
        case _:
            kind = "string" if isinstance(value, str) else "number"
            return sa.and_(
                sa.func.jsonb_typeof(_at(path)) == kind,
                _compare(_at(path), operator, _json(value)),
            )


def _at(path: tuple[str, ...]) -> sa.ColumnElement[Any]:
    keys = sa.cast(sa.literal(list(path), type_=ARRAY(sa.Text)), ARRAY(sa.Text))
    return memories.c.payload.op("#>")(keys)


def _json(value: Any) -> sa.ColumnElement[Any]:
    return sa.cast(sa.literal(orjson.dumps(value).decode(), type_=sa.Text), JSONB)


def _jsons(values: Iterable[Any]) -> sa.ColumnElement[Any]:
    texts = sa.literal([orjson.dumps(value).decode() for value in values], type_=ARRAY(sa.Text))
    return sa.cast(sa.cast(texts, ARRAY(sa.Text)), ARRAY(JSONB))


def _nested(path: tuple[str, ...], value: Any) -> Any:
    for key in reversed(path):
        value = {key: value}
    return value
