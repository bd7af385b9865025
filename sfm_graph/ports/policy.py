"""Whether a principal may do what it asks for."""

from dataclasses import dataclass
from typing import Protocol

from sfm_graph.domain.access import Principal, Scope


@dataclass(frozen=True, slots=True)
class Action:
    """One service call: its name (`memory_writes.store`), the scope it needs, the namespace it is about.

    `namespace` None: it is about no single one; what it answers is limited to those that the principal reaches.
    `target`: what else it is about, such as the name of a key.
    """

    name: str
    scope: Scope
    namespace: str | None
    target: str | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """Allowed, or denied with a reason that the caller may read."""

    allowed: bool
    reason: str = ""


class Policy(Protocol):
    """Asked before every service call. An implementation that cannot decide raises Unavailable: nothing is done."""

    async def decide(self, principal: Principal, action: Action) -> Decision:
        """Allow or deny. Must not depend on anything but its arguments and its own rules."""
        ...
