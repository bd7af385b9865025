"""Linking a namespace from scratch, after linkers were switched or installed."""

from collections.abc import Callable
from functools import partial

from sfm_graph.domain import validate
from sfm_graph.services.linking.linking import Linking
from sfm_graph.store import namespaces
from sfm_graph.store.database import Database, WriteSession


class Relinking:
    """Brings the links of all memories in line with the linkers that are on."""

    def __init__(self, database: Database, linking: Linking) -> None:
        self._database = database
        self._linking = linking

    async def run(self, namespace: str, on_progress: Callable[[int], None] | None = None) -> int:
        """Look at every memory, 1,000 in a transaction; how many there were.

        Others may write meanwhile. `on_progress` is told how many are done. Interrupted, it can be run again.
        """
        validate.namespace(namespace)
        done, last = 0, 0
        while True:
            ids = await self._database.write(partial(self._some, namespace, last))
            if not ids:
                return done
            done, last = done + len(ids), ids[-1]
            if on_progress is not None:
                on_progress(done)

    async def _some(self, namespace: str, after: int, session: WriteSession) -> list[int]:
        target = await namespaces.lock_existing(session, namespace)
        return list(await self._linking.relink(session, target, after)) if target else []
