"""The subscriptions. Every event sees a snapshot of its own, taken after the change."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Annotated, Any, TypeVar

import strawberry

from sfm_graph.api.changes import followed
from sfm_graph.api.gql.changes import Change
from sfm_graph.api.gql.context import Context, GraphInfo
from sfm_graph.api.gql.inputs import MemoryRef
from sfm_graph.api.gql.scalars import NamespaceArg, StreamedOperation
from sfm_graph.domain import validate
from sfm_graph.domain.change_filter import change_filter
from sfm_graph.domain.identity import DEFAULT_NAMESPACE, Entity
from sfm_graph.services.access.guard import caller
from sfm_graph.services.changes.pages import ChangePage

F = TypeVar("F", bound=Callable[..., Any])

_DESCRIPTION = (
    "Changes as they are committed: those of one memory or link in order, each exactly once. The end of the "
    "namespace always comes, and ends the subscription."
)


def _subscription(description: str) -> Callable[[F], F]:
    decorate: Callable[[F], F] = strawberry.subscription(description=description)
    return decorate


@strawberry.type(description="Being told, over a WebSocket (graphql-transport-ws) or as server-sent events.")
class Subscription:
    """The root of subscriptions."""

    @_subscription(_DESCRIPTION)
    async def changes(
        self,
        info: GraphInfo,
        namespace: NamespaceArg = DEFAULT_NAMESPACE,
        entities: Annotated[
            list[Entity] | None, strawberry.argument(description="Only changes of these; any when empty.")
        ] = None,
        operations: Annotated[
            list[StreamedOperation] | None, strawberry.argument(description="Only these; any when empty.")
        ] = None,
        link_types: Annotated[
            list[str] | None,
            strawberry.argument(description="Of links only those of these types; without `entities`, only links."),
        ] = None,
        around: Annotated[
            MemoryRef | None, strawberry.argument(description="Only what is within `hops` links of this memory.")
        ] = None,
        hops: Annotated[int | None, strawberry.argument(description="From 0 to 3; 1 when null.")] = None,
        after: Annotated[
            str | None,
            strawberry.argument(
                description="A change's cursor, to go on behind it; `beginning`: at the oldest that are kept; `now` "
                "when null."
            ),
        ] = None,
    ) -> AsyncGenerator[Change]:
        wanted = change_filter(
            entities=entities, operations=operations, link_types=link_types,
            around=around.within(namespace) if around else None, hops=1 if hops is None else hops,
        )  # fmt: skip
        stream = await followed(info.context.services, validate.namespace(namespace), after, wanted)
        info.context.cursor = stream.start
        return _events(info.context, stream.first, stream.rest)


async def _events(context: Context, first: ChangePage, pages: AsyncGenerator[ChangePage]) -> AsyncGenerator[Change]:
    async with aclosing(pages):
        page: ChangePage | None = first
        while page is not None:
            for one in page.changes:
                # A page may be taken so slowly that its reader's token is revoked meanwhile.
                await caller().check()
                yield Change.from_domain(one)
                # Who asks for more has taken this one.
                context.cursor = one.cursor
            context.cursor = page.cursor
            page = await anext(pages, None)
