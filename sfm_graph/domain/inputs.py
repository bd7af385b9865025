"""From the JSON that callers send to validated domain objects: the same for every face.

Field names are the snake_case ones of REST and NDJSON; GraphQL converts to them. A field that is None counts as
not given. Unknown fields are refused, so that a misspelt one is not silently lost.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import orjson

from sfm_graph.domain import validate
from sfm_graph.domain.as_of import AsOf
from sfm_graph.domain.identity import Entity, LinkId, MemoryId, MemoryRef, decode_global_id
from sfm_graph.domain.link import DEFAULT_LINK_TYPE, Direction, LinkPatch, NewLink
from sfm_graph.domain.memory import MemoryKind, MemoryPatch, NewMemory
from sfm_graph.domain.walk import WalkFilter
from sfm_graph.domain.where import parse_link_where
from sfm_graph.errors import InvalidInput, LinkNotFound, MemoryNotFound, TooLarge

MAX_AGENT_CHARS = 200
_VERSION = {"low": 1, "high": 2**31 - 1}

_MEMORY_FIELDS: dict[str, Callable[[Any], Any]] = {
    "coordinate": validate.coordinate,
    "key": lambda value: validate.name(value, "key", max_chars=validate.MAX_KEY_CHARS),
    "kind": lambda value: validate.choice(value, MemoryKind, "kind"),
    "title": lambda value: validate.text(value, "title", max_chars=validate.MAX_TITLE_CHARS),
    "content": lambda value: _content(value),
    "payload": lambda value: validate.json_object(value, "payload"),
    "importance": lambda value: _importance(value),
    "valid_from": lambda value: validate.moment(value, "valid_from"),
    "valid_to": lambda value: validate.moment(value, "valid_to"),
    "embedding": validate.embedding,
    "expected_version": lambda value: validate.integer(value, "expected_version", **_VERSION),
    "expires_at": lambda value: validate.moment(value, "expires_at"),
    "agent": lambda value: agent(value),
}
_PATCH_FIELDS = frozenset(_MEMORY_FIELDS) - {"coordinate", "key", "expected_version"}
_NULLABLE = frozenset({"title", "valid_from", "valid_to", "expires_at"})
_LINK_FIELDS: dict[str, Callable[[Any], Any]] = {
    "type": lambda value: link_type(value),
    "weight": validate.weight,
    "properties": lambda value: validate.json_object(value, "properties"),
    "valid_from": lambda value: validate.moment(value, "valid_from"),
    "valid_to": lambda value: validate.moment(value, "valid_to"),
    "expected_version": lambda value: validate.integer(value, "expected_version", **_VERSION),
    "agent": lambda value: agent(value),
}
_LINK_PATCH_FIELDS = frozenset({"weight", "properties", "valid_to", "agent"})


def new_memory(fields: Mapping[str, Any]) -> NewMemory:
    """A memory to store. Content defaults to the payload's text values, importance to the payload's, else 1."""
    given = _checked(fields, _MEMORY_FIELDS)
    payload = given.setdefault("payload", {})
    if "content" not in given:
        given["content"] = _content(" ".join(_texts(payload)))
    if "importance" not in given and _is_importance(payload.get("importance")):
        given["importance"] = float(payload["importance"])
    memory = ending(NewMemory(**given))
    validate.period(memory.valid_from, memory.valid_to)
    return memory


def ending(memory: NewMemory) -> NewMemory:
    """The memory, valid no longer than it is kept: nothing recalls what has expired, gone or not."""
    if memory.expires_at is None or (memory.valid_to is not None and memory.valid_to <= memory.expires_at):
        return memory
    return replace(memory, valid_to=memory.expires_at)


def something_to_remember(memory: NewMemory) -> NewMemory:
    """The memory itself, if there is anything in it. Raises InvalidInput for an empty one."""
    if not memory.content and not memory.payload and not memory.title:
        raise InvalidInput("a memory needs content, a title or a payload", field="content")
    return memory


def memory_patch(ref: MemoryRef, fields: Mapping[str, Any]) -> MemoryPatch:
    """A partial update. An explicit None clears title, valid_from or valid_to and is refused elsewhere."""
    expected = fields.get("expected_version")
    changes: dict[str, Any] = {}
    for field, value in fields.items():
        if field == "expected_version":
            continue
        if field not in _PATCH_FIELDS:
            raise InvalidInput(f"{field!r} cannot be updated; {', '.join(sorted(_PATCH_FIELDS))} can", field=field)
        if value is None and field not in _NULLABLE:
            raise InvalidInput(f"{field} cannot be null", field=field)
        changes[field] = None if value is None else _MEMORY_FIELDS[field](value)
    if not changes:
        raise InvalidInput("an update needs at least one field")
    checked = None if expected is None else validate.integer(expected, "expected_version", **_VERSION)
    return MemoryPatch(ref, changes, checked)


def new_link(source: MemoryRef, target: MemoryRef, fields: Mapping[str, Any]) -> NewLink:
    """A link to make between two references."""
    given = _checked(fields, _LINK_FIELDS)
    validate.period(given.get("valid_from"), given.get("valid_to"))
    return NewLink(source, target, **given)


def link_patch(link_id: LinkId, fields: Mapping[str, Any]) -> LinkPatch:
    """A partial update of a link; an explicit None opens valid_to again."""
    expected = fields.get("expected_version")
    changes: dict[str, Any] = {}
    for field, value in fields.items():
        if field == "expected_version":
            continue
        if field not in _LINK_PATCH_FIELDS:
            raise InvalidInput(f"{field!r} of a link cannot be updated; link anew instead", field=field)
        if value is None and field != "valid_to":
            raise InvalidInput(f"{field} cannot be null", field=field)
        changes[field] = None if value is None else _LINK_FIELDS[field](value)
    if not changes:
        raise InvalidInput("an update needs at least one field")
    checked = None if expected is None else validate.integer(expected, "expected_version", **_VERSION)
    return LinkPatch(link_id, changes, checked)


def agent(value: object) -> str:
    """An agent's id: 1 to 200 characters."""
    return validate.name(value, "agent", max_chars=MAX_AGENT_CHARS)


def link_type(value: object) -> str:
    """A link's type; None is the default type."""
    return (
        DEFAULT_LINK_TYPE if value is None else validate.name(value, "type", max_chars=validate.MAX_LINK_TYPE_CHARS)
    )


def link_types(values: object) -> tuple[str, ...]:
    """A list of link types, at most 100; None or empty means any."""
    if values is None:
        return ()
    items = [values] if isinstance(values, str) else values
    if not isinstance(items, list | tuple) or len(items) > 100:
        raise InvalidInput("types must be a list of at most 100 link types", field="types")
    return tuple(link_type(item) for item in items)


def walk_filter(direction: object = None, types: object = None, where: object = None) -> WalkFilter:
    """Which links a walk follows. None: both ways, any type, every link.

    where: a filter on links in its JSON form. Raises InvalidInput.
    """
    return WalkFilter(
        Direction.BOTH if direction is None else validate.choice(direction, Direction, "direction"),
        link_types(types),
        parse_link_where(where),
    )


def as_of(valid: object, known: object) -> AsOf:
    """As of when something is read; each an ISO 8601 time or a datetime, None: now. Raises InvalidInput."""
    return AsOf(validate.moment(valid, "valid_at"), validate.moment(known, "known_at"))


def memory_ref(namespace: str, value: object) -> MemoryRef:
    """A reference: `{"id"|"key"|"coordinate": ...}`, a coordinate list, or the text `1,2,3`, `key:...`, `id:...`.

    Raises InvalidInput unless exactly one is given, MemoryNotFound for a global id of another namespace.
    """
    if isinstance(value, str):
        field, colon, named = value.partition(":")
        if colon and field in ("id", "key"):
            return memory_ref(namespace, {field: named})
        return MemoryRef(coordinate=validate.coordinate_from_text(value))
    if not isinstance(value, Mapping):
        return MemoryRef(coordinate=validate.coordinate(value))
    given = {field: item for field, item in value.items() if item is not None}
    if len(given) != 1 or not given.keys() <= {"id", "key", "coordinate"}:
        raise InvalidInput("a memory is named by exactly one of id, key and coordinate", field="ref")
    if "id" in given:
        return MemoryRef(id=memory_id(namespace, given["id"]))
    if "key" in given:
        return MemoryRef(key=_MEMORY_FIELDS["key"](given["key"]))
    return MemoryRef(coordinate=validate.coordinate(given["coordinate"]))


def memory_id(namespace: str, value: object) -> MemoryId:
    """The row id of a memory's global id. Raises MemoryNotFound when it is of another namespace."""
    entity, owner, row_id = decode_global_id(validate.text(value, "id", max_chars=1_000))
    if entity is not Entity.MEMORY or owner != namespace:
        raise MemoryNotFound("no such memory in this namespace", id=value)
    return MemoryId(row_id)


def link_id(namespace: str, value: object) -> LinkId:
    """The row id of a link's global id. Raises LinkNotFound when it is of another namespace."""
    entity, owner, row_id = decode_global_id(validate.text(value, "id", max_chars=1_000))
    if entity is not Entity.LINK or owner != namespace:
        raise LinkNotFound("no such link in this namespace", id=value)
    return LinkId(row_id)


def digest(memory: NewMemory) -> bytes:
    """16 bytes that are equal exactly when a store would replace a memory by itself."""
    state = [
        memory.kind, memory.title, memory.content, memory.payload, memory.importance, memory.valid_from,
        memory.valid_to,
    ]  # fmt: skip
    if memory.expires_at is not None:
        state.append(memory.expires_at)
    hasher = hashlib.blake2b(orjson.dumps(state, option=orjson.OPT_SORT_KEYS), digest_size=16)
    if memory.embedding is not None:
        hasher.update(memory.embedding.astype(np.float16).tobytes())
    return hasher.digest()


def _checked(fields: Mapping[str, Any], known: Mapping[str, Callable[[Any], Any]]) -> dict[str, Any]:
    unknown = fields.keys() - known.keys()
    if unknown:
        raise InvalidInput(f"unknown field {min(unknown)!r}; known are {', '.join(known)}", field=min(unknown))
    return {field: known[field](value) for field, value in fields.items() if value is not None}


def _content(value: object) -> str:
    checked = validate.text(value, "content", max_chars=validate.MAX_CONTENT_BYTES)
    if len(checked.encode()) > validate.MAX_CONTENT_BYTES:
        raise TooLarge(f"content is larger than {validate.MAX_CONTENT_BYTES} bytes", field="content")
    return checked


def _importance(value: object) -> float:
    checked = validate.number(value, "importance")
    if checked < 0:
        raise InvalidInput("importance must be >= 0", field="importance")
    return checked + 0.0


def _is_importance(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
