"""Keeping namespaces' text hot: loading it, and bringing it to exactly a view's snapshot."""

import asyncio
import time
from dataclasses import dataclass

import numpy as np

from sfm_graph.domain.namespace import Namespace
from sfm_graph.hot.cache import HotCache
from sfm_graph.hot.text.index import TextIndex, empty_index
from sfm_graph.services.hot import MEASURE_SECONDS, Hot
from sfm_graph.services.indexing import Indexing
from sfm_graph.services.view import View
from sfm_graph.store.database import ReadSession
from sfm_graph.store.text_rows import read_documents

# Columns and masks of a memory in a segment; its postings take as much as its row of `words` does.
BYTES_PER_MEMORY = 120


@dataclass(frozen=True, slots=True)
class _Size:
    memories: int
    postings_bytes: int
    vectors: int
    dimension: int

    def nbytes(self, *, with_vectors: bool) -> int:
        vectors = self.vectors * self.dimension * 4 if with_vectors else 0
        return self.memories * BYTES_PER_MEMORY + self.postings_bytes + vectors


class HotText(Hot[TextIndex]):
    """Gives the text index of a namespace at a view's snapshot, from memory where the budget allows."""

    def __init__(self, cache: HotCache[TextIndex], indexing: Indexing, *, max_waiting: int) -> None:
        super().__init__(cache, max_waiting=max_waiting)
        self._indexing = indexing
        # Until when a namespace is taken to have too many vectors to scan.
        self._without_vectors: dict[int, float] = {}

    async def _loaded(self, view: View, namespace: Namespace, present: TextIndex | None) -> TextIndex | None:
        size = await _size(view.session, namespace)
        with_vectors = size.vectors <= self._limit(namespace)
        if not with_vectors:
            self._without_vectors[namespace.id] = time.monotonic() + MEASURE_SECONDS
            if present is not None and not present.has_vectors:
                return await self._applied(view, namespace, present, await self._changed(view, namespace, present))
        if size.nbytes(with_vectors=with_vectors) > self.cache.budget.limit_bytes:
            return None
        model = _model(namespace, with_vectors)
        everything = await read_documents(view.session, namespace.id, ids=None, model=model)
        base = empty_index(view.snapshot, model[0] if model else None)
        return await asyncio.to_thread(base.changed, view.snapshot, everything.ids, everything)

    def _misfits(self, namespace: Namespace, version: TextIndex) -> bool:
        """True when a version has vectors and should not, or of another model, or has not and might."""
        if version.has_vectors:
            if namespace.model is None or version.model_id != namespace.model.id:
                return True
            limit = self._limit(namespace)
            return version.vector_count > limit and version.live_vector_count > limit
        return namespace.model is not None and self._without_vectors.get(namespace.id, 0.0) <= time.monotonic()

    def _limit(self, namespace: Namespace) -> int:
        return self._indexing.exact_scan_limit(namespace.model.identity) if namespace.model else 0

    async def _changed(self, view: View, namespace: Namespace, version: TextIndex) -> dict[int, int]:
        (changed,) = await view.session.one(
            "changed_memories", namespace_id=namespace.id, since=version.snapshot.text
        )
        return dict.fromkeys(changed or (), 0)

    async def _changed_since(self, view: View, namespace: Namespace) -> dict[int, int]:
        (changed,) = await view.session.one("memories_changed_since", namespace_id=namespace.id)
        return dict.fromkeys(changed or (), 0)

    async def _applied(
        self, view: View, namespace: Namespace, version: TextIndex, changed: dict[int, int]
    ) -> TextIndex | None:
        if not changed:
            return version.at(view.snapshot)
        model = _model(namespace, version.has_vectors)
        documents = await read_documents(view.session, namespace.id, ids=list(changed), model=model)
        ids = np.sort(np.fromiter(changed, np.int64))
        return await asyncio.to_thread(version.changed, view.snapshot, ids, documents)


def _model(namespace: Namespace, with_vectors: bool) -> tuple[int, int] | None:
    return (namespace.model.id, namespace.model.identity.dimension) if namespace.model and with_vectors else None


async def _size(session: ReadSession, namespace: Namespace) -> _Size:
    model = namespace.model
    memories, postings, vectors = await session.one(
        "text_size", namespace_id=namespace.id, model_id=model.id if model else 0
    )
    return _Size(memories, postings, vectors, model.identity.dimension if model else 0)
