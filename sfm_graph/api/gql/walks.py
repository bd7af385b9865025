"""Paths and subgraphs."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeVar, cast

import strawberry
from strawberry.scalars import JSON

from sfm_graph.api.gql import types
from sfm_graph.api.gql.context import COLUMNS_PER_NODE, NODES_PER_TURN, Context, GraphInfo
from sfm_graph.api.gql.scalars import resolver
from sfm_graph.api.walks import subgraph_columns
from sfm_graph.domain import walk
from sfm_graph.domain.as_of import AsOf
from sfm_graph.domain.memory import MemoryKind
from sfm_graph.store.memories import Outline

if TYPE_CHECKING:
    from sfm_graph.api.gql.types import Link, Memory

T = TypeVar("T")
U = TypeVar("U")
LazyMemory = Annotated["Memory", strawberry.lazy("sfm_graph.api.gql.types")]
LazyLink = Annotated["Link", strawberry.lazy("sfm_graph.api.gql.types")]


@strawberry.type(description="A path: one memory more than links.")
class Path:
    """A way from one memory to another."""

    nodes: list[LazyMemory] = strawberry.field(description="The memories, from the start to the end.")
    links: list[LazyLink] = strawberry.field(description="The links between them, in order.")
    cost: float = strawberry.field(description="The sum of weights, or without `weighted` the number of links.")
    hot: bool = strawberry.field(
        description="Whether it was found in memory; false: by queries, it is too large or just loaded."
    )

    @classmethod
    async def of(cls, context: Context, as_of: AsOf, found: walk.Path) -> Self:
        """The GraphQL form of a path."""
        await context.spend(len(found.memories) + len(found.links))
        return cls(
            nodes=[types.Memory.from_domain(one, as_of) for one in found.memories],
            links=[types.Link.from_domain(one, as_of) for one in found.links],
            cost=found.cost,
            hot=found.hot,
        )


@strawberry.type(description="What a walk reached: memories and every link between them that it follows.")
class Subgraph:
    """A part of the graph. Memories and links are read as far as they are asked for."""

    namespace: strawberry.Private[str]
    as_of: strawberry.Private[AsOf]
    found: strawberry.Private[walk.Subgraph]
    truncated: bool = strawberry.field(
        description="Whether `limit` or a bound of the walk, on links or time, cut something off."
    )
    hot: bool = strawberry.field(
        description="Whether the walk was made in memory; false: by queries, it is too large or just loaded."
    )

    @classmethod
    def from_domain(cls, namespace: str, as_of: AsOf, found: walk.Subgraph) -> Self:
        """The GraphQL form of a subgraph that was walked as of a moment."""
        return cls(namespace=namespace, as_of=as_of, found=found, truncated=found.truncated, hot=found.hot)

    @resolver("The memories, by age.")
    async def nodes(self, info: GraphInfo) -> list[LazyMemory]:
        await info.context.spend(len(self.found.ids))
        async with info.context.reading(self.as_of) as view:
            memories = await info.context.services.traversal.memories_of(view, self.namespace, self.found)
        return in_turns(memories, lambda one: types.Memory.from_domain(one, self.as_of))

    @resolver("Every link between the memories that the walk follows, by age.")
    async def links(self, info: GraphInfo) -> list[LazyLink]:
        await info.context.spend(len(self.found.links))
        async with info.context.reading(self.as_of) as view:
            links = await info.context.services.traversal.links_of(view, self.namespace, self.found)
        return in_turns(links, lambda one: types.Link.from_domain(one, self.as_of))

    @resolver(
        "The same as columns, many times quicker for large graphs: ten of its memories and links count as one. "
        "`nodes`: id, key, kind, title, importance. `links`: id, source and target (places in the columns of "
        "`nodes`), type, weight."
    )
    async def compact(self, info: GraphInfo) -> JSON:
        size = len(self.found.ids) + len(self.found.links)
        await info.context.spend(size // COLUMNS_PER_NODE)
        async with info.context.reading(self.as_of) as view:
            outlines = await info.context.services.traversal.outlines_of(view, self.namespace, self.found)
        return JSON(await asyncio.to_thread(_columns, self.namespace, self.found, outlines))


def in_turns(items: Sequence[T], convert: Callable[[T], U]) -> list[U]:
    """The converted items: a list, or for many an iterator that lets other requests run in between."""
    if len(items) <= NODES_PER_TURN:
        return [convert(one) for one in items]

    async def all_of_them() -> AsyncIterator[U]:
        for place, one in enumerate(items):
            if place % NODES_PER_TURN == 0:
                await asyncio.sleep(0)
            yield convert(one)

    # GraphQL takes either for a list; Strawberry knows only the list by name.
    return cast(list[U], all_of_them())


def _columns(namespace: str, found: walk.Subgraph, outlines: Sequence[Outline]) -> dict[str, Any]:
    columns = subgraph_columns(namespace, found, outlines)
    columns["nodes"]["kind"] = [MemoryKind(kind).name for kind in columns["nodes"]["kind"]]
    return columns
