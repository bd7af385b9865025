"""Pages of whole namespaces, for export."""

from dataclasses import dataclass
from datetime import datetime

from sfm_graph.domain.identity import Coordinate
from sfm_graph.domain.link import Link
from sfm_graph.domain.memory import Memory
from sfm_graph.store.database import ReadSession
from sfm_graph.store.rows import link_from_row, memory_from_row

PAGE_ROWS = 500
PAGE_BYTES = 4_000_000


@dataclass(frozen=True, slots=True)
class LinkEnd:
    """What names one end of a link outside of this database."""

    key: str | None
    coordinate: Coordinate


async def memories_page(
    session: ReadSession, namespace_id: int, namespace: str, after: int, valid: datetime | None = None
) -> list[Memory]:
    """Memories with id > `after`, by id: up to 500 or about 4 MB; empty only when none follow. All, or those
    that were `valid` at a time."""
    rows = await session.rows(
        "memory_export", namespace_id=namespace_id, after=after, limit=PAGE_ROWS, max_bytes=PAGE_BYTES, valid=valid
    )
    return [memory_from_row(namespace, row) for row in rows]


async def links_page(
    session: ReadSession,
    namespace_id: int,
    namespace: str,
    after: int,
    valid: datetime | None = None,
    *,
    made: bool = False,
) -> list[tuple[LinkEnd, LinkEnd, Link]]:
    """Links of callers with id > `after` and their source and target, by id; pages as of memories. `made`: those of
    linkers too. `valid`: those that were valid at a time, between memories that were."""
    rows = await session.rows(
        "link_export",
        namespace_id=namespace_id, after=after, limit=PAGE_ROWS, max_bytes=PAGE_BYTES, valid=valid, made=made,
    )  # fmt: skip
    return [
        (
            LinkEnd(source_key, tuple(source_place)),
            LinkEnd(target_key, tuple(target_place)),
            link_from_row(namespace, row),
        )
        for source_key, source_place, target_key, target_place, *row in rows
    ]
