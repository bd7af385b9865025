"""Copies of memories from one namespace in another."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sfm_graph.domain.identity import Entity, MemoryId, encode_global_id


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy into `namespace`. `source`: None when that namespace was deleted. `selection`: what was asked for.

    `follows`: whether it is kept in step. `error`: why it stopped by itself, or what it could not bring over.
    `memories`: how many of the namespace's memories are its.
    """

    id: int
    source_id: int
    source: str | None
    selection: Mapping[str, Any]
    follows: bool
    created_by: str
    created_at: datetime
    revoked_at: datetime | None
    error: str | None
    memories: int
    namespace_id: int
    namespace: str
    seen: str


@dataclass(frozen=True, slots=True)
class Copied:
    """A memory or link that was copied: row ids in the source and here, and the versions of both as of then."""

    source_id: int
    here: int
    source_version: int
    version: int


@dataclass(frozen=True, slots=True)
class Sized:
    """A memory that is to be copied: its row id, its version, and about how many bytes it has."""

    id: int
    version: int
    size: int


@dataclass(frozen=True, slots=True)
class Provenance:
    """What a memory is a copy of. `namespace`: None when the source was deleted; `version`: of the source."""

    namespace: str | None
    memory_id: MemoryId
    version: int
    copy_id: int
    copied_at: datetime

    @property
    def global_id(self) -> str | None:
        """The source's id that leaves the service."""
        return None if self.namespace is None else encode_global_id(Entity.MEMORY, self.namespace, self.memory_id)
