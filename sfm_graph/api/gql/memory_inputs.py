"""The inputs of mutations of memories, each turned into what a service takes. The rules are the services' own."""

from datetime import datetime
from typing import Any

import strawberry
from strawberry.scalars import JSON

from sfm_graph.api.gql.inputs import MemoryRef, Mutating, needed, optional, snake_case
from sfm_graph.api.gql.scalars import MemoryItem, Vector
from sfm_graph.api.gql.where import MemoryWhere, where_of
from sfm_graph.domain import identity
from sfm_graph.domain.memory import MemoryKind
from sfm_graph.domain.where import EVERYTHING, Where
from sfm_graph.errors import InvalidInput


@strawberry.input(description="Something to remember, at a coordinate that the server chooses.")
class RememberInput(Mutating):
    """A memory without a place."""

    key: str | None = optional("The caller's own id. A memory that has it already is updated.")
    kind: MemoryKind | None = optional("EPISODIC when not given.")
    title: str | None = optional("Its name.")
    content: str | None = optional("The text to search by; the payload's texts when not given.")
    payload: JSON | None = optional("The caller's own data, an object.")
    importance: float | None = optional("How much it matters, from 0. By default the payload's `importance`, or 1.")
    valid_from: datetime | None = optional("When it becomes valid.")
    valid_to: datetime | None = optional("When it stops being valid.")
    expires_at: datetime | None = optional("When it is forgotten by itself.")
    agent: str | None = optional("Which agent writes it, 1 to 200 characters.")
    embedding: Vector | None = optional("A vector of the namespace's model, instead of the computed one.")


@strawberry.input(description="A memory to store. At an existing key or coordinate it replaces that memory.")
class StoreMemoryInput(RememberInput):
    """A memory, its place with it."""

    coordinate: list[float] | None = optional("Its place: 1 to 64 numbers. Chosen by the server when not given.")
    expected_version: int | None = optional("The stored version that is replaced; another one is a conflict.")


@strawberry.input(description="Many memories to store in one transaction.")
class RememberManyInput(Mutating):
    """A batch of memories."""

    items: list[MemoryItem] = needed("Up to 10,000 memories.")
    partial: bool = optional("Store the others when one is refused, and say which was.", False)

    def memories(self) -> list[dict[str, Any]]:
        """The items by their domain names."""
        return [snake_case(one) for one in self.items]


@strawberry.input(
    description="The fields of a memory to replace. Null clears title, validFrom, validTo and expiresAt."
)
class UpdateMemoryInput(Mutating):
    """A partial update."""

    ref: MemoryRef = needed("Which memory.")
    kind: MemoryKind | None = optional("What sort of memory it is.")
    title: str | None = optional("Its name.")
    content: str | None = optional("The text to search by.")
    payload: JSON | None = optional("The caller's own data, an object, as a whole.")
    importance: float | None = optional("How much it matters, from 0.")
    valid_from: datetime | None = optional("When it becomes valid.")
    valid_to: datetime | None = optional("When it stops being valid.")
    expires_at: datetime | None = optional("When it is forgotten by itself.")
    agent: str | None = optional("Which agent writes it, 1 to 200 characters.")
    embedding: Vector | None = optional("A vector of the namespace's model, instead of the computed one.")
    expected_version: int | None = optional("The stored version that is changed; another one is a conflict.")


@strawberry.input(description="A memory to forget: with its links it is gone from every answer.")
class ForgetInput(Mutating):
    """One memory."""

    ref: MemoryRef = needed("Which memory.")
    expected_version: int | None = optional("The stored version that is forgotten; another one is a conflict.", None)


@strawberry.input(description="A memory to erase: also what the change log says of it is purged.")
class EraseInput(ForgetInput):
    """One memory, which may be forgotten already."""


@strawberry.input(description="Memories to forget in one transaction: `refs` or `where`.")
class ForgetManyInput(Mutating):
    """Many memories."""

    refs: list[MemoryRef] | None = optional("Up to 10,000 memories; unknown ones are passed over.", None)
    where: MemoryWhere | None = optional("All that a filter keeps, up to 10,000. An empty filter is refused.", None)

    def which(self) -> list[identity.MemoryRef] | Where:
        """The references, or the filter. Raises InvalidInput unless exactly one is given, and the filter filters."""
        scope, where = self.scope(), where_of(self.where)
        if (self.refs is None) == (where == EVERYTHING):
            raise InvalidInput("give either refs or a where that is not empty", field="refs")
        return where if self.refs is None else [ref.within(scope) for ref in self.refs]
