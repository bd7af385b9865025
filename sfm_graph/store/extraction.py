"""What extraction reads in Postgres: which namespaces want it, memories to read, links that it has made."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from sfm_graph.domain.link import Link
from sfm_graph.domain.memory import Memory
from sfm_graph.store.database import Session
from sfm_graph.store.rows import link_from_row, memory_from_row


class Due(NamedTuple):
    """A namespace whose job has something to do."""

    namespace_id: int
    namespace: str


async def due(session: Session, limit: int) -> list[Due]:
    """Up to `limit` namespaces, the longest waiting first."""
    return [Due(*row) for row in await session.rows("extraction_due", limit=limit)]


async def page(session: Session, namespace_id: int, namespace: str, after: int, limit: int) -> list[Memory]:
    """Up to `limit` memories with id > `after`, by id."""
    rows = await session.rows("extraction_page", namespace_id=namespace_id, after=after, limit=limit)
    return [memory_from_row(namespace, row) for row in rows]


async def links(session: Session, namespace_id: int, namespace: str, evidence: str) -> list[Link]:
    """The links that were extracted from the memory with this global id, 1,000 at most."""
    rows = await session.rows("extraction_links", namespace_id=namespace_id, evidence=evidence)
    return [link_from_row(namespace, row) for row in rows]


async def taken(
    session: Session, namespace_id: int, ids: Collection[int], types: Sequence[str]
) -> list[tuple[int, str, int, bool]]:
    """Source, type and target of links that others than extraction made out of some memories, and whether each is
    open; 10,000 at most."""
    rows = await session.rows("extraction_taken", namespace_id=namespace_id, ids=list(ids), types=list(types))
    return [(source, type_, target, is_open) for source, type_, target, is_open in rows]
