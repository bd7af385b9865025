"""Ids, references and global ids: how a memory or link is named from outside."""

import base64
import binascii
from dataclasses import dataclass
from enum import StrEnum
from typing import NewType

from sfm_graph.errors import InvalidInput

MemoryId = NewType("MemoryId", int)
LinkId = NewType("LinkId", int)
Coordinate = tuple[float, ...]

DEFAULT_NAMESPACE = "default"
MAX_ROW_ID = 2**63 - 1


class Entity(StrEnum):
    """What a change is about. Global ids are those of memories and links."""

    MEMORY = "memory"
    LINK = "link"
    NAMESPACE = "namespace"


@dataclass(frozen=True, slots=True)
class MemoryRef:
    """Names one memory of a namespace by exactly one of its row id, its key or its coordinate."""

    id: MemoryId | None = None
    key: str | None = None
    coordinate: Coordinate | None = None

    def __str__(self) -> str:
        if self.id is not None:
            return f"id {self.id}"
        return f"key {self.key!r}" if self.key is not None else f"coordinate {coordinate_text(self.coordinate)}"


def coordinate_text(coordinate: Coordinate | None) -> str:
    """The query-string form `1,2.5,3`; integers without a point, every other float round-trips."""
    if coordinate is None:
        return ""
    return ",".join(str(int(x)) if x.is_integer() and abs(x) < 1e15 else repr(x) for x in coordinate)


def encode_global_id(entity: Entity, namespace: str, row_id: int) -> str:
    """An opaque, URL-safe id that is unique across namespaces and holds its namespace."""
    raw = f"{entity.value[0]}:{row_id}:{namespace}".encode()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def decode_global_id(text: str) -> tuple[Entity, str, int]:
    """Entity, namespace and row id of a global id. Raises InvalidInput for anything else."""
    try:
        raw = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
        letter, row_id, namespace = raw.decode().split(":", 2)
        entity = {"m": Entity.MEMORY, "l": Entity.LINK}[letter]
        if not row_id.isascii() or not row_id.isdigit() or not 0 < int(row_id) <= MAX_ROW_ID:
            raise ValueError(row_id)
    except (ValueError, KeyError, binascii.Error) as exc:
        raise InvalidInput(f"not a global id: {text[:80]!r}") from exc
    return entity, namespace, int(row_id)
