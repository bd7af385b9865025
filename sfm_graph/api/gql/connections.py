"""Keyset connections: pages with a cursor on each edge."""

import asyncio
from typing import TYPE_CHECKING, Annotated, Any, Self

import strawberry

from sfm_graph.api.gql import types
from sfm_graph.api.gql.context import Context
from sfm_graph.api.gql.page_info import PageInfo
from sfm_graph.domain import recall
from sfm_graph.domain.as_of import AsOf
from sfm_graph.domain.identity import Entity, MemoryId, encode_global_id
from sfm_graph.domain.link import Link as DomainLink
from sfm_graph.domain.memory import Memory as DomainMemory
from sfm_graph.domain.page import Page
from sfm_graph.domain.recall import Leg

if TYPE_CHECKING:
    from sfm_graph.api.gql.types import Link, Memory

LazyMemory = Annotated["Memory", strawberry.lazy("sfm_graph.api.gql.types")]
LazyLink = Annotated["Link", strawberry.lazy("sfm_graph.api.gql.types")]


def _cursor() -> Any:
    return strawberry.field(description="The place of this edge: give it as `after` to go on behind it.")


@strawberry.type(description="A listed memory.")
class MemoryEdge:
    """One place of a MemoryConnection."""

    node: LazyMemory = strawberry.field(description="The memory.")
    cursor: str = _cursor()


@strawberry.type(description="A page of memories.")
class MemoryConnection:
    """A page of memories."""

    edges: list[MemoryEdge] = strawberry.field(description="The memories with their places.")
    page_info: PageInfo = strawberry.field(description="Where the page stands.")

    @classmethod
    async def of(cls, context: Context, as_of: AsOf, found: Page[DomainMemory], after: str | None) -> Self:
        """The connection of a page."""
        await context.spend(len(found.items))
        edges = [
            MemoryEdge(node=types.Memory.from_domain(one, as_of), cursor=cursor)
            for one, cursor in zip(found.items, found.cursors, strict=True)
        ]
        return cls(edges=edges, page_info=PageInfo.of(found, after))


@strawberry.type(description="A listed link.")
class LinkEdge:
    """One place of a LinkConnection."""

    node: LazyLink = strawberry.field(description="The link.")
    cursor: str = _cursor()


@strawberry.type(description="A page of links.")
class LinkConnection:
    """A page of links."""

    edges: list[LinkEdge] = strawberry.field(description="The links with their places.")
    page_info: PageInfo = strawberry.field(description="Where the page stands.")

    @classmethod
    async def of(cls, context: Context, as_of: AsOf, found: Page[DomainLink], after: str | None) -> Self:
        """The connection of a page."""
        await context.spend(len(found.items))
        edges = [
            LinkEdge(node=types.Link.from_domain(one, as_of), cursor=cursor)
            for one, cursor in zip(found.items, found.cursors, strict=True)
        ]
        return cls(edges=edges, page_info=PageInfo.of(found, after))


@strawberry.type(description="One part of a score.")
class LegScore:
    """How a leg saw a hit, or what spoke for it beside the legs."""

    leg: Leg = strawberry.field(description="The part.")
    rank: int | None = strawberry.field(description="Its place among what a leg found, from 1; null: not found.")
    raw_score: float = strawberry.field(description="The part's own measure: cosine, BM25, 1 for a said name.")
    weight: float = strawberry.field(description="The part's share of the score; of GRAPH the share of the way up.")
    contribution: float = strawberry.field(description="What it adds to the score; of SUPERSEDED, negative.")


@strawberry.type(description="How score came to a hit from a better one.")
class RecallPath:
    """A seed and what joins the hit with it."""

    nodes: list[LazyMemory] = strawberry.field(description="The better hit, then this one.")
    links: list[LazyLink] = strawberry.field(
        description="The strongest link between them; empty where only a name joins them."
    )
    name: str | None = strawberry.field(description="The rarest proper name that both texts say, in lower case.")
    share: float = strawberry.field(description="The share of the way to the better hit's score, from 0 to 1.")


@strawberry.type(description="Why a memory has its score.")
class Explanation:
    """The parts that a score is the sum of."""

    legs: list[LegScore] = strawberry.field(
        description="The legs that ran, and what else contributed; the contributions sum to the score."
    )
    path: RecallPath | None = strawberry.field(description="What pulled it up, or brought it along; null: nothing.")


@strawberry.type(description="A recalled memory.")
class RecallEdge:
    """A hit."""

    node: LazyMemory = strawberry.field(description="The memory.")
    score: float = strawberry.field(description="From 0 to 1, best first; comparable within one recall only.")
    explanation: Explanation | None = strawberry.field(description="Why; null when `explain` was false.")
    duplicates: list[strawberry.ID] = strawberry.field(description="Near-duplicates that `fold` folded into it.")
    expanded: bool = strawberry.field(description="Whether it came along with a hit, by `expand`.")
    superseded_by: strawberry.ID | None = strawberry.field(
        description="The memory that supersedes it, by a link `supersedes`, where that has cost it score."
    )


@strawberry.type(description="The best hits of a recall. A ranking has no next page: ask for more with `first`.")
class RecallConnection:
    """The head of a ranking."""

    edges: list[RecallEdge] = strawberry.field(
        description="The hits, best first, ties by age; behind them what they bring along."
    )
    page_info: PageInfo = strawberry.field(description="Always one page, without cursors.")
    hot: bool = strawberry.field(
        description="Searched in memory; false: in SQL, the namespace exceeds the memory budget, without windows and "
        "shared names."
    )
    reranked: bool = strawberry.field(description="Whether a reranker took part and answered in time.")

    @classmethod
    async def of(cls, context: Context, as_of: AsOf, found: recall.Recall, *, explain: bool) -> Self:
        """The connection of hits, best first."""
        await context.spend(len(found.hits))
        explanations = await asyncio.gather(*(_explanation(context, as_of, hit) for hit in found.hits if explain))
        edges = [
            RecallEdge(
                node=types.Memory.from_domain(hit.memory, as_of),
                score=hit.score,
                explanation=explanations[place] if explain else None,
                duplicates=[_global_id(hit, one) for one in hit.duplicates],
                expanded=hit.expanded,
                superseded_by=None if hit.superseded_by is None else _global_id(hit, hit.superseded_by),
            )
            for place, hit in enumerate(found.hits)
        ]
        return cls(
            edges=edges, page_info=PageInfo.of(Page((), (), False), None), hot=found.hot, reranked=found.reranked
        )


def _global_id(hit: recall.Hit, memory_id: MemoryId) -> strawberry.ID:
    return strawberry.ID(encode_global_id(Entity.MEMORY, hit.memory.namespace, memory_id))


async def _explanation(context: Context, as_of: AsOf, hit: recall.Hit) -> Explanation:
    legs = [
        LegScore(
            leg=one.leg, rank=one.rank, raw_score=one.raw_score, weight=one.weight, contribution=one.contribution
        )
        for one in hit.legs
    ]
    return Explanation(legs=legs, path=await _path(context, as_of, hit, hit.carrier) if hit.carrier else None)


async def _path(context: Context, as_of: AsOf, hit: recall.Hit, carrier: recall.Carrier) -> RecallPath:
    loaders = context.loaders(as_of)
    link = None if carrier.link is None else await loaders.links.load((hit.memory.namespace, carrier.link))
    return RecallPath(
        nodes=[types.Memory.from_domain(carrier.seed, as_of), types.Memory.from_domain(hit.memory, as_of)],
        links=[types.Link.from_domain(link, as_of)] if link else [],
        name=carrier.name,
        share=carrier.share,
    )
