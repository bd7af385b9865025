"""Where denied and administrative actions are written down."""

from typing import Protocol

from sfm_graph.domain.access import Principal
from sfm_graph.ports.policy import Action, Decision


class Audit(Protocol):
    """Append only."""

    async def record(self, principal: Principal, action: Action, decision: Decision) -> None:
        """Write down a decision before its action is done. Raises Unavailable: then an allowed action must not be."""
        ...
