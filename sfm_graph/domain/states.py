"""The JSON state of a memory or link: what the change log, events and kept answers carry."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sfm_graph.domain.identity import LinkId, MemoryId
from sfm_graph.domain.link import Link
from sfm_graph.domain.memory import Memory, MemoryKind


def memory_state(memory: Memory) -> dict[str, Any]:
    """The same fields as SQL's `memory_state`."""
    return {
        "id": memory.id,
        "key": memory.key,
        "coordinate": list(memory.coordinate),
        "kind": memory.kind.value,
        "title": memory.title,
        "content": memory.content,
        "payload": memory.payload,
        "importance": memory.importance,
        "version": memory.version,
        "created_at": memory.created_at.isoformat(),
        "updated_at": memory.updated_at.isoformat(),
        "valid_from": _text(memory.valid_from),
        "valid_to": _text(memory.valid_to),
        "expires_at": _text(memory.expires_at),
        "legal_hold": memory.legal_hold,
        "agent": memory.agent,
    }


def memory_from_state(namespace: str, state: Mapping[str, Any]) -> Memory:
    """The memory that a state describes."""
    return Memory(
        MemoryId(state["id"]),
        namespace,
        state["key"],
        tuple(float(axis) for axis in state["coordinate"]),
        MemoryKind(state["kind"]),
        state["title"],
        state["content"],
        state["payload"],
        float(state["importance"]),
        state["version"],
        datetime.fromisoformat(state["created_at"]),
        datetime.fromisoformat(state["updated_at"]),
        _moment(state["valid_from"]),
        _moment(state["valid_to"]),
        # States from before memories faded have none of these.
        _moment(state.get("expires_at")),
        state.get("legal_hold", False),
        state.get("agent"),
    )


def link_state(link: Link) -> dict[str, Any]:
    """The same fields as SQL's `link_state`."""
    return {
        "id": link.id,
        "source_id": link.source_id,
        "target_id": link.target_id,
        "type": link.type,
        "weight": link.weight,
        "properties": link.properties,
        "version": link.version,
        "created_at": link.created_at.isoformat(),
        "updated_at": link.updated_at.isoformat(),
        "valid_from": _text(link.valid_from),
        "valid_to": _text(link.valid_to),
        "maker": link.maker,
        "agent": link.agent,
    }


def link_from_state(namespace: str, state: Mapping[str, Any]) -> Link:
    """The link that a state describes."""
    return Link(
        LinkId(state["id"]),
        namespace,
        MemoryId(state["source_id"]),
        MemoryId(state["target_id"]),
        state["type"],
        float(state["weight"]),
        state["properties"],
        state["version"],
        datetime.fromisoformat(state["created_at"]),
        datetime.fromisoformat(state["updated_at"]),
        _moment(state["valid_from"]),
        _moment(state["valid_to"]),
        state.get("maker"),
        state.get("agent"),  # states from before have neither
    )


def _text(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
