"""Memories and links as GraphQL objects.

The types refer to each other in a circle: this module, `connections`, `walks`, `walk_connections`, `reads` and
`walk_reads` import one another as modules and name the types lazily.
"""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Self

import strawberry
from strawberry.scalars import JSON

from sfm_graph.api.gql import history as versions
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
from sfm_graph.api.gql.walk_arguments import AsOfArg, FollowedArg, moment_of, walk_of
from sfm_graph.api.gql.where import LinkWhereArg, WhereArg, link_filter_key, where_of
from sfm_graph.domain import link, memory
from sfm_graph.domain.as_of import NOW, AsOf
from sfm_graph.domain.identity import LinkId, MemoryId
from sfm_graph.domain.identity import MemoryRef as DomainRef
from sfm_graph.domain.link import Direction
from sfm_graph.domain.memory import MemoryKind
from sfm_graph.domain.walk import MAX_PATH_HOPS

if TYPE_CHECKING:
    from sfm_graph.api.gql.connections import LinkConnection, RecallConnection
    from sfm_graph.api.gql.copies import Access, Provenance
    from sfm_graph.api.gql.history import LinkVersionConnection, MemoryVersionConnection
    from sfm_graph.api.gql.walk_connections import NeighborConnection
    from sfm_graph.api.gql.walks import Path

_connections = strawberry.lazy("sfm_graph.api.gql.connections")
_copies = strawberry.lazy("sfm_graph.api.gql.copies")
_history = strawberry.lazy("sfm_graph.api.gql.history")
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
    as_of: strawberry.Private[AsOf]
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
    expires_at: datetime | None = strawberry.field(description="When it is forgotten by itself; null: it is not.")
    legal_hold: bool = strawberry.field(description="Whether it can neither be forgotten nor erased.")
    agent: str | None = strawberry.field(description="Which agent wrote it last; null: nobody said.")

    @classmethod
    def from_domain(cls, one: memory.Memory, as_of: AsOf = NOW) -> Self:
        """The GraphQL form of a memory that was read as of a moment."""
        return cls(
            id=strawberry.ID(one.global_id), row=one.id, as_of=as_of, namespace=one.namespace, key=one.key,
            coordinate=list(one.coordinate), kind=one.kind, title=one.title, content=one.content,
            payload=JSON(one.payload), importance=one.importance, version=one.version, created_at=one.created_at,
            updated_at=one.updated_at, valid_from=one.valid_from, valid_to=one.valid_to, expires_at=one.expires_at,
            legal_hold=one.legal_hold, agent=one.agent,
        )  # fmt: skip

    @resolver("The links from and to it, by id.")
    async def links(
        self, info: GraphInfo, direction: DirectionArg = Direction.BOTH, types: TypesArg = None,
        where: LinkWhereArg = None, as_of: AsOfArg = None, first: FirstArg = 20, after: AfterArg = None,
    ) -> Annotated["LinkConnection", _connections]:  # fmt: skip
        kept = info.context.once(info, lambda: link_filter_key(where))
        moment = moment_of(as_of, self.as_of)
        return await reads.links(info.context, self, moment, direction, types, kept, first, after)

    @resolver("The memories around it, by hops, then by the id of the link that reached them.")
    async def neighbors(
        self, info: GraphInfo, hops: HopsArg = 1, direction: DirectionArg = Direction.BOTH, types: TypesArg = None,
        where: WhereArg = None, link_where: FollowedArg = None, as_of: AsOfArg = None, first: FirstArg = 20,
        after: AfterArg = None,
    ) -> Annotated["NeighborConnection", _walk_connections]:  # fmt: skip
        walk, kept = info.context.once(info, lambda: (walk_of(direction, types, link_where), where_of(where)))
        moment = moment_of(as_of, self.as_of)
        return await walk_reads.neighbors_of(info.context, moment, self, walk, kept, hops, first, after)

    @resolver("The memories that its own title and content recall, itself left out.")
    async def similar(
        self, info: GraphInfo, as_of: AsOfArg = None, first: FirstArg = 10
    ) -> Annotated["RecallConnection", _connections]:
        return await reads.similar(info.context, self, moment_of(as_of, self.as_of), first)

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
        walk = info.context.once(info, lambda: walk_of(direction, types, where))
        goal, moment = ref.within(self.namespace), moment_of(as_of, self.as_of)
        return await walk_reads.path_from(info.context, moment, self, goal, walk, weighted, max_hops)

    @resolver("What it is a copy of; null when it is none.")
    async def provenance(self, info: GraphInfo) -> Annotated["Provenance", _copies] | None:
        return await reads.provenance(info.context, self)

    @resolver("Which agents recalled it, the most frequent first, at most 100. Counted in batches of some seconds.")
    async def accesses(self, info: GraphInfo) -> list[Annotated["Access", _copies]]:
        return await reads.accesses(info.context, self)

    @resolver("Its versions as far as the change log tells, the newest first; also where it was read as of a moment.")
    async def history(
        self, info: GraphInfo, first: FirstArg = 20, after: AfterArg = None
    ) -> Annotated["MemoryVersionConnection", _history]:
        return await versions.of_memory(info.context, self.namespace, DomainRef(id=self.row), first, after)


@strawberry.type(description="A typed, directed, weighted edge between two memories of one namespace.")
class Link(Node):
    """A stored link and its two ends."""

    row: strawberry.Private[LinkId]
    namespace: strawberry.Private[str]
    source_row: strawberry.Private[MemoryId]
    target_row: strawberry.Private[MemoryId]
    as_of: strawberry.Private[AsOf]
    type: str = strawberry.field(description="What the link means.")
    weight: float = strawberry.field(description="Its cost, from 0: nearer is smaller.")
    properties: JSON = strawberry.field(description="The caller's own data, an object.")
    version: int = strawberry.field(description="1 at first, one more with each change.")
    created_at: datetime = strawberry.field(description="When it was made.")
    updated_at: datetime = strawberry.field(description="When it was last changed.")
    valid_from: datetime | None = strawberry.field(description="When it becomes valid; null: it always was.")
    valid_to: datetime | None = strawberry.field(description="When it stops being valid; null: never.")
    maker: str | None = strawberry.field(description="The linker that made it; null: a caller did.")
    agent: str | None = strawberry.field(description="Which agent wrote it last; null: nobody said.")

    @classmethod
    def from_domain(cls, one: link.Link, as_of: AsOf = NOW) -> Self:
        """The GraphQL form of a link that was read as of a moment."""
        return cls(
            id=strawberry.ID(one.global_id), row=one.id, namespace=one.namespace, source_row=one.source_id,
            target_row=one.target_id, as_of=as_of, type=one.type, weight=one.weight,
            properties=JSON(one.properties), version=one.version, created_at=one.created_at,
            updated_at=one.updated_at, valid_from=one.valid_from, valid_to=one.valid_to, maker=one.maker,
            agent=one.agent,
        )  # fmt: skip

    @resolver("The memory that it leads from.")
    async def source(self, info: GraphInfo) -> Memory:
        return await reads.end_of_link(info.context, self, self.source_row)

    @resolver("The memory that it leads to.")
    async def target(self, info: GraphInfo) -> Memory:
        return await reads.end_of_link(info.context, self, self.target_row)

    @resolver("Its versions as far as the change log tells, the newest first.")
    async def history(
        self, info: GraphInfo, first: FirstArg = 20, after: AfterArg = None
    ) -> Annotated["LinkVersionConnection", _history]:
        return await versions.of_link(info.context, self.namespace, self.row, first, after)
