"""What one request sees: one database snapshot, the hot versions that precede it, its namespaces."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

from sfm_graph.domain.as_of import NOW, AsOf
from sfm_graph.domain.namespace import Namespace
from sfm_graph.domain.snapshot import Snapshot
from sfm_graph.domain.where import AllOf, Compare, Operator, Where
from sfm_graph.errors import NamespaceNotFound
from sfm_graph.hot.cache import HotCache, Version
from sfm_graph.store import namespaces, past
from sfm_graph.store.database import Database, ReadSession

V = TypeVar("V", bound=Version)

# Each moment of knowledge that a request asks for takes a connection until the request ends.
MOST_MOMENTS = 3


@dataclass(slots=True)
class View:
    """One snapshot. Every read of a request goes through it, so that its answers fit together."""

    session: ReadSession
    snapshot: Snapshot
    # Hot versions by cache and namespace: taken before the snapshot, so each precedes it, or brought to it since.
    _pinned: dict[HotCache[Any], dict[int, Any]]
    # What `now` means in the whole request.
    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    as_of: AsOf = NOW
    # The same transaction as it sees things now; `session` itself unless the view is of what was known earlier.
    _present: ReadSession | None = None
    # Hot versions as of the moment that was asked for: made for this request, never kept.
    _then: dict[HotCache[Any], dict[int, Any]] = field(default_factory=lambda: defaultdict(dict))
    _namespaces: dict[str, Namespace | None] = field(default_factory=dict)
    _newest: dict[int, tuple[int | None, int]] = field(default_factory=dict)

    @property
    def is_past(self) -> bool:
        """Whether memories and links are seen as they were known at an earlier moment."""
        return self._present is not None

    def present(self) -> "View":
        """The same snapshot, as things are known now."""
        return self if self._present is None else replace(self, session=self._present, _present=None)

    def at(self, valid: datetime | None) -> "View":
        """The same snapshot at another moment of validity; None: now."""
        return replace(self, now=valid or datetime.now(UTC), as_of=replace(self.as_of, valid=valid))

    def filtered(self, where: Where) -> Where:
        """A filter on memories or links; where a moment of validity was asked for, also on what was valid then."""
        if self.as_of.valid is None:
            return where
        begun, lasts = Compare("valid_from", Operator.LTE, self.now), Compare("valid_to", Operator.GT, self.now)
        return AllOf((begun, lasts, where))

    def then(self, cache: HotCache[V]) -> dict[int, V]:
        """Versions by namespace as of the moment that was asked for, as far as they have been made."""
        return self._then[cache]

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
        connections = database.statistics()["pool_max"]
        # Beside a connection for the present.
        self.most_moments = min(MOST_MOMENTS, connections - 1)
        # Of all connections at least one is never held by somebody who waits for another.
        self._together = asyncio.Semaphore(max(1, (connections - 1) // MOST_MOMENTS))

    @staticmethod
    def at(view: View, valid: datetime | None) -> View:
        """See `View.at`: for faces, which do nothing with a view but hand it on."""
        return view.at(valid)

    @asynccontextmanager
    async def together(self) -> AsyncIterator[None]:
        """Who opens several views that are to be open at once does it inside, and has none before."""
        async with self._together:
            yield

    @asynccontextmanager
    async def open(self, as_of: AsOf = NOW) -> AsyncIterator[View]:
        """A view for one request; it holds a database connection until it is closed.

        Raises InvalidInput for a `known` that is still to come, KnownExpired for one that is no longer kept.
        """
        if as_of.known is not None:
            await past.settle(self._database, as_of.known)
        arrivals = self._database.arrivals
        pinned = {cache: cache.pinned() for cache in self._caches}
        async with self._database.read() as session:
            if self._database.arrivals != arrivals:
                # Of another primary, whose transactions have other numbers.
                pinned = {cache: {} for cache in self._caches}
            now = as_of.valid or datetime.now(UTC)
            if as_of.known is None:
                yield View(session, Snapshot(session.snapshot), pinned, now, as_of)
            else:
                then = await past.as_of(session, as_of.known)
                yield View(then, Snapshot(session.snapshot), pinned, now, as_of, session)

    async def forget_all(self, *_: object) -> None:
        """What is in memory is of another database than the one that connections lead to now."""
        for cache in self._caches:
            cache.clear()
