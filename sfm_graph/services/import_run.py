"""The course of one import: records gathered into batches, batches written side by side, in flat memory.

A batch is up to 1,000 memories and 1,000 links of a namespace, each kind one transaction, memories first. Up to three
batches are written at a time while the next one is prepared; links wait for every batch before theirs, and so does a
batch that names a memory which one of those names. A link may name a memory that comes later: what misses an end
is kept and tried again once, at the end.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import orjson

from sfm_graph.adapters.readers import BadRecord, LinkRecord, MemoryRecord, Record
from sfm_graph.adapters.readers.ndjson import EVERYTHING
from sfm_graph.domain import validate
from sfm_graph.domain.identity import MemoryRef
from sfm_graph.domain.memory import FailedItem
from sfm_graph.errors import InvalidInput, MemoryNotFound, SfmError
from sfm_graph.services.import_report import ImportReport
from sfm_graph.services.links import LinkRequest, Links
from sfm_graph.services.memory_batch import PreparedMemories
from sfm_graph.services.memory_writes import MemoryWrites
from sfm_graph.services.store_plan import references

BATCH_RECORDS = 1_000
# What may wait for its batch to fill up: bounds the memory that an import of large records, or of many namespaces
# in turn, takes.
MAX_WAITING_BYTES = 16_000_000
MAX_WAITING_LINKS = 100_000
# Two that store memories and one that links keep Postgres and Python busy on two cores.
MAX_WRITING = 3

Progress = Callable[[ImportReport], None]


@dataclass(frozen=True, slots=True)
class Chunk:
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


class ImportRun:
    """One import, from its first record to its report."""

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

    async def all(self, chunks: AsyncIterator[Chunk]) -> ImportReport:
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
            if record.code == EVERYTHING:
                # Of its thousands of lines many would be taken for something else.
                raise InvalidInput(record.message, field="everything", line=record.line)
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
