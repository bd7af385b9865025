"""A change: one row of the change log, what a committed transaction did to a memory, a link or a namespace."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import orjson

from sfm_graph.domain.identity import Entity, encode_global_id
from sfm_graph.domain.link import Link
from sfm_graph.domain.memory import Memory
from sfm_graph.domain.states import link_from_state, memory_from_state


class Operation(StrEnum):
    """What was done. REINDEX is for indexes alone and reaches no subscriber: search columns were rewritten."""

    CREATE = "create"
    UPDATE = "update"
    FORGET = "forget"
    ERASE = "erase"
    REINDEX = "reindex"


@dataclass(frozen=True, slots=True)
class Change:
    """One row of the log.

    `id` orders the changes of one entity, not those of different ones. `xid` is the transaction that made it.
    A state is JSON text as SQL's `memory_state` and `link_state` make it: `before` where there was one, `after`
    where there is one; an erased entity has neither. The one change of a NAMESPACE is its end, ERASE.
    """

    id: int
    xid: int
    namespace: str
    namespace_id: int
    entity: Entity
    entity_id: int
    operation: Operation
    at: datetime
    before_json: str | None
    after_json: str | None
    # The span of the request that made it, as a W3C `traceparent`, where that was traced.
    trace: str | None = None

    @property
    def global_id(self) -> str:
        """The global id of the memory or link; of a namespace its name."""
        if self.entity is Entity.NAMESPACE:
            return self.namespace
        return encode_global_id(self.entity, self.namespace, self.entity_id)

    @property
    def chars(self) -> int:
        """The length of its states."""
        return len(self.before_json or "") + len(self.after_json or "")

    def before(self) -> dict[str, Any] | None:
        """The state that this change replaced."""
        return orjson.loads(self.before_json) if self.before_json else None

    def after(self) -> dict[str, Any] | None:
        """The state that this change left."""
        return orjson.loads(self.after_json) if self.after_json else None

    def memory(self) -> Memory | None:
        """The memory as this change left it; None when it is gone, or the change is about something else."""
        state = self.after() if self.entity is Entity.MEMORY else None
        return memory_from_state(self.namespace, state) if state else None

    def link(self) -> Link | None:
        """The link as this change left it; None as above."""
        state = self.after() if self.entity is Entity.LINK else None
        return link_from_state(self.namespace, state) if state else None
