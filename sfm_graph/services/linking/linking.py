"""Linking: what linkers want is stored in the transaction that changes what they look at."""

from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import entry_points

from sfm_graph.domain import validate
from sfm_graph.domain.cues import cues_of
from sfm_graph.domain.identity import MemoryId
from sfm_graph.domain.memory import Memory, NewMemory
from sfm_graph.domain.namespace import Namespace
from sfm_graph.errors import SettingsError
from sfm_graph.services.linking.entities import Entities
from sfm_graph.services.linking.linker import Hold, Linker, Surroundings, WantedLink, Writes, Written
from sfm_graph.services.linking.mention import Mention
from sfm_graph.services.linking.scope import Scope
from sfm_graph.services.linking.sequence import SequenceOrder
from sfm_graph.services.linking.similarity import Similarity
from sfm_graph.services.offload import offload
from sfm_graph.services.vector_search import PostgresSearch, VectorSearch
from sfm_graph.store import linking as store
from sfm_graph.store.database import WriteSession

ENTRY_POINTS = "sfm_graph.linkers"
BUILT_IN: tuple[type[Linker], ...] = (Mention, SequenceOrder, Entities, Similarity)
# Sources whose links are brought in line by one statement, and whose texts are held at a time.
MAX_SOURCES = 1_000
# Nobody else writes while so many are linked from scratch: some 0.1 s.
MAX_RELINKED = 100


def installed_linkers() -> list[Linker]:
    """The linkers of the service and those that installed packages offer. Raises SettingsError."""
    offered = [point.load() for point in entry_points(group=ENTRY_POINTS)]
    linkers: dict[str, Linker] = {}
    for kind in (*BUILT_IN, *offered):
        if not (isinstance(kind, type) and issubclass(kind, Linker)):
            raise SettingsError(f"{kind!r} is offered as a linker but is no subclass of Linker")
        linker = kind()
        validate.name(linker.name, "linker", max_chars=64)
        validate.name(linker.link_type, "link_type", max_chars=validate.MAX_LINK_TYPE_CHARS)
        if linker.name in linkers:
            raise SettingsError(f"two linkers are called {linker.name!r}")
        linkers[linker.name] = linker
    return list(linkers.values())


class Linking:
    """Keeps the links of linkers equal to what they want, write by write."""

    def __init__(self, linkers: Sequence[Linker], vectors: VectorSearch | None = None) -> None:
        """`vectors`: how the nearest memories are found, by default in Postgres."""
        self._linkers = tuple(linkers)
        self._vectors = vectors or PostgresSearch()

    def on(self, target: Namespace) -> list[Linker]:
        """The linkers that are on in a namespace."""
        chosen = dict(target.settings.linkers)
        return [linker for linker in self._linkers if chosen.get(linker.name, linker.on_by_default)]

    async def known(self, session: WriteSession, target: Namespace, ids: Sequence[MemoryId]) -> Surroundings:
        """What locked memories are that are about to be replaced or removed; without what this transaction wrote."""
        if not ids or not self.on(target):
            return Surroundings()
        return Surroundings(await store.known(session, target.id, ids))

    async def touched(self, session: WriteSession, target: Namespace, ids: Sequence[MemoryId]) -> Surroundings:
        """What linkers want to look at again when these memories have been replaced or removed."""
        scope = Scope(session, target, {}, self._vectors)
        return Surroundings({}, {linker.name: await linker.touched(scope, ids) for linker in self.on(target) if ids})

    async def hold(self, session: WriteSession, target: Namespace, writes: Writes) -> None:
        """Keep off who would not see these writes, or whom they would not see; to call once, before `after`.

        Who removes keeps off at least those who may link any memory: their links would lead out of removed ones.
        """
        linkers = self.on(target)
        if not linkers or not writes.any:
            return
        hold = max(linker.hold(writes) for linker in linkers)
        if writes.gone:
            hold = max(hold, Hold.SHARED)
        if hold is Hold.NOTHING:
            await store.begin(session)
        else:
            await store.begin_locked(session, target.id, exclusive=hold is Hold.EXCLUSIVE)

    async def after(self, session: WriteSession, target: Namespace, writes: Writes) -> None:
        """Bring links in line with memories that were written or removed, their words and names included."""
        linkers = self.on(target)
        if not linkers or not writes.any:
            return
        scope = Scope(session, target, writes.written, self._vectors)
        for linker in linkers:
            affected = await linker.affected(scope, writes)
            others = (affected | writes.before.touched.get(linker.name, set())) - writes.gone - writes.written.keys()
            for sources in _chunks([*writes.written, *sorted(others)]):
                await self._put(session, scope, linker, sources, writes)

    async def _put(
        self, session: WriteSession, scope: Scope, linker: Linker, sources: Sequence[MemoryId], writes: Writes
    ) -> None:
        wanted = await offload(len(sources), _distinct, await linker.wanted(scope, sources))
        stale = [source for source in sources if source not in writes.fresh]
        if wanted or stale:
            await store.put(session, scope.namespace.id, linker.name, linker.link_type, stale, wanted)

    async def relink(self, session: WriteSession, target: Namespace, after: int) -> Sequence[MemoryId]:
        """Link the next 100 memories with id > `after` from scratch; their ids.

        The caller holds them and all sequences. Takes out what linkers made that are off.
        """
        linkers = self.on(target)
        await store.begin_locked(session, target.id, exclusive=True)
        memories = await store.page(session, target.id, target.name, after, MAX_RELINKED)
        if not memories:
            return []
        ids = [memory.id for memory in memories]
        await store.drop_others(session, target.id, ids, [linker.name for linker in linkers])
        written = await offload(len(memories), _as_written, memories, target)
        await self.after(session, target, Writes(written, Surroundings(await store.known(session, target.id, ids))))
        return ids


def _chunks(ids: Sequence[MemoryId]) -> Iterator[Sequence[MemoryId]]:
    return (ids[start : start + MAX_SOURCES] for start in range(0, len(ids), MAX_SOURCES))


def _distinct(wanted: Iterable[WantedLink]) -> list[store.LinkToPut]:
    links: dict[tuple[MemoryId, MemoryId], store.LinkToPut] = {}
    for one in wanted:
        ends = (one.source, one.target)
        if ends not in links or one.weight < links[ends].weight:
            links[ends] = store.LinkToPut(*ends, one.weight, dict(one.properties))
    return list(links.values())


def _as_written(memories: Iterable[Memory], target: Namespace) -> dict[MemoryId, Written]:
    return {
        memory.id: Written.of(memory.id, memory, cues_of(as_given(memory), target.settings.cues))
        for memory in memories
    }


def as_given(memory: Memory) -> NewMemory:
    """A stored memory as it would be given to be stored."""
    return NewMemory(
        memory.coordinate, memory.key, memory.kind, memory.title, memory.content, memory.payload, memory.importance,
        memory.valid_from, memory.valid_to,
    )  # fmt: skip
