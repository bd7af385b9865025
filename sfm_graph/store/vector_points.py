"""The rows of `embeddings` as a vector index elsewhere follows them, and how far it has come."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfm_graph.domain.position import ChangeLog
from sfm_graph.domain.snapshot import Snapshot
from sfm_graph.ports.vector_index import Collection, Ints, Points
from sfm_graph.store.database import Session
from sfm_graph.store.vector_types import id_array

# What the index's position in the change log is called.
FOLLOWER = "qdrant"
# int16 dimension, int16 zero, then big-endian half floats.
_HEAD_BYTES = 4


@dataclass(frozen=True, slots=True)
class Place:
    """How far the index has read the log. `seen` None: never, or changes that it has not read are gone.

    `newest`: the latest transaction that changed the namespace that was asked about.
    """

    log: ChangeLog
    seen: Snapshot | None
    newest: int | None


async def place(session: Session, namespace_id: int) -> Place:
    """Where the index is, and whether it may lack changes of a namespace."""
    epoch, key, pruned, seen, newest = await session.one(
        "vector_index_place", namespace_id=namespace_id, follower=FOLLOWER
    )
    log = ChangeLog(epoch, bytes(key), pruned)
    read = Snapshot(seen) if seen else None
    return Place(log, read if read and log.keeps(read) else None, newest)


async def unread(session: Session, namespace_id: int, since: Snapshot, limit: int) -> Ints | None:
    """The memories changed in a namespace since a snapshot, ascending; None after more than `limit` changes."""
    ids, changes = await session.one(
        "vector_index_unread", namespace_id=namespace_id, since=since.text, limit=limit + 1
    )
    return None if changes > limit else np.array(sorted(ids or ()), np.int64)


async def lag(session: Session, since: Snapshot, limit: int) -> tuple[int, datetime | None]:
    """How many changes were made since a snapshot, `limit` at most, and when the oldest was."""
    changes, oldest = await session.one("vector_index_lag", since=since.text, limit=limit)
    return int(changes), oldest


async def holdings(session: Session, log: str) -> list[tuple[Collection, int]]:
    """Which namespaces, by id, have vectors for which collections."""
    rows = await session.rows("vector_index_holdings")
    return [(Collection(log, model_id, dimension), namespace_id) for namespace_id, model_id, dimension in rows]


async def collections(session: Session, log: str, namespace_ids: Sequence[int]) -> set[Collection]:
    """The collections that hold vectors of namespaces."""
    rows = await session.rows("vector_index_models", namespace_ids=list(namespace_ids))
    return {Collection(log, model_id, dimension) for model_id, dimension in rows}


async def page(session: Session, collection: Collection, namespace_id: int, after: int, limit: int) -> Points:
    """The next points of a namespace with an id above `after`, by id."""
    rows = await session.rows(
        "vector_index_page", namespace_id=namespace_id, model_id=collection.model_id, after=after, limit=limit
    )
    return _points([(id_, namespace_id, memory_id, window) for id_, memory_id, window in rows])


async def of_memories(session: Session, collection: Collection, namespace_ids: Ints, ids: Ints) -> Points:
    """The points of memories, `namespace_ids` parallel to their `ids`; by id."""
    return _points(
        await session.rows(
            "vector_index_of_memories", namespace_ids=namespace_ids.tolist(), ids=id_array(ids),
            model_id=collection.model_id,
        )
    )  # fmt: skip


async def vectors(session: Session, collection: Collection, points: Points) -> tuple[Points, NDArray[np.float32]]:
    """Those of the points that exist, by id, with their vectors: shape (points, dimension)."""
    rows = await session.rows("vector_index_read", model_id=collection.model_id, **_keys(points))
    found = points.at(np.isin(points.ids, np.array([row[0] for row in rows], np.int64)))
    found = found.at(np.argsort(found.ids))
    halves = b"".join(bytes(row[1])[_HEAD_BYTES:] for row in rows)
    return found, np.frombuffer(halves, ">f2").astype(np.float32).reshape(len(rows), collection.dimension)


async def gone(session: Session, collection: Collection, points: Points) -> Ints:
    """The ids of those of the points that do not exist, or no more."""
    rows = await session.rows("vector_index_gone", model_id=collection.model_id, **_keys(points))
    return np.array([row[0] for row in rows], np.int64)


def _keys(points: Points) -> dict[str, Any]:
    return {"namespace_ids": points.namespace_ids.tolist(), "ids": id_array(points.ids)}


def _points(rows: Sequence[Any]) -> Points:
    ids, namespace_ids, memory_ids, windows = zip(*rows, strict=True) if rows else ((), (), (), ())
    return Points(
        np.array(ids, np.int64),
        np.array(namespace_ids, np.int64),
        np.array(memory_ids, np.int64),
        np.array(windows, np.bool_),
    )
