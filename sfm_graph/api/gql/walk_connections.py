"""What walks list: pages of neighbours, and rankings."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Self

import strawberry

from sfm_graph.api.gql import types, walk_reads
from sfm_graph.api.gql.context import Context, GraphInfo
from sfm_graph.api.gql.page_info import PageInfo
from sfm_graph.api.gql.scalars import resolver
from sfm_graph.domain import walk
from sfm_graph.domain.as_of import NOW, AsOf
from sfm_graph.domain.identity import MemoryRef
from sfm_graph.domain.page import Page
from sfm_graph.domain.walk import NeighbourPage, WalkFilter

if TYPE_CHECKING:
    from sfm_graph.api.gql.types import Link, Memory

LazyMemory = Annotated["Memory", strawberry.lazy("sfm_graph.api.gql.types")]
LazyLink = Annotated["Link", strawberry.lazy("sfm_graph.api.gql.types")]


@dataclass(frozen=True, slots=True)
class Around:
    """The walk behind a page of neighbours."""

    namespace: str
    ref: MemoryRef
    walk: WalkFilter
    hops: int
    as_of: AsOf


@strawberry.type(description="A memory reached by following links.")
class NeighborEdge:
    """One place of a NeighborConnection."""

    node: LazyMemory = strawberry.field(description="The memory reached.")
    link: LazyLink = strawberry.field(description="The link over which it was first reached.")
    hops: int = strawberry.field(description="How many links away it is.")
    cursor: str = strawberry.field(description="The place of this edge: give it as `after` to go on behind it.")


@strawberry.type(description="A page of neighbours: each memory once, the nearest first.")
class NeighborConnection:
    """A page of neighbours."""

    # None: around what is not there.
    around: strawberry.Private[Around | None]
    edges: list[NeighborEdge] = strawberry.field(description="The neighbours with their places.")
    page_info: PageInfo = strawberry.field(description="Where the page stands.")
    truncated: bool = strawberry.field(
        description="Whether the walk met its bounds on links or time, so that memories are missing behind this page."
    )
    hot: bool = strawberry.field(
        description="Whether the walk was made in memory; false: by queries, it is too large or just loaded."
    )

    @classmethod
    async def of(cls, context: Context, around: Around | None, found: NeighbourPage, after: str | None) -> Self:
        """The connection of a page."""
        page, as_of = found.page, around.as_of if around else NOW
        await context.spend(len(page.items))
        edges = [
            NeighborEdge(
                node=types.Memory.from_domain(one.memory, as_of),
                link=types.Link.from_domain(one.link, as_of), hops=one.hops, cursor=cursor,
            )
            for one, cursor in zip(page.items, page.cursors, strict=True)
        ]  # fmt: skip
        return cls(around=around, edges=edges, page_info=PageInfo.of(page, after), truncated=found.cut, hot=found.hot)

    @resolver(
        "How many memories are first reached at each hop, from 1 to the last that reaches any; of all pages, and "
        "whether `where` keeps them or not. Counted only when asked for."
    )
    async def counts(self, info: GraphInfo) -> list[int]:
        return await walk_reads.counts(info.context, self.around)


@strawberry.type(description="A memory in a ranking.")
class RankEdge:
    """One place of a RankConnection."""

    node: LazyMemory = strawberry.field(description="The memory.")
    score: float = strawberry.field(description="What it is ranked by; comparable within one ranking only.")
    group: int | None = strawberry.field(
        description="The component or community that it belongs to, 0 being the largest; null for other rankings."
    )


@strawberry.type(description="The head of a ranking. A ranking has no next page: ask for more with `first`.")
class RankConnection:
    """The best memories by structure."""

    edges: list[RankEdge] = strawberry.field(
        description="By falling score, ties by age; groups by falling size, their memories by age."
    )
    page_info: PageInfo = strawberry.field(description="Always one page, without cursors.")
    truncated: bool = strawberry.field(description="Whether more memories have a score.")
    estimated: float = strawberry.field(
        description="Which part of all score is an estimate, from 0 to 1: a PageRank from seeds looks at a bounded "
        "part of a large namespace."
    )

    @classmethod
    async def of(cls, context: Context, as_of: AsOf, found: walk.Ranking) -> Self:
        """The connection of a ranking."""
        await context.spend(len(found.memories))
        edges = [
            RankEdge(node=types.Memory.from_domain(one.memory, as_of), score=one.score, group=one.group)
            for one in found.memories
        ]
        page_info = PageInfo.of(Page((), (), False), None)
        return cls(edges=edges, page_info=page_info, truncated=found.truncated, estimated=found.estimated)
