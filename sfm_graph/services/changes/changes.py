"""Reading a namespace's changes: pages for those who ask, a stream for those who stay."""

from collections.abc import AsyncGenerator, Sequence

from sfm_graph.domain.change import Change
from sfm_graph.domain.change_filter import ChangeFilter
from sfm_graph.domain.identity import Entity
from sfm_graph.domain.namespace import Namespace
from sfm_graph.domain.position import ChangeLog, Position, expired
from sfm_graph.domain.snapshot import Snapshot
from sfm_graph.services.changes.pages import ChangePage, Cursors, StreamedChange
from sfm_graph.services.changes.tail import Entry, Tail
from sfm_graph.services.changes.vicinity import Vicinity
from sfm_graph.services.view import View, Views
from sfm_graph.services.walk_runner import WalkRunner
from sfm_graph.store.change_stream import Scope, log_of, read_slice

FROM_BEGINNING = "beginning"
FROM_NOW = "now"
MAX_PAGE = 1_000
# A page of a filter that keeps little ends after so many changes, with `more`.
MAX_SCANNED = 10_000
# As does one whose states are longer than this together.
MAX_CHARS = 8 * 1024**2
SLICE = 1_000
# Changes handed to a subscriber at once.
LIVE_PAGE = 100


class Changes:
    """The queries of the change stream. Cursors are taken in transactions that write nothing, on the primary."""

    def __init__(self, views: Views, tail: Tail, runner: WalkRunner) -> None:
        self._views = views
        self._tail = tail
        self._runner = runner

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

    async def cursor(self, view: View, namespace: str) -> str:
        """Where a reader goes on who has read a namespace in this view. Raises NamespaceNotFound."""
        found = await view.existing_namespace(namespace)
        return Cursors(await log_of(view.session), found.id).at(Position(view.snapshot))

    async def page(
        self, view: View, namespace: str, after: str | None, wanted: ChangeFilter, first: int
    ) -> ChangePage:
        """Up to `first` (1 to 1,000) changes that the filter keeps, from a cursor, `beginning` (also None: the oldest
        that are kept) or `now` on; fewer, with `more`, when it had to pass by too many others.

        Raises NamespaceNotFound, InvalidCursor, CursorExpired, MemoryNotFound for an unknown `around`.
        """
        found = await view.existing_namespace(namespace)
        log = await log_of(view.session)
        position = _start(log, found, view, after or FROM_BEGINNING)
        vicinity = await Vicinity.of(self._runner, view, namespace, wanted)
        page, _ = await self.read(view, Cursors(log, found.id), position, wanted, vicinity, first)
        return page

    async def read(
        self,
        view: View,
        cursors: Cursors,
        position: Position,
        wanted: ChangeFilter,
        vicinity: Vicinity | None,
        first: int,
    ) -> tuple[ChangePage, Position]:
        """A page from a place on, and the place behind it."""
        kept: list[StreamedChange] = []
        scanned, chars, more = 0, 0, True
        limit = first if wanted == ChangeFilter() else SLICE
        while more and len(kept) < first and scanned < MAX_SCANNED and chars < MAX_CHARS:
            part = await read_slice(view.session, Scope(cursors.namespace_id), position, limit)
            chosen = await _chosen(view, wanted, vicinity, part.changes)
            space = first - len(kept)
            kept += cursors.streamed(chosen[:space], position, part.until)
            if len(chosen) > space:
                position = position.within(part.until, kept[-1].change.id)
                return ChangePage(tuple(kept), kept[-1].cursor, more=True), position
            scanned += len(part.changes)
            chars += sum(len(one.before_json or "") + len(one.after_json or "") for one in chosen)
            # A delta that was begun earlier ends at the snapshot of then.
            position, more = position.after(part), not part.complete or part.until != view.snapshot
        return ChangePage(tuple(kept), cursors.at(position), more), position

    async def follow(
        self, namespace: str, after: str | None, wanted: ChangeFilter, *, heartbeat_seconds: float = 15.0
    ) -> AsyncGenerator[ChangePage]:
        """Changes as they come, from a cursor, `beginning` or `now` (also None) on, in pages of at most 100.

        A page without changes tells, after so many seconds of silence, that the cursor has moved. It ends behind the
        end of the namespace. No page is made before it is asked for: a slow reader costs a place, not a queue.
        Raises what `page` raises, and DatabaseUnavailable.
        """
        async with self._views.open() as view:
            found = await view.existing_namespace(namespace)
            log = await log_of(view.session)
            position = _start(log, found, view, after or FROM_NOW)
            vicinity = await Vicinity.of(self._runner, view, namespace, wanted)
        reader = _Reader(self, self._views, Cursors(log, found.id), position, wanted, vicinity)
        async with self._tail.joined(found.id) as place:
            # The first page tells where the reader is, before there is any change.
            more, ended = True, False
            while not ended:
                if more:
                    page = await reader.from_database()
                    more = page.more
                    if page.changes or not more:
                        yield page
                        ended = _ends(page)
                    continue
                entries, seen = await self._tail.next(place, heartbeat_seconds)
                if entries is None:
                    more = True
                    continue
                async for page in reader.from_tail(entries, seen):
                    yield page
                    ended = ended or _ends(page)


class _Reader:
    """One subscriber's progress."""

    def __init__(
        self,
        changes: Changes,
        views: Views,
        cursors: Cursors,
        position: Position,
        wanted: ChangeFilter,
        vicinity: Vicinity | None,
    ) -> None:
        self._changes = changes
        self._views = views
        self._cursors = cursors
        self._position = position
        self._wanted = wanted
        self._vicinity = vicinity

    async def from_database(self) -> ChangePage:
        """The next page of what a snapshot of this moment sees."""
        async with self._views.open() as view:
            log = await log_of(view.session)
            if log.epoch != self._cursors.log.epoch or not log.keeps(self._position.seen):
                raise expired("the changes after this cursor are no longer kept")
            page, self._position = await self._changes.read(
                view, self._cursors, self._position, self._wanted, self._vicinity, LIVE_PAGE
            )
        return page

    async def from_tail(self, entries: Sequence[Entry], seen: Snapshot) -> AsyncGenerator[ChangePage]:
        """Pages of entries; one without changes when only the cursor has moved."""
        told = False
        for entry in entries:
            fresh = [
                one for one in entry.changes[self._cursors.namespace_id] if not self._position.seen.sees(one.xid)
            ]
            kept = await self._kept(fresh)
            position = self._position
            for start in range(0, len(kept), LIVE_PAGE):
                streamed = self._cursors.streamed(kept[start : start + LIVE_PAGE], position, entry.until)
                yield ChangePage(tuple(streamed), streamed[-1].cursor, more=False)
                told = True
            if fresh:
                self._position = position.within(entry.until, fresh[-1].id)
            self._advance(entry.seen)
        self._advance(seen)
        if not told:
            yield ChangePage((), self._cursors.at(self._position), more=False)

    def _advance(self, seen: Snapshot) -> None:
        if self._position.seen != seen and self._position.seen.precedes(seen):
            self._position = Position(seen)

    async def _kept(self, changes: Sequence[Change]) -> list[Change]:
        kept = [one for one in changes if self._wanted.admits(one)]
        if self._vicinity is None or not kept:
            return kept
        async with self._views.open() as view:
            return await self._vicinity.keep(view, kept)


async def _chosen(
    view: View, wanted: ChangeFilter, vicinity: Vicinity | None, changes: Sequence[Change]
) -> list[Change]:
    kept = [one for one in changes if wanted.admits(one)]
    return await vicinity.keep(view, kept) if vicinity is not None else kept


def _start(log: ChangeLog, namespace: Namespace, view: View, after: str) -> Position:
    if after == FROM_BEGINNING:
        return log.beginning
    if after == FROM_NOW:
        return Position(view.snapshot)
    namespace_id, position = log.decode(after)
    if namespace_id != namespace.id:
        raise expired("the cursor belongs to another namespace, or to one of this name that was deleted")
    return position


def _ends(page: ChangePage) -> bool:
    return any(one.change.entity is Entity.NAMESPACE for one in page.changes)
