"""What came after memories, in Postgres."""

from collections.abc import Collection, Sequence
from datetime import datetime

from sfm_graph.domain.identity import MemoryId
from sfm_graph.store.database import Session


async def followers(
    session: Session, namespace_id: int, ids: Collection[int], types: Sequence[str], now: datetime, most: int
) -> dict[MemoryId, list[MemoryId]]:
    """Of memories up to `most` that links of these types, valid at `now`, lead to. Those without are missing."""
    rows = await session.rows(
        "followers_of_memories", namespace_id=namespace_id, ids=list(ids), types=list(types), now=now, most=most
    )
    found: dict[MemoryId, list[MemoryId]] = {}
    for source, target in rows:
        found.setdefault(MemoryId(source), []).append(MemoryId(target))
    return found
