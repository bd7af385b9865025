"""The lines of an export of everything: what each says, how it is written, and how it is read back.

A line is a JSON object with a `type`: `namespace` first, then in order `memory`, `link`, `version` and `access`, at
last `end`. Memories and links are called by numbers of the file's own, from 1, in the order of their ids; one that is
gone and lives on in versions alone has a line `gone`. Reading raises InvalidInput, or a subclass, without the line.
"""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import orjson

from sfm_graph.domain import inputs, validate
from sfm_graph.domain.identity import Entity, LinkId, MemoryId, MemoryRef
from sfm_graph.domain.link import Link
from sfm_graph.domain.memory import Memory, NewMemory
from sfm_graph.domain.namespace import ModelIdentity, NamespaceSettings, model_identity, namespace_settings
from sfm_graph.errors import InvalidInput

FORMAT = 2
_MEMORY_FIELDS = frozenset({"key", "coordinate", "kind", "title", "content", "payload", "importance", "valid_from",
                            "valid_to", "expires_at", "agent"})  # fmt: skip
_LINK_FIELDS = frozenset({"weight", "properties", "valid_from", "valid_to", "agent"})
_STAMPS = frozenset({"version", "created_at", "updated_at"})
_MAX_NUMBER = 2**62
# Room for a million changes of what is imported.
_MAX_VERSION = 2**31 - 2**20
_MAX_PARTS = 10_000


@dataclass(frozen=True, slots=True)
class Header:
    """What a namespace is by itself. `model`: of its vectors, which are in the lines of memories if `vectors`."""

    settings: NamespaceSettings
    model: ModelIdentity | None
    vectors: bool


@dataclass(frozen=True, slots=True)
class Gone:
    """A number whose memory or link there is no more."""

    entity: Entity
    number: int


@dataclass(frozen=True, slots=True)
class MemoryLine:
    """A memory, its number in place of its id. `vectors`: of its parts, big-endian half floats."""

    memory: Memory
    vectors: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class VersionLine:
    """A change: the states before and after it, by numbers; those of one transaction share `transaction`.

    `at`: its commit's stamp, None where none is known. `trace`: of the request that made it.
    """

    entity: Entity
    number: int
    operation: str
    before: Memory | Link | None
    after: Memory | Link | None
    transaction: int
    at: datetime | None
    trace: str | None


@dataclass(frozen=True, slots=True)
class AccessLine:
    """How often a memory was recalled for an agent ("" for one that does not say), and when last."""

    memory: int
    agent: str
    count: int
    last_at: datetime


@dataclass(frozen=True, slots=True)
class End:
    """The end of an export that is complete: how many lines of each type there are, and a hash of all before."""

    counts: Mapping[str, int]
    sha256: str


Line = Header | Gone | MemoryLine | Link | VersionLine | AccessLine | End


def line(type_: str, fields: Mapping[str, Any]) -> bytes:
    """A line; fields that are None are left out."""
    given = {name: value for name, value in fields.items() if value is not None}
    return orjson.dumps({"type": type_, **given}, option=orjson.OPT_APPEND_NEWLINE)


def memory_fields(memory: Memory) -> dict[str, Any]:
    """All that a memory is, but for its id and its namespace."""
    return {
        "key": memory.key,
        "coordinate": memory.coordinate,
        "kind": memory.kind,
        "title": memory.title,
        "content": memory.content,
        "payload": memory.payload,
        "importance": memory.importance,
        "valid_from": memory.valid_from,
        "valid_to": memory.valid_to,
        "expires_at": memory.expires_at,
        "legal_hold": memory.legal_hold or None,
        "agent": memory.agent,
        "version": memory.version,
        "created_at": memory.created_at,
        "updated_at": memory.updated_at,
    }


def link_fields(link: Link) -> dict[str, Any]:
    """All that a link is, but for its id and its namespace; its ends are numbers."""
    return {
        "source": link.source_id,
        "target": link.target_id,
        "link_type": link.type,
        "weight": link.weight,
        "properties": link.properties or None,
        "valid_from": link.valid_from,
        "valid_to": link.valid_to,
        "maker": link.maker,
        "agent": link.agent,
        "version": link.version,
        "created_at": link.created_at,
        "updated_at": link.updated_at,
    }


def vector_text(halves: bytes) -> str:
    """Big-endian half floats as base64 of little-endian ones."""
    return base64.b64encode(np.frombuffer(halves, ">f2").astype("<f2").tobytes()).decode()


def read_line(fields: Mapping[str, Any], namespace: str) -> Line:
    """A line's object."""
    rest = dict(fields)
    match rest.pop("type", None):
        case "namespace":
            return _header(rest)
        case "memory":
            return _memory_line(rest, namespace)
        case "link":
            return _link(_number(rest.pop("number", None)), rest, namespace)
        case "gone":
            return _gone(rest)
        case "version":
            return _version(rest, namespace)
        case "access":
            return _access(rest)
        case "end":
            return _end(rest)
        case other:
            raise InvalidInput(f"a line of type {other!r} is no part of an export of everything", field="type")


def as_new(memory: Memory) -> NewMemory:
    """A memory as it would be given to be stored."""
    return NewMemory(
        memory.coordinate, memory.key, memory.kind, memory.title, memory.content, memory.payload, memory.importance,
        memory.valid_from, memory.valid_to, expires_at=memory.expires_at, agent=memory.agent,
    )  # fmt: skip


def _header(fields: Mapping[str, Any]) -> Header:
    _known(fields, {"format", "name", "settings", "model", "vectors", "exported_at", "known"})
    if fields.get("format") != FORMAT:
        raise InvalidInput(f"only exports of format {FORMAT} are read", field="format")
    model = fields.get("model")
    return Header(
        namespace_settings(fields.get("settings") or {}),
        None if model is None else model_identity(model),
        _flag(fields.get("vectors", False), "vectors"),
    )


def _memory_line(fields: dict[str, Any], namespace: str) -> MemoryLine:
    number, vectors = _number(fields.pop("number", None)), fields.pop("vectors", None)
    return MemoryLine(_memory(number, fields, namespace), _vectors(vectors))


def _memory(number: int, fields: Mapping[str, Any], namespace: str) -> Memory:
    _known(fields, _MEMORY_FIELDS | _STAMPS | {"legal_hold"})
    given = {name: value for name, value in fields.items() if name in _MEMORY_FIELDS}
    # Otherwise the payload would say them.
    for name in ("coordinate", "content", "importance"):
        if given.get(name) is None:
            raise InvalidInput(f"{name} is missing", field=name)
    new = inputs.something_to_remember(inputs.new_memory(given))
    version, created_at, updated_at = _stamps(fields)
    return Memory(
        MemoryId(number), namespace, new.key, new.coordinate or (), new.kind, new.title, new.content,
        new.payload or {}, new.importance, version, created_at, updated_at, new.valid_from, new.valid_to,
        new.expires_at, _flag(fields.get("legal_hold", False), "legal_hold"), new.agent,
    )  # fmt: skip


def _link(number: int, fields: Mapping[str, Any], namespace: str) -> Link:
    _known(fields, _LINK_FIELDS | _STAMPS | {"source", "target", "link_type", "maker"})
    source, target = _number(fields.get("source"), "source"), _number(fields.get("target"), "target")
    given = {name: value for name, value in fields.items() if name in _LINK_FIELDS}
    new = inputs.new_link(MemoryRef(id=MemoryId(source)), MemoryRef(id=MemoryId(target)), {
        **given, "type": validate.name(fields.get("link_type"), "link_type", max_chars=validate.MAX_LINK_TYPE_CHARS),
    })  # fmt: skip
    maker = fields.get("maker")
    return Link(
        LinkId(number), namespace, MemoryId(source), MemoryId(target), new.type, new.weight, new.properties or {},
        *_stamps(fields), new.valid_from, new.valid_to,
        None if maker is None else validate.name(maker, "maker", max_chars=64), new.agent,
    )  # fmt: skip


def _gone(fields: Mapping[str, Any]) -> Gone:
    _known(fields, {"entity", "number"})
    return Gone(_entity(fields.get("entity")), _number(fields.get("number")))


def _version(fields: Mapping[str, Any], namespace: str) -> VersionLine:
    _known(fields, {"entity", "number", "operation", "before", "after", "transaction", "at", "trace"})
    entity, number = _entity(fields.get("entity")), _number(fields.get("number"))
    read = _memory if entity is Entity.MEMORY else _link
    before, after = (
        None if fields.get(name) is None else read(number, _object(fields[name], name), namespace)
        for name in ("before", "after")
    )
    operation = {(False, True): "create", (True, True): "update", (True, False): "forget"}.get(
        (before is not None, after is not None)
    )
    if operation is None or fields.get("operation") != operation:
        raise InvalidInput("operation does not say what became of `before` and `after`", field="operation")
    trace = fields.get("trace")
    return VersionLine(
        entity, number, operation, before, after, _number(fields.get("transaction"), "transaction"),
        validate.moment(fields.get("at"), "at"),
        None if trace is None else validate.name(trace, "trace", max_chars=200),
    )  # fmt: skip


def _access(fields: Mapping[str, Any]) -> AccessLine:
    _known(fields, {"memory", "agent", "count", "last_at"})
    agent = fields.get("agent", "")
    return AccessLine(
        _number(fields.get("memory"), "memory"), "" if agent == "" else inputs.agent(agent),
        _number(fields.get("count"), "count"), _moment(fields, "last_at"),
    )  # fmt: skip


def _end(fields: Mapping[str, Any]) -> End:
    _known(fields, {"counts", "sha256"})
    counts = _object(fields.get("counts"), "counts")
    checked = {name: validate.integer(count, "counts", low=0, high=_MAX_NUMBER) for name, count in counts.items()}
    return End(checked, validate.text(fields.get("sha256"), "sha256", max_chars=64))


def _stamps(fields: Mapping[str, Any]) -> tuple[int, datetime, datetime]:
    version = validate.integer(fields.get("version"), "version", low=1, high=_MAX_VERSION)
    return version, _moment(fields, "created_at"), _moment(fields, "updated_at")


def _moment(fields: Mapping[str, Any], field: str) -> datetime:
    found = validate.moment(fields.get(field), field)
    if found is None:
        raise InvalidInput(f"{field} is missing", field=field)
    return found


def _vectors(value: object) -> tuple[bytes, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) > _MAX_PARTS:
        raise InvalidInput(f"vectors is a list of at most {_MAX_PARTS} texts", field="vectors")
    return tuple(map(_vector, value))


def _vector(value: object) -> bytes:
    try:
        data = base64.b64decode(value if isinstance(value, str) else "!", validate=True)
    except (binascii.Error, ValueError) as exc:
        raise InvalidInput("a vector is base64 of half floats", field="vectors") from exc
    if len(data) % 2 or not 1 <= len(data) // 2 <= validate.MAX_EMBEDDING_DIMENSION:
        raise InvalidInput("a vector is base64 of half floats", field="vectors")
    halves = np.frombuffer(data, "<f2")
    if not np.isfinite(halves).all() or not halves.any():
        raise InvalidInput("a vector is finite and not all zero", field="vectors")
    return halves.astype(">f2").tobytes()


def _number(value: object, field: str = "number") -> int:
    return validate.integer(value, field, low=1, high=_MAX_NUMBER)


def _entity(value: object) -> Entity:
    found = validate.choice(value, Entity, "entity")
    if found is Entity.NAMESPACE:
        raise InvalidInput("entity is memory or link", field="entity")
    return found


def _object(value: object, field: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidInput(f"{field} must be an object", field=field)
    return value


def _flag(value: object, field: str) -> bool:
    if not isinstance(value, bool):
        raise InvalidInput(f"{field} must be true or false", field=field)
    return value


def _known(fields: Mapping[str, Any], known: set[str] | frozenset[str]) -> None:
    if unknown := fields.keys() - known:
        raise InvalidInput(f"unknown field {min(unknown)!r}", field=min(unknown))
