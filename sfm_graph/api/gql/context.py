"""What one GraphQL request shares: its view of the database, its loaders, and how much it may still read."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from strawberry.dataloader import DataLoader
from strawberry.types import Info

from sfm_graph.api.gql.cost.answer_size import AnswerSize
from sfm_graph.api.gql.cost.bill import Bill
from sfm_graph.domain.identity import LinkId, MemoryId, MemoryRef
from sfm_graph.domain.link import Link
from sfm_graph.domain.memory import Memory
from sfm_graph.domain.page import Page
from sfm_graph.domain.walk import WalkFilter
from sfm_graph.domain.where import Where
from sfm_graph.errors import QueryTooComplex, SfmError, Unavailable
from sfm_graph.services.access.guard import caller
from sfm_graph.services.namespaces import NamespaceStatistics
from sfm_graph.services.registry import Services
from sfm_graph.services.view import View

K = TypeVar("K")
T = TypeVar("T")

# What one request may read: memories and links count 1 each, however deeply they are nested.
MAX_NODES = 20_000
# A recall, a walk or a listing counts as much as 100 memories, so a request makes at most 200 of them.
SEARCH_NODES = 100
# Memories and links of the compact form that count as much as one that is read in full.
COLUMNS_PER_NODE = 10
# Completing so many nodes takes about 5 ms; then other requests have a turn.
NODES_PER_TURN = 100
# Futures of one batch wake their resolvers in one turn of the loop.
LOADER_BATCH = 100


@dataclass(frozen=True, slots=True)
class FilterKey:
    """A parsed filter as a loader's key: equal to those whose text, which tells 1 from true and 1.0, is equal."""

    where: Where = field(compare=False)
    text: str


@dataclass(frozen=True, slots=True)
class LinksOf:
    """The page of a memory's links that a loader is asked for."""

    namespace: str
    walk: WalkFilter
    where: FilterKey
    first: int
    after: str | None
    memory: MemoryId


class Context:
    """One request. All its reads share one snapshot, taken at the first; a mutation ends it, so that what is read
    after the mutation sees it. Of a subscription each event is like a request of its own.

    `cursor`: where a subscriber goes on who has taken all events but the last one, unless more were asked for since.
    `bill`: what the operation may cost; None until that is known.
    """

    def __init__(self, services: Services) -> None:
        self.services = services
        self.principal = caller().principal.name
        self.cursor: str | None = None
        self.bill: Bill | None = None
        self.size = AnswerSize()
        self._opened: AbstractAsyncContextManager[View] | None = None
        self._view: View | None = None
        self._ended: str | None = None
        # A view is one connection, so reads take turns anyway; the lock also keeps a view from closing under one.
        self._lock = asyncio.Lock()
        self._turn = asyncio.Lock()
        self._nodes = 0
        self._read_nodes = 0
        self._since_turn = 0
        self._read: dict[int, tuple[Any, SfmError | None]] = {}
        self._make_loaders()

    def _make_loaders(self) -> None:
        self.memories = DataLoader(self._load_memories, max_batch_size=LOADER_BATCH)
        self.links = DataLoader(self._load_links, max_batch_size=LOADER_BATCH)
        self.link_pages = DataLoader(self._load_link_pages)
        self.statistics = DataLoader(self._load_statistics)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[View]:
        """The request's view, opened on first use. Raises Unavailable after a part of the request has broken it."""
        async with self._lock:
            if self._ended:
                raise Unavailable(self._ended)
            if self._view is None:
                opened = self.services.views.open()
                self._view, self._opened = await opened.__aenter__(), opened
            try:
                yield self._view
            except SfmError:
                raise
            except BaseException as error:
                # The transaction may be aborted. A new one would be another snapshot, so the request is over.
                self._ended = "an earlier part of this request failed"
                await self._close_view(error)
                raise

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[Services]:
        """The services for one mutation; nothing is read until it is done."""
        async with self._lock:
            await self._close_view()
            self._make_loaders()
            yield self.services

    async def rest(self) -> None:
        """Give the connection back; what is read next is read of another snapshot, and counted anew."""
        async with self._lock:
            if self._view is not None or self._ended:
                await self._close_view()
                self._make_loaders()
            self._ended = None
            self._nodes = self._read_nodes = 0
            self.size.reset()

    async def close(self) -> None:
        """End the request: wait for a read under way, give the connection back."""
        async with self._lock:
            self._ended = "the request is over"
            with suppress(SfmError):
                await self._close_view()

    async def _close_view(self, error: BaseException | None = None) -> None:
        opened, self._opened, self._view = self._opened, None, None
        if opened is not None:
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

    async def _load_memories(self, keys: list[tuple[str, MemoryId]]) -> list[Memory | None]:
        found: dict[tuple[str, MemoryId], Memory | None] = {}
        async with self.reading() as view:
            for namespace, ids in _by_namespace(keys).items():
                refs = [MemoryRef(id=one) for one in ids]
                rows = await self.services.memory_reads.find_many(view, namespace, refs)
                found |= {(namespace, one): row for one, row in zip(ids, rows, strict=True)}
        return [found[key] for key in keys]

    async def _load_links(self, keys: list[tuple[str, LinkId]]) -> list[Link | None]:
        found: dict[tuple[str, LinkId], Link] = {}
        async with self.reading() as view:
            for namespace, ids in _by_namespace(keys).items():
                rows = await self.services.links.by_ids(view, namespace, ids)
                found |= {(namespace, one): row for one, row in rows.items()}
        return [found.get(key) for key in keys]

    async def _load_link_pages(self, keys: list[LinksOf]) -> list[Page[Link]]:
        alike: dict[tuple[str, WalkFilter, FilterKey, int, str | None], list[MemoryId]] = defaultdict(list)
        for key in keys:
            alike[key.namespace, key.walk, key.where, key.first, key.after].append(key.memory)
        pages: dict[LinksOf, Page[Link]] = {}
        async with self.reading() as view:
            for (namespace, walk, where, first, after), ids in alike.items():
                found = await self.services.links.pages_of(view, namespace, ids, walk, first, after, where.where)
                pages |= {LinksOf(namespace, walk, where, first, after, one): page for one, page in found.items()}
        return [pages.get(key) or Page((), (), False) for key in keys]

    async def _load_statistics(self, names: list[str]) -> list[NamespaceStatistics]:
        async with self.reading() as view:
            return [await self.services.namespaces.statistics(view, name) for name in names]


GraphInfo = Info[Context, Any]


def _by_namespace(keys: Sequence[tuple[str, K]]) -> dict[str, list[K]]:
    grouped: dict[str, list[K]] = defaultdict(list)
    for namespace, one in keys:
        grouped[namespace].append(one)
    return grouped
