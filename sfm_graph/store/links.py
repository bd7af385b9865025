"""Links in Postgres: batches by array parameters, and the statements that walk."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

import orjson

from sfm_graph.domain.identity import LinkId, MemoryId
from sfm_graph.domain.link import Direction, Link
from sfm_graph.domain.walk import WalkFilter
from sfm_graph.domain.where import Where
from sfm_graph.store.database import ReadSession, Row, Session, WriteSession
from sfm_graph.store.rows import link_from_row
from sfm_graph.store.where import links_of_memories


@dataclass(frozen=True, slots=True)
class LinkRow:
    """A link to write, its ends resolved."""

    source_id: MemoryId
    target_id: MemoryId
    type: str
    weight: float
    properties: Mapping[str, Any]
    valid_from: datetime | None
    valid_to: datetime | None
    agent: str | None = None

    @property
    def identity(self) -> tuple[int, str, int, datetime | None]:
        """What makes a second write an update."""
        return (self.source_id, self.type, self.target_id, self.valid_from)


def identity_of(link: Link) -> tuple[int, str, int, datetime | None]:
    """The identity of a stored link, comparable with LinkRow.identity."""
    return (link.source_id, link.type, link.target_id, link.valid_from)


async def lock(
    session: WriteSession, namespace_id: int, namespace: str, rows: Sequence[LinkRow],
    *, open_of: Sequence[tuple[int, str]] = (),
) -> list[Link]:  # fmt: skip
    """The stored links with the identities of `rows`, locked in id order; with callers' open ones of a type from a
    memory, for each such pair in `open_of`."""
    found = await session.rows(
        "link_lock",
        namespace_id=namespace_id,
        ids=[],
        sources=[row.source_id for row in rows],
        types=[row.type for row in rows],
        targets=[row.target_id for row in rows],
        valid_froms=[row.valid_from for row in rows],
        open_sources=[source for source, _ in open_of],
        open_types=[type_ for _, type_ in open_of],
    )
    return [link_from_row(namespace, row) for row in found]


async def lock_ids(
    session: WriteSession, namespace_id: int, namespace: str, ids: Sequence[int]
) -> dict[LinkId, Link]:
    """Stored links by id, locked in id order; unknown ids are missing from the answer."""
    found = await session.rows(
        "link_lock",
        namespace_id=namespace_id,
        ids=list(ids),
        sources=[],
        types=[],
        targets=[],
        valid_froms=[],
        open_sources=[],
        open_types=[],
    )
    return {row[0]: link_from_row(namespace, row) for row in found}


async def insert(
    session: WriteSession, namespace_id: int, namespace: str, rows: Sequence[LinkRow],
    *, again: Sequence[Link] | None = None,
) -> list[Link]:  # fmt: skip
    """Insert links with their change rows; ids in the order of `rows`, the answer in any order.

    `again`: in the order of `rows` the last versions of links that come back, by their ids, each as its next version.
    """
    stored = await session.rows(
        "link_insert",
        namespace_id=namespace_id,
        source=[row.source_id for row in rows],
        target=[row.target_id for row in rows],
        type=[row.type for row in rows],
        weight=[row.weight for row in rows],
        properties=[orjson.dumps(row.properties).decode() for row in rows],
        valid_from=[row.valid_from for row in rows],
        valid_to=[row.valid_to for row in rows],
        agent=[row.agent for row in rows],
        id=[one.id for one in again] if again else None,
        version=[one.version + 1 for one in again] if again else None,
        created_at=[one.created_at for one in again] if again else None,
    )
    return [link_from_row(namespace, row) for row in stored]


async def update(
    session: WriteSession, namespace_id: int, namespace: str, rows: Sequence[tuple[LinkId, LinkRow]]
) -> list[Link]:
    """Replace weight, properties and valid_to of locked links, logged, in any order; a linker's become callers'."""
    stored = await session.rows(
        "link_update",
        namespace_id=namespace_id,
        id=[link_id for link_id, _ in rows],
        weight=[row.weight for _, row in rows],
        properties=[orjson.dumps(row.properties).decode() for _, row in rows],
        valid_to=[row.valid_to for _, row in rows],
        agent=[row.agent for _, row in rows],
    )
    return [link_from_row(namespace, row) for row in stored]


async def delete(session: WriteSession, namespace_id: int, ids: Sequence[int]) -> list[LinkId]:
    """Delete links, logged. The ids that existed."""
    return [row[0] for row in await session.rows("link_delete", namespace_id=namespace_id, ids=list(ids))]


async def between(
    session: WriteSession, namespace_id: int, source: MemoryId, target: MemoryId, type_: str | None, limit: int
) -> list[LinkId]:
    """Ids of the first links from one memory to another, of one type or any, locked."""
    rows = await session.rows(
        "link_between", namespace_id=namespace_id, source_id=source, target_id=target, type=type_, limit=limit
    )
    return [row[0] for row in rows]


async def by_ids(session: Session, namespace_id: int, namespace: str, ids: Iterable[int]) -> dict[LinkId, Link]:
    """Links by id; unknown ids are missing from the answer."""
    found = await session.mapped(
        "link_by_ids", partial(link_from_row, namespace), namespace_id=namespace_id, ids=list(ids)
    )
    return {link.id: link for link in found}


async def of_memories(
    session: ReadSession,
    namespace_id: int,
    namespace: str,
    ids: Sequence[int],
    walk: WalkFilter,
    after: int,
    limit: int,
) -> dict[MemoryId, list[Link]]:
    """For each memory up to `limit` of its links with id > `after`, by id."""
    rows = await session.rows(
        "links_of_memories", namespace_id=namespace_id, ids=list(ids), after=after, limit=limit, **_walk(walk)
    )
    return _by_memory(namespace, rows)


class Step(NamedTuple):
    """One link as a walk meets it: from where, over which link, to where, at what cost, of which type."""

    origin: MemoryId
    link_id: LinkId
    to: MemoryId
    weight: float
    type: str


async def steps_from(
    session: ReadSession,
    namespace_id: int,
    frontier: Iterable[int],
    walk: WalkFilter,
    at: datetime,
    *,
    after: int,
    limit: int,
) -> list[Step]:
    """Steps out of a frontier in link id order behind link `after`, at most `limit`: links valid at a time."""
    # As text: a list of 100,000 takes the driver 90 ms, in which nothing else runs.
    ids = "{" + ",".join(map(str, frontier)) + "}"
    return await session.mapped(
        "steps_from",
        Step._make,
        namespace_id=namespace_id,
        frontier=ids,
        at=at,
        after=after,
        limit=limit,
        **_walk(walk),
    )


def _walk(walk: WalkFilter) -> dict[str, Any]:
    return {
        "outward": walk.direction is not Direction.IN,
        "inward": walk.direction is not Direction.OUT,
        "types": list(walk.types) or None,
    }


async def kept_of_memories(
    session: ReadSession,
    namespace_id: int,
    namespace: str,
    where: Where,
    ids: Sequence[int],
    walk: WalkFilter,
    after: int,
    limit: int,
) -> dict[MemoryId, list[Link]]:
    """As `of_memories`, of the links that a filter keeps."""
    rows = await session.dynamic(*links_of_memories(namespace_id, where, ids, walk, after, limit))
    return _by_memory(namespace, rows)


def _by_memory(namespace: str, rows: Iterable[Row]) -> dict[MemoryId, list[Link]]:
    found: dict[MemoryId, list[Link]] = defaultdict(list)
    for memory_id, *row in rows:
        found[memory_id].append(link_from_row(namespace, row))
    return found


async def ever_at(session: Session, namespace_id: int, ids: Collection[int]) -> list[tuple[int, int]]:
    """Source and target of all links that ever touched these memories, as far as the log tells."""
    rows = await session.rows("links_ever_at", namespace_id=namespace_id, ids=list(ids))
    return [(source, target) for source, target in rows]
