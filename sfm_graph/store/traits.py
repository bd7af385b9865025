"""What recall weighs beside legs, read in SQL for a namespace that is not in memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from sfm_graph.domain.identity import Coordinate
from sfm_graph.domain.importance import ImportanceScale, distribution
from sfm_graph.store.database import Session

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TraitRows:
    """Traits of n memories, shape (n,) each; `since`: seconds since 1970 of valid_from, or of the creation."""

    authors: Ints
    dates: Ints
    importances: NDArray[np.float64]
    since: NDArray[np.float64]


async def called(session: Session, namespace_id: int, name_ids: Sequence[int]) -> dict[int, Ints]:
    """The memories with each of these names, ascending; a name that none has is missing."""
    rows = await session.rows("names_called", namespace_id=namespace_id, name_ids=list(name_ids))
    return {name: np.array(ids, np.int64) for name, ids in rows}


async def of(session: Session, namespace_id: int, ids: Ints) -> TraitRows:
    """The traits of memories in the order of their ids, neutral for one that does not exist."""
    rows = await session.rows("memory_traits", namespace_id=namespace_id, ids=ids.tolist())
    known = {row[0]: row[1:] for row in rows}
    found = [known.get(one, (-1, 0, 0.0, 0.0)) for one in ids.tolist()]
    authors, dates, importances, since = zip(*found, strict=True) if found else ((), (), (), ())
    return TraitRows(
        np.array(authors, np.int64), np.array(dates, np.int64), np.array(importances, np.float64),
        np.array(since, np.float64),
    )  # fmt: skip


async def valid(session: Session, namespace_id: int, ids: Ints, at: datetime) -> NDArray[np.bool_]:
    """Which of the memories exist and are valid at a time."""
    rows = await session.rows("memory_valid", namespace_id=namespace_id, ids=ids.tolist(), at=at)
    return np.isin(ids, np.array([row[0] for row in rows], np.int64))


async def importance_scale(session: Session, namespace_id: int, *, past: bool) -> ImportanceScale:
    """The scale of a namespace's importances: its ends exactly, what lies between by at most 512 of its memories.

    The same of the same memories. `past`: the session sees an earlier moment; all memories are read then.
    """
    name = "importance_sample_then" if past else "importance_sample"
    low, high, sample = await session.one(name, namespace_id=namespace_id)
    if low is None:
        return ImportanceScale()
    return distribution(np.array(sample, np.float64)).scale(np.array([low, high]))


async def coordinates(session: Session, namespace_id: int, ids: Ints) -> dict[int, Coordinate]:
    """The coordinates of memories, by id."""
    rows = await session.rows("memory_coordinates", namespace_id=namespace_id, ids=ids.tolist())
    return {row[0]: tuple(row[1]) for row in rows}


async def vectors(
    session: Session, namespace_id: int, model_id: int, dimension: int, ids: Sequence[int]
) -> NDArray[np.float32]:
    """The first vector of each memory, shape (len(ids), dimension); zeros for one without."""
    found = np.zeros((len(ids), dimension), np.float32)
    places = {one: place for place, one in enumerate(ids)}
    rows = await session.rows("first_vectors", namespace_id=namespace_id, model_id=model_id, ids=list(ids))
    for memory_id, vector in rows:
        found[places[memory_id]] = vector
    return found
