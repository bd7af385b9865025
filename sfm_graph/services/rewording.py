"""Making words, cues, names, windows and links of every memory anew, beside reads and writes."""

from collections.abc import Callable, Set
from functools import partial
from typing import NamedTuple

from sfm_graph.domain.namespace import Namespace
from sfm_graph.domain.windows import Place
from sfm_graph.errors import NamespaceNotFound
from sfm_graph.services.indexing import Indexing, IndexingRules
from sfm_graph.services.linking.linking import Linking, as_given
from sfm_graph.services.linking.relinking import Relinking
from sfm_graph.services.patience import patiently
from sfm_graph.services.windows import Windows
from sfm_graph.store import linking, memories, namespaces
from sfm_graph.store import reembed as store
from sfm_graph.store import windows as window_store
from sfm_graph.store.database import Database, WriteSession

# Writers that meet a batch wait for its end: some 0.1 s.
BATCH = 100


class _Batch(NamedTuple):
    """`last`: the last memory's id, None: no more follow. `due`: whose window vectors are. `rules`: of its making."""

    last: int | None
    size: int
    due: Set[int]
    rules: IndexingRules


class Rewording:
    """Remakes what is made of memories, besides vectors, by a namespace's present settings and linkers."""

    def __init__(self, database: Database, indexing: Indexing, windows: Windows, linking: Linking) -> None:
        self._database = database
        self._indexing = indexing
        self._windows = windows
        self._relinking = Relinking(database, linking)

    async def run(self, name: str, advance: Callable[[int], None]) -> int:
        """How many memories were seen to; `advance` hears of each twice. Safe to end anywhere and to begin again."""
        # First all words and names, then the links that linkers make of them.
        count = await self._words(name, advance)
        await self._relinking.run(name, advance)
        return count

    async def _words(self, name: str, advance: Callable[[int], None]) -> int:
        after, count = 0, 0
        rules: IndexingRules | None = None
        newest = await patiently(self._database, partial(self._newest, name))
        while True:
            batch = await patiently(self._database, partial(self._some, name, after))
            if batch.due:
                await self._windows.fill(name, batch.due)
            if rules is not None and batch.rules != rules:
                # The settings changed meanwhile: what is done, and was written, was made by the old ones.
                after, count = 0, 0
                newest = await patiently(self._database, partial(self._newest, name))
            elif batch.last is None:
                return count
            else:
                after, count = batch.last, count + batch.size
                advance(batch.size)
                if after >= newest:
                    return count
            rules = batch.rules

    async def _newest(self, name: str, session: WriteSession) -> int:
        return await window_store.newest(session, (await self._target(session, name)).id)

    async def _some(self, name: str, after: int, session: WriteSession) -> _Batch:
        target = await self._target(session, name)
        # All: which of them new rules bring memories into is known when these are locked.
        await window_store.hold_all(session, target.id)
        rules = self._indexing.rules(target)
        found = await linking.page(session, target.id, name, after, BATCH)
        if not found:
            return _Batch(None, 0, frozenset(), rules)
        ids = [memory.id for memory in found]
        columns = await self._indexing.words_only([as_given(memory) for memory in found], rules)
        places = set(await window_store.places(session, target.id, ids))
        await memories.replace_search(session, target.id, 0, list(zip(ids, columns, strict=True)))
        for memory_id, one in zip(ids, columns, strict=True):
            if one.cues.sequence is not None:
                places.add(Place(one.cues.sequence, one.cues.position, memory_id))
        due = await self._windows.settle(session, target, set(ids), sorted(places))
        await store.reindexed(session, target.id, ids)
        return _Batch(ids[-1], len(ids), due, rules)

    @staticmethod
    async def _target(session: WriteSession, name: str) -> Namespace:
        target = await namespaces.lock_existing(session, name)
        if target is None:
            raise NamespaceNotFound(f"namespace {name!r} was deleted meanwhile", namespace=name)
        return target
