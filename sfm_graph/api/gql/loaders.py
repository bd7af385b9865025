"""Reading many things of one request together: what several objects ask for at once is one statement."""

from collections import defaultdict
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from strawberry.dataloader import DataLoader

from sfm_graph.domain.as_of import AsOf
from sfm_graph.domain.copying import Provenance
from sfm_graph.domain.identity import LinkId, MemoryId, MemoryRef
from sfm_graph.domain.link import Link
from sfm_graph.domain.memory import Memory
from sfm_graph.domain.page import Page
from sfm_graph.domain.walk import WalkFilter
from sfm_graph.domain.where import Where
from sfm_graph.services.agent_reads import AgentAccess
from sfm_graph.services.namespaces import NamespaceStatistics
from sfm_graph.services.registry import Services
from sfm_graph.services.view import View

K = TypeVar("K")

# Futures of one batch wake their resolvers in one turn of the loop.
LOADER_BATCH = 100


class Reading(Protocol):
    """What loaders read through: a request."""

    services: Services

    def reading(self, as_of: AsOf) -> AbstractAsyncContextManager[View]:
        """The request's view as of a moment."""
        ...


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


class Loaders:
    """What one request reads as of one moment."""

    def __init__(self, request: Reading, as_of: AsOf) -> None:
        self._request = request
        self._as_of = as_of
        self.memories = DataLoader(self._load_memories, max_batch_size=LOADER_BATCH)
        self.links = DataLoader(self._load_links, max_batch_size=LOADER_BATCH)
        self.link_pages = DataLoader(self._load_link_pages)
        self.statistics = DataLoader(self._load_statistics)
        self.provenance = DataLoader(self._load_provenance, max_batch_size=LOADER_BATCH)
        self.accesses = DataLoader(self._load_accesses, max_batch_size=LOADER_BATCH)

    async def _load_memories(self, keys: list[tuple[str, MemoryId]]) -> list[Memory | None]:
        found: dict[tuple[str, MemoryId], Memory | None] = {}
        async with self._request.reading(self._as_of) as view:
            for namespace, ids in _by_namespace(keys).items():
                refs = [MemoryRef(id=one) for one in ids]
                rows = await self._request.services.memory_reads.find_many(view, namespace, refs)
                found |= {(namespace, one): row for one, row in zip(ids, rows, strict=True)}
        return [found[key] for key in keys]

    async def _load_links(self, keys: list[tuple[str, LinkId]]) -> list[Link | None]:
        found: dict[tuple[str, LinkId], Link] = {}
        async with self._request.reading(self._as_of) as view:
            for namespace, ids in _by_namespace(keys).items():
                rows = await self._request.services.links.by_ids(view, namespace, ids)
                found |= {(namespace, one): row for one, row in rows.items()}
        return [found.get(key) for key in keys]

    async def _load_link_pages(self, keys: list[LinksOf]) -> list[Page[Link]]:
        alike: dict[tuple[str, WalkFilter, FilterKey, int, str | None], list[MemoryId]] = defaultdict(list)
        for key in keys:
            alike[key.namespace, key.walk, key.where, key.first, key.after].append(key.memory)
        pages: dict[LinksOf, Page[Link]] = {}
        links = self._request.services.links
        async with self._request.reading(self._as_of) as view:
            for (namespace, walk, where, first, after), ids in alike.items():
                found = await links.pages_of(view, namespace, ids, walk, first, after, where.where)
                pages |= {LinksOf(namespace, walk, where, first, after, one): page for one, page in found.items()}
        return [pages.get(key) or Page((), (), False) for key in keys]

    async def _load_provenance(self, keys: list[tuple[str, MemoryId]]) -> list[Provenance | None]:
        found: dict[tuple[str, MemoryId], Provenance] = {}
        async with self._request.reading(self._as_of) as view:
            for namespace, ids in _by_namespace(keys).items():
                told = await self._request.services.copies.provenance(view, namespace, ids)
                found |= {(namespace, one): source for one, source in told.items()}
        return [found.get(key) for key in keys]

    async def _load_accesses(self, keys: list[tuple[str, MemoryId]]) -> list[list[AgentAccess]]:
        found: dict[tuple[str, MemoryId], list[AgentAccess]] = {}
        async with self._request.reading(self._as_of) as view:
            for namespace, ids in _by_namespace(keys).items():
                told = await self._request.services.agent_reads.accesses(view, namespace, ids)
                found |= {(namespace, one): counts for one, counts in told.items()}
        return [found.get(key, []) for key in keys]

    async def _load_statistics(self, names: list[str]) -> list[NamespaceStatistics]:
        async with self._request.reading(self._as_of) as view:
            return [await self._request.services.namespaces.statistics(view, name) for name in names]


def _by_namespace(keys: Sequence[tuple[str, K]]) -> dict[str, list[K]]:
    grouped: dict[str, list[K]] = defaultdict(list)
    for namespace, one in keys:
        grouped[namespace].append(one)
    return grouped
