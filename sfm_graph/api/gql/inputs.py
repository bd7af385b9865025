"""The inputs of mutations, each turned into what a service takes. The rules are the services' own."""

import re
from dataclasses import fields
from datetime import datetime
from typing import Any

import strawberry
from strawberry import UNSET
from strawberry.scalars import JSON

from sfm_graph.api.gql.scalars import LinkItem, MemoryItem, Vector
from sfm_graph.api.gql.where import MemoryWhere
from sfm_graph.domain import identity, inputs, validate
from sfm_graph.domain.memory import MemoryKind
from sfm_graph.services.idempotency import IdempotencyKey, idempotency_key
from sfm_graph.services.links import LinkRequest

# What says where and how to write, not what.
_ADDRESS = frozenset({"namespace", "idempotency_key", "id", "ref", "source", "target", "items", "partial"})


def _field(description: str, default: Any = UNSET) -> Any:
    return strawberry.field(description=description, default=default)


def _needed(description: str) -> Any:
    return strawberry.field(description=description)


@strawberry.input(one_of=True, description="Names one memory of a namespace.")
class MemoryRef:
    """Exactly one of an id, a key and a coordinate."""

    id: strawberry.ID | None = _field("Its global id.")
    key: str | None = _field("Its key.")
    coordinate: list[float] | None = _field("Its coordinate.")

    def within(self, namespace: str) -> identity.MemoryRef:
        """The reference. Raises MemoryNotFound for an id of another namespace, InvalidInput."""
        given = {one.name: getattr(self, one.name) for one in fields(self)}
        return inputs.memory_ref(namespace, {name: value for name, value in given.items() if value is not UNSET})


@strawberry.input(description="Where a mutation writes.")
class Mutating:
    """What every mutation's input has."""

    namespace: str = _field("The namespace; it comes to be with its first write.", identity.DEFAULT_NAMESPACE)
    idempotency_key: str | None = _field("The same key again within 24 hours gives the first answer again.", None)

    def scope(self) -> str:
        """The checked name of the namespace. Raises InvalidInput."""
        return validate.namespace(self.namespace)

    def given(self) -> dict[str, Any]:
        """The fields that were given, explicit nulls with them, by their domain names."""
        return {
            one.name: getattr(self, one.name)
            for one in fields(self)
            if one.name not in _ADDRESS and getattr(self, one.name) is not UNSET
        }

    def once(self, principal: str) -> IdempotencyKey | None:
        """The idempotency key with all of this input as its body."""
        if self.idempotency_key is None:
            return None
        return idempotency_key(principal, self.idempotency_key, [type(self).__name__, self])


@strawberry.input(description="Something to remember, at a coordinate that the server chooses.")
class RememberInput(Mutating):
    """A memory without a place."""

    key: str | None = _field("The caller's own id. A memory that has it already is updated.")
    kind: MemoryKind | None = _field("EPISODIC when not given.")
    title: str | None = _field("Its name.")
    content: str | None = _field("The text to search by; the payload's texts when not given.")
    payload: JSON | None = _field("The caller's own data, an object.")
    importance: float | None = _field("How much it matters, from 0; the payload's `importance`, or 1, when not given.")
    valid_from: datetime | None = _field("When it becomes valid.")
    valid_to: datetime | None = _field("When it stops being valid.")
    embedding: Vector | None = _field("A vector of the namespace's model, instead of the computed one.")


@strawberry.input(description="A memory to store. At an existing key or coordinate it replaces that memory.")
class StoreMemoryInput(RememberInput):
    """A memory, its place with it."""

    coordinate: list[float] | None = _field("Its place: 1 to 64 numbers. Chosen by the server when not given.")
    expected_version: int | None = _field("The stored version that is replaced; another one is a conflict.")


@strawberry.input(description="Many memories to store in one transaction.")
class RememberManyInput(Mutating):
    """A batch of memories."""

    items: list[MemoryItem] = _needed("Up to 10,000 memories.")
    partial: bool = _field("Store the others when one is refused, and say which was.", False)

    def memories(self) -> list[dict[str, Any]]:
        """The items by their domain names."""
        return [_snake(one) for one in self.items]


@strawberry.input(description="The fields of a memory to replace. Null clears title, validFrom and validTo.")
class UpdateMemoryInput(Mutating):
    """A partial update."""

    ref: MemoryRef = _needed("Which memory.")
    kind: MemoryKind | None = _field("What sort of memory it is.")
    title: str | None = _field("Its name.")
    content: str | None = _field("The text to search by.")
    payload: JSON | None = _field("The caller's own data, an object, as a whole.")
    importance: float | None = _field("How much it matters, from 0.")
    valid_from: datetime | None = _field("When it becomes valid.")
    valid_to: datetime | None = _field("When it stops being valid.")
    embedding: Vector | None = _field("A vector of the namespace's model, instead of the computed one.")
    expected_version: int | None = _field("The stored version that is changed; another one is a conflict.")


@strawberry.input(description="A memory to forget: with its links it is gone from every answer.")
class ForgetInput(Mutating):
    """One memory."""

    ref: MemoryRef = _needed("Which memory.")
    expected_version: int | None = _field("The stored version that is forgotten; another one is a conflict.", None)


@strawberry.input(description="A memory to erase: also what the change log says of it is purged.")
class EraseInput(ForgetInput):
    """One memory, which may be forgotten already when it is named by its id."""


@strawberry.input(description="Memories to forget in one transaction: `refs` or `where`.")
class ForgetManyInput(Mutating):
    """Many memories."""

    refs: list[MemoryRef] | None = _field("Up to 10,000 memories; unknown ones are passed over.", None)
    where: MemoryWhere | None = _field("All memories that the filter keeps, up to 10,000.", None)


@strawberry.input(description="A link to make. The same source, target, type and validFrom again is an update.")
class LinkInput(Mutating):
    """A link between two memories that exist."""

    source: MemoryRef = _needed("The memory that it leads from.")
    target: MemoryRef = _needed("The memory that it leads to.")
    type: str | None = _field("What it means; `related` when not given.")
    weight: float | None = _field("Its cost, from 0: nearer is smaller. 1 when not given.")
    properties: JSON | None = _field("The caller's own data, an object.")
    valid_from: datetime | None = _field("When it becomes valid.")
    valid_to: datetime | None = _field("When it stops being valid.")
    expected_version: int | None = _field("The stored version that is replaced; another one is a conflict.")


@strawberry.input(description="Many links to make in one transaction.")
class LinkManyInput(Mutating):
    """A batch of links."""

    items: list[LinkItem] = _needed("Up to 10,000 links.")
    partial: bool = _field("Make the others when one is refused, and say which was.", False)

    def links(self) -> list[LinkRequest]:
        """The items as requests to the service."""
        return [_link_request(_snake(one)) for one in self.items]


@strawberry.input(description="The fields of a link to replace. Null opens validTo again.")
class UpdateLinkInput:
    """A partial update of a link; its id holds the namespace."""

    id: strawberry.ID = _needed("Its global id.")
