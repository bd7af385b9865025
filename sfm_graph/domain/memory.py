"""Memories: what is given to store one, and what is stored."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from sfm_graph.domain.identity import Coordinate, Entity, MemoryId, MemoryRef, encode_global_id

T = TypeVar("T")


class MemoryKind(StrEnum):
    """EPISODIC: something that happened. SEMANTIC: something known. ENTITY: someone or something."""

    EPISODIC = "episodic"
    SEMANTIC = "semantic"
    ENTITY = "entity"


@dataclass(frozen=True, slots=True)
class Memory:
    """One stored memory. `valid_from` and `valid_to` are None where open, `expires_at` where it does not end.

    `legal_hold`: it can neither be forgotten nor erased. `agent`: who wrote it last, None where nobody said.
    """

    id: MemoryId
    namespace: str
    key: str | None
    coordinate: Coordinate
    kind: MemoryKind
    title: str | None
    content: str
    payload: Mapping[str, Any]
    importance: float
    version: int
    created_at: datetime
    updated_at: datetime
    valid_from: datetime | None
    valid_to: datetime | None
    expires_at: datetime | None = None
    legal_hold: bool = False
    agent: str | None = None

    def is_valid(self, at: datetime) -> bool:
        """Whether it was true at a time."""
        return (self.valid_from is None or self.valid_from <= at) and (self.valid_to is None or at < self.valid_to)

    @property
    def global_id(self) -> str:
        """The id that leaves the service."""
        return encode_global_id(Entity.MEMORY, self.namespace, self.id)


@dataclass(frozen=True, slots=True)
class NewMemory:
    """A validated memory to store.

    Stored at an existing `key` or `coordinate` it replaces that memory's other fields (version + 1).
    Without either the server chooses a coordinate. `embedding` replaces the computed vector.
    """

    coordinate: Coordinate | None = None
    key: str | None = None
    kind: MemoryKind = MemoryKind.EPISODIC
    title: str | None = None
    content: str = ""
    payload: Mapping[str, Any] | None = None
    importance: float = 1.0
    valid_from: datetime | None = None
    valid_to: datetime | None = None
    embedding: NDArray[np.float32] | None = field(default=None, compare=False)
    expected_version: int | None = None
    expires_at: datetime | None = None
    agent: str | None = None


@dataclass(frozen=True, slots=True)
class MemoryPatch:
    """A validated partial update: only the fields in `changes` are replaced.

    Keys of `changes` are names of NewMemory fields, never `coordinate` or `key`.
    """

    ref: MemoryRef
    changes: Mapping[str, Any]
    expected_version: int | None = None


class WriteOperation(StrEnum):
    """What a write did to a memory or a link."""

    CREATED = "created"
    UPDATED = "updated"
    UNCHANGED = "unchanged"


@dataclass(frozen=True, slots=True)
class StoredMemory:
    """One item of a write: the memory as it now is, and what happened to it."""

    memory: Memory
    operation: WriteOperation


@dataclass(frozen=True, slots=True)
class FailedItem:
    """One refused item of a partial bulk write: its place in the request, and why."""

    index: int
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class BulkResult(Generic[T]):
    """What a bulk write did, in the order of the request. `failed` is empty unless it was partial."""

    stored: tuple[T, ...]
    failed: tuple[FailedItem, ...] = ()
