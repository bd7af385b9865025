"""The hot frame: versions of hot structures by namespace, within one byte budget. Does no I/O.

A version is immutable, so readers never wait for each other and keep what they pinned after it was evicted.
"""

import asyncio
from collections import OrderedDict
from typing import Any, Generic, Protocol, TypeVar
from weakref import WeakValueDictionary

from sfm_graph.domain.snapshot import Snapshot
from sfm_graph.telemetry.counters import HOT_EVICTIONS


class Version(Protocol):
    """An immutable structure that is exact at a snapshot."""

    @property
    def snapshot(self) -> Snapshot:
        """The snapshot it is exact at, its cursor."""

    @property
    def nbytes(self) -> int:
        """Resident bytes."""


V = TypeVar("V", bound=Version)


class HotBudget:
    """The bytes that all hot structures of a process share; the least recently used go when they exceed it."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._held: OrderedDict[tuple[HotCache[Any], int], int] = OrderedDict()
        self._used = 0

    def hold(self, cache: "HotCache[Any]", namespace_id: int, nbytes: int) -> None:
        """Account for a version that was just used, and evict others until all fit; never this one."""
        self.release(cache, namespace_id)
        self._held[cache, namespace_id] = nbytes
        self._used += nbytes
        while self._used > self.limit_bytes and len(self._held) > 1:
            owner, oldest = next(iter(self._held))
            owner.drop(oldest)
            HOT_EVICTIONS.inc()

    def touch(self, cache: "HotCache[Any]", namespace_id: int) -> None:
        """Note that a version was used."""
        if (cache, namespace_id) in self._held:
            self._held.move_to_end((cache, namespace_id))

    def release(self, cache: "HotCache[Any]", namespace_id: int) -> None:
        """Account no longer for a version."""
        self._used -= self._held.pop((cache, namespace_id), 0)


class HotCache(Generic[V]):
    """The newest version of one structure of each hot namespace."""

    def __init__(self, budget: HotBudget) -> None:
        self.budget = budget
        self._versions: dict[int, V] = {}
        self._loading: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()

    def pinned(self) -> dict[int, V]:
        """The versions of this moment, to be taken before a request's snapshot: then each precedes it."""
        return dict(self._versions)

    def newest(self, namespace_id: int) -> V | None:
        """The newest version of a namespace, or None."""
        return self._versions.get(namespace_id)

    def loading(self, namespace_id: int) -> asyncio.Lock:
        """The lock under which one request loads a cold namespace while others wait."""
        lock = self._loading.get(namespace_id)
        if lock is None:
            lock = self._loading[namespace_id] = asyncio.Lock()
        return lock

    def publish(self, namespace_id: int, version: V) -> None:
        """Offer a version; an older one than the present is not taken."""
        present = self._versions.get(namespace_id)
        if present is not None and not present.snapshot.precedes(version.snapshot):
            return
        self._versions[namespace_id] = version
        self.budget.hold(self, namespace_id, version.nbytes)

    def drop(self, namespace_id: int) -> None:
        """Forget a namespace."""
        if self._versions.pop(namespace_id, None) is not None:
            self.budget.release(self, namespace_id)

    def clear(self) -> None:
        """Forget all namespaces."""
        for namespace_id in list(self._versions):
            self.drop(namespace_id)

    def sizes(self) -> dict[int, int]:
        """Resident bytes by namespace id."""
        return {namespace_id: version.nbytes for namespace_id, version in self._versions.items()}
