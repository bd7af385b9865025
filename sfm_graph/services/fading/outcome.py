"""What a look at a namespace's memories did, or would do."""

from collections.abc import Iterable
from dataclasses import dataclass

from sfm_graph.domain.fading import Act, Reason
from sfm_graph.domain.fading_steps import Faded, Verdict
from sfm_graph.domain.identity import Entity, MemoryId, encode_global_id


@dataclass(frozen=True, slots=True)
class Outcome:
    """One memory and what becomes of it. `retention` None where it plays no part."""

    id: MemoryId
    act: Act
    reason: Reason
    retention: float | None = None
    key: str | None = None
    title: str | None = None

    @classmethod
    def of(cls, faded: Faded, verdict: Verdict) -> "Outcome":
        """What a verdict that acts says."""
        if verdict.act is None or verdict.reason is None:
            raise ValueError("the verdict is to wait")
        return cls(faded.id, verdict.act, verdict.reason, verdict.retention, faded.key, faded.title)

    def global_id(self, namespace: str) -> str:
        """The id that leaves the service."""
        return encode_global_id(Entity.MEMORY, namespace, self.id)


@dataclass(frozen=True, slots=True)
class Decay:
    """What a pass over a namespace did; with `dry_run` what it would do. `more`: more is due, or may be."""

    namespace: str
    dry_run: bool
    outcomes: tuple[Outcome, ...]
    more: bool


def only(outcomes: Iterable[Outcome], ids: Iterable[int]) -> list[Outcome]:
    """Those of memories `ids`."""
    wanted = set(ids)
    return [one for one in outcomes if one.id in wanted]
