"""Subgraphs and paths."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeVar, cast

import strawberry
from strawberry.scalars import JSON

from sfm_graph.api.gql import types
from sfm_graph.api.gql.context import NODES_PER_TURN, GraphInfo
from sfm_graph.api.gql.scalars import resolver
from sfm_graph.domain import walk
from sfm_graph.domain.link import Link as DomainLink
from sfm_graph.domain.memory import Memory as DomainMemory

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

    @classmethod
    def from_domain(cls, found: walk.Path) -> Self:
        """The GraphQL form of a path."""
        return cls(
            nodes=[types.Memory.from_domain(one) for one in found.memories],
            links=[types.Link.from_domain(one) for one in found.links],
            cost=found.cost,
        )


@strawberry.type(description="What a walk reached: memories and every link between them.")
class Subgraph:
    """A part of the graph."""

    found: strawberry.Private[walk.Subgraph]
    truncated: bool = strawberry.field(description="Whether `limit` or a hub of links cut something off.")

    @classmethod
    def from_domain(cls, found: walk.Subgraph) -> Self:
        """The GraphQL form of a subgraph."""
        return cls(found=found, truncated=found.truncated)

    @resolver("The memories, by age.")
    async def nodes(self, info: GraphInfo) -> list[LazyMemory]:
        await info.context.spend(len(self.found.memories))
        return in_turns(self.found.memories, types.Memory.from_domain)

    @resolver("Every link between the memories, by age.")
    async def links(self, info: GraphInfo) -> list[LazyLink]:
        await info.context.spend(len(self.found.links))
        return in_turns(self.found.links, types.Link.from_domain)

    @resolver(
        "The same as columns, several times quicker for large graphs. `nodes`: id, key, kind, title, "
        "importance. `links`: id, source and target (places in the columns of `nodes`), type, weight."
    )
    async def compact(self) -> JSON:
        return JSON(await asyncio.to_thread(_columns, self.found.memories, self.found.links))


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


def _columns(memories: Sequence[DomainMemory], links: Sequence[DomainLink]) -> dict[str, Any]:
    places = {one.id: place for place, one in enumerate(memories)}
    return {
        "nodes": {
            "id": [one.global_id for one in memories],
            "key": [one.key for one in memories],
            "kind": [one.kind.name for one in memories],
            "title": [one.title for one in memories],
            "importance": [one.importance for one in memories],
        },
        "links": {
            "id": [one.global_id for one in links],
            "source": [places[one.source_id] for one in links],
            "target": [places[one.target_id] for one in links],
            "type": [one.type for one in links],
            "weight": [one.weight for one in links],
        },
    }
