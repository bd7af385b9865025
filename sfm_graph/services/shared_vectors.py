"""Vectors of queries that processes share by way of a cache."""

from collections.abc import Collection, Mapping
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from sfm_graph.domain.namespace import ModelIdentity
from sfm_graph.ports.cache import Cache

_SUM_BYTES = 8
# Of a unit vector's squared length, as models round it.
_TOLERANCE = 1e-2
_NUMBER = np.dtype("<f4")


class SharedVectors:
    """Finds and keeps vectors by model and text; the text itself never leaves the process."""

    def __init__(self, cache: Cache, *, without: Collection[ModelIdentity] = ()) -> None:
        """`without`: models that embed a query sooner than a cache answers."""
        self._cache = cache
        self._without = frozenset(without)
        self._counters = {"hits": 0, "misses": 0, "damaged": 0}

    @property
    def counters(self) -> Mapping[str, int]:
        """`hits`; `misses`; `damaged`: misses for what was no such vector."""
        return self._counters

    async def find(self, identity: ModelIdentity, text_hash: bytes) -> NDArray[np.float32] | None:
        """A query's vector, shape (dimension,), None where it is not known."""
        if identity in self._without:
            return None
        key = _key(identity, text_hash)
        value = await self._cache.get(key, most_bytes=_SUM_BYTES + identity.dimension * _NUMBER.itemsize)
        found = None if value is None else _read(key, value, identity.dimension)
        if found is None:
            self._counters["misses"] += 1
            self._counters["damaged"] += value is not None
        else:
            self._counters["hits"] += 1
        return found

    async def keep(self, identity: ModelIdentity, text_hash: bytes, vector: NDArray[np.float32]) -> None:
        """Let others find it."""
        if identity not in self._without:
            key = _key(identity, text_hash)
            data = vector.astype(_NUMBER).tobytes()
            await self._cache.put(key, _sum(key, data) + data)


def _key(identity: ModelIdentity, text_hash: bytes) -> str:
    return f"sfm:vector:{blake2b(repr(identity).encode() + text_hash, digest_size=32).hexdigest()}"


def _sum(key: str, data: bytes) -> bytes:
    """Tells a vector from one of another key, and from a damaged one; not from one that was made up."""
    return blake2b(key.encode() + data, digest_size=_SUM_BYTES).digest()


def _read(key: str, value: bytes, dimension: int) -> NDArray[np.float32] | None:
    data = value[_SUM_BYTES:]
    if len(data) != dimension * _NUMBER.itemsize or value[:_SUM_BYTES] != _sum(key, data):
        return None
    vector = np.frombuffer(data, _NUMBER).astype(np.float32)
    squared = float(np.dot(vector, vector)) if np.isfinite(vector).all() else -1.0
    return vector if squared == 0 or abs(squared - 1) <= _TOLERANCE else None
