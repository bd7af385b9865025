"""The hot frame: versions of hot structures by namespace, within a byte budget. Does no I/O.

A version is immutable, so readers never wait for each other and keep what they pinned after it was evicted.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from typing import Generic, Protocol, TypeVar
from weakref import WeakValueDictionary

from sfm_graph.domain.snapshot import Snapshot


class Version(Protocol):
    """An immutable structure that is exact at a snapshot."""

    @property
    def snapshot(self) -> Snapshot:
        """The snapshot it is exact at, its cursor."""

    @property
    def nbytes(self) -> int:
        """Resident bytes."""


V = TypeVar("V", bound=Version)


class HotCache(Generic[V]):
    """The newest version of each hot namespace; the least recently used go when the budget is exceeded."""

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self._versions: OrderedDict[int, V] = OrderedDict()
        self._used = 0
        self._loading: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()

    def pinned(self) -> Mapping[int, V]:
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
        if present is not None:
            if not present.snapshot.precedes(version.snapshot):
                return
            self._used -= present.nbytes
        self._versions[namespace_id] = version
        self._versions.move_to_end(namespace_id)
        self._used += version.nbytes
        while self._used > self.budget_bytes and len(self._versions) > 1:
            _, evicted = self._versions.popitem(last=False)
            self._used -= evicted.nbytes

    def drop(self, namespace_id: int) -> None:
        """Forget a namespace."""
        gone = self._versions.pop(namespace_id, None)
        if gone is not None:
            self._used -= gone.nbytes

    def sizes(self) -> dict[int, int]:
        """Resident bytes by namespace id."""
        return {namespace_id: version.nbytes for namespace_id, version in self._versions.items()}
