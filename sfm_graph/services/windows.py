"""Keeping windows right: their words within the transaction of a write, their vectors right after it."""

import logging
from collections.abc import Mapping, Sequence, Set

import numpy as np

from sfm_graph.domain.namespace import Namespace
from sfm_graph.domain.windows import Place, Turn, Window, window_text, windows_around
from sfm_graph.errors import SfmError
from sfm_graph.services.indexing import Indexing
from sfm_graph.services.offload import offload
from sfm_graph.store import namespaces
from sfm_graph.store import windows as store
from sfm_graph.store.database import Database, WriteSession
from sfm_graph.store.vector_types import half_vectors
from sfm_graph.store.windows import DueWindow, OwnWords, WindowWords

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
    ) -> Set[int]:
        """Rewrite the windows around places, old and new, of memories that were written or removed.

        The caller holds their sequences. The memories whose windows' vectors are due: for `fill`.
        """
        if not places:
            return frozenset()
        members = await store.words_around(session, target.id, places)
        # Merging a thousand terms takes about as long as an item.
        cost = len(members) + sum(len(one.terms) for one in members) // 2_000
        words = await offload(cost, _words, members, places)
        if not words:
            return frozenset()
        due = self._indexing.knows(target)
        await store.update(session, target.id, words, written=written, due=due)
        return {one for one, window in words.items() if window.terms is not None} if due else frozenset()

    async def fill(self, namespace: str, ids: Set[int] | None = None) -> None:
        """Make the vectors of a namespace's windows that are due, all or those of memories `ids`.

        What fails stays due; the log says why.
        """
        try:
            if ids is None:
                while await self._fill_some(namespace):
                    continue
            else:
                wanted = sorted(ids)
                for start in range(0, len(wanted), FILL_WINDOWS):
                    await self._fill_some(namespace, wanted[start : start + FILL_WINDOWS])
        except SfmError as error:
            log.warning("window vectors of namespace %r stay due: %s", namespace, error.message)

    async def fill_all(self) -> None:
        """Make every window vector that is due. Raises what fails."""
        async with self._database.read() as session:
            due = [row[0] for row in await session.rows("window_due_namespaces")]
        for namespace in due:
            while await self._fill_some(namespace):
                continue

    async def _fill_some(self, namespace: str, among: Sequence[int] | None = None) -> bool:
        """One round; whether there may be more to do."""
        async with self._database.read() as session:
            target = await namespaces.by_name(session, namespace)
            if target is None or not self._indexing.knows(target):
                return False
            due = await store.due(session, target.id, FILL_WINDOWS, among)
            turns = await store.turns_around(session, target.id, [one.place for one in due])
        if not due:
            return False
        windows = await offload(len(turns), windows_around, turns, [one.place for one in due])
        made = [one for one in due if one.place.id in windows]
        texts = await offload(len(made), _texts, windows, made)
        vectors = await self._indexing.embed(target, texts)
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


def _words(members: Sequence[OwnWords], places: Sequence[Place]) -> dict[int, WindowWords]:
    own = {one.place.id: one for one in members}
    windows = windows_around([Turn(one.place, None, "") for one in members], places)
    return {one: store.window_words([own[turn.place.id] for turn in window]) for one, window in windows.items()}


def _texts(windows: Mapping[int, Window], made: Sequence[DueWindow]) -> list[str]:
    return [window_text(windows[one.place.id], one.place.id) for one in made]
