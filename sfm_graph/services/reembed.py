"""Moving namespaces to the service's own model, beside reads and writes.

The new model's vectors are made beside the old ones; writes go on with the old model and take away the new model's
vectors of what they change, which are made again. When few are missing, one transaction holds the writers, makes
these and switches. Ended in the middle, the next run goes on from there.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Set
from dataclasses import dataclass

from sfm_graph.domain import validate
from sfm_graph.domain.access import Scope
from sfm_graph.domain.namespace import ModelIdentity, Namespace, StoredModel
from sfm_graph.errors import Conflict, NamespaceNotFound, Overloaded
from sfm_graph.services.access.guard import needs, reach
from sfm_graph.services.indexing import Indexing
from sfm_graph.services.reembed_vectors import MissingVectors, Within
from sfm_graph.services.rewording import Rewording
from sfm_graph.services.windows import Windows
from sfm_graph.store import namespaces, vector_indexes
from sfm_graph.store import reembed as store
from sfm_graph.store.database import Database, WriteSession

log = logging.getLogger(__name__)

# Is told how much is done, and of how much.
Progress = Callable[[int, int], None]

# Writers wait so long while the last memories and their windows are embedded; at least so many, whatever the model.
HOLD_SECONDS = 1.0
FEW = 50
MANY = 2_000
# How long a switch waits for writers under way, and how often before it asks for its turn.
PATIENCE_MS = 1_000
PATIENT_ATTEMPTS = 3
DROP_ROWS = 5_000
PAGE = 1_000


@dataclass(frozen=True, slots=True)
class Reembedded:
    """What was done to a namespace. `before` None: it has no vectors, and none were made."""

    namespace: str
    before: ModelIdentity | None
    after: ModelIdentity
    # Vectors were made of so many memories and windows; words, names and links of so many memories.
    memories: int
    windows: int
    reworded: int
    seconds: float


class Reembed:
    """Moves namespaces to the model of new ones."""

    def __init__(
        self, database: Database, indexing: Indexing, windows: Windows, rewording: Rewording, *, tail: int,
        indexes_vectors: bool = True,
    ) -> None:  # fmt: skip
        """`tail`: so many vectors need no index of their own; `indexes_vectors` False: none do."""
        self._database = database
        self._indexing = indexing
        self._windows = windows
        self._rewording = rewording
        self._tail = tail
        self._indexes_vectors = indexes_vectors

    @needs(Scope.ADMIN)
    async def names(self) -> list[str]:
        """All namespaces that the caller reaches, by name."""
        found: list[str] = []
        async with self._database.read() as session:
            while page := await namespaces.page(session, reach(), found[-1] if found else "", PAGE):
                found += [one.name for one in page]
        return found

    @needs(Scope.ADMIN)
    async def run(
        self, namespace: str, *, words: bool = False, progress: Progress = lambda done, total: None
    ) -> Reembedded:
        """Move a namespace; nothing to do is no error. `words`: all else that is made of memories is made anew too.

        Raises NamespaceNotFound, Conflict while another process does the same, EmbedderUnavailable. What is done
        stays, and the next run goes on from there.
        """
        validate.namespace(namespace)
        began = time.monotonic()
        async with store.alone(self._database, (await self._found(namespace)).id) as alone:
            if not alone:
                raise Conflict(
                    f"namespace {namespace!r} is being re-embedded by another process", namespace=namespace
                )
            found = await self._found(namespace)
            steps = _Steps(progress, await self._size(found, words))
            memories, windows = await self._move(found, steps.advance)
            await self._clean_up(found)
            reworded = await self._rewording.run(namespace, steps.advance) if words else 0
        before = found.model.identity if found.model else None
        seconds = time.monotonic() - began
        return Reembedded(namespace, before, self._indexing.identity, memories, windows, reworded, seconds)

    async def _found(self, name: str) -> Namespace:
        async with self._database.read() as session:
            found = await namespaces.by_name(session, name)
        if found is None:
            raise NamespaceNotFound(f"there is no namespace {name!r}", namespace=name)
        return found

    def _moves(self, target: Namespace) -> bool:
        return target.model is not None and target.model.identity != self._indexing.identity

    async def _size(self, target: Namespace, words: bool) -> int:
        async with self._database.read() as session:
            memories, windows = await store.size(session, target.id)
        return (memories + windows) * self._moves(target) + 2 * memories * words

    async def _move(self, target: Namespace, advance: Callable[[int], None]) -> tuple[int, int]:
        """How many memories and windows have a new vector."""
        if not self._moves(target):
            return 0, 0

        async def work(session: WriteSession) -> StoredModel:
            return await namespaces.model(session, self._indexing.identity)

        model = await self._database.write(work)
        since, _ = await self._changed(target, None)
        vectors = MissingVectors(self._database, self._indexing, target, model, advance)
        put_off = await vectors.fill_all()
        await self._index(target, model)
        switch = _Switch(self._database, self._indexing, target, model)
        while True:
            until, changed = await self._changed(target, since)
            few = _few(vectors.seconds_per_text)
            if len(changed | put_off) <= few and await switch.attempt(since, put_off, 2 * few):
                return vectors.memories + switch.memories, vectors.windows + switch.windows
            put_off = await vectors.fill(changed | put_off)
            since = until
            if put_off:
                # Writers hold these for a moment.
                await asyncio.sleep(0.02)

    async def _changed(self, target: Namespace, since: str | None) -> tuple[str, set[int]]:
        """A snapshot, and the memories that changed until then."""
        async with self._database.read() as session:
            changed = await store.changed(session, target.id, since) if since else set()
            return session.snapshot, changed

    async def _index(self, target: Namespace, model: StoredModel) -> None:
        """Index the new vectors where an exact scan of all of them would keep readers waiting."""
        while self._indexes_vectors:
            span = await store.tail(self._database, target.id, model)
            least = self._tail if span.after else max(self._tail, self._indexing.exact_scan_limit(model.identity))
            if await vector_indexes.length(self._database, span) <= least:
                return
            span = await vector_indexes.cut(
                self._database, span, await vector_indexes.capacity(self._database, model.identity)
            )
            if not await vector_indexes.build(self._database, span):
                # Another process builds one, perhaps this one.
                await asyncio.sleep(1)

    async def _clean_up(self, target: Namespace) -> None:
        """Remove what is left of other models than the namespace's, and make the window vectors that are due."""

        async def drop(session: WriteSession) -> int | None:
            return await store.drop(session, target.id, DROP_ROWS)

        async def retire(session: WriteSession) -> None:
            await store.retire(session, target.id)

        while (dropped := await self._database.write(drop)) is not None:
            if not dropped:
                await asyncio.sleep(0.1)
        # After the vectors: maintenance would index anew what no index covers.
        await self._database.write(retire)
        await self._windows.fill(target.name)


def _few(seconds_per_text: float) -> int:
    """How many memories, each with a window, are embedded within the time that writers may wait."""
    return max(FEW, min(int(HOLD_SECONDS / max(2 * seconds_per_text, 1e-6)), MANY))


class _Steps:
    """Counts what is done; never beyond the total that was counted at the start."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress = progress
        self._total = total
        self._done = 0
        progress(0, total)

    def advance(self, count: int) -> None:
        self._done = min(self._done + count, self._total)
        self._progress(self._done, self._total)


class _Switch:
    """The transaction that gives a namespace its new model."""

    def __init__(self, database: Database, indexing: Indexing, target: Namespace, model: StoredModel) -> None:
        self._database = database
        self._indexing = indexing
        self._target = target
        self._model = model
        self._attempts = 0
        self.memories = 0
        self.windows = 0

    async def attempt(self, since: str, put_off: Set[int], most: int) -> bool:
        """Switch unless more than `most` memories changed since a snapshot; False too where writers left no gap."""
        self._attempts += 1

        async def work(session: WriteSession) -> bool:
            in_turn = self._attempts > PATIENT_ATTEMPTS
            held = await store.hold(session, self._target.id, timeout_ms=PATIENCE_MS, in_turn=in_turn)
            if self._target.model is None or held != self._target.model.id:
                raise Conflict(f"namespace {self._target.name!r} was changed meanwhile; run it again")
            changed = await store.changed(session, self._target.id, since) | put_off
            vectors = MissingVectors(Within(session), self._indexing, self._target, self._model)
            if len(changed) > most or await vectors.fill(changed):
                return False
            await store.switch(session, self._target.id, self._model)
            self.memories, self.windows = vectors.memories, vectors.windows
            return True

        try:
            return await self._database.write(work)
        except Overloaded as error:
            log.info("the switch of namespace %r is tried again: %s", self._target.name, error.message)
            return False
