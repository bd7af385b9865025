"""What mutations answer."""

from collections.abc import Iterable
from typing import Any, Self

import strawberry

from sfm_graph.api.gql.context import GraphInfo
from sfm_graph.api.gql.namespaces import Namespace
from sfm_graph.api.gql.scalars import resolver
from sfm_graph.api.gql.types import Link, Memory
from sfm_graph.api.gql.walks import in_turns
from sfm_graph.domain import link as links
from sfm_graph.domain import memory as memories
from sfm_graph.domain.identity import Entity, encode_global_id
from sfm_graph.domain.memory import BulkResult, WriteOperation


@strawberry.type(description="A memory as it now is.")
class StoredMemory:
    """One stored item."""

    memory: Memory = strawberry.field(description="The memory.")
    operation: WriteOperation = strawberry.field(description="What happened to it.")

    @classmethod
    def from_domain(cls, one: memories.StoredMemory) -> Self:
        """The GraphQL form of a written memory."""
        return cls(memory=Memory.from_domain(one.memory), operation=one.operation)


@strawberry.type(description="The memory as stored.")
class StoreMemoryPayload(StoredMemory):
    """Answer of storeMemory."""


@strawberry.type(description="The memory as stored, its chosen coordinate with it.")
class RememberPayload(StoredMemory):
    """Answer of remember."""


@strawberry.type(description="The memory as changed.")
class UpdateMemoryPayload:
    """Answer of updateMemory."""

    memory: Memory = strawberry.field(description="The memory.")


@strawberry.type(description="An item of a batch that was refused.")
class FailedItem:
    """One refusal."""

    index: int = strawberry.field(description="Its place in `items`, from 0.")
    code: str = strawberry.field(description="The error code.")
    message: str = strawberry.field(description="What is wrong with it.")

    @classmethod
    def all_of(cls, failed: Iterable[memories.FailedItem]) -> list[Self]:
        """The GraphQL form of the refused items."""
        return [cls(index=one.index, code=one.code, message=one.message) for one in failed]


@strawberry.type(description="What became of a batch of memories.")
class RememberManyPayload:
    """Answer of rememberMany."""

    result: strawberry.Private[BulkResult[memories.StoredMemory]]
    count: int = strawberry.field(description="How many were stored.")
    failed: list[FailedItem] = strawberry.field(description="Those that were refused; empty unless `partial`.")

    @classmethod
    def from_domain(cls, result: BulkResult[memories.StoredMemory]) -> Self:
        """The GraphQL form of a batch's result."""
        return cls(result=result, count=len(result.stored), failed=FailedItem.all_of(result.failed))

    @resolver("The stored memories, in order.")
    async def stored(self, info: GraphInfo) -> list[StoredMemory]:
        await info.context.spend(len(self.result.stored))
        return in_turns(self.result.stored, StoredMemory.from_domain)


@strawberry.type(description="Whether a memory was forgotten.")
class ForgetPayload:
    """Answer of forget."""

    forgotten: bool = strawberry.field(description="False when there was no such memory.")
    id: strawberry.ID | None = strawberry.field(description="Its global id; null when there was none.")

    @classmethod
    def of(cls, namespace: str, rows: list[Any]) -> Self:
        """The answer for the rows that are gone: one or none."""
        return cls(forgotten=bool(rows), id=next(iter(_ids(Entity.MEMORY, namespace, rows)), None))


@strawberry.type(description="Whether a memory was erased.")
class ErasePayload:
    """Answer of erase."""

    erased: bool = strawberry.field(description="False when neither a memory nor the log of one was there.")
    id: strawberry.ID | None = strawberry.field(description="Its global id; null when there was none.")

    @classmethod
    def of(cls, namespace: str, rows: list[Any]) -> Self:
        """The answer for the rows that are gone: one or none."""
        return cls(erased=bool(rows), id=next(iter(_ids(Entity.MEMORY, namespace, rows)), None))


@strawberry.type(description="The memories that were forgotten.")
class ForgetManyPayload:
    """Answer of forgetMany."""

    count: int = strawberry.field(description="How many.")
    ids: list[strawberry.ID] = strawberry.field(description="Their global ids.")

    @classmethod
    def of(cls, namespace: str, rows: list[Any]) -> Self:
        """The answer for the rows that are gone."""
        return cls(count=len(rows), ids=_ids(Entity.MEMORY, namespace, rows))


@strawberry.type(description="A link as it now is.")
class StoredLink:
    """One made link."""

    link: Link = strawberry.field(description="The link.")
    operation: WriteOperation = strawberry.field(description="What happened to it.")

    @classmethod
    def from_domain(cls, one: links.StoredLink) -> Self:
        """The GraphQL form of a written link."""
        return cls(link=Link.from_domain(one.link), operation=one.operation)


@strawberry.type(description="The link as made.")
class LinkPayload(StoredLink):
    """Answer of link."""


@strawberry.type(description="What became of a batch of links.")
class LinkManyPayload:
    """Answer of linkMany."""

    result: strawberry.Private[BulkResult[links.StoredLink]]
    count: int = strawberry.field(description="How many were made.")
    failed: list[FailedItem] = strawberry.field(description="Those that were refused; empty unless `partial`.")

    @classmethod
    def from_domain(cls, result: BulkResult[links.StoredLink]) -> Self:
        """The GraphQL form of a batch's result."""
        return cls(result=result, count=len(result.stored), failed=FailedItem.all_of(result.failed))

    @resolver("The made links, in order.")
    async def stored(self, info: GraphInfo) -> list[StoredLink]:
        await info.context.spend(len(self.result.stored))
        return in_turns(self.result.stored, StoredLink.from_domain)


@strawberry.type(description="The link as changed.")
class UpdateLinkPayload:
    """Answer of updateLink."""

    link: Link = strawberry.field(description="The link.")


@strawberry.type(description="The links that were removed.")
class UnlinkPayload:
    """Answer of unlink."""

    count: int = strawberry.field(description="How many.")
    ids: list[strawberry.ID] = strawberry.field(description="Their global ids.")

    @classmethod
    def of(cls, namespace: str, rows: list[Any]) -> Self:
        """The answer for the rows that are gone."""
        return cls(count=len(rows), ids=_ids(Entity.LINK, namespace, rows))


@strawberry.type(description="The namespace as made.")
class CreateNamespacePayload:
    """Answer of createNamespace."""

    namespace: Namespace = strawberry.field(description="The namespace.")


@strawberry.type(description="The namespace as changed.")
class UpdateNamespacePayload(CreateNamespacePayload):
    """Answer of updateNamespace."""


@strawberry.type(description="The namespace that is gone.")
class DeleteNamespacePayload:
    """Answer of deleteNamespace."""

    name: str = strawberry.field(description="Its name.")


def _ids(entity: Entity, namespace: str, rows: Iterable[int]) -> list[strawberry.ID]:
    return [strawberry.ID(encode_global_id(entity, namespace, row)) for row in rows]
