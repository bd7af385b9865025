"""Import and export: streams of records into and out of namespaces."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import orjson

from sfm_graph.adapters.readers import MemoryRecord, Record
from sfm_graph.adapters.readers.ndjson import LineBuffer, parse_line
from sfm_graph.domain import graphml, validate
from sfm_graph.domain.access import Scope
from sfm_graph.domain.as_of import NOW
from sfm_graph.domain.identity import DEFAULT_NAMESPACE, Entity, encode_global_id
from sfm_graph.domain.link import Link
from sfm_graph.domain.memory import Memory
from sfm_graph.errors import InvalidInput
from sfm_graph.services.access.guard import needs
from sfm_graph.services.everything.exporting import Export
from sfm_graph.services.everything.importing import Import
from sfm_graph.services.import_report import ImportReport
from sfm_graph.services.import_run import Chunk, ImportRun, Progress
from sfm_graph.services.indexing import Indexing
from sfm_graph.services.links import Links
from sfm_graph.services.memory_writes import MemoryWrites
from sfm_graph.services.settling import Settling
from sfm_graph.services.view import View
from sfm_graph.store import transfer as store
from sfm_graph.store.database import Database

# About 3 ms of parsing.
CHUNK_BYTES = 256 * 1024
CHUNK_RECORDS = 250


class Transfer:
    """Moves whole namespaces in and out."""

    def __init__(
        self, database: Database, memory_writes: MemoryWrites, links: Links, indexing: Indexing, settling: Settling
    ) -> None:
        """`settling`: of imports of everything; it links nothing."""
        self._database = database
        self._memory_writes = memory_writes
        self._links = links
        self._indexing = indexing
        self._settling = settling

    @needs(Scope.WRITE)
    async def import_ndjson(
        self,
        chunks: AsyncIterable[bytes],
        namespace: str = DEFAULT_NAMESPACE,
        on_progress: Progress | None = None,
    ) -> ImportReport:
        """Import lines of JSON that arrive in chunks of any size; what a refused line holds is reported.

        A record that names a `namespace` goes there, every other one into `namespace`. A memory without key and
        coordinate gets a key made of what it says, so that importing again finds it. `on_progress` is called after
        each batch. An error of the service itself (Unavailable) ends the import; what was stored stays. Raises
        InvalidInput, before anything is stored, for what `export_everything` wrote.
        """
        return await self._run(_parsed(chunks), namespace, on_progress)

    @needs(Scope.WRITE)
    async def import_records(
        self, records: Iterable[Record], namespace: str = DEFAULT_NAMESPACE, on_progress: Progress | None = None
    ) -> ImportReport:
        """Import records that a reader yields; it is run in a thread. As `import_ndjson`."""
        return await self._run(_pulled(iter(records)), namespace, on_progress)

    @needs(Scope.ADMIN)
    async def import_everything(
        self,
        chunks: AsyncIterable[bytes],
        namespace: str = DEFAULT_NAMESPACE,
        on_progress: Progress | None = None,
    ) -> ImportReport:
        """Import what `export_everything` wrote, as it was but for ids, into a namespace that never held anything or
        that an import like this one left unfinished.

        Raises InvalidInput, which says the `line`, for anything that is not as it was exported, Conflict for a
        namespace in use, ModelMismatch where vectors are to be made by a model that the service does not run. What
        was imported by then stays, unfinished.
        """
        checked = validate.namespace(namespace)
        return await Import(self._database, self._indexing, self._settling, checked, on_progress).all(chunks)

    async def _run(self, chunks: AsyncIterator[Chunk], namespace: str, on_progress: Progress | None) -> ImportReport:
        run = ImportRun(self._memory_writes, self._links, validate.namespace(namespace), on_progress)
        return await run.all(chunks)

    @needs(Scope.READ)
    async def export(self, view: View, namespace: str) -> AsyncIterator[bytes]:
        """A namespace as lines of JSON that `import_ndjson` takes: first its memories, then its links, by id.

        Each chunk holds whole lines. Ids, versions, times of change, vectors and links of linkers stay out: an import
        makes them anew. A view of another moment exports what was known, or valid, then.
        Raises NamespaceNotFound at the first chunk.
        """
        found, valid = await view.existing_namespace(namespace), view.as_of.valid
        after = 0
        while memories := await store.memories_page(view.session, found.id, namespace, after, valid):
            yield await asyncio.to_thread(_memory_lines, memories)
            after = memories[-1].id
        after = 0
        while links := await store.links_page(view.session, found.id, namespace, after, valid):
            yield await asyncio.to_thread(_link_lines, links)
            after = links[-1][2].id

    @needs(Scope.READ)
    async def export_everything(self, view: View, namespace: str, *, vectors: bool = True) -> AsyncIterator[bytes]:
        """All of a namespace as lines of JSON that `import_everything` takes; see `domain.everything`.

        Each chunk holds whole lines. Raises NamespaceNotFound, and InvalidInput for a view of another moment, at the
        first chunk.
        """
        if view.as_of != NOW:
            raise InvalidInput("everything is exported as of now: it holds what was before", field="everything")
        found = await view.existing_namespace(namespace)
        async for chunk in Export(view, found, vectors=vectors).chunks():
            yield chunk

    @needs(Scope.READ)
    async def export_graphml(self, view: View, namespace: str) -> AsyncIterator[bytes]:
        """A namespace as GraphML: all its memories and links, those of linkers too, by id.

        A view of another moment exports what was known, or valid, then. Raises NamespaceNotFound at the first chunk.
        """
        found, valid = await view.existing_namespace(namespace), view.as_of.valid
        yield graphml.head(namespace)
        after = 0
        while memories := await store.memories_page(view.session, found.id, namespace, after, valid):
            yield await asyncio.to_thread(graphml.nodes, memories)
            after = memories[-1].id
        after = 0
        while rows := await store.links_page(view.session, found.id, namespace, after, valid, made=True):
            yield await asyncio.to_thread(_edges, namespace, [row[2] for row in rows])
            after = rows[-1][2].id
        yield graphml.FOOT


async def _parsed(chunks: AsyncIterable[bytes]) -> AsyncIterator[Chunk]:
    lines = _Lines()
    held = bytearray()
    async for chunk in chunks:
        held += chunk
        while len(held) >= CHUNK_BYTES:
            piece = bytes(held[:CHUNK_BYTES])
            del held[:CHUNK_BYTES]
            yield Chunk(await asyncio.to_thread(lines.feed, piece), CHUNK_BYTES)
    yield Chunk(await asyncio.to_thread(lines.feed, bytes(held), end=True), len(held))


class _Lines:
    """Lines of JSON to records, numbered."""

    def __init__(self) -> None:
        self._buffer = LineBuffer()
        self._count = 0

    def feed(self, piece: bytes, *, end: bool = False) -> list[Record]:
        lines = self._buffer.feed(piece)
        if end:
            lines += self._buffer.close()
        numbered = enumerate(lines, start=self._count + 1)
        self._count += len(lines)
        return [record for number, line in numbered if (record := parse_line(number, line)) is not None]


async def _pulled(records: Iterator[Record]) -> AsyncIterator[Chunk]:
    while some := await asyncio.to_thread(list, islice(records, CHUNK_RECORDS)):
        nbytes = sum(
            len(str(record.fields.get("content", ""))) for record in some if isinstance(record, MemoryRecord)
        )
        yield Chunk(some, nbytes)


def _edges(namespace: str, links: Sequence[Link]) -> bytes:
    ids = {end for link in links for end in (link.source_id, link.target_id)}
    return graphml.edges(links, {end: encode_global_id(Entity.MEMORY, namespace, end) for end in ids})


def _memory_lines(memories: Iterable[Memory]) -> bytes:
    return b"".join(_line("memory", _memory_fields(memory)) for memory in memories)


def _memory_fields(memory: Memory) -> dict[str, Any]:
    return {
        "key": memory.key,
        "coordinate": memory.coordinate,
        "kind": memory.kind,
        "title": memory.title,
        "content": memory.content,
        "payload": memory.payload,
        "importance": memory.importance,
        "valid_from": memory.valid_from,
        "valid_to": memory.valid_to,
    }


def _link_lines(links: Iterable[tuple[store.LinkEnd, store.LinkEnd, Link]]) -> bytes:
    return b"".join(
        _line("link", {"source": _end(source), "target": _end(target), **_link_fields(link)})
        for source, target, link in links
    )


def _link_fields(link: Link) -> dict[str, Any]:
    return {
        "link_type": link.type,
        "weight": link.weight,
        "properties": link.properties or None,
        "valid_from": link.valid_from,
        "valid_to": link.valid_to,
    }


def _end(end: store.LinkEnd) -> dict[str, Any]:
    return {"key": end.key} if end.key is not None else {"coordinate": end.coordinate}


def _line(type_: str, fields: Mapping[str, Any]) -> bytes:
    given = {name: value for name, value in fields.items() if value is not None}
    return orjson.dumps({"type": type_, **given}, option=orjson.OPT_APPEND_NEWLINE)
