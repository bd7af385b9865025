"""Keyset connections: pages with a cursor on each edge."""

from typing import TYPE_CHECKING, Annotated, Any, Self

import strawberry

from sfm_graph.api.gql import types
from sfm_graph.api.gql.context import Context
from sfm_graph.api.gql.page_info import PageInfo
from sfm_graph.domain import recall
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
    async def of(cls, context: Context, found: Page[DomainMemory], after: str | None) -> Self:
        """The connection of a page."""
        await context.spend(len(found.items))
        edges = [
            MemoryEdge(node=types.Memory.from_domain(one), cursor=cursor)
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
    async def of(cls, context: Context, found: Page[DomainLink], after: str | None) -> Self:
        """The connection of a page."""
        await context.spend(len(found.items))
        edges = [
            LinkEdge(node=types.Link.from_domain(one), cursor=cursor)
            for one, cursor in zip(found.items, found.cursors, strict=True)
        ]
        return cls(edges=edges, page_info=PageInfo.of(found, after))


@strawberry.type(description="One leg's part in a score.")
class LegScore:
    """How a leg saw a hit."""

    leg: Leg = strawberry.field(description="The leg.")
    rank: int | None = strawberry.field(description="Its place among what the leg found, from 1; null: not found.")
    raw_score: float = strawberry.field(description="The leg's own measure: cosine or BM25.")
    weight: float = strawberry.field(description="The leg's share of the score; all shares sum to 1.")
    contribution: float = strawberry.field(description="The share times the raw score, scaled so that the best is 1.")


@strawberry.type(description="Why a memory has its score.")
class Explanation:
    """The parts that a score is the sum of."""

    legs: list[LegScore] = strawberry.field(description="Every leg that ran; the contributions sum to the score.")


@strawberry.type(description="A recalled memory.")
class RecallEdge:
    """A hit."""

    node: LazyMemory = strawberry.field(description="The memory.")
    score: float = strawberry.field(description="From 0 to 1, best first; comparable within one recall only.")
    explanation: Explanation | None = strawberry.field(description="Why; null when `explain` was false.")


@strawberry.type(description="The best hits of a recall. A ranking has no next page: ask for more with `first`.")
class RecallConnection:
    """The head of a ranking."""

    edges: list[RecallEdge] = strawberry.field(description="The hits, best first, ties by age.")
    page_info: PageInfo = strawberry.field(description="Always one page, without cursors.")

    @classmethod
    async def of(cls, context: Context, hits: tuple[recall.Hit, ...], *, explain: bool) -> Self:
        """The connection of hits, best first."""
        await context.spend(len(hits))
        edges = [
            RecallEdge(
                node=types.Memory.from_domain(hit.memory),
                score=hit.score,
                explanation=_explanation(hit) if explain else None,
            )
            for hit in hits
        ]
        return cls(edges=edges, page_info=PageInfo.of(Page((), (), False), None))


def _explanation(hit: recall.Hit) -> Explanation:
    return Explanation(
        legs=[
            LegScore(
                leg=one.leg, rank=one.rank, raw_score=one.raw_score, weight=one.weight, contribution=one.contribution
            )
            for one in hit.legs
        ]
    )
