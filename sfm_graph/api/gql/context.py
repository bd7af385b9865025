"""What one GraphQL request shares: its view of the database, its loaders, and how much it may still read."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import datetime
from typing import Any, TypeVar

from strawberry.types import Info

from sfm_graph.api.gql.cost.answer_size import AnswerSize
from sfm_graph.api.gql.cost.bill import Bill
from sfm_graph.api.gql.loaders import Loaders
from sfm_graph.domain.as_of import NOW, AsOf
from sfm_graph.errors import QueryTooComplex, SfmError, Unavailable
from sfm_graph.services.access.guard import caller
from sfm_graph.services.registry import Services
from sfm_graph.services.view import View

T = TypeVar("T")

# What one request may read: memories and links count 1 each, however deeply they are nested.
MAX_NODES = 20_000
# A recall, a walk or a listing counts as much as 100 memories, so a request makes at most 200 of them.
SEARCH_NODES = 100
# Memories and links of the compact form that count as much as one that is read in full.
COLUMNS_PER_NODE = 10
# Completing so many nodes takes about 5 ms; then other requests have a turn.
NODES_PER_TURN = 100
# What it takes to see an earlier moment of knowledge, beside what is read there: a connection, and what is in memory
# with everything undone that was committed since.
KNOWN_NODES = 100


class Context:
    """One request. All its reads share one snapshot, taken at the first; a mutation ends it, so that what is read
    after the mutation sees it. Of a subscription each event is like a request of its own. What was known at an
    earlier moment is read in a snapshot of that moment's own, which says the same whenever it is taken.

    `cursor`: where a subscriber goes on who has taken all events but the last one, unless more were asked for since.
    `bill`: what the operation may cost; None until that is known.
    `looks_back`: whether it may ask for what was known earlier.
    """

    def __init__(self, services: Services) -> None:
        self.services = services
        self.principal = caller().principal.name
        self.cursor: str | None = None
        self.bill: Bill | None = None
        self.looks_back = False
        self.size = AnswerSize()
        self._views: dict[datetime | None, View] = {}
        self._open = AsyncExitStack()
        self._loaders: dict[AsOf, Loaders] = {}
        self._ended: str | None = None
        # Of a view, one connection, reads take turns anyway; the lock also keeps a view from closing under one.
        self._lock = asyncio.Lock()
        self._turn = asyncio.Lock()
        self._nodes = 0
        self._read_nodes = 0
        self._since_turn = 0
        self._read: dict[int, tuple[Any, SfmError | None]] = {}

    def loaders(self, as_of: AsOf) -> Loaders:
        """What reads many things together as of a moment."""
        found = self._loaders.get(as_of)
        if found is None:
            found = self._loaders[as_of] = Loaders(self, as_of)
        return found

    @asynccontextmanager
    async def reading(self, as_of: AsOf = NOW) -> AsyncIterator[View]:
        """The request's view as of a moment, opened on first use.

        Raises Unavailable after a part of the request has broken it, QueryTooComplex for more moments of knowledge
        than one request may ask for, and what `Views.open` does.
        """
        async with self._lock:
            if self._ended:
                raise Unavailable(self._ended)
            view = self._views.get(as_of.known) or await self._opened(as_of.known)
            try:
                yield view if as_of.valid is None else self.services.views.at(view, as_of.valid)
            except SfmError:
                raise
            except BaseException as error:
                # The transaction may be aborted. A new one would be another snapshot, so the request is over.
                self._ended = "an earlier part of this request failed"
                await self._close_views(error)
                raise

    async def _opened(self, known: datetime | None) -> View:
        views = self.services.views
        if known is not None:
            if len(self._views.keys() - {None}) >= views.most_moments:
                raise QueryTooComplex(
                    f"one request may ask what was known at {views.most_moments} moments; ask for fewer at a time"
                )
            await self.spend(KNOWN_NODES)
        if self.looks_back and not self._views:
            await self._open.enter_async_context(views.together())
        view = await self._open.enter_async_context(views.open(AsOf(known=known)))
        self._views[known] = view
        return view

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[Services]:
        """The services for one mutation; nothing is read until it is done."""
        async with self._lock:
            await self._close_views()
            yield self.services

    async def rest(self) -> None:
        """Give the connection back; what is read next is read of another snapshot, and counted anew."""
        async with self._lock:
            await self._close_views()
            self._ended = None
            self._nodes = self._read_nodes = 0
            self.size.reset()

    async def close(self) -> None:
        """End the request: wait for a read under way, give the connection back."""
        async with self._lock:
            self._ended = "the request is over"
            with suppress(SfmError):
                await self._close_views()

    async def _close_views(self, error: BaseException | None = None) -> None:
        opened, self._open = self._open, AsyncExitStack()
        self._views.clear()
        self._loaders.clear()
        await opened.__aexit__(type(error) if error else None, error, error.__traceback__ if error else None)

    async def spend(self, nodes: int) -> None:
        """Count what is about to be answered, and let others run in between. Raises QueryTooComplex."""
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            raise QueryTooComplex(f"one request may read {MAX_NODES} memories and links; ask for fewer at a time")
        self._read_nodes += nodes
        self._since_turn += nodes
        if self._since_turn > NODES_PER_TURN:
            async with self._turn:
                await asyncio.sleep(0)
            self._since_turn = 0
            self.size.turned()

    def cost(self) -> dict[str, Any] | None:
        """`extensions.cost` of the answer, before `rest`; None when the operation was not valid."""
        return None if self.bill is None else self.bill.shown(self._read_nodes)

    def once(self, info: "GraphInfo", read: Callable[[], T]) -> T:
        """What `read` makes of a field's arguments, or the error that it raises.

        It runs once for a field of the document, whose arguments are the same for each of many objects: a filter may
        take 50 ms to check. A field may use this for one of its arguments.
        """
        place = id(info._raw_info.field_nodes[0])
        if place not in self._read:
            try:
                self._read[place] = read(), None
            except SfmError as error:
                self._read[place] = None, error
        result, refused = self._read[place]
        if refused is not None:
            raise refused
        found: T = result
        return found


GraphInfo = Info[Context, Any]
