"""Consolidation, duplicates and merging, as GraphQL inputs and answers."""

from typing import Self

import strawberry

from sfm_graph.api.gql.inputs import MemoryRef, Mutating, needed, optional
from sfm_graph.api.gql.types import Memory
from sfm_graph.domain import duplicates, identity, validate
from sfm_graph.domain.identity import Entity, encode_global_id
from sfm_graph.domain.merging import MergeResult
from sfm_graph.services.consolidation.consolidation import ConsolidationReport


@strawberry.input(description="Which namespace's episodes to consolidate now.")
class ConsolidateInput:
    """A run over what has changed since the last one."""

    namespace: str = optional("The namespace.", identity.DEFAULT_NAMESPACE)
    dry_run: bool = optional("Change nothing: only say what would be made of which memories.", False)

    def scope(self) -> str:
        """The checked name of the namespace. Raises InvalidInput."""
        return validate.namespace(self.namespace)


@strawberry.type(description="Episodes that belong together.")
class ConsolidatedGroup:
    """One group."""

    memory: Memory | None = strawberry.field(description="The memory made of them; null in a dry run.")
    created: bool = strawberry.field(description="Whether it is new; else it was made anew.")
    sources: list[strawberry.ID] = strawberry.field(description="The episodes in the order of time, at most 1,024.")
    content: str = strawberry.field(description="What they say together.")
    method: str = strawberry.field(description="Who says so: extractive or predictor.")


@strawberry.type(description="What was consolidated, or, after a dry run, what would be.")
class ConsolidatePayload:
    """Answer of consolidate."""

    dry_run: bool = strawberry.field(description="Whether nothing was changed.")
    created: int = strawberry.field(description="How many memories are new.")
    updated: int = strawberry.field(description="How many were made anew.")
    put_off: int = strawberry.field(description="Groups that others kept changing: for the next run.")
    episodes: int = strawberry.field(description="How many episodes were looked at.")
    complete: bool = strawberry.field(description="Whether everything was looked at; else ask again.")
    groups: list[ConsolidatedGroup] = strawberry.field(description="The first 100 groups.")

    @classmethod
    def from_domain(cls, namespace: str, report: ConsolidationReport, *, dry_run: bool) -> Self:
        """The GraphQL form of a run."""
        groups = [
            ConsolidatedGroup(
                memory=Memory.from_domain(one.memory) if one.memory else None, created=one.created,
                sources=[strawberry.ID(encode_global_id(Entity.MEMORY, namespace, id_)) for id_ in one.sources],
                content=one.content, method=one.method,
            )
            for one in report.groups
        ]  # fmt: skip
        return cls(
            dry_run=dry_run, created=report.created, updated=report.updated, put_off=report.put_off,
            episodes=report.episodes, complete=report.complete, groups=groups,
        )  # fmt: skip


@strawberry.type(description="A memory that says what another one says.")
class Duplicate:
    """One that would be merged."""

    memory: Memory = strawberry.field(description="The memory.")
    cosine: float = strawberry.field(description="How near its vector is to that of the one to keep, to 1.")
    same_text: bool = strawberry.field(description="Whether it has the same words in the same order.")


@strawberry.type(description="Memories of one kind that say the same.")
class DuplicateGroup:
    """A proposal for `mergeMemories`."""

    kept: Memory = strawberry.field(description="The one to keep: the most important, or the oldest of them.")
    duplicates: list[Duplicate] = strawberry.field(description="The others, nearest first, at most 20.")


@strawberry.type(description="Proposals of what to merge.")
class Duplicates:
    """Answer of duplicates."""

    groups: list[DuplicateGroup] = strawberry.field(description="Groups, the nearest first.")
    complete: bool = strawberry.field(description="Whether there are no others.")
    examined: int = strawberry.field(description="How many memories were compared.")

    @classmethod
    def from_domain(cls, found: duplicates.Duplicates) -> Self:
        """The GraphQL form of proposals."""
        groups = [
            DuplicateGroup(
                kept=Memory.from_domain(one.kept),
                duplicates=[
                    Duplicate(memory=Memory.from_domain(two.memory), cosine=two.cosine, same_text=two.same_text)
                    for two in one.duplicates
                ],
            )
            for one in found.groups
        ]
        return cls(groups=groups, complete=found.complete, examined=found.examined)


@strawberry.input(description="Memories to merge into another one.")
class MergeMemoriesInput(Mutating):
    """The merged ones are forgotten."""

    into: MemoryRef = needed("The memory that is kept.")
    from_: list[MemoryRef] = strawberry.field(description="The memories that go into it, 1 to 100.", name="from")

    def others(self) -> list[identity.MemoryRef]:
        """The references to those that are merged."""
        scope = self.scope()
        return [one.within(scope) for one in self.from_]


@strawberry.type(description="The memory that was kept.")
class MergeMemoriesPayload:
    """Answer of mergeMemories."""

    memory: Memory = strawberry.field(description="The memory as it now is.")
    merged: list[strawberry.ID] = strawberry.field(description="The ids of those that went into it.")
    links_moved: int = strawberry.field(description="Links that lead from or to it now.")
    links_dropped: int = strawberry.field(description="Links between the merged ones, which are gone.")

    @classmethod
    def from_domain(cls, done: MergeResult) -> Self:
        """The GraphQL form of a merge."""
        merged = [strawberry.ID(encode_global_id(Entity.MEMORY, done.memory.namespace, one)) for one in done.merged]
        return cls(
            memory=Memory.from_domain(done.memory), merged=merged, links_moved=done.moved, links_dropped=done.dropped
        )
