"""Copies between namespaces, where memories come from and who recalled them, as GraphQL objects."""

from datetime import datetime
from typing import Any, Self

import strawberry
from strawberry.scalars import JSON

from sfm_graph.api.copies import end_copy
from sfm_graph.api.gql.context import GraphInfo
from sfm_graph.api.gql.inputs import MemoryRef, needed, optional
from sfm_graph.api.gql.page_info import PageInfo
from sfm_graph.api.gql.where import MemoryWhere, where_json
from sfm_graph.domain import copying, identity, page, validate
from sfm_graph.domain.link import Direction
from sfm_graph.services.agent_reads import AgentAccess
from sfm_graph.services.copying.copies import Copies


@strawberry.type(description="Recalls of a memory by one agent.")
class Access:
    """A count."""

    agent: str | None = strawberry.field(description="Which agent; null: those that do not say.")
    count: int = strawberry.field(description="How often it recalled the memory.")
    last_at: datetime = strawberry.field(description="When it did last.")

    @classmethod
    def from_domain(cls, one: AgentAccess) -> Self:
        """The GraphQL form of a count."""
        return cls(agent=one.agent, count=one.count, last_at=one.last_at)


@strawberry.type(description="What a memory is a copy of.")
class Provenance:
    """Its source."""

    namespace: str | None = strawberry.field(
        description="The source's namespace; null: it was deleted, or is out of the caller's reach."
    )
    id: strawberry.ID | None = strawberry.field(description="The source's global id; null as the namespace.")
    version: int = strawberry.field(description="The source's version that was copied last.")
    copy_id: strawberry.ID = strawberry.field(description="The copy that it belongs to.")
    copied_at: datetime = strawberry.field(description="When that copy was made.")

    @classmethod
    def from_domain(cls, one: copying.Provenance) -> Self:
        """The GraphQL form of a provenance."""
        source = None if one.global_id is None else strawberry.ID(one.global_id)
        return cls(
            namespace=one.namespace, id=source, version=one.version, copy_id=strawberry.ID(str(one.copy_id)),
            copied_at=one.copied_at,
        )  # fmt: skip


@strawberry.type(description="Memories that were copied from one namespace into another.")
class Copy:
    """A copy as it is now."""

    id: strawberry.ID = strawberry.field(description="Its number, in the namespace that it leads to.")
    namespace: str = strawberry.field(description="Where it leads to.")
    source: str | None = strawberry.field(
        description="Where from; null: that namespace was deleted, or is out of the caller's reach."
    )
    selection: JSON = strawberry.field(description="What was asked for.")
    follows: bool = strawberry.field(description="Whether it is kept in step with its source.")
    memories: int = strawberry.field(description="How many memories belong to it.")
    created_by: str = strawberry.field(description="Who made it.")
    created_at: datetime = strawberry.field(description="When it was made.")
    revoked_at: datetime | None = strawberry.field(description="Since when it has ended; null: it has not.")
    error: str | None = strawberry.field(description="What could not be kept in step, or why it has ended by itself.")

    @classmethod
    def from_domain(cls, one: copying.Copy) -> Self:
        """The GraphQL form of a copy."""
        return cls(
            id=strawberry.ID(str(one.id)), namespace=one.namespace, source=one.source, selection=JSON(one.selection),
            follows=one.follows, memories=one.memories, created_by=one.created_by, created_at=one.created_at,
            revoked_at=one.revoked_at, error=one.error,
        )  # fmt: skip


@strawberry.type(description="A listed copy.")
class CopyEdge:
    """One place of a CopyConnection."""

    node: Copy = strawberry.field(description="The copy.")
    cursor: str = strawberry.field(description="The place of this edge: give it as `after` to go on behind it.")


@strawberry.type(description="A page of copies.")
class CopyConnection:
    """A page of copies."""

    edges: list[CopyEdge] = strawberry.field(description="The copies with their places.")
    page_info: PageInfo = strawberry.field(description="Where the page stands.")

    @classmethod
    async def read(cls, info: GraphInfo, namespace: str, first: int, after: str | None, *, outgoing: bool) -> Self:
        """The connection of a page."""
        async with info.context.reading() as view:
            size = page.page_size(first)
            copies = info.context.services.copies
            listed = copies.list_out if outgoing else copies.list
            found = await listed(view, namespace, first=size, after=after)
        edges = [
            CopyEdge(node=Copy.from_domain(one), cursor=cursor)
            for one, cursor in zip(found.items, found.cursors, strict=True)
        ]
        return cls(edges=edges, page_info=PageInfo.of(found, after))


@strawberry.input(description="Memories to copy, with the links among them. Sent again it makes another copy.")
class CopyMemoriesInput:
    """What to copy, from where, and whether to follow it."""

    source: str = needed("The namespace to copy from.")
    namespace: str = optional("The namespace to copy into.", identity.DEFAULT_NAMESPACE)
    start: list[MemoryRef] | None = optional("The memories to start from, at most 100; or else `where`.", None)
    depth: int | None = optional("How many links to go from them, 0 to 10. Default 0.", None)
    direction: Direction | None = optional("Which way. Default BOTH.", None)
    types: list[str] | None = optional("Over links of these types alone.", None)
    where: MemoryWhere | None = optional("Which memories, instead of `start`.", None)
    limit: int | None = optional(
        "More memories than so many are refused, at most 10,000, which is the default.", None
    )
    follow: bool = optional("Keep the copies in step with their sources.", False)

    def given(self) -> dict[str, Any]:
        """The selection in its JSON form."""
        return {
            "start": None if self.start is None else [one.given() for one in self.start],
            "depth": self.depth,
            "direction": None if self.direction is None else self.direction.value,
            "types": self.types,
            "where": None if self.where is None else where_json(self.where),
            "limit": self.limit,
        }

    def scope(self) -> str:
        """The checked name of the target. Raises InvalidInput."""
        return validate.namespace(self.namespace)


@strawberry.type(description="The copy that was made.")
class CopyMemoriesPayload:
    """Answer of copyMemories."""

    copy: Copy = strawberry.field(description="The copy.")


@strawberry.input(description="A copy to end.")
class RevokeCopyInput:
    """Which copy, and whether its memories go."""

    id: strawberry.ID = needed("Its number.")
    namespace: str = optional("The namespace that it leads to.", identity.DEFAULT_NAMESPACE)
    forget: bool = optional("Forget the copied memories, too.", False)
    outgoing: bool = optional(
        "`namespace` is where it comes from; needs the scope admin there, and forgets nothing.", False
    )

    def number(self) -> int:
        """The copy's number. Raises InvalidInput."""
        return validate.decimal(self.id, "id")

    def scope(self) -> str:
        """The checked name of the target. Raises InvalidInput."""
        return validate.namespace(self.namespace)

    async def ended(self, copies: Copies) -> copying.Copy:
        """End it. Raises what `end_copy` does."""
        return await end_copy(copies, self.scope(), self.number(), forget=self.forget, outgoing=self.outgoing)


@strawberry.type(description="The copy as it is now.")
class RevokeCopyPayload:
    """Answer of revokeCopy."""

    copy: Copy = strawberry.field(description="The copy.")
