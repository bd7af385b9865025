"""Events: changes as they leave for other systems, CloudEvents 1.0 in binary mode."""

from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from sfm_graph.domain.change import Change, Operation
from sfm_graph.domain.identity import Entity

MEMORY_EVENTS = "memory.events"
LINK_EVENTS = "link.events"
TOPICS = (MEMORY_EVENTS, LINK_EVENTS)
CONTENT_TYPE = "application/json"
# Counts up when an event no longer fits the JSON Schema that docs/events publishes under this number.
SCHEMA_VERSION = 1

_TOPIC_OF = {Entity.MEMORY: MEMORY_EVENTS, Entity.LINK: LINK_EVENTS}


@dataclass(frozen=True, slots=True)
class Event:
    """One message for a bus.

    `key` decides the partition, in which order is kept; None: every partition gets it. `id` and `sequence` are the
    same each time the change is delivered; of one key, later changes have a larger `sequence`. `log` names the change
    log that sequences belong to. `attributes` are CloudEvents context attributes without prefix.
    """

    topic: str
    key: str | None
    log: str
    sequence: int
    attributes: tuple[tuple[str, str], ...]
    data: bytes
    # Nothing of the entity is left: where topics are compacted, a tombstone follows.
    ends: bool
    # The `traceparent` among the attributes.
    trace: str | None = None

    @property
    def id(self) -> str:
        """Unique within the source."""
        return f"{self.log}.{self.sequence}"


def events_of(change: Change, log: str) -> Sequence[Event]:
    """The events of a change: one; for the end of a namespace one for each topic."""
    gone = change.operation in (Operation.FORGET, Operation.ERASE)
    if change.entity is Entity.NAMESPACE:
        return [_event(change, log, topic, None, gone) for topic in TOPICS]
    return [_event(change, log, _TOPIC_OF[change.entity], f"{change.namespace}/{change.entity_id}", gone)]


def _event(change: Change, log: str, topic: str, key: str | None, gone: bool) -> Event:
    return Event(topic, key, log, change.id, _attributes(change, log), _data(change), gone, change.trace)


def _attributes(change: Change, log: str) -> tuple[tuple[str, str], ...]:
    # CloudEvents' extension for distributed tracing.
    traced = (("traceparent", change.trace),) if change.trace else ()
    return (
        ("specversion", "1.0"),
        ("id", f"{log}.{change.id}"),
        ("source", f"urn:sfm-graph:{log}"),
        ("type", f"sfm_graph.{change.entity.value}.{change.operation.value}"),
        ("subject", f"{change.namespace}/{change.entity_id}"),
        ("time", change.at.isoformat()),
        ("dataschema", f"urn:sfm-graph:event:{change.entity.value}:{SCHEMA_VERSION}"),
        ("sequence", str(change.id)),
        *traced,
    )


def _data(change: Change) -> bytes:
    # The states are JSON already; parsing them to write them again would take most of a relay's time.
    head = orjson.dumps(
        {
            "change": change.id,
            "namespace": change.namespace,
            "namespace_id": change.namespace_id,
            "entity": change.entity.value,
            "entity_id": change.entity_id,
            "id": change.global_id,
            "operation": change.operation.value,
            "at": change.at.isoformat(),
        }
    )
    states = f',"before":{change.before_json or "null"},"after":{change.after_json or "null"}}}'
    return head[:-1] + states.encode()
