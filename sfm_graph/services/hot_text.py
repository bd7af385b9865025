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

# A 60-word memory: postings, row arrays.
BYTES_PER_MEMORY = 700
# How long a namespace found too large is not measured again: counting it costs more than a search.
TOO_LARGE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class _Size:
    memories: int
    vectors: int
    dimension: int

    @property
    def nbytes(self) -> int:
        return self.memories * BYTES_PER_MEMORY + self.vectors * self.dimension * 4


class HotText:
    """Gives the text index of a namespace at a view's snapshot, from memory where the budget allows."""

    def __init__(self, cache: HotCache[TextIndex], indexing: Indexing) -> None:
        self._cache = cache
        self._indexing = indexing
        self._too_large: dict[int, float] = {}

    async def at(self, view: View, namespace: Namespace) -> TextIndex | None:
        """The index, exact at the view's snapshot; None when the namespace exceeds the budget."""
        pinned = view.pinned.get(namespace.id)
        if pinned is None:
            return await self._loaded(view, namespace)
        index = await self._caught_up(view, namespace, pinned)
        if index.has_vectors and index.vector_count > self._limit(namespace):
            index = await self._load(view, namespace, with_vectors=False)
        if index is not pinned:
            self._cache.publish(namespace.id, index)
        return index

    async def _loaded(self, view: View, namespace: Namespace) -> TextIndex | None:
        if self._too_large.get(namespace.id, 0.0) > time.monotonic():
            return None
        async with self._cache.loading(namespace.id):
            present = self._cache.newest(namespace.id)
            if present is not None and present.snapshot.precedes(view.snapshot):
                return await self._caught_up(view, namespace, present)
            size = await _size(view.session, namespace)
            with_vectors = size.vectors <= self._limit(namespace)
            needed = size.nbytes if with_vectors else size.memories * BYTES_PER_MEMORY
            if needed > self._cache.budget_bytes:
                self._too_large[namespace.id] = time.monotonic() + TOO_LARGE_SECONDS
                return None
            index = await self._load(view, namespace, with_vectors=with_vectors)
            self._cache.publish(namespace.id, index)
            return index

    def _limit(self, namespace: Namespace) -> int:
        return self._indexing.exact_scan_limit(namespace.model.identity) if namespace.model else 0

    async def _load(self, view: View, namespace: Namespace, *, with_vectors: bool) -> TextIndex:
        model = namespace.model
        documents = await read_documents(
            view.session, namespace.id, ids=None,
            model=(model.id, model.identity.dimension) if model and with_vectors else None,
        )  # fmt: skip
        base = empty_index(view.snapshot, has_vectors=with_vectors)
        return await asyncio.to_thread(base.changed, view.snapshot, documents.ids, documents)

    async def _caught_up(self, view: View, namespace: Namespace, index: TextIndex) -> TextIndex:
        (changed,) = await view.session.one("changed_memories", namespace_id=namespace.id, since=index.snapshot.text)
        if not changed:
            return index.at(view.snapshot)
        ids = np.array(sorted(changed), np.int64)
        model = namespace.model
        documents = await read_documents(
            view.session, namespace.id, ids=ids.tolist(),
            model=(model.id, model.identity.dimension) if model and index.has_vectors else None,
        )  # fmt: skip
        return await asyncio.to_thread(index.changed, view.snapshot, ids, documents)


async def _size(session: ReadSession, namespace: Namespace) -> _Size:
    model = namespace.model
    memories, vectors = await session.one("text_size", namespace_id=namespace.id, model_id=model.id if model else 0)
    return _Size(memories, vectors, model.identity.dimension if model else 0)
