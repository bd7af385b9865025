"""Linking a namespace from scratch, after linkers were switched or installed."""

from collections.abc import Callable
from functools import partial

from sfm_graph.domain import validate
from sfm_graph.services.linking.linking import MAX_RELINKED, Linking
from sfm_graph.services.patience import patiently
from sfm_graph.store import linking, namespaces, windows
from sfm_graph.store.database import Database, WriteSession


class Relinking:
    """Brings the links of all memories in line with the linkers that are on."""

    def __init__(self, database: Database, linking: Linking) -> None:
        self._database = database
        self._linking = linking

    async def run(self, namespace: str, advance: Callable[[int], None] | None = None) -> int:
        """Look at every memory, 100 in a transaction; how many there were.

        Others may write meanwhile; what they add then is linked by them. `advance` hears how many more are done.
        Interrupted, it can be run again.
        """
        validate.namespace(namespace)
        done, last = 0, 0
        newest = await self._newest(namespace)
        while last < newest and (ids := await patiently(self._database, partial(self._some, namespace, last))):
            done, last = done + len(ids), ids[-1]
            if advance is not None:
                advance(len(ids))
        return done

    async def _newest(self, namespace: str) -> int:
        async with self._database.read() as session:
            target = await namespaces.by_name(session, namespace)
            return await windows.newest(session, target.id) if target else 0

    async def _some(self, namespace: str, after: int, session: WriteSession) -> list[int]:
        target = await namespaces.lock_existing(session, namespace)
        if target is None:
            return []
        # Sequences, memories, names: the order of all writers.
        await windows.hold_all(session, target.id)
        await linking.page(session, target.id, namespace, after, MAX_RELINKED)
        return list(await self._linking.relink(session, target, after))
