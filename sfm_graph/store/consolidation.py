"""Episodes and what consolidates them, in Postgres."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from sfm_graph.domain.consolidation import MAX_EPISODES, Tie, Window
from sfm_graph.domain.identity import LinkId, MemoryId
from sfm_graph.store.database import Session, WriteSession

# Of a window of 1,024 episodes every other pair may be linked.
MAX_TIES = 250_000
# What precedes the numbers of a halfvec on the wire.
_HEADER_BYTES = 4
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class EpisodeRow(NamedTuple):
    """An episode: when it was in microseconds since 1970, a digest of its text, its place in a sequence."""

    id: MemoryId
    at: int
    text: str
    sequence: str | None
    position: float


class SourceLink(NamedTuple):
    """The link to a source that is still there, when that was, and the digest of the text that was consolidated."""

    id: LinkId
    source: MemoryId
    text: str
    at: int


class Standing(NamedTuple):
    """A memory that consolidates episodes. `made_of`: how many there were when it was made."""

    id: MemoryId
    version: int
    made_of: int
    links: tuple[SourceLink, ...]


def moment_of(at: int) -> datetime | None:
    """A moment from microseconds since 1970; None outside of the years 1 to 9999."""
    try:
        return _EPOCH + timedelta(microseconds=at)
    except OverflowError:
        return None


def microseconds(moment: datetime) -> int:
    """The inverse of `moment_of`."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


async def window_ids(session: Session, namespace_id: int, window: Window) -> list[MemoryId]:
    """The episodes of a window, valid now; one more than MAX_EPISODES when there are more than that."""
    rows = await session.rows(
        "consolidation_window", namespace_id=namespace_id, start=moment_of(window.start), end=moment_of(window.end),
        first_id=window.first_id, end_id=window.end_id, limit=MAX_EPISODES + 1,
    )  # fmt: skip
    return [row[0] for row in rows]


async def next_episode(session: Session, namespace_id: int, at: int, first_id: int) -> tuple[int, MemoryId] | None:
    """When the first episode at or after a time and id was, and its id."""
    row = await session.row("consolidation_next", namespace_id=namespace_id, start=moment_of(at), first_id=first_id)
    return (row[0], row[1]) if row else None


async def episodes(session: Session, namespace_id: int, ids: Iterable[int]) -> list[EpisodeRow]:
    """Episodes that are valid now, by id; others of the ids are missing."""
    return await session.mapped("consolidation_episodes", EpisodeRow._make, namespace_id=namespace_id, ids=list(ids))


async def hold(session: WriteSession, namespace_id: int, ids: Iterable[int]) -> None:
    """Hold memories against removal until the transaction ends."""
    await session.rows("consolidation_hold", namespace_id=namespace_id, ids=list(ids))


async def vectors(
    session: Session, namespace_id: int, model_id: int, ids: Iterable[int]
) -> tuple[list[MemoryId], NDArray[np.float32]]:
    """The ids of those that have a vector, ascending, and the vectors of their beginnings, one unit row each."""
    rows = await session.rows("consolidation_vectors", namespace_id=namespace_id, model_id=model_id, ids=list(ids))
    if not rows:
        return [], np.empty((0, 0), np.float32)
    found = np.array([np.frombuffer(row[1], ">f2", offset=_HEADER_BYTES) for row in rows], np.float32)
    lengths = np.linalg.norm(found, axis=1, keepdims=True)
    return [row[0] for row in rows], (found / np.where(lengths > 0, lengths, 1)).astype(np.float32)


async def ties(session: Session, namespace_id: int, ids: Iterable[int]) -> list[Tie]:
    """The links between memories that are valid now, but for those of consolidation itself."""
    return await session.mapped(
        "consolidation_ties", Tie._make, namespace_id=namespace_id, ids=list(ids), limit=MAX_TIES
    )


async def standing(session: Session, namespace_id: int, ids: Iterable[int]) -> list[Standing]:
    """What consolidates some of these episodes, by id, with the links to all its sources that are there."""
    rows = await session.rows("consolidation_standing", namespace_id=namespace_id, ids=list(ids))
    found: dict[MemoryId, Standing] = {}
    for id_, version, made_of, *link in rows:
        known = found.setdefault(id_, Standing(id_, version, _count(made_of), ()))
        found[id_] = known._replace(links=(*known.links, SourceLink._make(link)))
    return list(found.values())


def _count(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


async def progress(session: Session, namespace_id: int) -> dict[str, Any]:
    """How far consolidation has come; empty when it has not begun."""
    row = await session.row("consolidation_job", namespace_id=namespace_id)
    return dict(row[0]) if row else {}


async def take_turn(session: WriteSession, namespace_id: int) -> None:
    """Keep other transactions that consolidate this namespace waiting until this one ends."""
    await session.run("consolidation_job_turn", namespace_id=namespace_id)


async def put_progress(session: WriteSession, namespace_id: int, state: dict[str, Any]) -> None:
    """Note how far it has come."""
    await session.run("consolidation_job_put", namespace_id=namespace_id, state=orjson.dumps(state).decode())


async def due(session: Session, limit: int) -> Sequence[str]:
    """Names of namespaces whose turn it is."""
    return [row[0] for row in await session.rows("consolidation_due", limit=limit)]
