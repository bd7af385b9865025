"""Keeping namespaces' text hot: loading it, and bringing it to exactly a view's snapshot."""

import asyncio
import time
from dataclasses import dataclass

import numpy as np

from sfm_graph.domain.namespace import Namespace
from sfm_graph.hot.cache import HotCache
from sfm_graph.hot.text_index import TextIndex, empty_index
from sfm_graph.services.indexing import Indexing
from sfm_graph.services.view import View
from sfm_graph.store.database import ReadSession
from sfm_graph.store.text_rows import read_documents

# Row arrays and masks of a memory in a segment; its postings take as much as its row of `words` does.
BYTES_PER_MEMORY = 60
# How long a namespace found too large is not measured again: counting it costs more than a search.
MEASURE_SECONDS = 60.0
# More changes than this are applied by one request while the others wait for it.
LARGE_DELTA = 1_000


@dataclass(frozen=True, slots=True)
class _Size:
    memories: int
    postings_bytes: int
    vectors: int
    dimension: int

    def nbytes(self, *, with_vectors: bool) -> int:
        vectors = self.vectors * self.dimension * 4 if with_vectors else 0
        return self.memories * BYTES_PER_MEMORY + self.postings_bytes + vectors


class HotText:
    """Gives the text index of a namespace at a view's snapshot, from memory where the budget allows."""

    def __init__(self, cache: HotCache[TextIndex], indexing: Indexing) -> None:
        self._cache = cache
        self._indexing = indexing
        # Until when a namespace is taken for too large: as a whole, or for its vectors to be scanned.
        self._over_budget: dict[int, float] = {}
        self._without_vectors: dict[int, float] = {}

    async def at(self, view: View, namespace: Namespace) -> TextIndex | None:
        """The index, exact at the view's snapshot; None when the namespace exceeds the budget."""
        if self._over_budget.get(namespace.id, 0.0) > time.monotonic():
            return None
        pinned = view.pinned.get(namespace.id)
        if pinned is None or self._misfits(namespace, pinned):
            async with self._cache.loading(namespace.id):
                return await self._loaded(view, namespace)
        changed = await self._changed(view, namespace, pinned)
        if len(changed) > LARGE_DELTA:
            async with self._cache.loading(namespace.id):
                return await self._loaded(view, namespace)
        return self._kept(namespace, await self._applied(view, namespace, pinned, changed))

    async def _loaded(self, view: View, namespace: Namespace) -> TextIndex | None:
        """Under the namespace's lock: from the newest version where it serves, else anew."""
        present = self._cache.newest(namespace.id)
        if present is not None and not present.snapshot.precedes(view.snapshot):
            present = None
        if present is not None and not self._misfits(namespace, present):
            return await self._brought_up(view, namespace, present)
        size = await _size(view.session, namespace)
        with_vectors = size.vectors <= self._limit(namespace)
        if not with_vectors:
            self._without_vectors[namespace.id] = time.monotonic() + MEASURE_SECONDS
            if present is not None and not present.has_vectors:
                return await self._brought_up(view, namespace, present)
        if size.nbytes(with_vectors=with_vectors) > self._cache.budget_bytes:
            self._refuse(namespace)
            return None
        everything = await read_documents(view.session, namespace.id, ids=None, model=_model(namespace, with_vectors))
        base = empty_index(view.snapshot, has_vectors=with_vectors)
        index = await asyncio.to_thread(base.changed, view.snapshot, everything.ids, everything)
        return self._kept(namespace, index)

    async def _brought_up(self, view: View, namespace: Namespace, index: TextIndex) -> TextIndex | None:
        changed = await self._changed(view, namespace, index)
        return self._kept(namespace, await self._applied(view, namespace, index, changed))

    def _kept(self, namespace: Namespace, index: TextIndex) -> TextIndex | None:
        if index.nbytes > self._cache.budget_bytes:
            self._refuse(namespace)
            return None
        self._cache.publish(namespace.id, index)
        return index

    def _refuse(self, namespace: Namespace) -> None:
        self._cache.drop(namespace.id)
        self._over_budget[namespace.id] = time.monotonic() + MEASURE_SECONDS

    def _misfits(self, namespace: Namespace, index: TextIndex) -> bool:
        """True when a version has vectors and should not, or has not and might."""
        if index.has_vectors:
            limit = self._limit(namespace)
            return index.vector_count > limit and index.live_vector_count > limit
        return self._without_vectors.get(namespace.id, 0.0) <= time.monotonic()

    def _limit(self, namespace: Namespace) -> int:
        return self._indexing.exact_scan_limit(namespace.model.identity) if namespace.model else 0

    async def _changed(self, view: View, namespace: Namespace, index: TextIndex) -> list[int]:
        (changed,) = await view.session.one("changed_memories", namespace_id=namespace.id, since=index.snapshot.text)
        return changed or []

    async def _applied(self, view: View, namespace: Namespace, index: TextIndex, changed: list[int]) -> TextIndex:
        if not changed:
            return index.at(view.snapshot)
        model = _model(namespace, index.has_vectors)
        documents = await read_documents(view.session, namespace.id, ids=changed, model=model)
        ids = np.sort(np.array(changed, np.int64))
        return await asyncio.to_thread(index.changed, view.snapshot, ids, documents)


def _model(namespace: Namespace, with_vectors: bool) -> tuple[int, int] | None:
    return (namespace.model.id, namespace.model.identity.dimension) if namespace.model and with_vectors else None


async def _size(session: ReadSession, namespace: Namespace) -> _Size:
    model = namespace.model
    memories, postings, vectors = await session.one(
        "text_size", namespace_id=namespace.id, model_id=model.id if model else 0
    )
    return _Size(memories, postings, vectors, model.identity.dimension if model else 0)
