"""Rows to domain objects and back: the one place that knows column order."""

from collections.abc import Sequence
from typing import Any

from sfm_graph.domain.change import Change, Operation
from sfm_graph.domain.identity import Entity, LinkId, MemoryId
from sfm_graph.domain.link import Link
from sfm_graph.domain.memory import Memory, MemoryKind

# Looked up faster than made from their values.
_ENTITIES = {one.value: one for one in Entity}
_OPERATIONS = {one.value: one for one in Operation}

MEMORY_COLUMNS = (
    "m.id, m.key, m.coordinate, m.kind, m.title, m.content, m.payload, m.importance, m.version, m.created_at, "
    "m.updated_at, nullif(m.valid_from, '-infinity') as valid_from, nullif(m.valid_to, 'infinity') as valid_to, "
    "nullif(m.expires_at, 'infinity') as expires_at, m.legal_hold, m.agent"
)
MEMORY_WIDTH = 16
LINK_COLUMNS = (
    "l.id, l.source_id, l.target_id, l.type, l.weight, l.properties, l.version, l.created_at, "
    "l.updated_at, nullif(l.valid_from, '-infinity') as valid_from, nullif(l.valid_to, 'infinity') as valid_to, "
    "l.maker, l.agent"
)

CHANGE_COLUMNS = (
    "s.id, s.xid::text::bigint, coalesce(n.name, s.before ->> 'name', ''), s.namespace_id, s.entity, s.entity_id, "
    "s.operation, s.at, s.before::text, s.after::text, s.trace, s.found"
)
CHANGE_FIELDS = "c.id, c.xid, c.namespace_id, c.entity, c.entity_id, c.operation, c.at, c.before, c.after, c.trace"
# The rows of a common table `slice` by id, how many it `found`, cut where the states before have taken `bytes`.
# States are stored as they are, so that their stored size is their size.
SLICE_ROWS = f"""select {CHANGE_COLUMNS} from (
    select f.*, count(*) over () as found,
           sum(coalesce(pg_column_size(f.before), 0) + coalesce(pg_column_size(f.after), 0))
               over (order by f.id rows between unbounded preceding and 1 preceding) as ahead
    from slice f) s
left join namespaces n on n.id = s.namespace_id
where coalesce(s.ahead, 0) < %(bytes)s order by s.id"""  # noqa: S608 - of constants


def memory_from_row(namespace: str, row: Sequence[Any]) -> Memory:
    """A memory from the first MEMORY_WIDTH columns of a row in the order of MEMORY_COLUMNS."""
    (
        id_, key, coordinate, kind, title, content, payload, importance, version, created, updated, start, end,
        expires, held, agent,
    ) = row[:MEMORY_WIDTH]  # fmt: skip
    return Memory(
        MemoryId(id_), namespace, key, tuple(coordinate), MemoryKind(kind), title, content, payload, importance,
        version, created, updated, start, end, expires, held, agent,
    )  # fmt: skip


def change_from_row(row: Sequence[Any]) -> Change:
    """A change from a row in the order of CHANGE_COLUMNS."""
    id_, xid, namespace, namespace_id, entity, entity_id, operation, at, before, after, trace, _ = row
    return Change(
        id_, xid, namespace, namespace_id, _ENTITIES[entity], entity_id, _OPERATIONS[operation], at, before, after,
        trace,
    )  # fmt: skip


def link_from_row(namespace: str, row: Sequence[Any]) -> Link:
    """A link from a row in the order of LINK_COLUMNS."""
    id_, source, target, type_, weight, properties, version, created, updated, start, end, maker, agent = row
    return Link(
        LinkId(id_), namespace, MemoryId(source), MemoryId(target), type_, weight, properties, version, created,
        updated, start, end, maker, agent,
    )  # fmt: skip
