"""Rows to domain objects and back: the one place that knows column order."""

from collections.abc import Sequence
from typing import Any

from sfm_graph.domain.identity import LinkId, MemoryId
from sfm_graph.domain.link import Link
from sfm_graph.domain.memory import Memory, MemoryKind

MEMORY_COLUMNS = (
    "m.id, m.key, m.coordinate, m.kind, m.title, m.content, m.payload, m.importance, m.version, m.created_at, "
    "m.updated_at, nullif(m.valid_from, '-infinity') as valid_from, nullif(m.valid_to, 'infinity') as valid_to"
)
MEMORY_WIDTH = 13
LINK_COLUMNS = (
    "l.id, l.source_id, l.target_id, l.type, l.weight, l.properties, l.version, l.created_at, "
    "l.updated_at, nullif(l.valid_from, '-infinity') as valid_from, nullif(l.valid_to, 'infinity') as valid_to, "
    "l.maker"
)


def memory_from_row(namespace: str, row: Sequence[Any]) -> Memory:
    """A memory from the first 13 columns of a row in the order of MEMORY_COLUMNS."""
    id_, key, coordinate, kind, title, content, payload, importance, version, created, updated, start, end = row[
        :MEMORY_WIDTH
    ]
    return Memory(
        MemoryId(id_), namespace, key, tuple(coordinate), MemoryKind(kind), title, content, payload, importance,
        version, created, updated, start, end,
    )  # fmt: skip


def link_from_row(namespace: str, row: Sequence[Any]) -> Link:
    """A link from a row in the order of LINK_COLUMNS."""
    id_, source, target, type_, weight, properties, version, created, updated, start, end, maker = row
    return Link(
        LinkId(id_), namespace, MemoryId(source), MemoryId(target), type_, weight, properties, version, created,
        updated, start, end, maker,
    )  # fmt: skip
