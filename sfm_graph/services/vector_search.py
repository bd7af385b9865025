"""The nearest memories: in Postgres alone, or named by a vector index and judged by Postgres."""

import logging
import time
from datetime import datetime
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sfm_graph.domain.namespace import StoredModel
from sfm_graph.domain.recall import Candidates
from sfm_graph.errors import VectorIndexUnavailable
from sfm_graph.ports.vector_index import Collection, Ints, Near, VectorIndex
from sfm_graph.services.index_beliefs import Beliefs, Few
from sfm_graph.services.index_guard import GuardedIndex
from sfm_graph.store import dense, vector_points
from sfm_graph.store.database import Session

log = logging.getLogger(__name__)

Vector = NDArray[np.float32]

# An index that lacks more changes of a namespace is not asked: scoring what it lacks takes longer than a scan.
MAX_UNREAD = 20_000
# Points asked for per memory wanted: some are of the same memory, or of one that is not valid now.
SPARE, LEAST = 2, 100
MORE = 4
# The client takes about 5 us for each on the event loop.
MAX_POINTS = 3_200
# Postgres and the index may differ in the last digits of a score.
TOLERANCE = 1e-5
# How long a write that could not ask the index does not try again.
COOL_DOWN_SECONDS = 10.0
# How many searches, each of which holds a connection to the database, may wait for the index at once.
AT_ONCE = 4


class VectorSearch(Protocol):
    """Finds the nearest memories of a namespace by vector. One contract suite runs on every implementation."""

    async def nearest(
        self, session: Session, namespace_id: int, model: StoredModel, vector: Vector, count: int,
        allowed: Ints | None, *, windows: bool = False, at: datetime | None = None,
    ) -> Candidates:  # fmt: skip
        """The `count` nearest memories that are valid, best first, ties by id; never fewer while there are more.

        `at`: when they have to be valid; now by default. All that the session sees counts, and nothing else.
        `vector`: unit length. `allowed`: ascending ids that a filter keeps, None: all. Scores are cosines: of a
        memory's nearest part, or of its window. Raises VectorIndexUnavailable.
        """
        ...


class PostgresSearch:
    """Through HNSW indexes over id ranges where there are such, else by scanning."""

    async def nearest(
        self, session: Session, namespace_id: int, model: StoredModel, vector: Vector, count: int,
        allowed: Ints | None, *, windows: bool = False, at: datetime | None = None,
    ) -> Candidates:  # fmt: skip
        """As the protocol says."""
        key = (model.id, model.identity.dimension)
        return await dense.dense(session, namespace_id, key, vector, count, allowed, windows=windows, at=at)


class IndexSearch:
    """Candidates from the index; Postgres says which of them exist, are valid and allowed, and how near they are.

    Memories whose changes the index may not have read are all candidates. When those are too many, or the index has
    never been loaded, Postgres answers alone, and health says so; also when the index names fewer memories than one
    asks for, unless Postgres had no more either a minute ago. An index that is away is an error: scans instead of
    it would bring the database down too.

    `at_once`: how many searches may wait for it at a time, fewer than the pool has connections.
    """

    def __init__(self, index: VectorIndex, *, at_once: int = AT_ONCE) -> None:
        self._index = GuardedIndex(index, at_once)
        self._postgres = PostgresSearch()
        self._beliefs = Beliefs()

    async def nearest(
        self, session: Session, namespace_id: int, model: StoredModel, vector: Vector, count: int,
        allowed: Ints | None, *, windows: bool = False, at: datetime | None = None,
    ) -> Candidates:  # fmt: skip
        """As the protocol says; a memory that is changed while it runs may be missing."""
        search = None
        if allowed is None or len(allowed) > dense.EXACT_FILTERED:
            place = await vector_points.place(session, namespace_id)
            unread = await _unread(session, namespace_id, place)
            if unread is not None:
                collection = Collection(place.log.id, model.id, model.identity.dimension)
                search = _Search(self._index, session, namespace_id, collection, vector, windows, at)
                found = await search.run(count, allowed, unread, self._beliefs)
                if found is not None:
                    return found
        answer = await self._postgres.nearest(
            session, namespace_id, model, vector, count, allowed, windows=windows, at=at
        )
        if search is not None and search.few is not None:
            self._beliefs.learn(search.scope, search.few, answer, whole=allowed is None)
        return answer


async def _unread(session: Session, namespace_id: int, place: vector_points.Place) -> Ints | None:
    if place.seen is None:
        return None
    if place.seen.covers(place.newest):
        return np.empty(0, np.int64)
    return await vector_points.unread(session, namespace_id, place.seen, MAX_UNREAD)


class _Search:
    """One search, in rounds that ask the index for more and more."""

    def __init__(
        self, index: GuardedIndex, session: Session, namespace_id: int, collection: Collection, vector: Vector,
        windows: bool, at: datetime | None,
    ) -> None:  # fmt: skip
        self._index = index
        self._session = session
        self._namespace_id = namespace_id
        self._collection = collection
        self._vector = vector
        self._windows = windows
        self._at = at
        self.scope = (collection, namespace_id, windows)
        # What the index has, when it was asked for all and that is fewer than one wants.
        self.few: Few | None = None

    async def run(self, count: int, allowed: Ints | None, unread: Ints, beliefs: Beliefs) -> Candidates | None:
        """None when the index is not ready, brings too little of what the filter keeps, or may have lost points."""
        limit, exact = max(SPARE * count, LEAST), False
        while True:
            near = await self._index.nearest(
                self._collection, self._namespace_id, self._vector, limit, windows=self._windows, exact=exact
            )
            if near is None:
                return None
            ids = np.union1d(near.memory_ids, unread)
            if allowed is not None:
                ids = np.intersect1d(ids, allowed, assume_unique=True)
            best = await self._judged(ids, count)
            if _is_settled(near, best, count):
                return best
            if near.all_of_them and (exact or beliefs.holds(self.scope, len(near.memory_ids))):
                self.few = Few(len(near.memory_ids), len(best.ids))
                return best if beliefs.holds(self.scope, self.few.points) else None
            if near.all_of_them:
                # A graph may have lost its way to the last of them: they are counted out.
                exact = True
            elif limit >= MAX_POINTS:
                return best if _is_whole(near, best, count) else None
            else:
                limit = max(min(MORE * limit, MAX_POINTS), count)

    async def _judged(self, ids: Ints, count: int) -> Candidates:
        model = (self._collection.model_id, self._collection.dimension)
        return await dense.among(
            self._session, self._namespace_id, model, self._vector, count, ids, windows=self._windows, at=self._at
        )


def _is_settled(near: Near, best: Candidates, count: int) -> bool:
    """Whether no point that the index has not named can be among the best."""
    return len(best.ids) == count and (near.all_of_them or best.scores[-1] > near.scores[-1] + TOLERANCE)


def _is_whole(near: Near, best: Candidates, count: int) -> bool:
    """The same but for equal scores, of which others may have a lower id."""
    return len(best.ids) == count and best.scores[-1] >= near.scores[-1] - TOLERANCE


class WriteSearch:
    """What writes search with: an index that is away makes them slower, never fail."""

    def __init__(self, search: VectorSearch) -> None:
        self._search = search
        self._postgres = PostgresSearch()
        self._not_before = 0.0

    async def nearest(
        self, session: Session, namespace_id: int, model: StoredModel, vector: Vector, count: int,
        allowed: Ints | None, *, windows: bool = False, at: datetime | None = None,
    ) -> Candidates:  # fmt: skip
        """As the protocol says; never VectorIndexUnavailable."""
        if time.monotonic() >= self._not_before:
            try:
                return await self._search.nearest(
                    session, namespace_id, model, vector, count, allowed, windows=windows, at=at
                )
            except VectorIndexUnavailable as error:
                self._not_before = time.monotonic() + COOL_DOWN_SECONDS
                log.warning("writes scan vectors for a while: %s", error.message)
        return await self._postgres.nearest(
            session, namespace_id, model, vector, count, allowed, windows=windows, at=at
        )
