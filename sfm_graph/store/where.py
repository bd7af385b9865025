"""Listings and id sets by `where` as SQL: built with SQLAlchemy Core, executed with psycopg."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.dialects.postgresql import ARRAY

from sfm_graph.domain.link import Direction
from sfm_graph.domain.page import OrderBy, OrderField
from sfm_graph.domain.walk import WalkFilter
from sfm_graph.domain.where import Where
from sfm_graph.store.conditions import (
    LINKS,
    MEMORIES,
    Filtered,
    compiled,
    condition,
    id_array,
    links,
    memories,
    text_array,
)
from sfm_graph.store.rows import LINK_COLUMNS, MEMORY_COLUMNS

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
    query = _select(MEMORIES, sa.text(MEMORY_COLUMNS), namespace_id, where)
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


def matching_ids(namespace_id: int, where: Where, limit: int | None = None) -> tuple[str, dict[str, Any]]:
    """The ids of the memories that a filter keeps, ascending, as packed big-endian int8s in one value."""
    query = _select(MEMORIES, memories.c.id, namespace_id, where).order_by(memories.c.id).limit(limit)
    return _packed(query)


def matching_link_ids(
    namespace_id: int, where: Where, among: NDArray[np.int64] | None = None
) -> tuple[str, dict[str, Any]]:
    """The ids of the links that a filter keeps, of all or of those `among`; ascending, packed as above."""
    query = _select(LINKS, links.c.id, namespace_id, where)
    if among is not None:
        query = query.where(links.c.id == sa.any_(id_array(among)))
    return _packed(query)


def links_of_memories(
    namespace_id: int, where: Where, ids: Sequence[int], walk: WalkFilter, after: int, limit: int
) -> tuple[str, dict[str, Any]]:
    """As the statement of that name, of the links that a filter keeps."""
    owner: Any = sa.literal_column("o.memory_id", sa.BigInteger)
    end = {Direction.OUT: links.c.source_id, Direction.IN: links.c.target_id}
    ways = [way for way in end if walk.direction in (way, Direction.BOTH)]
    queries = [
        _select(LINKS, links, namespace_id, where).where(end[way] == owner, links.c.id > after) for way in ways
    ]
    if walk.types:
        queries = [query.where(links.c.type == sa.any_(text_array(walk.types))) for query in queries]
    if walk.direction is Direction.BOTH:
        queries[1] = queries[1].where(links.c.source_id != links.c.target_id)
    both_ways = sa.union_all(*queries).subquery("both_ways")
    page = sa.select(both_ways).order_by(both_ways.c.id).limit(limit).lateral("l")
    owners = sa.func.unnest(id_array(ids)).table_valued("memory_id").render_derived("o")
    chosen = sa.select(owner, sa.text(LINK_COLUMNS)).select_from(owners.join(page, sa.true()))
    return compiled(chosen.order_by(owner, page.c.id))


def _packed(query: sa.Select[Any]) -> tuple[str, dict[str, Any]]:
    text, parameters = compiled(query)
    return f"select string_agg(int8send(q.id), ''::bytea order by q.id) from ({text}) q", parameters  # noqa: S608


def _select(of: Filtered, what: Any, namespace_id: int, where: Where) -> sa.Select[Any]:
    chosen = sa.select(what).select_from(of.table)
    return chosen.where(of.table.c.namespace_id == namespace_id).where(condition(where, of))
