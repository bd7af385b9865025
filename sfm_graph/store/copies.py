"""Copies between namespaces in Postgres."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from functools import partial
from typing import Any

import orjson

from sfm_graph.domain.copying import Copied, Copy, Provenance, Sized
from sfm_graph.domain.identity import MemoryId
from sfm_graph.domain.link import Link
from sfm_graph.store.database import ReadSession, Session, WriteSession
from sfm_graph.store.rows import link_from_row


class What(StrEnum):
    """What is copied; names its table."""

    MEMORIES = "copied_memories"
    LINKS = "copied_links"


async def create(
    session: WriteSession, namespace_id: int, source_id: int, selection: Mapping[str, Any], *, seen: str,
    created_by: str,
) -> int | None:  # fmt: skip
    """The id of a new copy, which does not follow yet; None when the source is gone."""
    row = await session.row(
        "copy_create", namespace_id=namespace_id, source_id=source_id, selection=orjson.dumps(selection).decode(),
        seen=seen, created_by=created_by,
    )  # fmt: skip
    return None if row is None else int(row[0])


async def follow(session: WriteSession, namespace_id: int, id: int) -> None:
    """Have a copy follow its source from the snapshot on that it was made at."""
    await session.run("copy_follow", namespace_id=namespace_id, id=id)


async def drop(session: WriteSession, namespace_id: int, id: int) -> None:
    """Take back a copy that was not made."""
    await session.run("copy_drop", namespace_id=namespace_id, id=id)


async def page(session: Session, namespace_id: int, after: int, limit: int, *, id: int | None = None) -> list[Copy]:
    """Up to `limit` copies into a namespace with id > `after`, by id; the one with `id` alone when it is given."""
    rows = await session.rows("copies_page", namespace_id=namespace_id, after=after, limit=limit, id=id)
    return [Copy(*row) for row in rows]


async def page_out(session: Session, source_id: int, after: int, limit: int) -> list[Copy]:
    """Up to `limit` copies from a namespace with id > `after`, by id."""
    rows = await session.rows("copies_out", namespace_id=source_id, after=after, limit=limit)
    return [Copy(*row) for row in rows]


async def withdraw(session: WriteSession, source_id: int, id: int, error: str) -> int | None:
    """End the following of a copy from a namespace; the row id of the one that it leads to, None: there is none."""
    row = await session.row("copy_withdraw", source_id=source_id, id=id, error=error)
    return None if row is None else int(row[0])


async def due(session: Session, limit: int, after: Copy | None = None) -> list[Copy]:
    """Up to `limit` copies whose source has changed, by namespace and id, those behind `after`."""
    namespace_id, id_ = (after.namespace_id, after.id) if after else (0, 0)
    rows = await session.rows("copies_due", limit=limit, after_namespace=namespace_id, after=id_)
    return [Copy(*row) for row in rows]


async def failed(session: WriteSession, one: Copy, error: str) -> None:
    """Note why a copy could not be brought over."""
    await session.run("copy_failed", namespace_id=one.namespace_id, id=one.id, error=error)


async def sized(session: Session, namespace_id: int, ids: Sequence[int]) -> list[Sized]:
    """Versions and sizes of those of the memories that exist, by id."""
    rows = await session.rows("memory_sizes", namespace_id=namespace_id, ids=list(ids))
    return [Sized(*row) for row in rows]


async def moved(session: WriteSession, one: Copy, seen: str, error: str | None) -> None:
    """Note how far a copy has come."""
    await session.run("copy_moved", namespace_id=one.namespace_id, id=one.id, seen=seen, before=one.seen, error=error)


async def stop(session: WriteSession, namespace_id: int, id: int, error: str | None = None) -> bool:
    """End a copy's following; whether there is such a copy."""
    return await session.row("copy_stop", namespace_id=namespace_id, id=id, error=error) is not None


async def put(session: WriteSession, what: What, namespace_id: int, copy_id: int, copied: Sequence[Copied]) -> None:
    """Note what was copied, or copied again."""
    await session.run(
        f"{what}_put", namespace_id=namespace_id, copy_id=copy_id,
        sources=[one.source_id for one in copied], here=[one.here for one in copied],
        source_versions=[one.source_version for one in copied], versions=[one.version for one in copied],
    )  # fmt: skip


async def copied(
    session: Session, what: What, namespace_id: int, copy_id: int, sources: Sequence[int] | None = None
) -> list[Copied]:
    """What a copy holds, of these sources or of all."""
    listed = None if sources is None else list(sources)
    rows = await session.rows(f"{what}_of", namespace_id=namespace_id, copy_id=copy_id, sources=listed)
    return [Copied(*row) for row in rows]


async def release(session: WriteSession, what: What, namespace_id: int, copy_id: int, sources: Sequence[int]) -> None:
    """Forget that something is a copy."""
    await session.run(f"{what}_drop", namespace_id=namespace_id, copy_id=copy_id, sources=list(sources))


async def provenance(session: ReadSession, namespace_id: int, ids: Sequence[int]) -> dict[MemoryId, Provenance]:
    """What memories are copies of; those that are none are missing from the answer."""
    rows = await session.rows("copied_from", namespace_id=namespace_id, ids=list(ids))
    return {row[0]: Provenance(*row[1:]) for row in rows}


async def links_among(
    session: ReadSession, namespace_id: int, namespace: str, ids: Sequence[int], limit: int,
    chosen: Sequence[int] | None = None,
) -> list[Link]:  # fmt: skip
    """Up to `limit` of callers' links among some memories, of the `chosen` ones when given."""
    return await session.mapped(
        "links_among", partial(link_from_row, namespace), namespace_id=namespace_id, ids=list(ids), limit=limit,
        links=None if chosen is None else list(chosen),
    )  # fmt: skip
