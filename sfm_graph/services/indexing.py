"""From text to search columns: parts, vectors and words, off the event loop where it takes long."""

import asyncio
from collections.abc import Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from sfm_graph.domain.memory import NewMemory
from sfm_graph.domain.namespace import ModelIdentity
from sfm_graph.domain.recall import RecallWeights
from sfm_graph.domain.words import part_texts
from sfm_graph.ports.embedder import Embedder
from sfm_graph.services.offload import INLINE_ITEMS
from sfm_graph.store.search_columns import SearchColumns, search_columns
from sfm_graph.store.vector_types import half_vectors

# Of models that callers compute themselves: above this HNSW answers sooner, at a recall above .99.
LEARNED_EXACT_SCAN_LIMIT = 10_000
# Text of one memory above this is cut into words in a thread, too.
INLINE_CHARS = 50_000


class Indexing:
    """Makes the search columns of memories with the service's embedder."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    @property
    def identity(self) -> ModelIdentity:
        """The model that computes vectors."""
        return self._embedder.identity

    def exact_scan_limit(self, identity: ModelIdentity) -> int:
        """Vectors of a model up to which a namespace is scanned exactly."""
        return self._embedder.exact_scan_limit if identity == self.identity else LEARNED_EXACT_SCAN_LIMIT

    def weights(self, identity: ModelIdentity | None) -> RecallWeights:
        """The default weights of recall's legs in a namespace of this model."""
        if identity not in (None, self.identity):
            return RecallWeights()
        return RecallWeights(dense=self._embedder.dense_share, lexical=1 - self._embedder.dense_share)

    async def query_vector(self, text: str) -> NDArray[np.float32]:
        """The unit vector of a query, zero for a query without any feature; shape (dimension,)."""
        vectors = await self._embedder.embed([text])
        return vectors.reshape(-1)

    async def columns(self, memories: Sequence[NewMemory]) -> list[SearchColumns]:
        """The search columns of memories, in order. A given embedding stands for the whole text."""
        texts = [[] if memory.embedding is not None else _parts(memory) for memory in memories]
        flat = [text for parts in texts for text in parts]
        vectors = await self._embedder.embed(flat) if flat else np.empty((0, 0), np.float32)
        if len(memories) <= INLINE_ITEMS and sum(len(memory.content) for memory in memories) <= INLINE_CHARS:
            return _columns(memories, texts, vectors)
        return await asyncio.to_thread(_columns, memories, texts, vectors)


def _parts(memory: NewMemory) -> list[str]:
    heading = f"{memory.title}\n" if memory.title else ""
    return [heading + part for part in part_texts(memory.content)] or [heading]


def _columns(
    memories: Sequence[NewMemory], texts: Sequence[Sequence[str]], vectors: NDArray[np.float32]
) -> list[SearchColumns]:
    telling = [bool(tells) for tells in np.any(vectors, axis=1)]
    computed = zip(half_vectors(vectors), telling, strict=True)
    columns = []
    for memory, parts in zip(memories, texts, strict=True):
        if memory.embedding is None:
            # A vector of zeros matches nothing: it is left out.
            own = tuple(half for half, tells in islice(computed, len(parts)) if tells)
            columns.append(search_columns(memory.title, memory.content, own, vectors.shape[1]))
        else:
            own = tuple(half_vectors(memory.embedding[None]))
            columns.append(search_columns(memory.title, memory.content, own, len(memory.embedding)))
    return columns
