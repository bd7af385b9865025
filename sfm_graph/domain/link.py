"""Links: typed, directed, weighted edges between two memories of one namespace."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sfm_graph.domain.identity import Entity, LinkId, MemoryId, MemoryRef, encode_global_id
from sfm_graph.domain.memory import WriteOperation

DEFAULT_LINK_TYPE = "related"


class Direction(StrEnum):
    """Which links of a memory are walked: from it, to it, or either way."""

    OUT = "out"
    IN = "in"
    BOTH = "both"


@dataclass(frozen=True, slots=True)
class Link:
    """One stored link. `weight` is a cost >= 0: nearer is smaller. `maker`: the linker that made it, or None;
    `agent`: who wrote it last, or None."""

    id: LinkId
    namespace: str
    source_id: MemoryId
    target_id: MemoryId
    type: str
    weight: float
    properties: Mapping[str, Any]
    version: int
    created_at: datetime
    updated_at: datetime
    valid_from: datetime | None
    valid_to: datetime | None
    maker: str | None = None
    agent: str | None = None

    @property
    def global_id(self) -> str:
        """The id that leaves the service."""
        return encode_global_id(Entity.LINK, self.namespace, self.id)

    def other_end(self, memory_id: MemoryId) -> MemoryId:
        """The memory on the other side of `memory_id`; itself for a self-link."""
        return self.target_id if memory_id == self.source_id else self.source_id


@dataclass(frozen=True, slots=True)
class NewLink:
    """A validated link to make. The same source, target, type and `valid_from` again is an update."""

    source: MemoryRef
    target: MemoryRef
    type: str = DEFAULT_LINK_TYPE
    weight: float = 1.0
    properties: Mapping[str, Any] | None = None
    valid_from: datetime | None = None
    valid_to: datetime | None = None
    expected_version: int | None = None
    agent: str | None = None


@dataclass(frozen=True, slots=True)
class LinkPatch:
    """A validated partial update of a link: keys of `changes` are weight, properties, valid_to."""

    id: LinkId
    changes: Mapping[str, Any]
    expected_version: int | None = None


@dataclass(frozen=True, slots=True)
class StoredLink:
    """One item of a write: the link as it now is, and what happened to it."""

    link: Link
    operation: WriteOperation
