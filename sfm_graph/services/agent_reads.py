"""Which agents recalled memories."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sfm_graph.domain.access import Scope
from sfm_graph.domain.identity import MemoryId, MemoryRef
from sfm_graph.errors import MemoryNotFound
from sfm_graph.services.access.guard import needs
from sfm_graph.services.view import View
from sfm_graph.store import memories


@dataclass(frozen=True, slots=True)
class AgentAccess:
    """How often and when last an agent recalled a memory; `agent` None: those that do not say."""

    agent: str | None
    count: int
    last_at: datetime


class AgentReads:
    """What is counted of recalls, by agent. Counts are written in batches: the last seconds may be missing."""

    @needs(Scope.READ)
    async def accesses(
        self, view: View, namespace: str, ids: Sequence[MemoryId]
    ) -> dict[MemoryId, list[AgentAccess]]:
        """Of each memory the 100 agents that recalled it most; memories that nobody recalled are missing."""
        found = await view.namespace(namespace)
        if found is None or not ids:
            return {}
        told: dict[MemoryId, list[AgentAccess]] = defaultdict(list)
        for row, agent, count, last_at in await view.session.rows(
            "agents_recalled", namespace_id=found.id, ids=list(ids)
        ):
            told[row].append(AgentAccess(agent or None, count, last_at))
        return dict(told)

    @needs(Scope.READ)
    async def accesses_of(self, view: View, namespace: str, ref: MemoryRef) -> list[AgentAccess]:
        """The same of one memory. Raises MemoryNotFound."""
        found = await view.namespace(namespace)
        (memory,) = await memories.find(view.session, found.id, namespace, [ref]) if found else [None]
        if memory is None:
            raise MemoryNotFound(f"no memory with {ref} in {namespace!r}", namespace=namespace)
        return (await self.accesses(view, namespace, [memory.id])).get(memory.id, [])
