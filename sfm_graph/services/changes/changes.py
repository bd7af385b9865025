"""Reading a namespace's changes: pages for those who ask, a stream for those who stay."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from sfm_graph.domain.access import Scope
from sfm_graph.domain.change_filter import ChangeFilter
from sfm_graph.domain.identity import Entity
from sfm_graph.domain.namespace import Namespace
from sfm_graph.domain.position import ChangeLog, Position, expired
from sfm_graph.services.access.guard import needs
from sfm_graph.services.changes.pages import ChangePage, Cursors
from sfm_graph.services.changes.reader import Reader
from sfm_graph.services.changes.ring import Entry
from sfm_graph.services.changes.tail import Lost, Place, Silence, Tail
from sfm_graph.services.changes.vicinity import Vicinity
from sfm_graph.services.tasks import heed_cancellation
from sfm_graph.services.view import View, Views
from sfm_graph.services.walk_runner import WalkRunner
from sfm_graph.store.change_stream import log_of

FROM_BEGINNING = "beginning"
FROM_NOW = "now"
MAX_PAGE = 1_000
# Followers that read the log at once: one that keeps nothing of it reads as fast as it can, and connections are few.
MAX_CATCHING_UP = 4


class Changes:
    """The queries of the change stream. Cursors are taken in transactions that write nothing, on the primary."""

    def __init__(self, views: Views, tail: Tail, runner: WalkRunner) -> None:
        self._views = views
        self._tail = tail
        self._runner = runner
        self._catching_up = asyncio.Semaphore(MAX_CATCHING_UP)

    @property
    def subscribers(self) -> int:
        """How many follow in this process."""
        return self._tail.subscribers

    @property
    def problem(self) -> str | None:
        """Why followers get nothing at the moment; None when nothing is wrong."""
        return self._tail.problem

    async def aclose(self) -> None:
        """Stop reading for followers."""
        await self._tail.aclose()

    @needs(Scope.READ)
    async def cursor(self, view: View, namespace: str) -> str:
        """Where a reader goes on who has read a namespace in this view. Raises NamespaceNotFound."""
        return await self._cursor(view, namespace)

    @needs(Scope.SUBSCRIBE)
    async def now(self, view: View, namespace: str) -> str:
        """Where a reader begins who wants what is not in this view yet. Raises NamespaceNotFound."""
        return await self._cursor(view, namespace)

    async def _cursor(self, view: View, namespace: str) -> str:
        found = await view.existing_namespace(namespace)
        return Cursors(await log_of(view.session), found.id).at(Position(view.snapshot))

    @needs(Scope.SUBSCRIBE)
    async def page(
        self, view: View, namespace: str, after: str | None, wanted: ChangeFilter, first: int
    ) -> ChangePage:
        """Up to `first` (1 to 1,000) changes that the filter keeps, from a cursor, `beginning` (also None: the oldest
        that are kept) or `now` on; fewer, with `more`, when it had to pass by too many others.

        Raises NamespaceNotFound, InvalidCursor, CursorExpired, MemoryNotFound for an unknown `around`.
        """
        found = await view.existing_namespace(namespace)
        return await (await self._reader(view, found, after or FROM_BEGINNING, wanted)).page(view, first)

    @needs(Scope.SUBSCRIBE)
    async def follow(
        self, namespace: str, after: str | None, wanted: ChangeFilter, *, heartbeat_seconds: float = 15.0
    ) -> AsyncGenerator[ChangePage]:
        """Changes as they come, from a cursor, `beginning` or `now` (also None) on, in pages of at most 100.

        The first page comes at once. A page without changes tells, after so many seconds of silence, that the cursor
        has moved. It ends behind the end of the namespace. No page is made before it is asked for: a slow reader
        costs a place, not a queue. Raises what `page` raises, and DatabaseUnavailable.
        """
        async with self._views.open() as view:
            found = await view.existing_namespace(namespace)
            reader = await self._reader(view, found, after or FROM_NOW, wanted)
        async with self._tail.joined(found.id) as place:
            while True:
                behind, beside = (
                    self._caught_up(reader, heartbeat_seconds),
                    self._live(reader, place, heartbeat_seconds),
                )
                for pages in (behind, beside):
                    async with aclosing(pages):
                        async for page in pages:
                            yield page
                            if any(one.change.entity is Entity.NAMESPACE for one in page.changes):
                                return

    async def _caught_up(self, reader: Reader, heartbeat_seconds: float) -> AsyncGenerator[ChangePage]:
        """What the database has: a page at least, and one for each heartbeat that passes without a change."""
        told, more = time.monotonic(), True
        while more:
            heed_cancellation()
            # By page: who is far behind keeps nobody waiting for long.
            async with self._catching_up:
                page = await reader.from_database()
            more = page.more
            if page.changes or not more or time.monotonic() - told > heartbeat_seconds:
                told = time.monotonic()
                yield page

    async def _live(self, reader: Reader, place: Place, heartbeat_seconds: float) -> AsyncGenerator[ChangePage]:
        """What comes, until the reader was so slow that it has to catch up."""
        while True:
            heed_cancellation()
            match await self._tail.next(place, heartbeat_seconds):
                case Entry() as entry:
                    async with aclosing(reader.from_tail(entry)) as pages:
                        async for page in pages:
                            yield page
                case Silence(seen=seen):
                    yield reader.heartbeat(seen)
                case Lost():
                    return

    async def _reader(self, view: View, namespace: Namespace, after: str, wanted: ChangeFilter) -> Reader:
        log = await log_of(view.session)
        vicinity = await Vicinity.of(self._runner, view, namespace.name, wanted)
        return Reader(self._views, Cursors(log, namespace.id), _start(log, namespace, view, after), wanted, vicinity)


def _start(log: ChangeLog, namespace: Namespace, view: View, after: str) -> Position:
    if after == FROM_BEGINNING:
        return log.beginning
    if after == FROM_NOW:
        return Position(view.snapshot)
    namespace_id, position = log.decode(after)
    if namespace_id != namespace.id:
        raise expired("the cursor belongs to another namespace, or to one of this name that was deleted")
    return position
