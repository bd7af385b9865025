"""Import and export: streams of records into and out of namespaces, in flat memory.

An import runs in batches of up to 1,000 memories and 1,000 links, each kind of a batch one transaction, memories
first. Up to three batches are written at a time while the next one is prepared; links wait for every batch before
theirs, and so does a batch that names a memory of one of those. A link may name a memory that comes later: what misses
an end is kept and tried again once, at the end. Running an import again skips what is stored just so.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby, islice
from typing import Any

import orjson

from sfm_graph.adapters.readers import BadRecord, LinkRecord, MemoryRecord, Record
from sfm_graph.adapters.readers.ndjson import LineBuffer, parse_line
from sfm_graph.domain import validate
from sfm_graph.domain.identity import DEFAULT_NAMESPACE, MemoryRef
from sfm_graph.domain.link import Link
from sfm_graph.domain.memory import FailedItem, Memory, WriteOperation
from sfm_graph.errors import MemoryNotFound, SfmError
from sfm_graph.services.links import LinkRequest, Links
from sfm_graph.services.memory_batch import PreparedMemories
from sfm_graph.services.memory_writes import MemoryWrites
from sfm_graph.services.store_plan import references
from sfm_graph.services.view import View
from sfm_graph.store import transfer as store

BATCH_RECORDS = 1_000
# What may wait for its batch to fill up: bounds the memory that an import of large records, or of many namespaces
# in turn, takes.
MAX_WAITING_BYTES = 16_000_000
MAX_WAITING_LINKS = 100_000
# Two that store memories and one that links keep Postgres and Python busy on two cores.
MAX_WRITING = 3
MAX_KEPT_FAILURES = 1_000
# About 3 ms of parsing.
CHUNK_BYTES = 256 * 1024
CHUNK_RECORDS = 250


@dataclass(slots=True)
class Counts:
    """What was done to the memories, or to the links, of an import."""

    created: int = 0
    updated: int = 0
    unchanged: int = 0

    def add(self, operation: WriteOperation) -> None:
        """Count one."""
        setattr(self, operation.value, getattr(self, operation.value) + 1)


@dataclass(frozen=True, slots=True)
class ImportFailure:
    """A record that was refused, by the line (from 1) of its file or stream."""

    line: int
    code: str
    message: str


@dataclass(slots=True)
class ImportReport:
    """What an import has done so far. `failures` are the first 1,000 of `failed`."""

    memories: Counts = field(default_factory=Counts)
    links: Counts = field(default_factory=Counts)
    failed: int = 0
    failures: list[ImportFailure] = field(default_factory=list)

    @property
    def records(self) -> int:
        """How many records have been dealt with."""
        done = (self.memories, self.links)
        return self.failed + sum(counts.created + counts.updated + counts.unchanged for counts in done)

    def fail(self, line: int, code: str, message: str) -> None:
        """Note a refused record."""
        self.failed += 1
        if len(self.failures) < MAX_KEPT_FAILURES:
            self.failures.append(ImportFailure(line, code, message))

    def as_json(self) -> dict[str, Any]:
        """The form in which every face shows it."""
        return asdict(self)


Progress = Callable[[ImportReport], None]


class Transfer:
    """Moves whole namespaces in and out."""

    def __init__(self, memory_writes: MemoryWrites, links: Links) -> None:
        self._memory_writes = memory_writes
        self._links = links

    async def import_ndjson(
        self,
        chunks: AsyncIterable[bytes],
        namespace: str = DEFAULT_NAMESPACE,
        on_progress: Progress | None = None,
    ) -> ImportReport:
        """Import lines of JSON that arrive in chunks of any size; what a refused line holds is reported.

        A record that names a `namespace` goes there, every other one into `namespace`. A memory without key and
        coordinate gets a key made of what it says, so that importing again finds it. `on_progress` is called after
        each batch. An error of the service itself (Unavailable) ends the import; what was stored stays.
        """
        return await self._run(_parsed(chunks), namespace, on_progress)

    async def import_records(
        self, records: Iterable[Record], namespace: str = DEFAULT_NAMESPACE, on_progress: Progress | None = None
    ) -> ImportReport:
        """Import records that a reader yields; it is run in a thread. As `import_ndjson`."""
        return await self._run(_pulled(iter(records)), namespace, on_progress)

    async def _run(
        self, chunks: AsyncIterator["_Chunk"], namespace: str, on_progress: Progress | None
    ) -> ImportReport:
        run = _Import(self._memory_writes, self._links, validate.namespace(namespace), on_progress)
        return await run.all(chunks)

    async def export(self, view: View, namespace: str) -> AsyncIterator[bytes]:
        """A namespace as lines of JSON that `import_ndjson` takes: first its memories, then its links, by id.

        Each chunk holds whole lines. Ids, versions, times of change and vectors stay out: an import makes them anew.
        Raises NamespaceNotFound at the first chunk.
        """
        found = await view.existing_namespace(namespace)
        after = 0
        while memories := await store.memories_page(view.session, found.id, namespace, after):
            yield await asyncio.to_thread(_memory_lines, memories)
            after = memories[-1].id
        after = 0
        while links := await store.links_page(view.session, found.id, namespace, after):
            yield await asyncio.to_thread(_link_lines, links)
            after = links[-1][2].id


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Records in order, and about how many bytes they hold."""

    records: Sequence[Record]
    nbytes: int


@dataclass(slots=True)
class _Waiting:
    """Records of one namespace that wait for their batch to fill up."""

    namespace: str
    memories: list[MemoryRecord] = field(default_factory=list)
    links: list[LinkRecord] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Later:
    """A link that waits for the end of the import; its fields as JSON, which takes a tenth of the memory."""

    namespace: str
    line: int
    fields: bytes


@dataclass(frozen=True, slots=True)
class _Writing:
    """A batch that is being written: keys and coordinates of its memories, and the task that does it."""

    task: "asyncio.Task[None]"
    names: frozenset[MemoryRef]


class _Import:
    """One import."""

    def __init__(
        self, memory_writes: MemoryWrites, links: Links, namespace: str, on_progress: Progress | None
    ) -> None:
        self._memory_writes = memory_writes
        self._links = links
        self._namespace = namespace
        self._on_progress = on_progress
        self._report = ImportReport()
        self._waiting: dict[str, _Waiting] = {}
        self._waiting_bytes = 0
        self._later: list[_Later] = []
        self._writing: deque[_Writing] = deque()

    async def all(self, chunks: AsyncIterator[_Chunk]) -> ImportReport:
        """Import everything."""
        try:
            async for chunk in chunks:
                for record in chunk.records:
                    full = self._take(record)
                    if full is not None:
                        await self._submit(full)
                self._waiting_bytes += chunk.nbytes
                if self._waiting_bytes >= MAX_WAITING_BYTES:
                    await self._submit_all()
            await self._submit_all()
            await self._written(down_to=0)
            await self._retry()
        finally:
            for writing in self._writing:
                writing.task.cancel()
            await asyncio.gather(*(writing.task for writing in self._writing), return_exceptions=True)
        return self._report

    def _take(self, record: Record) -> _Waiting | None:
        """Keep a record for its batch; the batch when it is full."""
        if isinstance(record, BadRecord):
            self._report.fail(record.line, record.code, record.message)
            return None
        named = record.fields.pop("namespace", None)
        try:
            namespace = self._namespace if named is None else validate.namespace(named)
        except SfmError as error:
            self._report.fail(record.line, error.code, error.message)
            return None
        batch = self._waiting.setdefault(namespace, _Waiting(namespace))
        if isinstance(record, MemoryRecord):
            batch.memories.append(record)
        else:
            batch.links.append(record)
        full = len(batch.memories) == BATCH_RECORDS or len(batch.links) == BATCH_RECORDS
        return self._waiting.pop(namespace) if full else None

    async def _submit_all(self) -> None:
        waiting, self._waiting, self._waiting_bytes = self._waiting, {}, 0
        for batch in waiting.values():
            await self._submit(batch)

    async def _submit(self, batch: _Waiting) -> None:
        """Prepare a batch while others are written; then write it in the background."""
        pending = frozenset[MemoryRef]().union(*(writing.names for writing in self._writing))
        prepared, unchanged = await self._memory_writes.prepare_changed(
            batch.namespace, [record.fields for record in batch.memories], pending=pending
        )
        requests = await asyncio.to_thread(_requests, batch.links)
        names = frozenset(ref for memory in prepared.given.values() for ref in references(memory))
        await self._written(down_to=MAX_WRITING - 1 if names.isdisjoint(pending) else 0)
        before = self._writing[-1].task if self._writing else None
        task = asyncio.create_task(self._write(batch, prepared, unchanged, requests, before))
        self._writing.append(_Writing(task, names))

    async def _written(self, *, down_to: int) -> None:
        """Wait until so few batches are being written; raises what one of them raised."""
        while len(self._writing) > down_to:
            await self._writing[0].task
            self._writing.popleft()

    async def _write(
        self,
        batch: _Waiting,
        prepared: PreparedMemories,
        unchanged: int,
        requests: Sequence[LinkRequest],
        before: "asyncio.Task[None] | None",
    ) -> None:
        """Write a batch's memories, and when `before` is done its links."""
        stored = await self._memory_writes.store_prepared(
            batch.namespace, prepared, partial=True, skip_unchanged=True
        )
        self._report.memories.unchanged += unchanged
        for memory in stored.stored:
            self._report.memories.add(memory.operation)
        for failed in stored.failed:
            self._report.fail(batch.memories[failed.index].line, failed.code, failed.message)
        if before is not None:
            await before
        await self._write_links(batch, requests)
        if self._on_progress is not None:
            self._on_progress(self._report)

    async def _write_links(self, batch: _Waiting, requests: Sequence[LinkRequest]) -> None:
        for failed in await self._link(batch.namespace, requests):
            record = batch.links[failed.index]
            if failed.code == MemoryNotFound.code and len(self._later) < MAX_WAITING_LINKS:
                self._later.append(_Later(batch.namespace, record.line, orjson.dumps(record.fields)))
            else:
                self._report.fail(record.line, failed.code, failed.message)

    async def _link(self, namespace: str, requests: Sequence[LinkRequest]) -> Sequence[FailedItem]:
        if not requests:
            return ()
        done = await self._links.link_many(namespace, requests, partial=True, skip_unchanged=True)
        for link in done.stored:
            self._report.links.add(link.operation)
        return done.failed

    async def _retry(self) -> None:
        """Try the links again whose ends were not there yet."""
        self._later.sort(key=lambda later: (later.namespace, later.line))
        for start in range(0, len(self._later), BATCH_RECORDS):
            some = self._later[start : start + BATCH_RECORDS]
            for namespace, group in groupby(some, key=lambda later: later.namespace):
                records = [LinkRecord(later.line, orjson.loads(later.fields)) for later in group]
                for failed in await self._link(namespace, _requests(records)):
                    self._report.fail(records[failed.index].line, failed.code, failed.message)
            if self._on_progress is not None:
                self._on_progress(self._report)


def _requests(records: Sequence[LinkRecord]) -> list[LinkRequest]:
    return [_request(record.fields) for record in records]


def _request(fields: Mapping[str, Any]) -> LinkRequest:
    ends = ("source", "target")
    rest = {name: value for name, value in fields.items() if name not in ends and name != "link_type"}
    return LinkRequest(fields.get("source"), fields.get("target"), {**rest, "type": fields.get("link_type")})


async def _parsed(chunks: AsyncIterable[bytes]) -> AsyncIterator[_Chunk]:
    lines = _Lines()
    held = bytearray()
    async for chunk in chunks:
        held += chunk
        while len(held) >= CHUNK_BYTES:
            piece = bytes(held[:CHUNK_BYTES])
            del held[:CHUNK_BYTES]
            yield _Chunk(await asyncio.to_thread(lines.feed, piece), CHUNK_BYTES)
    yield _Chunk(await asyncio.to_thread(lines.feed, bytes(held), end=True), len(held))


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


async def _pulled(records: Iterator[Record]) -> AsyncIterator[_Chunk]:
    while some := await asyncio.to_thread(list, islice(records, CHUNK_RECORDS)):
        nbytes = sum(
            len(str(record.fields.get("content", ""))) for record in some if isinstance(record, MemoryRecord)
        )
        yield _Chunk(some, nbytes)


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
