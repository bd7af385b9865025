"""From text to search columns: parts, vectors, words and cues, off the event loop where it takes long."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from sfm_graph.domain.cues import CueFields, cues_of, own_text
from sfm_graph.domain.memory import NewMemory
from sfm_graph.domain.namespace import ModelIdentity, Namespace, NamespaceSettings
from sfm_graph.domain.words import part_texts
from sfm_graph.errors import ModelMismatch
from sfm_graph.ports.embedder import LEARNED_DENSE_SHARE, LEARNED_EXACT_SCAN_LIMIT
from sfm_graph.services.embedders import Embedders
from sfm_graph.services.offload import INLINE_ITEMS
from sfm_graph.store.search_columns import SearchColumns, search_columns
from sfm_graph.store.vector_types import HalfVector, half_vectors

P = ParamSpec("P")
T = TypeVar("T")

# Text of one memory above this is cut into words in a thread, too.
INLINE_CHARS = 50_000


@dataclass(frozen=True, slots=True)
class IndexingRules:
    """What search columns depend on besides their memory. `model` embeds texts; the service may not know it."""

    language: str
    cues: CueFields
    model: ModelIdentity


class Indexing:
    """Makes the search columns of memories, and the vectors of queries, by a namespace's rules."""

    def __init__(self, embedders: Embedders) -> None:
        self._embedders = embedders

    @property
    def identity(self) -> ModelIdentity:
        """The model of new namespaces."""
        return self._embedders.default.identity

    def rules(self, namespace: Namespace | None) -> IndexingRules:
        """The rules of a namespace, or of one that is yet to be made."""
        settings = namespace.settings if namespace else NamespaceSettings()
        model = namespace.model.identity if namespace and namespace.model else self.identity
        return IndexingRules(settings.language, settings.cues, model)

    def knows(self, namespace: Namespace) -> bool:
        """Whether the service can embed with the namespace's model."""
        return self._embedders.of(self.rules(namespace).model) is not None

    def require_known(self, namespace: Namespace) -> None:
        """Raises ModelMismatch when the namespace's vectors come from a model that this service does not run."""
        if not self.knows(namespace):
            raise ModelMismatch(
                f"namespace {namespace.name!r} has vectors of {self.rules(namespace).model}, the service embeds with "
                f"{self.identity}; give `embedding` yourself, start the service with that model, or move the "
                "namespace to the service's by `sfm reembed`",
                namespace=namespace.name,
            )

    def exact_scan_limit(self, identity: ModelIdentity) -> int:
        """Vectors of a model up to which a namespace is scanned exactly."""
        embedder = self._embedders.of(identity)
        return embedder.exact_scan_limit if embedder else LEARNED_EXACT_SCAN_LIMIT

    def dense_share(self, namespace: Namespace) -> float:
        """The share of vectors beside words that suits the namespace's model, in [0, 1]."""
        embedder = self._embedders.of(self.rules(namespace).model)
        return embedder.dense_share if embedder else LEARNED_DENSE_SHARE

    async def query_vector(self, namespace: Namespace, text: str) -> NDArray[np.float32]:
        """The unit vector of a query, zero for a query without any feature; shape (dimension,).

        Raises ModelMismatch for a model that the service does not run, EmbedderUnavailable.
        """
        self.require_known(namespace)
        return await self._embedders.query_vector(self.rules(namespace).model, text)

    async def embed(self, namespace: Namespace, texts: Sequence[str]) -> NDArray[np.float32]:
        """One row per text with the namespace's model. Raises as `query_vector`."""
        self.require_known(namespace)
        return await self._embed(self.rules(namespace), texts)

    async def vectors(self, memories: Sequence[NewMemory], model: ModelIdentity) -> list[list[HalfVector]]:
        """The vectors of memories' texts by a model that the service runs, in order; a given embedding is not used.

        Raises EmbedderUnavailable.
        """
        parts = await _offloaded(memories, _parts_of, memories)
        found = iter(await self.window_vectors([text for own in parts for text in own], model))
        return [[half for half in islice(found, len(own)) if half is not None] for own in parts]

    async def window_vectors(self, texts: Sequence[str], model: ModelIdentity) -> list[HalfVector | None]:
        """The vector of each text by a model that the service runs, None where it has no feature. Raises as above."""
        embedder = self._embedders.of(model)
        if embedder is None:
            raise ModelMismatch(f"this service does not run {model}")
        return _telling(await embedder.embed(texts)) if texts else []

    async def columns(self, memories: Sequence[NewMemory], rules: IndexingRules) -> list[SearchColumns]:
        """The search columns of memories, in order. A given embedding stands for the whole text.

        Without vectors where the service does not run the model.
        """
        texts = await _offloaded(memories, _parts_of, memories, given=True)
        vectors = await self._embed(rules, [text for parts in texts for text in parts])
        if vectors.shape[1] == 0:
            texts = [[] for _ in memories]
        return await _offloaded(memories, _columns, memories, texts, vectors, rules)

    async def words_only(self, memories: Sequence[NewMemory], rules: IndexingRules) -> list[SearchColumns]:
        """As above, leaving alone the vectors that are stored."""
        return await _offloaded(memories, _words_only, memories, rules)

    async def _embed(self, rules: IndexingRules, texts: Sequence[str]) -> NDArray[np.float32]:
        embedder = self._embedders.of(rules.model)
        if embedder is None:
            return np.empty((0, 0), np.float32)
        return await embedder.embed(texts) if texts else np.empty((0, rules.model.dimension), np.float32)


async def _offloaded(memories: Sequence[NewMemory], work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    if len(memories) <= INLINE_ITEMS and sum(len(memory.content) for memory in memories) <= INLINE_CHARS:
        return work(*args, **kwargs)
    return await asyncio.to_thread(work, *args, **kwargs)


def _words_only(memories: Sequence[NewMemory], rules: IndexingRules) -> list[SearchColumns]:
    return [search_columns(one, cues_of(one, rules.cues), rules.language, None, 0) for one in memories]


def _parts_of(memories: Sequence[NewMemory], *, given: bool = False) -> list[list[str]]:
    """The parts that are embedded of each; with `given` none of those that come with a vector."""
    return [[] if given and memory.embedding is not None else _parts(memory) for memory in memories]


def _parts(memory: NewMemory) -> list[str]:
    heading = f"{memory.title}\n" if memory.title else ""
    return [heading + part for part in part_texts(own_text(memory.title, memory.content))] or [heading]


def _telling(vectors: NDArray[np.float32]) -> list[HalfVector | None]:
    """The rows; a vector of zeros matches nothing and is left out."""
    telling = np.any(vectors, axis=1).tolist()
    return [half if tells else None for half, tells in zip(half_vectors(vectors), telling, strict=True)]


def _columns(
    memories: Sequence[NewMemory],
    texts: Sequence[Sequence[str]],
    vectors: NDArray[np.float32],
    rules: IndexingRules,
) -> list[SearchColumns]:
    computed = iter(_telling(vectors))
    columns = []
    for memory, parts in zip(memories, texts, strict=True):
        cues = cues_of(memory, rules.cues)
        if memory.embedding is None:
            own = tuple(half for half in islice(computed, len(parts)) if half is not None)
            columns.append(search_columns(memory, cues, rules.language, own, vectors.shape[1]))
        else:
            own = tuple(half_vectors(memory.embedding[None]))
            columns.append(search_columns(memory, cues, rules.language, own, len(memory.embedding)))
    return columns
