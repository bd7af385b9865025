"""Memories and links as GraphQL objects.

The types refer to each other in a circle: this module, `connections`, `walks`, `walk_connections`, `reads` and
`walk_reads` import one another as modules and name the types lazily.
"""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Self

import strawberry
from strawberry.scalars import JSON

from sfm_graph.api.gql import reads, walk_reads
from sfm_graph.api.gql.context import GraphInfo
from sfm_graph.api.gql.inputs import MemoryRef
from sfm_graph.api.gql.scalars import (
    AfterArg,
    DirectionArg,
    FirstArg,
    HopsArg,
    MaxHopsArg,
    TypesArg,
    WeightedArg,
    resolver,
)
from sfm_graph.api.gql.walk_arguments import AsOfArg, FollowedArg, walk_of
from sfm_graph.api.gql.where import LinkWhereArg, WhereArg, link_filter_key, where_of
from sfm_graph.domain import link, memory
from sfm_graph.domain.identity import MemoryId
from sfm_graph.domain.identity import MemoryRef as DomainRef
from sfm_graph.domain.link import Direction
from sfm_graph.domain.memory import MemoryKind
from sfm_graph.domain.walk import MAX_PATH_HOPS

if TYPE_CHECKING:
    from sfm_graph.api.gql.connections import LinkConnection, RecallConnection
    from sfm_graph.api.gql.walk_connections import NeighborConnection
    from sfm_graph.api.gql.walks import Path

_connections = strawberry.lazy("sfm_graph.api.gql.connections")
_walks = strawberry.lazy("sfm_graph.api.gql.walks")
_walk_connections = strawberry.lazy("sfm_graph.api.gql.walk_connections")


@strawberry.interface(description="Something with a global id.")
class Node:
    """What `node` and `nodes` find."""

    id: strawberry.ID = strawberry.field(description="The global id: opaque, and unique across namespaces.")


@strawberry.type(description="Something remembered: a node of the graph.")
class Memory(Node):
    """A stored memory and what it is joined to."""

    row: strawberry.Private[MemoryId]
    namespace: str = strawberry.field(description="The namespace that it belongs to.")
    key: str | None = strawberry.field(description="The caller's own id, unique in the namespace.")
    coordinate: list[float] = strawberry.field(description="Its place, unique in the namespace; it never moves.")
    kind: MemoryKind = strawberry.field(description="What sort of memory it is.")
    title: str | None = strawberry.field(description="Its name.")
    content: str = strawberry.field(description="The text that is embedded and searched, after the title.")
    payload: JSON = strawberry.field(description="The caller's own data, an object.")
    importance: float = strawberry.field(description="How much it matters to its owner, from 0.")
    version: int = strawberry.field(description="1 at first, one more with each change.")
    created_at: datetime = strawberry.field(description="When it was first stored.")
    updated_at: datetime = strawberry.field(description="When it was last stored.")
    valid_from: datetime | None = strawberry.field(description="When it becomes valid; null: it always was.")
    valid_to: datetime | None = strawberry.field(description="When it stops being valid; null: never.")

    @classmethod
    def from_domain(cls, one: memory.Memory) -> Self:
        """The GraphQL form of a stored memory."""
        return cls(
            id=strawberry.ID(one.global_id), row=one.id, namespace=one.namespace, key=one.key,
            coordinate=list(one.coordinate), kind=one.kind, title=one.title, content=one.content,
            payload=JSON(one.payload), importance=one.importance, version=one.version, created_at=one.created_at,
            updated_at=one.updated_at, valid_from=one.valid_from, valid_to=one.valid_to,
        )  # fmt: skip

    @resolver("The links from and to it, by id.")
    async def links(
        self, info: GraphInfo, direction: DirectionArg = Direction.BOTH, types: TypesArg = None,
        where: LinkWhereArg = None, first: FirstArg = 20, after: AfterArg = None,
    ) -> Annotated["LinkConnection", _connections]:  # fmt: skip
        kept = info.context.once(info, lambda: link_filter_key(where))
        return await reads.links(info.context, self, direction, types, kept, first, after)

    @resolver("The memories around it, by hops, then by the id of the link that reached them.")
    async def neighbors(
        self, info: GraphInfo, hops: HopsArg = 1, direction: DirectionArg = Direction.BOTH, types: TypesArg = None,
        where: WhereArg = None, link_where: FollowedArg = None, as_of: AsOfArg = None, first: FirstArg = 20,
        after: AfterArg = None,
    ) -> Annotated["NeighborConnection", _walk_connections]:  # fmt: skip
        walk, kept = info.context.once(info, lambda: (walk_of(direction, types, link_where, as_of), where_of(where)))
        ref = DomainRef(id=self.row)
        return await walk_reads.neighbors(info.context, self.namespace, ref, walk, kept, hops, first, after)

    @resolver("The memories that its own title and content recall, itself left out.")
    async def similar(self, info: GraphInfo, first: FirstArg = 10) -> Annotated["RecallConnection", _connections]:
        return await reads.similar(info.context, self, first)

    @resolver("The shortest path from it to another memory; null when there is none.")
    async def path_to(
        self,
        info: GraphInfo,
        ref: Annotated[MemoryRef, strawberry.argument(description="The memory to reach.")],
        direction: DirectionArg = Direction.BOTH,
        types: TypesArg = None,
        weighted: WeightedArg = False,
        max_hops: MaxHopsArg = MAX_PATH_HOPS,
        where: FollowedArg = None,
        as_of: AsOfArg = None,
    ) -> Annotated["Path", _walks] | None:
        walk = info.context.once(info, lambda: walk_of(direction, types, where, as_of))
        ends = DomainRef(id=self.row), ref.within(self.namespace)
        return await walk_reads.path(info.context, self.namespace, ends, walk, weighted, max_hops)


@strawberry.type(description="A typed, directed, weighted edge between two memories of one namespace.")
class Link(Node):
    """A stored link and its two ends."""

    namespace: strawberry.Private[str]
    source_row: strawberry.Private[MemoryId]
    target_row: strawberry.Private[MemoryId]
    type: str = strawberry.field(description="What the link means.")
    weight: float = strawberry.field(description="Its cost, from 0: nearer is smaller.")
    properties: JSON = strawberry.field(description="The caller's own data, an object.")
    version: int = strawberry.field(description="1 at first, one more with each change.")
    created_at: datetime = strawberry.field(description="When it was made.")
    updated_at: datetime = strawberry.field(description="When it was last changed.")
    valid_from: datetime | None = strawberry.field(description="When it becomes valid; null: it always was.")
    valid_to: datetime | None = strawberry.field(description="When it stops being valid; null: never.")
    maker: str | None = strawberry.field(description="The linker that made it; null: a caller did.")

    @classmethod
    def from_domain(cls, one: link.Link) -> Self:
        """The GraphQL form of a stored link."""
        return cls(
            id=strawberry.ID(one.global_id), namespace=one.namespace, source_row=one.source_id,
            target_row=one.target_id, type=one.type, weight=one.weight, properties=JSON(one.properties),
            version=one.version, created_at=one.created_at, updated_at=one.updated_at, valid_from=one.valid_from,
            valid_to=one.valid_to, maker=one.maker,
        )  # fmt: skip

    @resolver("The memory that it leads from.")
    async def source(self, info: GraphInfo) -> Memory:
        return Memory.from_domain(await reads.end_of_link(info.context, self.namespace, self.source_row))

    @resolver("The memory that it leads to.")
    async def target(self, info: GraphInfo) -> Memory:
        return Memory.from_domain(await reads.end_of_link(info.context, self.namespace, self.target_row))
