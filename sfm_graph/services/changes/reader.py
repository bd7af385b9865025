"""One subscriber's progress, in the database and at the tail."""

from collections.abc import AsyncGenerator, Iterator, Sequence

from sfm_graph.domain.change import Change
from sfm_graph.domain.change_filter import ChangeFilter
from sfm_graph.domain.position import Position, expired
from sfm_graph.domain.snapshot import Snapshot
from sfm_graph.services.changes.pages import ChangePage, Cursors, StreamedChange
from sfm_graph.services.changes.ring import Entry
from sfm_graph.services.changes.vicinity import Vicinity
from sfm_graph.services.view import View, Views
from sfm_graph.store.change_stream import SLICE_CHANGES, Scope, log_of, read_slice

# A page of a filter that keeps little ends after so many changes, with `more`.
MAX_SCANNED = 10_000
# As does one whose states are longer than this together.
MAX_CHARS = 8 * 1024**2
# What a subscriber is handed at once.
LIVE_CHANGES = 100
LIVE_CHARS = 1024**2


class Reader:
    """Reads a namespace's changes that a filter keeps, from a place on."""

    def __init__(
        self, views: Views, cursors: Cursors, position: Position, wanted: ChangeFilter, vicinity: Vicinity | None
    ) -> None:
        self._views = views
        self._cursors = cursors
        self._position = position
        self._wanted = wanted
        self._vicinity = vicinity

    async def page(self, view: View, first: int) -> ChangePage:
        """Up to `first` of the changes that a view sees; fewer, with `more`, when it had to pass by too many."""
        kept: list[StreamedChange] = []
        scanned, chars, more = 0, 0, True
        limit = first
        while more and len(kept) < first and scanned < MAX_SCANNED and chars < MAX_CHARS:
            part = await read_slice(view.session, Scope(self._cursors.namespace_id), self._position, limit)
            chosen = await self._chosen(view, part.changes)
            space = first - len(kept)
            kept += self._cursors.streamed(chosen[:space], self._position, part.until)
            if len(chosen) > space:
                self._position = self._position.within(part.until, kept[-1].change.id)
                return ChangePage(tuple(kept), kept[-1].cursor, more=True)
            scanned += len(part.changes)
            chars += sum(one.chars for one in chosen)
            self._position = self._position.after(part)
            # A delta that was begun earlier ends at the snapshot of then.
            more = not part.complete or part.until != view.snapshot
            limit = min(2 * limit, SLICE_CHANGES)
        return ChangePage(tuple(kept), self._cursors.at(self._position), more)

    async def from_database(self) -> ChangePage:
        """The next page of what is visible at this moment. Raises CursorExpired."""
        async with self._views.open() as view:
            log = await log_of(view.session)
            if not log.serves(self._cursors.log, self._position.seen):
                raise expired("the changes after this cursor are no longer kept")
            return await self.page(view, LIVE_CHANGES)

    async def from_tail(self, entry: Entry) -> AsyncGenerator[ChangePage]:
        """Pages of an entry, as far as its changes are new and wanted."""
        self._advance(entry.since)
        seen = self._position.seen
        fresh = [one for one in entry.changes[self._cursors.namespace_id] if not seen.sees(one.xid)]
        for some in _portions(await self._chosen(None, fresh)):
            streamed = self._cursors.streamed(some, self._position, entry.until)
            yield ChangePage(tuple(streamed), streamed[-1].cursor, more=False)
        if fresh:
            self._position = self._position.within(entry.until, fresh[-1].id)
        self._advance(entry.seen)

    def heartbeat(self, seen: Snapshot) -> ChangePage:
        """A page without changes; there were none that a snapshot sees."""
        self._advance(seen)
        return ChangePage((), self._cursors.at(self._position), more=False)

    def _advance(self, seen: Snapshot) -> None:
        here = self._position
        if here.seen != seen and (here.until or here.seen).precedes(seen):
            self._position = Position(seen)

    async def _chosen(self, view: View | None, changes: Sequence[Change]) -> list[Change]:
        kept = [one for one in changes if self._wanted.admits(one)]
        if self._vicinity is None or not kept:
            return kept
        if view is not None:
            return await self._vicinity.keep(view, kept)
        async with self._views.open() as opened:
            return await self._vicinity.keep(opened, kept)


def _portions(changes: Sequence[Change]) -> Iterator[Sequence[Change]]:
    """Runs of changes, bounded in number and length; one at least in each."""
    start = chars = 0
    for at, one in enumerate(changes):
        if at > start and (at - start == LIVE_CHANGES or chars + one.chars > LIVE_CHARS):
            yield changes[start:at]
            start, chars = at, 0
        chars += one.chars
    if start < len(changes):
        yield changes[start:]
