"""The inputs of mutations of links."""

from datetime import datetime
from typing import Any

import strawberry
from strawberry.scalars import JSON

from sfm_graph.api.gql.inputs import MemoryRef, Mutating, Repeatable, needed, optional, snake_case
from sfm_graph.api.gql.scalars import LinkItem
from sfm_graph.domain import identity, inputs
from sfm_graph.domain.identity import LinkId
from sfm_graph.domain.link import LinkPatch
from sfm_graph.errors import InvalidInput
from sfm_graph.services.links import LinkRequest


@strawberry.input(description="A link to make. The same source, target, type and validFrom again is an update.")
class LinkInput(Mutating):
    """A link between two memories that exist."""

    source: MemoryRef = needed("The memory that it leads from.")
    target: MemoryRef = needed("The memory that it leads to.")
    type: str | None = optional("What it means; `related` when not given.")
    weight: float | None = optional("Its cost, from 0: nearer is smaller. 1 when not given.")
    properties: JSON | None = optional("The caller's own data, an object.")
    valid_from: datetime | None = optional("When it becomes valid.")
    valid_to: datetime | None = optional("When it stops being valid.")
    agent: str | None = optional("Which agent writes it, 1 to 200 characters.")
    expected_version: int | None = optional("The stored version that is replaced; another one is a conflict.")

    def link(self) -> LinkRequest:
        """The request to the service."""
        return LinkRequest(self.source.given(), self.target.given(), self.given())


@strawberry.input(description="Many links to make in one transaction.")
class LinkManyInput(Mutating):
    """A batch of links."""

    items: list[LinkItem] = needed("Up to 10,000 links.")
    partial: bool = optional("Make the others when one is refused, and say which was.", False)

    def links(self) -> list[LinkRequest]:
        """The items as requests to the service."""
        return [_link_request(snake_case(one)) for one in self.items]


@strawberry.input(description="The fields of a link to replace. Null opens validTo again.")
class UpdateLinkInput(Repeatable):
    """A partial update of a link."""

    id: strawberry.ID = needed("Its global id, which holds its namespace.")
    weight: float | None = optional("Its cost, from 0: nearer is smaller.")
    properties: JSON | None = optional("The caller's own data, an object, as a whole.")
    valid_to: datetime | None = optional("When it stops being valid.")
    agent: str | None = optional("Which agent writes it, 1 to 200 characters.")
    expected_version: int | None = optional("The stored version that is changed; another one is a conflict.")

    def patch(self) -> tuple[str, LinkPatch]:
        """The namespace and the change. Raises InvalidInput, LinkNotFound for an id that is no link's."""
        _, namespace, _ = identity.decode_global_id(self.id)
        return namespace, inputs.link_patch(inputs.link_id(namespace, self.id), self.given())


@strawberry.input(description="Links to remove: by `id`, or all from `source` to `target`, of one type or of any.")
class UnlinkInput(Mutating):
    """One link, or the links between two memories."""

    id: strawberry.ID | None = optional("The link's global id.", None)
    source: MemoryRef | None = optional("The memory that the links lead from.", None)
    target: MemoryRef | None = optional("The memory that the links lead to.", None)
    type: str | None = optional("The type of the links; any when not given.", None)

    def which(self) -> LinkId | tuple[identity.MemoryRef, identity.MemoryRef]:
        """The link, or the ends of the links. Raises InvalidInput unless exactly one of both is given."""
        scope = self.scope()
        if self.id is not None and not (self.source or self.target or self.type):
            return inputs.link_id(scope, self.id)
        if self.id is None and self.source and self.target:
            return self.source.within(scope), self.target.within(scope)
        raise InvalidInput("give either id, or source and target", field="id")

    def link_type(self) -> str | None:
        """The checked type; None for any."""
        return None if self.type is None else inputs.link_type(self.type)


def _link_request(item: dict[str, Any]) -> LinkRequest:
    return LinkRequest(item.pop("source", None), item.pop("target", None), item)
