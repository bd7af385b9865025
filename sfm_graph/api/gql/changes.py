"""Changes as GraphQL objects."""

from datetime import datetime
from typing import Self

import strawberry
from strawberry.scalars import JSON

from sfm_graph.api.gql.scalars import StreamedOperation, resolver
from sfm_graph.api.gql.types import Link, Memory
from sfm_graph.domain import change
from sfm_graph.domain.identity import Entity
from sfm_graph.services.changes.pages import StreamedChange

strawberry.enum(Entity, description="What a change is about. The one change of a NAMESPACE is its end.")


@strawberry.type(description="What a committed transaction did to a memory, a link or the namespace.")
class Change:
    """One change of the stream."""

    change: strawberry.Private[change.Change]
    cursor: str = strawberry.field(description="The place behind this change: give it as `after` to go on there.")
    entity: Entity = strawberry.field(description="What it is about.")
    operation: StreamedOperation = strawberry.field(description="What was done.")
    at: datetime = strawberry.field(description="When.")
    id: strawberry.ID = strawberry.field(description="The memory's or link's global id; a namespace's name.")
    namespace: str = strawberry.field(description="The namespace.")

    @classmethod
    def from_domain(cls, one: StreamedChange) -> Self:
        """The GraphQL form of a change."""
        found = one.change
        return cls(
            change=found, cursor=one.cursor, entity=found.entity, at=found.at, id=strawberry.ID(found.global_id),
            operation=StreamedOperation(found.operation.value), namespace=found.namespace,
        )  # fmt: skip

    @resolver("The memory as this change left it; null when it is gone, or it is about something else.")
    def memory(self) -> Memory | None:
        found = self.change.memory()
        return Memory.from_domain(found) if found else None

    @resolver("The link as this change left it; null when it is gone, or it is about something else.")
    def link(self) -> Link | None:
        found = self.change.link()
        return Link.from_domain(found) if found else None

    @resolver("The state that it replaced, as the log holds it; null where there was none.")
    def before(self) -> JSON | None:
        return self.change.before()  # type: ignore[return-value]

    @resolver("The state that it left, as the log holds it; null where there is none.")
    def after(self) -> JSON | None:
        return self.change.after()  # type: ignore[return-value]
