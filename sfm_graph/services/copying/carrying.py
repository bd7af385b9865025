"""What of a memory or link is carried from the source to the target."""

from collections.abc import Mapping
from typing import Any

from sfm_graph.domain import validate
from sfm_graph.domain.identity import Entity, MemoryRef, encode_global_id
from sfm_graph.domain.link import Link
from sfm_graph.domain.memory import Memory
from sfm_graph.services.links import LinkRequest


def carried(memory: Memory) -> dict[str, Any]:
    """The fields that a copy has from its source; what is None stands for a field that is empty."""
    return {
        "kind": memory.kind,
        "title": memory.title,
        "content": memory.content,
        "payload": memory.payload,
        "importance": memory.importance,
        "valid_from": memory.valid_from,
        "valid_to": memory.valid_to,
        "expires_at": memory.expires_at,
        **({} if memory.agent is None else {"agent": memory.agent}),
    }


def named(memory: Memory, copy_id: int, taken: Mapping[MemoryRef, Any]) -> dict[str, Any]:
    """The key and coordinate of a copy: its source's where they are free in the target."""
    names: dict[str, Any] = {}
    if memory.key is not None:
        own = f"copy:{copy_id}:{memory.key}"
        if MemoryRef(key=memory.key) not in taken:
            names["key"] = memory.key
        elif len(own) <= validate.MAX_KEY_CHARS:
            names["key"] = own
    if MemoryRef(coordinate=memory.coordinate) not in taken:
        names["coordinate"] = memory.coordinate
    return names


def link_request(link: Link, target: str, here: Mapping[int, int]) -> LinkRequest:
    """A link among copies as its source is. `here`: ids in the target by ids in the source."""
    fields = {
        "type": link.type,
        "weight": link.weight,
        "properties": link.properties,
        "valid_from": link.valid_from,
        "valid_to": link.valid_to,
        "agent": link.agent,
    }
    return LinkRequest(_ref(target, here[link.source_id]), _ref(target, here[link.target_id]), fields)


def _ref(namespace: str, row_id: int) -> dict[str, str]:
    return {"id": encode_global_id(Entity.MEMORY, namespace, row_id)}
