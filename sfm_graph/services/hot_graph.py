"""Keeping namespaces' graphs hot."""

import asyncio

from sfm_graph.domain.namespace import Namespace
from sfm_graph.domain.snapshot import Snapshot
from sfm_graph.hot.graph.graph import HotGraph, build_graph
from sfm_graph.services.hot import Hot
from sfm_graph.services.view import View
from sfm_graph.store import link_columns
from sfm_graph.store.database import Database, Row

# What a link takes at most with validity, rows and memory ids.
BYTES_PER_LINK = 48
# So many changes, and a quarter of the links, are read one by one no sooner than all links by COPY.
RELOADED_FROM = 10_000


class HotGraphs(Hot[HotGraph]):
    """Gives the graph of a namespace at a view's snapshot, from memory where the budget allows."""

    async def _loaded(self, view: View, namespace: Namespace, present: HotGraph | None) -> HotGraph | None:
        bound = self.cache.budget.limit_bytes // BYTES_PER_LINK
        (count,) = await view.session.one("link_count_up_to", namespace_id=namespace.id, bound=bound)
        if count > bound:
            return None
        links = await link_columns.read_all_links(view.session, namespace.id)
        return await asyncio.to_thread(build_graph, view.snapshot, links)

    def _misfits(self, namespace: Namespace, version: HotGraph) -> bool:
        return False

    async def _changed(self, view: View, namespace: Namespace, version: HotGraph) -> dict[int, int]:
        return _sources(
            await view.session.one("changed_links", namespace_id=namespace.id, since=version.snapshot.text)
        )

    async def _changed_since(self, view: View, namespace: Namespace) -> dict[int, int]:
        return _sources(await view.session.one("links_changed_since", namespace_id=namespace.id))

    async def _applied(
        self, view: View, namespace: Namespace, version: HotGraph, changed: dict[int, int]
    ) -> HotGraph | None:
        if not changed:
            return version.at(view.snapshot)
        if len(changed) > RELOADED_FROM + version.link_count // 4:
            return await self._loaded(view, namespace, version)
        links = await link_columns.read_links(view.session, namespace.id, list(changed))
        return await asyncio.to_thread(version.changed, view.snapshot, changed, links)


def _sources(row: Row) -> dict[int, int]:
    ids, sources = row
    # Where a link's change was erased with its memory, nothing says any more which memory it left.
    return {link_id: source or 0 for link_id, source in zip(ids or (), sources or (), strict=True)}


class FreshGraphs:
    """Graphs without a transaction: one statement says that nothing changed since the version in memory."""

    def __init__(self, database: Database, hot: HotGraphs) -> None:
        self._database = database
        self._hot = hot
        self._ids: dict[str, int] = {}

    def candidate(self, namespace: str) -> tuple[int, HotGraph] | None:
        """The namespace's row id and version in memory; `is_unchanged` has to say whether they still are right."""
        namespace_id = self._ids.get(namespace, 0)
        version = self._hot.cache.newest(namespace_id)
        if version is None:
            self._ids.pop(namespace, None)
            return None
        return namespace_id, version

    async def is_unchanged(self, namespace: str, namespace_id: int, version: HotGraph) -> bool:
        """Whether a candidate is surely exact at the moment of the statement, and the name means its namespace.

        False also after a change of something else, and while a transaction runs that is older than the newest
        change: then a view finds out.
        """
        arrivals = self._database.arrivals
        row = await self._database.single("newest_change_by_name", name=namespace)
        if row is None or row[0] != namespace_id or self._database.arrivals != arrivals:
            return False
        newest, pruned = row[2:]
        if not (version.snapshot.covers(newest) and version.snapshot.covers(pruned)):
            return False
        if row[1] == version.snapshot.text:
            self._hot.cache.budget.touch(self._hot.cache, namespace_id)
        else:
            self._hot.cache.publish(namespace_id, version.at(Snapshot(row[1])))
        return True

    def learn(self, namespace: Namespace) -> None:
        """Remember which namespace a name means; the statement checks it each time."""
        self._ids[namespace.name] = namespace.id
