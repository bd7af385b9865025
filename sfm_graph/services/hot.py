"""Keeping a structure of hot namespaces exact: loading it, and bringing it to exactly a view's snapshot."""

import time
from abc import ABC, abstractmethod
from collections import Counter
from typing import Generic, TypeVar

from sfm_graph.domain.namespace import Namespace
from sfm_graph.hot.cache import HotCache, Version
from sfm_graph.services.view import View
from sfm_graph.telemetry.stages import stage

V = TypeVar("V", bound=Version)

# How long a namespace found too large is not measured again: counting it costs more than a search.
MEASURE_SECONDS = 60.0
# More changes than this are applied by one request while the others wait for it.
LARGE_DELTA = 1_000


class Hot(ABC, Generic[V]):
    """Gives a structure of a namespace at a view's snapshot, from memory where the budget allows."""

    def __init__(self, cache: HotCache[V], *, max_waiting: int) -> None:
        """`max_waiting`: more requests do not wait for a load but are answered in SQL; each holds a connection."""
        self.cache = cache
        self._max_waiting = max_waiting
        # Until when a namespace is taken for too large.
        self._over_budget: dict[int, float] = {}
        # Requests that load a namespace or wait for it; each holds a connection meanwhile.
        self._waiting: Counter[int] = Counter()

    async def at(self, view: View, namespace: Namespace) -> V | None:
        """The version that is exact at the view's snapshot; None when the namespace exceeds the budget."""
        if view.is_past:
            return await self._as_known(view, namespace)
        if self._over_budget.get(namespace.id, 0.0) > time.monotonic():
            return None
        pinned = view.pinned(self.cache, namespace.id)
        if pinned is None or self._misfits(namespace, pinned):
            return await self._single_flight(view, namespace)
        if pinned.snapshot == view.snapshot:
            self.cache.budget.touch(self.cache, namespace.id)
            return pinned
        if not await view.is_in_log(namespace, pinned.snapshot):
            return await self._single_flight(view, namespace)
        if pinned.snapshot.covers(await view.newest_change(namespace)):
            return self._kept(view, namespace, await self._applied(view, namespace, pinned, {}))
        with stage("hot.delta"):
            changed = await self._changed(view, namespace, pinned)
            if len(changed) <= LARGE_DELTA:
                return self._kept(view, namespace, await self._applied(view, namespace, pinned, changed))
        return await self._single_flight(view, namespace)

    async def _as_known(self, view: View, namespace: Namespace) -> V | None:
        """The present version with everything undone that was committed after the view's moment."""
        known = view.then(self.cache)
        if namespace.id not in known:
            present = await self.at(view.present(), namespace)
            if present is None:
                return None
            with stage("hot.past"):
                changed = await self._changed_since(view, namespace)
                version = await self._applied(view, namespace, present, changed)
            if version is None:
                return None
            known[namespace.id] = version
        return known[namespace.id]

    async def _single_flight(self, view: View, namespace: Namespace) -> V | None:
        """One request loads, others wait; None for those who would hold too many connections, or are too old."""
        if self._waiting[namespace.id] >= self._max_waiting:
            return None
        self._waiting[namespace.id] += 1
        try:
            async with self.cache.loading(namespace.id):
                present = self.cache.newest(namespace.id)
                if present is not None and not await view.is_in_log(namespace, present.snapshot):
                    self.cache.drop(namespace.id)
                    present = None
                if present is None or self._misfits(namespace, present):
                    with stage("hot.load"):
                        return self._kept(view, namespace, await self._loaded(view, namespace, present))
                if not present.snapshot.precedes(view.snapshot):
                    # Loaded meanwhile, of a later snapshot: this request is answered in SQL.
                    return None
                with stage("hot.delta"):
                    changed = await self._changed(view, namespace, present)
                    return self._kept(view, namespace, await self._applied(view, namespace, present, changed))
        finally:
            self._waiting[namespace.id] -= 1
            if not self._waiting[namespace.id]:
                del self._waiting[namespace.id]

    def _kept(self, view: View, namespace: Namespace, version: V | None) -> V | None:
        if version is None or version.nbytes > self.cache.budget.limit_bytes:
            self.cache.drop(namespace.id)
            now = time.monotonic()
            self._over_budget = {one: until for one, until in self._over_budget.items() if until > now}
            self._over_budget[namespace.id] = now + MEASURE_SECONDS
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
    async def _changed_since(self, view: View, namespace: Namespace) -> dict[int, int]:
        """The ids that changed since the moment of a view of the past, as above."""

    @abstractmethod
    async def _applied(self, view: View, namespace: Namespace, version: V, changed: dict[int, int]) -> V | None:
        """The version at the view's snapshot; None when it is over the budget."""
