"""What one request sees: one database snapshot, the hot versions that precede it, its namespaces."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

from sfm_graph.domain.namespace import Namespace
from sfm_graph.domain.snapshot import Snapshot
from sfm_graph.errors import NamespaceNotFound
from sfm_graph.hot.cache import HotCache, Version
from sfm_graph.store import namespaces
from sfm_graph.store.database import Database, ReadSession

V = TypeVar("V", bound=Version)


@dataclass(slots=True)
class View:
    """One snapshot. Every read of a request goes through it, so that its answers fit together."""

    session: ReadSession
    snapshot: Snapshot
    # Hot versions by cache and namespace: taken before the snapshot, so each precedes it, or brought to it since.
    _pinned: dict[HotCache[Any], dict[int, Any]]
    # What `now` means in the whole request.
    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    _namespaces: dict[str, Namespace | None] = field(default_factory=dict)
    _newest: dict[int, tuple[int | None, int]] = field(default_factory=dict)

    def pinned(self, cache: HotCache[V], namespace_id: int) -> V | None:
        """The version of a hot structure that this request goes on from."""
        return self._pinned[cache].get(namespace_id)

    def pin(self, cache: HotCache[V], namespace_id: int, version: V) -> None:
        """Go on from this version."""
        self._pinned[cache][namespace_id] = version

    async def newest_change(self, namespace: Namespace) -> int | None:
        """The latest transaction that the log knows to have changed a namespace; None: none."""
        return (await self._log_bounds(namespace))[0]

    async def is_in_log(self, namespace: Namespace, since: Snapshot) -> bool:
        """Whether the log still holds all changes that a snapshot has not seen."""
        return since.covers((await self._log_bounds(namespace))[1])

    async def _log_bounds(self, namespace: Namespace) -> tuple[int | None, int]:
        if namespace.id not in self._newest:
            newest, pruned = await self.session.one("newest_change", namespace_id=namespace.id)
            self._newest[namespace.id] = newest, pruned
        return self._newest[namespace.id]

    async def namespace(self, name: str) -> Namespace | None:
        """A namespace by name, looked up once."""
        if name not in self._namespaces:
            self._namespaces[name] = await namespaces.by_name(self.session, name)
        return self._namespaces[name]

    async def existing_namespace(self, name: str) -> Namespace:
        """As above. Raises NamespaceNotFound."""
        found = await self.namespace(name)
        if found is None:
            raise NamespaceNotFound(f"there is no namespace {name!r}", namespace=name)
        return found


class Views:
    """Opens views."""

    def __init__(self, database: Database, caches: Sequence[HotCache[Any]]) -> None:
        self._database = database
        self._caches = caches

    @asynccontextmanager
    async def open(self) -> AsyncIterator[View]:
        """A view for one request; it holds a database connection until it is closed."""
        arrivals = self._database.arrivals
        pinned = {cache: cache.pinned() for cache in self._caches}
        async with self._database.read() as session:
            if self._database.arrivals != arrivals:
                # Of another primary, whose transactions have other numbers.
                pinned = {cache: {} for cache in self._caches}
            yield View(session, Snapshot(session.snapshot), pinned)

    async def forget_all(self, *_: object) -> None:
        """What is in memory is of another database than the one that connections lead to now."""
        for cache in self._caches:
            cache.clear()
