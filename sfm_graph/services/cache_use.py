"""What becomes of the cache: for health and metrics."""

from collections.abc import Mapping
from typing import Any

from sfm_graph.ports.cache import Cache
from sfm_graph.services.recall.answers import Answers
from sfm_graph.services.shared_vectors import SharedVectors


class CacheUse:
    """The cache and who keeps things in it."""

    def __init__(self, cache: Cache, answers: Answers, vectors: SharedVectors | None) -> None:
        self._cache = cache
        self._answers = answers
        self._vectors = vectors

    @property
    def counters(self) -> dict[str, Mapping[str, int]]:
        """Of answered recalls (`recall`), of queries' vectors (`vector`), and of the cache itself (`cache`)."""
        counters = {"recall": self._answers.counters, "cache": self._cache.counters}
        return counters if self._vectors is None else {**counters, "vector": self._vectors.counters}

    async def state(self) -> dict[str, Any]:
        """The cache's part of the health report."""
        return await self._cache.state()
