"""Lines of an audit: canonical JSON, each holding the hash of the line before it."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from sfm_consumers.contract import Received

FIRST = "0" * 64
_HEX = frozenset("0123456789abcdef")
# Of the event's data; `after` and `before` are the states.
_FIELDS = ("at", "namespace", "namespace_id", "entity", "entity_id", "operation", "before", "after")


class Broken(Exception):
    """The chain does not hold: where, and why."""


@dataclass(frozen=True, slots=True)
class Verified:
    """What a whole chain amounts to. A cut end does not show in a chain: keep `last` elsewhere to see it."""

    lines: int
    last: str


def record_of(event: Received, received_at: str) -> dict[str, Any]:
    """What is written of an event, without its place in the chain. Raises Poison when its data is no JSON object."""
    value = event.value()
    return {
        "id": event.id,
        "received_at": received_at,
        "log": event.log,
        "sequence": event.sequence,
        **{field: value.get(field) for field in _FIELDS},
        # Both states are null then, as of what was erased; only this tells the two apart.
        **({"truncated": True} if value.get("truncated") is True else {}),
    }


def chained(record: Mapping[str, Any], prev: str) -> tuple[bytes, str]:
    """The line of a record after the line with the hash `prev`, newline included; and its hash.

    The hash is sha256 of `prev` and the canonical JSON (keys sorted, no spaces) of the line without `hash`.
    """
    content = {**record, "prev": prev}
    digest = hashlib.sha256(prev.encode() + _canonical(content)).hexdigest()
    return _canonical({**content, "hash": digest}) + b"\n", digest


def parse(line: bytes) -> dict[str, Any]:
    """A line as JSON. Raises Broken for what never was a line of an audit."""
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise Broken(f"not JSON: {error}") from error
    if not isinstance(record, dict) or not {"id", "log", "sequence", "prev", "hash", *_FIELDS} <= record.keys():
        raise Broken("not a line of an audit")
    if not isinstance(record["log"], str) or not isinstance(record["sequence"], int):
        raise Broken("not a line of an audit")
    if not isinstance(record["hash"], str) or len(record["hash"]) != len(FIRST) or set(record["hash"]) - _HEX:
        raise Broken("the hash is malformed")
    return record


def verify(lines: Iterable[bytes], prev: str = FIRST) -> Verified:
    """Check a chain from its first line on. Raises Broken naming the first line that does not fit, from 1."""
    count = 0
    for count, line in enumerate(lines, start=1):
        if not line.endswith(b"\n"):
            raise Broken(f"line {count}: torn: it has no end")
        try:
            record = parse(line)
        except Broken as error:
            raise Broken(f"line {count}: {error}") from error
        if record["prev"] != prev:
            raise Broken(f"line {count}: it does not follow the line before it")
        digest = record.pop("hash")
        expected, _ = chained(record, prev)
        # The whole line, not only its hash: what JSON leaves open (spaces, the order of keys) is not free either.
        if expected != line:
            raise Broken(f"line {count}: its content is not what its hash says")
        prev = digest
    return Verified(count, prev)


def _canonical(value: Mapping[str, Any]) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
