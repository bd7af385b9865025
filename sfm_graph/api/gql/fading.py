"""Holding memories, and what becomes of them in time, as GraphQL inputs and answers."""

from typing import Self

import strawberry

from sfm_graph.api.gql.inputs import MemoryRef, Mutating, needed, optional
from sfm_graph.api.gql.types import Memory
from sfm_graph.domain import identity, validate
from sfm_graph.domain.fading import Act, Reason
from sfm_graph.services.fading import outcome

strawberry.enum(Act, name="DecayStep", description="What becomes of a memory.")
strawberry.enum(Reason, name="DecayReason", description="Why.")


@strawberry.input(description="A memory to hold, or to let go of.")
class HoldMemoryInput(Mutating):
    """A held memory can be updated, but neither forgotten nor erased."""

    ref: MemoryRef = needed("Which memory.")


@strawberry.input(description="A memory to let go of: it fades, and can be forgotten, as others do.")
class ReleaseMemoryInput(HoldMemoryInput):
    """A memory that is held."""


@strawberry.type(description="The memory, which is held now.")
class HoldMemoryPayload:
    """Answer of holdMemory."""

    memory: Memory = strawberry.field(description="The memory.")


@strawberry.type(description="The memory, which is not held now.")
class ReleaseMemoryPayload:
    """Answer of releaseMemory."""

    memory: Memory = strawberry.field(description="The memory.")


@strawberry.input(description="Which namespace's memories to look at now.")
class DecayInput:
    """A pass over what is due."""

    namespace: str = optional("The namespace.", identity.DEFAULT_NAMESPACE)
    dry_run: bool = optional("Change nothing: only say what would become of which memory.", False)
    limit: int = optional("At most so many memories, from 1 to 1,000.", 100)

    def scope(self) -> str:
        """The checked name of the namespace. Raises InvalidInput."""
        return validate.namespace(self.namespace)


@strawberry.type(description="What becomes of one memory.")
class DecayedMemory:
    """One step."""

    id: strawberry.ID = strawberry.field(description="The memory's global id.")
    key: str | None = strawberry.field(description="The caller's own id.")
    title: str | None = strawberry.field(description="Its name.")
    step: Act = strawberry.field(description="What becomes of it.")
    reason: Reason = strawberry.field(description="Why.")
    retention: float | None = strawberry.field(
        description="How much of it was left, in (0, 1]; null where that plays no part."
    )

    @classmethod
    def from_domain(cls, namespace: str, one: outcome.Outcome) -> Self:
        """The GraphQL form of a step."""
        return cls(
            id=strawberry.ID(one.global_id(namespace)), key=one.key, title=one.title, step=one.act,
            reason=one.reason, retention=one.retention,
        )  # fmt: skip


@strawberry.type(description="What became of memories, or, after a dry run, what would.")
class DecayPayload:
    """Answer of decay."""

    dry_run: bool = strawberry.field(description="Whether nothing was changed.")
    memories: list[DecayedMemory] = strawberry.field(description="The memories, in the order of the steps.")
    more: bool = strawberry.field(description="Whether there is more to be done now.")

    @classmethod
    def from_domain(cls, done: outcome.Decay) -> Self:
        """The GraphQL form of a pass."""
        memories = [DecayedMemory.from_domain(done.namespace, one) for one in done.outcomes]
        return cls(dry_run=done.dry_run, memories=memories, more=done.more)
