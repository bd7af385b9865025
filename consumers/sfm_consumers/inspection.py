"""From a bus's message to an event that a consumer can rely on. What is on a topic may come from anyone."""

import re

import orjson

from sfm_consumers.contract import SOURCE_PREFIX, Poison, Received
from sfm_consumers.source import Message
from sfm_graph.domain.event import SCHEMA_VERSION

_PREFIX = "ce_"
_REQUIRED = ("specversion", "id", "source", "type", "subject", "time", "dataschema", "sequence")
_SCHEMA = re.compile(r"urn:sfm-graph:event:(memory|link|namespace):(\d{1,9})")
_NAMESPACE = "urn:sfm-graph:event:namespace:"
_NAME = re.compile(r"[a-z0-9]+")
_ID = re.compile(r"[!-~]+")
_SEQUENCE = re.compile(r"[0-9]{1,19}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_MAX_SEQUENCE = 2**63 - 1
# The ledger's index in Postgres takes 2,704 bytes; a namespace's name and a number are far below.
_MAX_KEY_BYTES = 1_024
_MAX_ATTRIBUTE_BYTES = 1_024
_MAX_HEADERS = 64


def inspect(message: Message, max_bytes: int) -> Received | None:
    """The event in a message; None for a tombstone, which says nothing that the event before it did not.

    Raises Poison, without an event, for what is not an event of a schema that this release knows.
    """
    if message.value is None:
        return None
    if len(message.value) > max_bytes:
        raise Poison(f"the data has {len(message.value)} bytes, and {max_bytes} are taken")
    attributes = _attributes(message)
    _check_attributes(attributes)
    _check_data(message.value)
    # On compacted topics the end of a namespace has a key, which is the same in every partition.
    key = None if attributes["dataschema"].startswith(_NAMESPACE) else _key(message.key)
    return Received(message.topic, message.partition, message.position, key, attributes, message.value)


def _attributes(message: Message) -> dict[str, str]:
    if len(message.headers) > _MAX_HEADERS:
        raise Poison(f"{len(message.headers)} headers")
    values = [(name, value) for name, value in message.headers if name.startswith(_PREFIX)]
    if any(len(name) + len(value) > _MAX_ATTRIBUTE_BYTES for name, value in values):
        raise Poison(f"an attribute has more than {_MAX_ATTRIBUTE_BYTES} bytes")
    try:
        found = {name.removeprefix(_PREFIX): value.decode() for name, value in values}
    except UnicodeDecodeError as error:
        raise Poison("an attribute is not UTF-8") from error
    # All at once: one by one took most of the time that an event takes.
    if found and not _NAME.fullmatch("".join(found)):
        raise Poison("an attribute's name is not of lower-case letters and digits")
    if _CONTROL.search("".join(found.values())):
        raise Poison("an attribute holds control characters")
    return found


def _check_attributes(attributes: dict[str, str]) -> None:
    missing = [name for name in _REQUIRED if not attributes.get(name)]
    if missing:
        raise Poison(f"no header {', '.join(_PREFIX + name for name in missing)}")
    if attributes["specversion"] != "1.0":
        raise Poison(f"specversion {attributes['specversion']!r} is not known")
    if not attributes["source"].startswith(SOURCE_PREFIX):
        raise Poison(f"source {attributes['source']!r} is not an sfm-graph")
    if not _ID.fullmatch(attributes["id"]):
        raise Poison(f"id {attributes['id']!r} is not printable ASCII without spaces")
    schema = _SCHEMA.fullmatch(attributes["dataschema"])
    if not schema or int(schema[2]) > SCHEMA_VERSION:
        raise Poison(f"dataschema {attributes['dataschema']!r} is not known to this release")
    if not _SEQUENCE.fullmatch(attributes["sequence"]) or int(attributes["sequence"]) > _MAX_SEQUENCE:
        raise Poison(f"sequence {attributes['sequence']!r} is not a number of the change log")


def _check_data(data: bytes) -> None:
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise Poison(f"the data is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise Poison("the data is not a JSON object")


def _key(key: bytes | None) -> str | None:
    if key is None:
        return None
    if len(key) > _MAX_KEY_BYTES:
        raise Poison(f"the key has {len(key)} bytes")
    try:
        text = key.decode()
    except UnicodeDecodeError as error:
        raise Poison("the key is not UTF-8") from error
    if _CONTROL.search(text):
        raise Poison("the key holds control characters")
    return text
