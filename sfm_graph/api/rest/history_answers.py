"""Versions, differences and what was restored, as JSON."""

from typing import Any

from sfm_graph.api.rest.answers import Json, link_json, memory_json, next_cursor
from sfm_graph.domain.link import Link
from sfm_graph.domain.memory import Memory
from sfm_graph.domain.page import Page
from sfm_graph.domain.versions import Difference, Restored, Version


def versions_json(name: str, page: Page[Version[Any]]) -> Json:
    """A page of versions, the state of each under `name`."""
    return {"versions": [_version_json(name, one) for one in page.items], "next": next_cursor(page)}


def difference_json(one: Difference) -> Json:
    """A value that differs."""
    return {"path": one.path, "kind": one.kind, "before": one.before, "after": one.after}


def restored_json(restored: Restored) -> Json:
    """A memory as it is again, and what came back with it."""
    return {
        "memory": memory_json(restored.memory),
        "operation": restored.operation,
        "links": [link_json(one) for one in restored.links],
    }


def _version_json(name: str, one: Version[Any]) -> Json:
    return {
        "version": one.version,
        "operation": one.operation,
        "known_from": one.known_from,
        "known_to": one.known_to,
        "ended_by": one.ended_by,
        "trace": one.trace,
        name: _state_json(one.state),
    }


def _state_json(state: Memory | Link) -> Json:
    return memory_json(state) if isinstance(state, Memory) else link_json(state)
