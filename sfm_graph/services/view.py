"""What one request sees: one database snapshot, the hot versions that precede it, its namespaces."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from sfm_graph.domain.namespace import Namespace
from sfm_graph.domain.snapshot import Snapshot
from sfm_graph.errors import NamespaceNotFound
from sfm_graph.hot.cache import HotCache
from sfm_graph.hot.text_index import TextIndex
from sfm_graph.store import namespaces
from sfm_graph.store.database import Database, ReadSession


@dataclass(slots=True)
class View:
    """One snapshot. Every read of a request goes through it, so that its answers fit together."""

    session: ReadSession
    # Pinned before the snapshot was taken, so each precedes it.
    pinned: Mapping[int, TextIndex]
    snapshot: Snapshot
    _namespaces: dict[str, Namespace | None] = field(default_factory=dict)

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

    def __init__(self, database: Database, hot_text: HotCache[TextIndex]) -> None:
        self._database = database
        self._hot_text = hot_text

    @asynccontextmanager
    async def open(self) -> AsyncIterator[View]:
        """A view for one request; it holds a database connection until it is closed."""
        pinned = self._hot_text.pinned()
        async with self._database.read() as session:
            yield View(session, pinned, Snapshot(session.snapshot))
