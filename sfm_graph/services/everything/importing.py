"""An import of everything: batch by batch into a namespace of its own, each batch one transaction."""

from array import array
from collections.abc import AsyncIterable, Mapping, Sequence, Set
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from sfm_graph.domain.everything import AccessLine, Header, Line, MemoryLine, VersionLine, as_new
from sfm_graph.domain.identity import Entity, LinkId, MemoryId, MemoryRef
from sfm_graph.domain.link import Link
from sfm_graph.domain.memory import Memory
from sfm_graph.domain.namespace import Namespace, NamespaceSettings, StoredModel
from sfm_graph.errors import Conflict, InvalidInput, ModelMismatch, SfmError
from sfm_graph.services.everything.reading import Batch, batches
from sfm_graph.services.fading.backfill import settings_changed
from sfm_graph.services.import_report import ImportReport
from sfm_graph.services.import_run import Progress
from sfm_graph.services.indexing import Indexing
from sfm_graph.services.settling import Settling
from sfm_graph.services.store_plan import references
from sfm_graph.store import everything as store
from sfm_graph.store import memories, namespaces
from sfm_graph.store.database import Database, WriteSession
from sfm_graph.store.search_columns import SearchColumns
from sfm_graph.store.vector_types import HalfVector

_AGAIN = "the namespace holds what came before, unfinished: import again, which begins anew, or delete it"


class Import:
    """One import. It holds 24 bytes for each memory and link, and a batch or two."""

    def __init__(
        self, database: Database, indexing: Indexing, settling: Settling, namespace: str, on_progress: Progress | None
    ) -> None:
        """`settling`: one that links nothing, since links are imported."""
        self._database = database
        self._indexing = indexing
        self._settling = settling
        self._namespace = namespace
        self._on_progress = on_progress
        self._report = ImportReport()
        self._header: Header | None = None
        self._target: Namespace | None = None
        # Ids by number.
        self._ids = {Entity.MEMORY: array("q"), Entity.LINK: array("q")}
        self._versions = 0

    async def all(self, chunks: AsyncIterable[bytes]) -> ImportReport:
        """Import everything. Raises InvalidInput with the `line` that is wrong, Conflict for a namespace in use."""
        async with store.alone(self._database, self._namespace) as is_alone:
            if not is_alone:
                raise Conflict(f"another import into {self._namespace!r} is at work", namespace=self._namespace)
            try:
                async for batch in batches(chunks, self._namespace):
                    await self._take(batch)
            except SfmError as error:
                if self._target is None:
                    raise
                raise type(error)(f"{error.message}; {_AGAIN}", **error.details) from error
        return self._report

    async def _take(self, batch: Batch) -> None:
        found: list[Line] = [line for _, line in batch.lines]
        match batch.part:
            case "namespace":
                await self._begin(found[0])
            case "memory":
                await self._memories(batch)
            case "link":
                await self._links(batch)
            case "version":
                await self._take_versions([one for one in found if isinstance(one, VersionLine)])
            case "access":
                await self._accesses(batch)
            case _:
                await self._finish()
        if self._on_progress is not None:
            self._on_progress(self._report)

    async def _begin(self, header: Line) -> None:
        if not isinstance(header, Header):
            raise InvalidInput("the header is missing")
        if header.model is not None and not header.vectors and header.model != self._indexing.identity:
            self._indexing.require_known(_planned(self._namespace, header))

        async def work(session: WriteSession) -> Namespace:
            target = await self._empty(session)
            # The rules that words are made by; what works in the background begins when all is there.
            rules = replace(
                NamespaceSettings(), language=header.settings.language, cues=header.settings.cues,
                payload_paths=header.settings.payload_paths,
            )  # fmt: skip
            await settings_changed(session, target, rules)
            await namespaces.set_settings(session, target, rules)
            if header.model is not None:
                await namespaces.set_model(session, target, await namespaces.model(session, header.model))
            await store.note(session, target.id)
            stored = await namespaces.lock(session, self._namespace)
            if header.model is not None and (stored.model is None or stored.model.identity != header.model):
                raise ModelMismatch(f"the namespace was made for {stored.model}", namespace=self._namespace)
            return stored

        self._target = await self._database.write(work)
        self._header = header

    async def _empty(self, session: WriteSession) -> Namespace:
        """The namespace, made or as empty as one that was just made; what an unfinished import left is deleted."""
        target = await namespaces.lock(session, self._namespace)
        found = await store.found(session, target.id)
        if found.unfinished:
            await store.let_go(session, target.id)
            await namespaces.delete(session, self._namespace)
            return await namespaces.lock(session, self._namespace)
        if found.used:
            raise Conflict(
                f"namespace {self._namespace!r} is in use, or was: everything is imported into one of its own",
                namespace=self._namespace,
            )
        return target

    async def _held(self, session: WriteSession) -> Namespace:
        target = await namespaces.lock_existing(session, self._namespace)
        if target is None or self._target is None or target.id != self._target.id:
            raise Conflict("the namespace was deleted while it was imported", namespace=self._namespace)
        await store.note(session, target.id)
        return target

    async def _memories(self, batch: Batch) -> None:
        header, target = self._header, self._target
        given = [(number, line) for number, line in batch.lines if isinstance(line, MemoryLine)]
        if header is None or target is None or (given and target.model is None):
            raise InvalidInput(f"line {batch.first}: memories without a model in the header", line=batch.first)
        _require_distinct(given)
        columns = await self._columns([line for _, line in given], header, target, batch.first)

        async def work(session: WriteSession) -> tuple[list[int], Set[int]]:
            scope = await self._held(session)
            ids = await store.draw_ids(session, Entity.MEMORY, len(batch.lines))
            of_lines = dict(zip((number for number, _ in batch.lines), ids, strict=True))
            due = await self._insert(session, scope, given, columns, of_lines)
            return ids, due

        ids, due = await self._database.write(work)
        self._ids[Entity.MEMORY].extend(ids)
        self._report.memories.created += len(given)
        await self._settling.finish(self._namespace, due)

    async def _insert(
        self,
        session: WriteSession,
        scope: Namespace,
        given: Sequence[tuple[int, MemoryLine]],
        columns: Sequence[SearchColumns],
        ids: Mapping[int, int],
    ) -> Set[int]:
        if not given or scope.model is None:
            return frozenset()
        settlement = self._settling.begin(session, scope)
        await settlement.hold([], {one.cues.sequence for one in columns})
        as_they_were = [replace(line.memory, id=MemoryId(ids[number])) for number, line in given]
        new = [as_new(one) for one in as_they_were]
        taken = await memories.locate(session, scope.id, [ref for one in new for ref in references(one)])
        for (number, _), one in zip(given, new, strict=True):
            if any(ref in taken for ref in references(one)):
                raise InvalidInput(f"line {number}: another memory has this key or coordinate", line=number)
        rows = list(zip(new, columns, strict=True))
        await memories.insert(session, scope.id, scope.model.id, rows, as_they_were=as_they_were)
        for stored, (memory, search) in zip(as_they_were, rows, strict=True):
            settlement.wrote(stored.id, memory, search.cues)
        return await settlement.after()

    async def _columns(
        self, given: Sequence[MemoryLine], header: Header, target: Namespace, first: int
    ) -> list[SearchColumns]:
        rules = self._indexing.rules(target)
        new = [as_new(one.memory) for one in given]
        if not header.vectors:
            return await self._indexing.columns(new, rules)
        size = 2 * rules.model.dimension
        if any(len(vector) != size for one in given for vector in one.vectors):
            raise InvalidInput(
                f"a vector from line {first} on does not have the {rules.model.dimension} dimensions of the model",
                line=first,
            )
        made = await self._indexing.words_only(new, rules)
        prefix = rules.model.dimension.to_bytes(2) + b"\0\0"
        return [
            replace(one, vectors=tuple(HalfVector(prefix + half) for half in line.vectors), dimension=size // 2)
            for one, line in zip(made, given, strict=True)
        ]

    async def _links(self, batch: Batch) -> None:
        given = [(number, line) for number, line in batch.lines if isinstance(line, Link)]

        async def work(session: WriteSession) -> list[int]:
            scope = await self._held(session)
            ids = await store.draw_ids(session, Entity.LINK, len(batch.lines))
            of_lines = dict(zip((number for number, _ in batch.lines), ids, strict=True))
            links = [self._with_ids(line, of_lines[number]) for number, line in given]
            stored = await store.insert_links(session, scope.id, links) if links else set()
            for (number, _), link in zip(given, links, strict=True):
                if link.id not in stored:
                    raise InvalidInput(
                        f"line {number}: an end of the link is gone, or the link is there already", line=number
                    )
            return ids

        self._ids[Entity.LINK].extend(await self._database.write(work))
        self._report.links.created += len(given)

    async def _take_versions(self, given: Sequence[VersionLine]) -> None:
        mapped = [self._version(one) for one in given]

        async def work(session: WriteSession) -> None:
            scope = await self._held(session)
            await store.insert_versions(session, scope.id, self._versions, mapped)

        await self._database.write(work)
        self._versions += len(mapped)

    def _version(self, one: VersionLine) -> VersionLine:
        id_ = self._ids[one.entity][one.number - 1]
        return replace(one, number=id_, before=self._state(one.before, id_), after=self._state(one.after, id_))

    def _state(self, state: Memory | Link | None, id_: int) -> Memory | Link | None:
        if isinstance(state, Memory):
            return replace(state, id=MemoryId(id_))
        return None if state is None else self._with_ids(state, id_)

    def _with_ids(self, link: Link, id_: int) -> Link:
        ids = self._ids[Entity.MEMORY]
        ends = {"source_id": MemoryId(ids[link.source_id - 1]), "target_id": MemoryId(ids[link.target_id - 1])}
        changes: dict[str, Any] = {"id": LinkId(id_), **ends}
        return replace(link, **changes)

    async def _accesses(self, batch: Batch) -> None:
        ids = self._ids[Entity.MEMORY]
        given = [
            (number, replace(line, memory=ids[line.memory - 1]))
            for number, line in batch.lines if isinstance(line, AccessLine)
        ]  # fmt: skip

        async def work(session: WriteSession) -> None:
            scope = await self._held(session)
            stored = await store.insert_accesses(session, scope.id, [line for _, line in given])
            seen: set[tuple[int, str]] = set()
            for number, line in given:
                key = (line.memory, line.agent)
                if key not in stored or key in seen:
                    raise InvalidInput(f"line {number}: the memory is gone, or this is said twice", line=number)
                seen.add(key)

        await self._database.write(work)

    async def _finish(self) -> None:
        async def work(session: WriteSession) -> None:
            target = await namespaces.lock_existing(session, self._namespace)
            if self._header is None or self._target is None or target is None or target.id != self._target.id:
                raise Conflict("the namespace was deleted while it was imported", namespace=self._namespace)
            await settings_changed(session, target, self._header.settings)
            await namespaces.set_settings(session, target, self._header.settings)
            await store.note(session, target.id, is_last=True)

        await self._database.write(work)


def _planned(namespace: str, header: Header) -> Namespace:
    model = None if header.model is None else StoredModel(0, header.model)
    return Namespace(0, namespace, header.settings, datetime.now(UTC), model)


def _require_distinct(given: Sequence[tuple[int, MemoryLine]]) -> None:
    seen: set[MemoryRef] = set()
    for number, line in given:
        for ref in references(as_new(line.memory)):
            if ref in seen:
                raise InvalidInput(f"line {number}: another memory has this key or coordinate", line=number)
            seen.add(ref)
