"""Keeping windows right: their words within the transaction of a write, their vectors right after it."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence, Set

import numpy as np

from sfm_graph.domain.namespace import Namespace
from sfm_graph.domain.windows import Place, Window, window_text, windows_around
from sfm_graph.errors import SfmError
from sfm_graph.services.indexing import Indexing
from sfm_graph.services.offload import offload
from sfm_graph.store import namespaces
from sfm_graph.store import windows as store
from sfm_graph.store.database import Database, WriteSession
from sfm_graph.store.search_columns import most_frequent, weighted_counts
from sfm_graph.store.vector_types import half_vectors, sparse_counts
from sfm_graph.store.windows import WindowWords

log = logging.getLogger(__name__)

FILL_WINDOWS = 500


class Windows:
    """Windows of memories in sequences.

    A transaction that changes a sequence rewrites the words of the windows around the change and drops their
    vectors; the vectors are made anew when it has committed, by the writer, or by maintenance if that fails. Until
    then a window is found by its words, and its memory by its own vector.
    """

    def __init__(self, database: Database, indexing: Indexing) -> None:
        self._database = database
        self._indexing = indexing

    async def settle(
        self, session: WriteSession, target: Namespace, written: Set[int], places: Sequence[Place]
    ) -> bool:
        """Rewrite the windows around places, old and new, of memories that were written or removed.

        Whether vectors are due.
        """
        if not places:
            return False
        await store.lock(session, target.id, [place.sequence for place in places])
        turns = await store.turns_around(session, target.id, places)
        windows = await offload(len(turns), windows_around, turns, places)
        if not windows:
            return False
        words = await offload(len(windows), _words, windows, target.settings.language)
        due = self._indexing.knows(target)
        await store.update(session, target.id, words, written=written, due=due)
        return due

    async def fill(self, namespace: str) -> None:
        """Make the vectors of a namespace's windows that are due. What fails stays due; the log says why."""
        try:
            while await self._fill_some(namespace):
                continue
        except SfmError as error:
            log.warning("window vectors of namespace %r stay due: %s", namespace, error.message)

    async def fill_all(self) -> None:
        """Make every window vector that is due. Raises what fails."""
        async with self._database.read() as session:
            due = [row[0] for row in await session.rows("window_due_namespaces")]
        for namespace in due:
            while await self._fill_some(namespace):
                continue

    async def _fill_some(self, namespace: str) -> bool:
        """One round; whether there may be more to do."""
        async with self._database.read() as session:
            target = await namespaces.by_name(session, namespace)
            if target is None or not self._indexing.knows(target):
                return False
            due = await store.due(session, target.id, FILL_WINDOWS)
            turns = await store.turns_around(session, target.id, [one.place for one in due])
        if not due:
            return False
        windows = await offload(len(turns), windows_around, turns, [one.place for one in due])
        made = [one for one in due if one.place.id in windows]
        vectors = await self._indexing.embed(target, [window_text(windows[one.place.id]) for one in made])
        telling = np.any(vectors, axis=1).tolist()
        halves = [half if tells else None for half, tells in zip(half_vectors(vectors), telling, strict=True)]

        async def work(session: WriteSession) -> bool:
            scope = await namespaces.lock_existing(session, namespace)
            if scope is None or scope.model is None or scope.model != target.model:
                return False
            await store.lock(session, scope.id, [one.place.sequence for one in made])
            await store.insert_vectors(session, scope.id, scope.model.id, list(zip(made, halves, strict=True)))
            return True

        return await self._database.write(work) and len(due) == FILL_WINDOWS


def _words(windows: Mapping[int, Window], language: str) -> dict[int, WindowWords]:
    own: dict[int, tuple[Counter[int], int]] = {}
    for window in windows.values():
        for turn in window:
            if turn.place.id not in own:
                own[turn.place.id] = weighted_counts(turn.title, turn.content, language)
    return {one: _joined([own[turn.place.id] for turn in window]) for one, window in windows.items()}


def _joined(members: Sequence[tuple[Counter[int], int]]) -> WindowWords:
    if len(members) == 1:
        return WindowWords(None, None)
    counts: Counter[int] = Counter()
    for member, _ in members:
        counts.update(member)
    return WindowWords(sum(length for _, length in members), sparse_counts(most_frequent(counts)))
