"""From the bytes of an export of everything to batches of lines, checked one by one and in their order."""

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from sfm_graph.adapters.readers.ndjson import MAX_LINE_BYTES, LineBuffer
from sfm_graph.domain.everything import AccessLine, End, Gone, Header, Line, MemoryLine, VersionLine, read_line
from sfm_graph.domain.identity import Entity
from sfm_graph.domain.link import Link
from sfm_graph.domain.memory import Memory
from sfm_graph.domain.strict_json import parse_json
from sfm_graph.errors import InvalidInput, SfmError, TooLarge
from sfm_graph.services.everything.endings import Endings

# About 5 ms of reading.
CHUNK_BYTES = 128 * 1024
BATCH_LINES = 1_000
BATCH_BYTES = 4_000_000
# The clock of the service that exported may be so far ahead of this one's.
AHEAD = timedelta(minutes=1)
_TYPES = {Header: "namespace", MemoryLine: "memory", Link: "link", Gone: "gone", VersionLine: "version",
          AccessLine: "access", End: "end"}  # fmt: skip
_ORDER = {"namespace": 0, "memory": 1, "link": 2, "version": 3, "access": 4, "end": 5}


@dataclass(slots=True)
class Batch:
    """Lines that follow each other and belong together: `part` is the type of all but those that are gone."""

    part: str
    first: int
    lines: list[tuple[int, Line]] = field(default_factory=list)
    nbytes: int = 0


async def batches(chunks: AsyncIterable[bytes], namespace: str) -> AsyncIterator[Batch]:
    """The batches of an export, its end by itself. Raises InvalidInput, with `line`, at the first wrong line."""
    reader = _Reader(namespace)
    held = bytearray()
    async for chunk in chunks:
        held += chunk
        while len(held) >= CHUNK_BYTES:
            piece = bytes(held[:CHUNK_BYTES])
            del held[:CHUNK_BYTES]
            for batch in await asyncio.to_thread(reader.feed, piece):
                yield batch
    for batch in await asyncio.to_thread(reader.feed, bytes(held), end=True):
        yield batch


class _Reader:
    """Lines to batches. Numbers count up by ones; counts and hash are those that the end names."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._buffer = LineBuffer()
        self._count = 0
        self._order = -1
        self._numbers = {Entity.MEMORY: 0, Entity.LINK: 0}
        self._endings = Endings()
        self._counts: Counter[str] = Counter()
        self._hash = hashlib.sha256()
        self._batch: Batch | None = None

    def feed(self, piece: bytes, *, end: bool = False) -> list[Batch]:
        found = self._buffer.feed(piece)
        if end:
            found += self._buffer.close()
        full: list[Batch] = []
        for text in found:
            self._count += 1
            try:
                full += self._line(text)
            except SfmError as error:
                details = {**error.details, "line": self._count}
                raise type(error)(f"line {self._count}: {error.message}", **details) from error
        if end and self._order != _ORDER["end"]:
            raise InvalidInput(f"the export is cut off after line {self._count}: it has no end", line=self._count)
        return full + ([self._batch] if end and self._batch else [])

    def _line(self, text: bytes) -> list[Batch]:
        if len(text) > MAX_LINE_BYTES:
            raise TooLarge(f"the line is longer than {MAX_LINE_BYTES:,} bytes")
        value = parse_json(text)
        if not isinstance(value, dict):
            raise InvalidInput("the line is not a JSON object")
        line = read_line(value, self._namespace)
        part = line.entity.value if isinstance(line, Gone) else _TYPES[type(line)]
        self._in_order(line, part)
        if isinstance(line, End):
            self._complete(line)
        else:
            self._counts[_TYPES[type(line)]] += 1
            self._hash.update(text + b"\n")
        return self._taken(line, part, len(text))

    def _in_order(self, line: Line, part: str) -> None:
        order = _ORDER[part]
        if order < self._order or (order == self._order and part in ("namespace", "end")) or (
            self._order < 0 and part != "namespace"
        ):  # fmt: skip
            raise InvalidInput(f"a line of type {part!r} does not belong here", field="type")
        self._order = order
        if isinstance(line, MemoryLine):
            self._next(Entity.MEMORY, line.memory.id, line.memory)
        elif isinstance(line, Link):
            self._next(Entity.LINK, line.id, line)
        elif isinstance(line, Gone):
            self._next(line.entity, line.number, None)
        self._require_numbers(line)
        if isinstance(line, VersionLine):
            self._take_version(line)

    def _next(self, entity: Entity, number: int, state: Memory | Link | None) -> None:
        self._numbers[entity] += 1
        if number != self._numbers[entity]:
            raise InvalidInput(f"number {self._numbers[entity]} was expected", field="number")
        self._endings.is_now(entity, state)

    def _take_version(self, line: VersionLine) -> None:
        if line.at is not None and line.at > datetime.now(UTC) + AHEAD:
            raise InvalidInput("at lies in the future", field="at")
        self._endings.became(line)

    def _require_numbers(self, line: Line) -> None:
        """Raises InvalidInput for a line that names what no line before said."""
        memories: list[int] = []
        if isinstance(line, Link):
            memories = [line.source_id, line.target_id]
        elif isinstance(line, AccessLine):
            memories = [line.memory]
        elif isinstance(line, VersionLine):
            if line.number > self._numbers[line.entity]:
                raise InvalidInput(f"there is no {line.entity.value} {line.number}", field="number")
            links = [one for one in (line.before, line.after) if isinstance(one, Link)]
            memories = [number for one in links for number in (one.source_id, one.target_id)]
        if any(number > self._numbers[Entity.MEMORY] for number in memories):
            raise InvalidInput(f"there is no memory {max(memories)}", field="number")

    def _complete(self, end: End) -> None:
        if end.sha256 != self._hash.hexdigest() or dict(end.counts) != {
            name: count for name, count in self._counts.items() if name != "namespace"
        }:
            raise InvalidInput("the lines are not those that were exported: the export was changed or damaged")
        self._endings.require_fitting()

    def _taken(self, line: Line, part: str, nbytes: int) -> list[Batch]:
        """Keep a line for its batch; the batches that are complete without it, or with it."""
        full: list[Batch] = []
        batch = self._batch
        if batch is None or batch.part != part or len(batch.lines) == BATCH_LINES or batch.nbytes >= BATCH_BYTES:
            full = [batch] if batch else []
            batch = self._batch = Batch(part, self._count)
        batch.lines.append((self._count, line))
        batch.nbytes += nbytes
        return full
