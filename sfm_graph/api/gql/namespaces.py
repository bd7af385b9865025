"""Namespaces as GraphQL objects."""

from datetime import datetime
from typing import Self

import strawberry
from strawberry.scalars import JSON

from sfm_graph.api.gql.context import SEARCH_NODES, Context, GraphInfo
from sfm_graph.api.gql.page_info import PageInfo
from sfm_graph.api.gql.scalars import resolver
from sfm_graph.domain import namespace, page
from sfm_graph.domain.as_of import NOW, AsOf
from sfm_graph.domain.memory import MemoryKind
from sfm_graph.services.namespaces import NamespaceStatistics


@strawberry.type(description="What a namespace's owner declares.")
class NamespaceSettings:
    """Settings of a namespace."""

    payload_paths: list[str] = strawberry.field(description="Payload paths that `where` may compare by order.")
    language: str = strawberry.field(description="Whose rules reduce words to stems.")
    cues: JSON = strawberry.field(description="The payload fields that cues are read from.")
    linkers: JSON = strawberry.field(description="Linkers switched on or off; the others are as by default.")
    extraction: bool = strawberry.field(description="Whether the predictor reads what is stored for entities.")
    functional_types: list[str] = strawberry.field(
        description="Link types of which one link at most is open from a memory."
    )
    consolidation: JSON | None = strawberry.field(
        description="How episodes become semantic memories in the background; null: they do not."
    )
    content_policy: JSON | None = strawberry.field(
        description="What may be stored, and what is refused, redacted or tagged; null: anything may."
    )
    fading: JSON | None = strawberry.field(description="How memories fade; null: they do not.")
    max_memories: int | None = strawberry.field(description="How many memories are kept; null: any number.")


@strawberry.type(description="The identity of an embedding model.")
class EmbeddingModel:
    """What makes two vectors comparable."""

    name: str = strawberry.field(description="The model's name.")
    revision: str = strawberry.field(description="Its revision.")
    dimension: int = strawberry.field(description="How many numbers its vectors have.")


@strawberry.type(description="How many memories are of a kind.")
class KindCount:
    """A kind and its number."""

    kind: MemoryKind = strawberry.field(description="The kind.")
    count: int = strawberry.field(description="How many memories.")


@strawberry.type(description="How many links are of a type.")
class TypeCount:
    """A link type and its number."""

    type: str = strawberry.field(description="The type.")
    count: int = strawberry.field(description="How many links.")


@strawberry.type(description="How much is in a namespace.")
class NamespaceCounts:
    """Counted for each request."""

    memories: int = strawberry.field(description="All memories.")
    links: int = strawberry.field(description="All links of the types listed below.")
    memories_by_kind: list[KindCount] = strawberry.field(description="Memories of each kind that occurs.")
    links_by_type: list[TypeCount] = strawberry.field(description="Links of the 1,000 most frequent types.")

    @classmethod
    def from_domain(cls, counts: namespace.NamespaceCounts) -> Self:
        """The GraphQL form of the counts."""
        kinds, types = counts.memories_by_kind, counts.links_by_type
        return cls(
            memories=sum(kinds.values()),
            links=sum(types.values()),
            memories_by_kind=[KindCount(kind=MemoryKind(kind), count=count) for kind, count in kinds.items()],
            links_by_type=[TypeCount(type=type_, count=count) for type_, count in types.items()],
        )


@strawberry.type(description="The border of isolation: one agent's, team's or tenant's memories.")
class Namespace:
    """A namespace as stored."""

    as_of: strawberry.Private[AsOf]
    name: str = strawberry.field(description="Its name.")
    settings: NamespaceSettings = strawberry.field(description="What its owner declares.")
    model: EmbeddingModel | None = strawberry.field(description="The model of its vectors; null before the first.")
    created_at: datetime = strawberry.field(description="When it came to be.")

    @classmethod
    def from_domain(cls, one: namespace.Namespace, as_of: AsOf = NOW) -> Self:
        """The GraphQL form of a namespace; what is in it is counted as of a moment."""
        model = one.model.identity if one.model else None
        return cls(
            as_of=as_of,
            name=one.name,
            settings=NamespaceSettings(**one.settings.as_json()),
            model=EmbeddingModel(name=model.name, revision=model.revision, dimension=model.dimension)
            if model
            else None,
            created_at=one.created_at,
        )

    @resolver("How much is in it.")
    async def counts(self, info: GraphInfo) -> NamespaceCounts:
        return NamespaceCounts.from_domain((await _statistics(info.context, self)).counts)

    @resolver("The bytes that it takes in this process's memory; 0 when it is not hot.")
    async def hot_bytes(self, info: GraphInfo) -> float:
        return sum((await _statistics(info.context, self)).hot_bytes.values())


@strawberry.type(description="A listed namespace.")
class NamespaceEdge:
    """One place of a NamespaceConnection."""

    node: Namespace = strawberry.field(description="The namespace.")
    cursor: str = strawberry.field(description="The place of this edge: give it as `after` to go on behind it.")


@strawberry.type(description="A page of namespaces.")
class NamespaceConnection:
    """A page of namespaces."""

    edges: list[NamespaceEdge] = strawberry.field(description="The namespaces with their places.")
    page_info: PageInfo = strawberry.field(description="Where the page stands.")

    @classmethod
    def of(cls, found: page.Page[namespace.Namespace], after: str | None) -> Self:
        """The connection of a page."""
        edges = [
            NamespaceEdge(node=Namespace.from_domain(one), cursor=cursor)
            for one, cursor in zip(found.items, found.cursors, strict=True)
        ]
        return cls(edges=edges, page_info=PageInfo.of(found, after))


async def _statistics(context: Context, one: Namespace) -> NamespaceStatistics:
    await context.spend(SEARCH_NODES)
    return await context.loaders(one.as_of).statistics.load(one.name)
