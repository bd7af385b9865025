"""Keeping a structure of hot namespaces exact: loading it, and bringing it to exactly a view's snapshot."""

import time
from abc import ABC, abstractmethod
from typing import Generic, TypeVar

from sfm_graph.domain.namespace import Namespace
from sfm_graph.hot.cache import HotCache, Version
from sfm_graph.services.view import View

V = TypeVar("V", bound=Version)
# What a structure knows of its changes since a version; sized, so that many can be told from few.
C = TypeVar("C")

# How long a namespace found too large is not measured again: counting it costs more than a search.
MEASURE_SECONDS = 60.0
# More changes than this are applied by one request while the others wait for it.
LARGE_DELTA = 1_000


class Hot(ABC, Generic[V]):
    """Gives a structure of a namespace at a view's snapshot, from memory where the budget allows."""

    def __init__(self, cache: HotCache[V]) -> None:
        self.cache = cache
        # Until when a namespace is taken for too large.
        self._over_budget: dict[int, float] = {}

    async def at(self, view: View, namespace: Namespace) -> V | None:
        """The version that is exact at the view's snapshot; None when the namespace exceeds the budget."""
        if self._over_budget.get(namespace.id, 0.0) > time.monotonic():
            return None
        pinned = view.pinned(self.cache, namespace.id)
        if pinned is None or self._misfits(namespace, pinned):
            return await self._single_flight(view, namespace)
        if pinned.snapshot == view.snapshot:
            return pinned
        if pinned.snapshot.covers(await view.newest_change(namespace)):
            return self._kept(view, namespace, await self._applied(view, namespace, pinned, {}))
        changed = await self._changed(view, namespace, pinned)
        if len(changed) > LARGE_DELTA:
            return await self._single_flight(view, namespace)
        return self._kept(view, namespace, await self._applied(view, namespace, pinned, changed))

    async def _single_flight(self, view: View, namespace: Namespace) -> V | None:
        async with self.cache.loading(namespace.id):
            present = self.cache.newest(namespace.id)
            if present is not None and not present.snapshot.precedes(view.snapshot):
                present = None
            if present is not None and not self._misfits(namespace, present):
                changed = await self._changed(view, namespace, present)
                return self._kept(view, namespace, await self._applied(view, namespace, present, changed))
            return self._kept(view, namespace, await self._loaded(view, namespace, present))

    def _kept(self, view: View, namespace: Namespace, version: V | None) -> V | None:
        if version is None or version.nbytes > self.cache.budget.limit_bytes:
            self.cache.drop(namespace.id)
            self._over_budget[namespace.id] = time.monotonic() + MEASURE_SECONDS
            return None
        self.cache.publish(namespace.id, version)
        view.pin(self.cache, namespace.id, version)
        return version

    @abstractmethod
    def _misfits(self, namespace: Namespace, version: V) -> bool:
        """Whether a version has to be loaded anew."""

    @abstractmethod
    async def _loaded(self, view: View, namespace: Namespace, present: V | None) -> V | None:
        """A version read from the database, or from a present one that misfits; None when it is over the budget."""

    @abstractmethod
    async def _changed(self, view: View, namespace: Namespace, version: V) -> dict[int, int]:
        """The ids that changed between a version and the view, each with what helps to find it."""

    @abstractmethod
    async def _applied(self, view: View, namespace: Namespace, version: V, changed: dict[int, int]) -> V:
        """The version at the view's snapshot."""
