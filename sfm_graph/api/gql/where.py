"""The `where` inputs of memories and links: typed for GraphiQL, translated to the one JSON form of the domain."""

from dataclasses import fields, is_dataclass
from datetime import datetime
from typing import Annotated, Any

import strawberry
from strawberry.scalars import JSON

from sfm_graph.api.gql.loaders import FilterKey
from sfm_graph.domain.memory import MemoryKind
from sfm_graph.domain.where import Where, parse_link_where, parse_where

_NAMES = {"and_": "_and", "or_": "_or", "not_": "_not", "in_": "in"}


def _field(description: str, name: str | None = None) -> Any:
    return strawberry.field(description=description, name=name, default=None)


@strawberry.input(description="Compares a kind.")
class KindFilter:
    """Operators on a kind."""

    eq: MemoryKind | None = _field("Equal to.")
    in_: list[MemoryKind] | None = _field("One of these.", "in")


@strawberry.input(description="Compares a text.")
class TextFilter:
    """Operators on a text."""

    eq: str | None = _field("Equal to.")
    in_: list[str] | None = _field("One of these, at most 1,000.", "in")


@strawberry.input(description="Compares a number.")
class NumberFilter:
    """Operators on a number."""

    eq: float | None = _field("Equal to.")
    gt: float | None = _field("Greater than.")
    gte: float | None = _field("Greater than or equal to.")
    lt: float | None = _field("Less than.")
    lte: float | None = _field("Less than or equal to.")


@strawberry.input(description="Compares a time.")
class TimeFilter:
    """Operators on a time."""

    eq: datetime | None = _field("At.")
    gt: datetime | None = _field("After.")
    gte: datetime | None = _field("At or after.")
    lt: datetime | None = _field("Before.")
    lte: datetime | None = _field("At or before.")


@strawberry.input(description="A box, its borders included, of coordinates with as many axes.")
class CoordinateBox:
    """Two corners."""

    min: list[float] = strawberry.field(description="The least value on each axis.")
    max: list[float] = strawberry.field(description="The greatest value on each axis.")


@strawberry.input
class _DocumentFilter:
    path: list[str] = strawberry.field(description="The keys from the top, 1 to 16.")
    eq: JSON | None = _field("Equal to.")
    in_: list[JSON] | None = _field("One of these, at most 1,000.", "in")
    contains: JSON | None = _field("Holds this: every key of an object, every element of a list.")
    exists: bool | None = _field("Is there (true) or not (false).")
    gt: JSON | None = _field("Greater than a number or text.")
    gte: JSON | None = _field("Greater than or equal to a number or text.")
    lt: JSON | None = _field("Less than a number or text.")
    lte: JSON | None = _field("Less than or equal to a number or text.")


@strawberry.input(
    description="Compares the payload's value at a path. For gt, gte, lt and lte the namespace must declare the path."
)
class PayloadFilter(_DocumentFilter):
    """Operators on a payload path."""


@strawberry.input(description="Compares the value at a path of a link's properties.")
class PropertyFilter(_DocumentFilter):
    """Operators on a path of the properties."""


@strawberry.input(description="Which memories: all that is given must hold. At most 100 comparisons, 8 levels.")
class MemoryWhere:
    """A filter, as in `domain.where`."""

    and_: list["MemoryWhere"] | None = _field("All of these.", "_and")
    or_: list["MemoryWhere"] | None = _field("At least one of these.", "_or")
    not_: "MemoryWhere | None" = _field("Not this.", "_not")
    kind: KindFilter | None = _field("The kind.")
    key: TextFilter | None = _field("The caller's own id.")
    title: TextFilter | None = _field("The title.")
    coordinate: CoordinateBox | None = _field("The place.")
    importance: NumberFilter | None = _field("The importance.")
    agent: TextFilter | None = _field("Which agent wrote it last.")
    created_at: TimeFilter | None = _field("When it was first stored.")
    updated_at: TimeFilter | None = _field("When it was last stored.")
    valid_from: TimeFilter | None = _field("When it becomes valid.")
    valid_to: TimeFilter | None = _field("When it stops being valid.")
    payload: list[PayloadFilter] | None = _field("Values inside of the payload.")


@strawberry.input(description="Which links: all that is given must hold. At most 100 comparisons, 8 levels.")
class LinkWhere:
    """A filter, as in `domain.where`."""

    and_: list["LinkWhere"] | None = _field("All of these.", "_and")
    or_: list["LinkWhere"] | None = _field("At least one of these.", "_or")
    not_: "LinkWhere | None" = _field("Not this.", "_not")
    type: TextFilter | None = _field("What the link means.")
    weight: NumberFilter | None = _field("Its cost.")
    agent: TextFilter | None = _field("Which agent wrote it last.")
    created_at: TimeFilter | None = _field("When it was made.")
    updated_at: TimeFilter | None = _field("When it was last changed.")
    valid_from: TimeFilter | None = _field("When it becomes valid.")
    valid_to: TimeFilter | None = _field("When it stops being valid.")
    properties: list[PropertyFilter] | None = _field("Values inside of the properties.")


WhereArg = Annotated[MemoryWhere | None, strawberry.argument(description="Which memories; all when not given.")]

LinkWhereArg = Annotated[LinkWhere | None, strawberry.argument(description="Which links; all when not given.")]


def where_of(given: MemoryWhere | None) -> Where:
    """The domain's filter. Raises InvalidInput."""
    return parse_where(None if given is None else _json(given))


def where_json(given: MemoryWhere) -> Any:
    """The JSON form of a filter."""
    return _json(given)


def link_where_of(given: LinkWhere | None) -> Where:
    """The domain's filter. Raises InvalidInput."""
    return parse_link_where(None if given is None else _json(given))


def link_filter_key(given: LinkWhere | None) -> FilterKey:
    """The same for a loader. Raises InvalidInput."""
    where = link_where_of(given)
    return FilterKey(where, repr(where))


def _json(value: Any) -> Any:
    if is_dataclass(value):
        given = {_NAMES.get(one.name, one.name): getattr(value, one.name) for one in fields(value)}
        return {name: _json(item) for name, item in given.items() if item is not None}
    return [_json(item) for item in value] if isinstance(value, list) else value
