"""Scalars and enums of the schema, and the arguments that many fields share."""

from collections.abc import Callable, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, NewType, TypeVar

import strawberry
from graphql import GraphQLError
from strawberry.scalars import JSON
from strawberry.types.scalar import ScalarDefinition

from sfm_graph.domain import validate
from sfm_graph.domain.change import Operation as ChangeOperation
from sfm_graph.domain.link import Direction
from sfm_graph.domain.memory import MemoryKind, WriteOperation
from sfm_graph.domain.page import OrderField
from sfm_graph.domain.recall import Leg

F = TypeVar("F", bound=Callable[..., Any])

Vector = NewType("Vector", object)
MemoryItem = NewType("MemoryItem", dict[str, object])
LinkItem = NewType("LinkItem", dict[str, object])

strawberry.enum(
    MemoryKind,
    description="EPISODIC: something that happened. SEMANTIC: something known. ENTITY: someone or something.",
)
strawberry.enum(Direction, description="Which links of a memory count: from it, to it, or either way.")
strawberry.enum(OrderField, description="What a listing is ordered by. KEY lists only the memories that have one.")
strawberry.enum(WriteOperation, description="What a write did. UNCHANGED: nothing would have been different.")
strawberry.enum(
    Leg,
    description="A part of a score. DENSE, LEXICAL: found by vectors, by words (BM25); the same of its window in a "
    "sequence. NAME, AUTHOR, DATE: the query says it. GRAPH: pulled up along a link or a shared name. PRODUCT: "
    "cosine x importance. SUPERSEDED: what it lost, since a link says that another memory replaces it.",
)


@strawberry.enum(
    name="Operation",
    description="What was done. FORGET takes it out of every answer, ERASE purges its states from the log as well.",
)
class StreamedOperation(StrEnum):
    """The operations that reach subscribers."""

    CREATE = ChangeOperation.CREATE.value
    UPDATE = ChangeOperation.UPDATE.value
    FORGET = ChangeOperation.FORGET.value
    ERASE = ChangeOperation.ERASE.value


def _object(value: Any) -> Any:
    if not isinstance(value, Mapping):
        raise GraphQLError("an item must be an object")
    return value


def _item(name: str, fields: str) -> ScalarDefinition:
    return strawberry.scalar(
        name=name,
        description=f"An object with the fields of {fields}. Each item is checked by itself, so that one wrong item "
        "does not have to refuse the others, and so that 10,000 of them are read in a moment.",
        parse_value=_object,
    )


SCALARS: dict[object, ScalarDefinition] = {
    datetime: strawberry.scalar(
        name="DateTime",
        description="An ISO 8601 time in the years 1 to 9999; without an offset it is taken as UTC.",
        serialize=datetime.isoformat,
        parse_value=lambda value: validate.moment(value, "a DateTime"),
    ),
    JSON: strawberry.scalar(
        name="JSON",
        description="Any JSON value. Integers have at most 64 bits, objects at most 64 levels and about 1 MB.",
        specified_by_url="https://www.rfc-editor.org/rfc/rfc8259",
    ),
    Vector: strawberry.scalar(name="Vector", description="A list of 1 to 4,000 finite numbers, not all of them 0."),
    MemoryItem: _item("MemoryItem", "StoreMemoryInput, without namespace and idempotencyKey"),
    LinkItem: _item("LinkItem", "LinkInput, without namespace and idempotencyKey"),
}


def resolver(description: str) -> Callable[[F], F]:
    """Make a method a field of the schema."""
    decorate: Callable[[F], F] = strawberry.field(description=description)
    return decorate


def _argument(description: str) -> Any:
    return strawberry.argument(description=description)


NamespaceArg = Annotated[str, _argument("The namespace: nothing outside of it is seen.")]
FirstArg = Annotated[int, _argument("How many, from 1 to 100.")]
AfterArg = Annotated[str | None, _argument("The `endCursor` of the page before; none for the first page.")]
DirectionArg = Annotated[Direction, _argument("Which way links are followed.")]
TypesArg = Annotated[list[str] | None, _argument("Only links of these types; any when empty.")]
HopsArg = Annotated[int, _argument("How many links away, from 1 to 10.")]
WeightedArg = Annotated[bool, _argument("Least sum of link weights instead of fewest links.")]
MaxHopsArg = Annotated[int, _argument("The most links a path may have, from 1 to 64.")]
