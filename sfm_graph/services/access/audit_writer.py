"""Appends to the audit log: what comes while a statement runs goes into the next one."""

import asyncio
from collections import deque
from contextlib import AsyncExitStack
from contextvars import Context
from typing import Final

from sfm_graph.errors import DatabaseUnavailable, Overloaded, SfmError
from sfm_graph.services.tasks import ended
from sfm_graph.store import audit
from sfm_graph.store.audit import Entry
from sfm_graph.store.database import Database, Session, translated

MOST_AT_ONCE: Final = 1_000
# Entries that wait, of about 1 kB; the next one is refused.
MOST_WAITING: Final = 10_000
WRITE_SECONDS: Final = 5.0
_IDLE_SECONDS: Final = 30.0


class AuditWriter:
    """Writes entries in groups over a connection of its own.

    Not over the pool's: a request that is denied in the middle may hold one of those, and if all did, each would wait
    for another.
    """

    def __init__(self, database: Database, *, seconds: float = WRITE_SECONDS) -> None:
        self._database = database
        self._seconds = seconds
        self._waiting: deque[tuple[Entry, asyncio.Future[None]]] = deque()
        self._came = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def write(self, entry: Entry) -> None:
        """Returns when the entry is committed. Raises DatabaseUnavailable, also after 5 seconds, and Overloaded."""
        if len(self._waiting) >= MOST_WAITING:
            raise Overloaded("too many entries wait for the audit log")
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((entry, written))
        self._came.set()
        if self._task is None or self._task.done():
            # Not in this request's context: it goes on for others when the deadline of this one is over.
            self._task = asyncio.create_task(self._run(), name="audit log", context=Context())
        try:
            async with asyncio.timeout(self._seconds):
                await written
        except TimeoutError:
            raise DatabaseUnavailable("the audit log cannot be written") from None

    async def aclose(self) -> None:
        """Give the connection back; what was not written yet is refused."""
        if self._task is not None:
            await ended(self._task)
        for _, written in self._waiting:
            _refuse(written, DatabaseUnavailable("the service stops"))
        self._waiting.clear()

    async def _run(self) -> None:
        while self._waiting:
            try:
                async with AsyncExitStack() as stack:
                    connection = await stack.enter_async_context(self._database.dedicated())
                    await self._write_all(Session(connection))
            except SfmError as error:
                # Nobody could be told about the first of these: what waits now waited for the connection.
                while self._waiting:
                    _refuse(self._waiting.popleft()[1], error)

    async def _write_all(self, session: Session) -> None:
        """Write what comes, until nothing has come for a while. What is under way when the connection is lost comes
        first on the next one, once."""
        is_fresh = True
        while self._waiting or await self._more():
            group = [self._waiting.popleft() for _ in range(min(len(self._waiting), MOST_AT_ONCE))]
            # Who does not wait any more was refused: it must not be said that they were allowed.
            group = [one for one in group if not one[1].done()]
            if not group:
                continue
            try:
                await self._append(session, [entry for entry, _ in group])
            except DatabaseUnavailable as error:
                if is_fresh:
                    self._settle(group, error)
                else:
                    self._waiting.extendleft(reversed(group))
                    return
                raise
            except SfmError as error:
                self._settle(group, error)
            else:
                self._settle(group, None)
            is_fresh = False

    async def _append(self, session: Session, entries: list[Entry]) -> None:
        try:
            # A connection whose other end has vanished would keep everybody waiting for as long as TCP tries.
            async with asyncio.timeout(self._seconds):
                with translated():
                    await audit.write(session, entries)
        except TimeoutError:
            raise DatabaseUnavailable("the audit log cannot be written") from None

    async def _more(self) -> bool:
        self._came.clear()
        try:
            async with asyncio.timeout(_IDLE_SECONDS):
                await self._came.wait()
        except TimeoutError:
            return False
        return True

    def _settle(self, group: list[tuple[Entry, asyncio.Future[None]]], error: SfmError | None) -> None:
        for _, written in group:
            if error is not None:
                _refuse(written, error)
            elif not written.done():
                written.set_result(None)


def _refuse(written: asyncio.Future[None], error: SfmError) -> None:
    if not written.done():
        written.set_exception(error)
        # Looked at, should who waited have gone.
        written.exception()
