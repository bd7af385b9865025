"""The embedders that a service runs: its own, and those of models that namespaces still have."""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import AsyncExitStack
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from sfm_graph.domain.deadline import without_deadline
from sfm_graph.domain.namespace import ModelIdentity
from sfm_graph.errors import ModelMismatch
from sfm_graph.ports.embedder import Embedder
from sfm_graph.services.shared_vectors import SharedVectors

# Some 20,000 queries of 384 dimensions.
CACHE_BYTES = 32 * 1024**2
_ENTRY_BYTES = 300  # key, array and links of the cache

_Key = tuple[ModelIdentity, bytes]


class Embedders:
    """Embedders by the identity of their models; queries are embedded once."""

    def __init__(
        self, default: Embedder, others: Sequence[Embedder] = (), *, cache_bytes: int = CACHE_BYTES,
        shared: SharedVectors | None = None,
    ) -> None:  # fmt: skip
        """Takes ownership of the embedders. Of two with one identity the first is used, `default` before `others`.

        `shared`: where vectors of queries are looked for that this process does not have.
        """
        self._default = default
        self._all = (default, *others)
        self._by_identity = {embedder.identity: embedder for embedder in reversed(self._all)}
        self._cache = _VectorCache(cache_bytes)
        self.shared = shared
        self._running: dict[_Key, asyncio.Task[NDArray[np.float32]]] = {}

    @property
    def default(self) -> Embedder:
        """The embedder of new namespaces."""
        return self._default

    def of(self, identity: ModelIdentity) -> Embedder | None:
        """The embedder that computes a model's vectors, None when this service runs none."""
        return self._by_identity.get(identity)

    async def query_vector(self, identity: ModelIdentity, text: str) -> NDArray[np.float32]:
        """The unit vector of a query by a model, zero for one without any word; shape (dimension,), read-only.

        Tasks that ask for one text at one time share the work and its failure; the next to ask tries again.
        A task that is cancelled takes nothing from the others.
        Raises ModelMismatch for a model that this service does not run, EmbedderUnavailable.
        """
        embedder = self.of(identity)
        if embedder is None:
            raise ModelMismatch(f"this service does not run {identity}; it embeds with {self._default.identity}")
        key = (identity, blake2b(text.encode("utf-8", "surrogatepass"), digest_size=32).digest())
        cached = self._cache.get(key)
        if cached is not None:
            return cached
        task = self._running.get(key)
        if task is None:
            with without_deadline():
                task = asyncio.create_task(self._embed(embedder, key, text), name="embed query")
            self._running[key] = task
            task.add_done_callback(lambda done: self._ended(key, done))
        return await asyncio.shield(task)

    async def aclose(self) -> None:
        """Ends what runs and closes all embedders, whatever the others raise. May be called twice."""
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        async with AsyncExitStack() as stack:
            for embedder in self._all:
                stack.push_async_callback(embedder.aclose)

    async def _embed(self, embedder: Embedder, key: _Key, text: str) -> NDArray[np.float32]:
        vector = None if self.shared is None else await self.shared.find(*key)
        if vector is None:
            vector = (await embedder.embed([text])).reshape(-1)
            if self.shared is not None:
                await self.shared.keep(*key, vector)
        vector.flags.writeable = False
        self._cache.put(key, vector)
        return vector

    def _ended(self, key: _Key, task: asyncio.Task[NDArray[np.float32]]) -> None:
        del self._running[key]
        if not task.cancelled():
            task.exception()  # seen, also when all that waited were cancelled


class _VectorCache:
    """The vectors that were used last, within a number of bytes."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._vectors: OrderedDict[_Key, NDArray[np.float32]] = OrderedDict()

    def get(self, key: _Key) -> NDArray[np.float32] | None:
        vector = self._vectors.get(key)
        if vector is not None:
            self._vectors.move_to_end(key)
        return vector

    def put(self, key: _Key, vector: NDArray[np.float32]) -> None:
        """`key` must be new."""
        self._vectors[key] = vector
        self._bytes += vector.nbytes + _ENTRY_BYTES
        while self._bytes > self._max_bytes:
            _, oldest = self._vectors.popitem(last=False)
            self._bytes -= oldest.nbytes + _ENTRY_BYTES
