"""Versions of memories and links, what differs between two, and bringing them back."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Self

import strawberry
from strawberry.scalars import JSON

from sfm_graph.api.gql import types
from sfm_graph.api.gql.context import SEARCH_NODES, Context
from sfm_graph.api.gql.inputs import MemoryRef, Mutating, Repeatable, needed, optional
from sfm_graph.api.gql.page_info import PageInfo
from sfm_graph.api.gql.scalars import StreamedOperation
from sfm_graph.domain import identity, inputs, validate
from sfm_graph.domain.change import Operation
from sfm_graph.domain.identity import LinkId
from sfm_graph.domain.link import Link as DomainLink
from sfm_graph.domain.link import StoredLink
from sfm_graph.domain.memory import Memory as DomainMemory
from sfm_graph.domain.memory import WriteOperation
from sfm_graph.domain.page import Page, page_size
from sfm_graph.domain.versions import Difference as DomainDifference
from sfm_graph.domain.versions import DifferenceKind, Restored, Version
from sfm_graph.services.history import version_number

if TYPE_CHECKING:
    from sfm_graph.api.gql.types import Link, Memory

_types = strawberry.lazy("sfm_graph.api.gql.types")
LazyMemory = Annotated["Memory", _types]
LazyLink = Annotated["Link", _types]

strawberry.enum(DifferenceKind, description="What became of a value between two versions.")


@strawberry.type(description="How long a version was known, who wrote it, and what it came from.")
class VersionFacts:
    """What versions of memories and links have alike."""

    version: int = strawberry.field(description="Its number: 1 at first.")
    operation: StreamedOperation | None = strawberry.field(
        description="What brought it about; null where the log begins later."
    )
    known_from: datetime | None = strawberry.field(
        description="From which moment it was known, as `asOf.known` takes it; null where the log does not say."
    )
    known_to: datetime | None = strawberry.field(
        description="At which moment it was known no longer; null: it still is, or the log does not say."
    )
    ended_by: StreamedOperation | None = strawberry.field(description="What ended it; null: it is the present one.")
    trace: str | None = strawberry.field(description="The traceparent of the request that wrote it, where traced.")


@strawberry.type(description="How a memory was between two changes of it.")
class MemoryVersion(VersionFacts):
    """One version of a memory."""

    memory: LazyMemory = strawberry.field(description="The memory as it was; what it is joined to is as of now.")

    @classmethod
    def from_domain(cls, one: Version[DomainMemory]) -> Self:
        """The GraphQL form of a version."""
        return cls(
            version=one.version, operation=_streamed(one.operation), known_from=one.known_from, known_to=one.known_to,
            ended_by=_streamed(one.ended_by), trace=one.trace, memory=types.Memory.from_domain(one.state),
        )  # fmt: skip


@strawberry.type(description="How a link was between two changes of it.")
class LinkVersion(VersionFacts):
    """One version of a link."""

    link: LazyLink = strawberry.field(description="The link as it was.")

    @classmethod
    def from_domain(cls, one: Version[DomainLink]) -> Self:
        """The GraphQL form of a version."""
        return cls(
            version=one.version, operation=_streamed(one.operation), known_from=one.known_from, known_to=one.known_to,
            ended_by=_streamed(one.ended_by), trace=one.trace, link=types.Link.from_domain(one.state),
        )  # fmt: skip


@strawberry.type(description="A listed version of a memory.")
class MemoryVersionEdge:
    """One place of a MemoryVersionConnection."""

    node: MemoryVersion = strawberry.field(description="The version.")
    cursor: str = strawberry.field(description="The place of this edge: give it as `after` to go on behind it.")


@strawberry.type(description="A page of versions, the newest first.")
class MemoryVersionConnection:
    """A page of a memory's versions."""

    edges: list[MemoryVersionEdge] = strawberry.field(description="The versions with their places.")
    page_info: PageInfo = strawberry.field(description="Where the page stands.")

    @classmethod
    async def of(cls, context: Context, found: Page[Version[DomainMemory]], after: str | None) -> Self:
        """The connection of a page."""
        await context.spend(len(found.items))
        edges = [
            MemoryVersionEdge(node=MemoryVersion.from_domain(one), cursor=cursor)
            for one, cursor in zip(found.items, found.cursors, strict=True)
        ]
        return cls(edges=edges, page_info=PageInfo.of(found, after))


@strawberry.type(description="A listed version of a link.")
class LinkVersionEdge:
    """One place of a LinkVersionConnection."""

    node: LinkVersion = strawberry.field(description="The version.")
    cursor: str = strawberry.field(description="The place of this edge: give it as `after` to go on behind it.")


@strawberry.type(description="A page of versions, the newest first.")
class LinkVersionConnection:
    """A page of a link's versions."""

    edges: list[LinkVersionEdge] = strawberry.field(description="The versions with their places.")
    page_info: PageInfo = strawberry.field(description="Where the page stands.")

    @classmethod
    async def of(cls, context: Context, found: Page[Version[DomainLink]], after: str | None) -> Self:
        """The connection of a page."""
        await context.spend(len(found.items))
        edges = [
            LinkVersionEdge(node=LinkVersion.from_domain(one), cursor=cursor)
            for one, cursor in zip(found.items, found.cursors, strict=True)
        ]
        return cls(edges=edges, page_info=PageInfo.of(found, after))


@strawberry.type(description="A value that differs between two versions.")
class Difference:
    """One value of a diff."""

    path: str = strawberry.field(description="The field; in the payload with the keys, dots between them.")
    kind: DifferenceKind = strawberry.field(description="What became of it.")
    before: JSON | None = strawberry.field(description="The value in `from`; null where there was none.")
    after: JSON | None = strawberry.field(description="The value in `to`; null where there is none.")

    @classmethod
    def from_domain(cls, one: DomainDifference) -> Self:
        """The GraphQL form of a difference."""
        return cls(path=one.path, kind=one.kind, before=_json(one.before), after=_json(one.after))


@strawberry.input(description="A memory to bring back to a version; a forgotten one under the id that it had.")
class RestoreInput(Mutating):
    """Which memory, and which version."""

    ref: MemoryRef = needed("Which memory; a forgotten one by id, or by the key or coordinate that it last had.")
    version: int | None = optional("Which version; the last one that is kept when not given.", None)
    links: bool = optional("Bring back the links that were forgotten together with it.", True)
    expected_version: int | None = optional("The version that it has, or last had; another one is a conflict.", None)

    def wanted(self) -> int | None:
        """The checked number of the version."""
        return None if self.version is None else version_number(self.version, "version")

    def expected(self) -> int | None:
        """The checked number that is expected."""
        return None if self.expected_version is None else version_number(self.expected_version, "expectedVersion")


@strawberry.input(description="A link to bring back to a version; a forgotten one under the id that it had.")
class RestoreLinkInput(Repeatable):
    """Which link, and which version."""

    id: strawberry.ID = needed("Its global id, which holds its namespace.")
    version: int | None = optional("Which version; the last one that is kept when not given.", None)
    expected_version: int | None = optional("The version that it has, or last had; another one is a conflict.", None)

    def where(self) -> tuple[str, LinkId]:
        """The namespace and the link. Raises InvalidInput, LinkNotFound for an id that is no link's."""
        return named_link(self.id)

    def wanted(self) -> int | None:
        """The checked number of the version."""
        return None if self.version is None else version_number(self.version, "version")

    def expected(self) -> int | None:
        """The checked number that is expected."""
        return None if self.expected_version is None else version_number(self.expected_version, "expectedVersion")


@strawberry.type(description="The memory as it is again.")
class RestorePayload:
    """Answer of restore."""

    memory: LazyMemory = strawberry.field(description="The memory.")
    operation: WriteOperation = strawberry.field(description="CREATED: it was forgotten. UNCHANGED: it was so.")
    links: list[LazyLink] = strawberry.field(description="The links that came back with it.")

    @classmethod
    async def of(cls, context: Context, restored: Restored) -> Self:
        """The GraphQL form of what was restored."""
        await context.spend(len(restored.links))
        return cls(
            memory=types.Memory.from_domain(restored.memory), operation=restored.operation,
            links=[types.Link.from_domain(one) for one in restored.links],
        )  # fmt: skip


@strawberry.type(description="The link as it is again.")
class RestoreLinkPayload:
    """Answer of restoreLink."""

    link: LazyLink = strawberry.field(description="The link.")
    operation: WriteOperation = strawberry.field(description="CREATED: it was forgotten; UPDATED: it was not.")

    @classmethod
    def from_domain(cls, one: StoredLink) -> Self:
        """The GraphQL form of a restored link."""
        return cls(link=types.Link.from_domain(one.link), operation=one.operation)


async def of_memory(
    context: Context, namespace: str, ref: identity.MemoryRef, first: int, after: str | None
) -> MemoryVersionConnection:
    """A page of a memory's versions."""
    size = page_size(first)
    await context.spend(SEARCH_NODES)
    async with context.reading() as view:
        page = await context.services.history.of_memory(view, namespace, ref, first=size, after=after)
    return await MemoryVersionConnection.of(context, page, after)


async def of_link(
    context: Context, namespace: str, link_id: LinkId, first: int, after: str | None
) -> LinkVersionConnection:
    """A page of a link's versions."""
    size = page_size(first)
    await context.spend(SEARCH_NODES)
    async with context.reading() as view:
        page = await context.services.history.of_link(view, namespace, link_id, first=size, after=after)
    return await LinkVersionConnection.of(context, page, after)


async def diff(
    context: Context, namespace: str, ref: identity.MemoryRef, before: int, after: int
) -> list[Difference]:
    """What differs between two versions of a memory."""
    checked = version_number(before, "from"), version_number(after, "to")
    await context.spend(2)
    async with context.reading() as view:
        found = await context.services.history.diff(view, namespace, ref, *checked)
    return [Difference.from_domain(one) for one in found]


def named_link(global_id: str) -> tuple[str, LinkId]:
    """The namespace and the link of a global id. Raises InvalidInput, LinkNotFound for an id that is no link's."""
    _, namespace, _ = identity.decode_global_id(validate.text(global_id, "id", max_chars=1_000))
    return validate.namespace(namespace), inputs.link_id(namespace, global_id)


def _streamed(operation: Operation | None) -> StreamedOperation | None:
    return None if operation is None else StreamedOperation(operation.value)


def _json(value: object) -> JSON | None:
    return None if value is None else JSON(value)
