"""An audit in files: one line an event, synced before it counts, rotated by size with the chain going on."""

import fcntl
import os
import re
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from sfm_consumers.contract import Received, Retry
from sfm_consumers.effects.audit_chain import FIRST, Broken, chained, parse, record_of

_BLOCK = 1 << 20
_NUMBERED = re.compile(r"\.(\d{6,})")


class AuditFile:
    """Appends events to `path`; older lines stand in `path.000001`, `path.000002` and so on.

    Remembers the last sequence of each of the `remembered` keys written last, so that a redelivery adds no line.
    Not for several threads at once. Every method raises OSError when the disk refuses.
    """

    def __init__(self, path: Path, *, max_bytes: int, remembered: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._remembered = remembered
        self._last = FIRST
        self._size = 0
        self._seen: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._lock = _Lock(path.with_name(path.name + ".lock"))
        self._file = -1

    def open(self) -> None:
        """Take the file for this process, cut a torn last line off, find the end of the chain.

        Raises Broken when the last whole line is none of an audit, BlockingIOError when another process writes it.
        """
        self._lock.take()
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self._size = _cut_torn_line(self._file)
        _sync_directory(self._path)
        self._last, self._seen = FIRST, OrderedDict()
        for count, line in enumerate(_lines_backwards(audit_paths(self._path))):
            record = parse(line)
            if count == 0:
                self._last = record["hash"]
            if count == self._remembered:
                break
            self._seen.setdefault(_key(record["log"], record), record["sequence"])
        self._seen = OrderedDict(reversed(self._seen.items()))

    def append(self, events: Sequence[Received]) -> None:
        """Write what is not written yet; it is on the disk when this returns. Raises Poison, and then writes none."""
        if self._file < 0:
            try:
                self.open()
            except Broken as error:
                raise Retry(f"{self._path} no longer ends in a line of an audit: {error}") from error
        now = datetime.now(UTC).isoformat()
        last, seen, lines = self._last, dict[tuple[str, str], int](), list[bytes]()
        for event in events:
            record = record_of(event, now)
            key = _key(event.log, record)
            if event.sequence <= max(seen.get(key, -1), self._seen.get(key, -1)):
                continue
            line, last = chained(record, last)
            lines.append(line)
            seen[key] = event.sequence
        if not lines:
            return
        try:
            self._write(b"".join(lines))
        except OSError:
            # What is on the disk now is not known: the next call looks.
            self.close()
            raise
        self._last = last
        self._remember(seen)

    def close(self) -> None:
        """Let go of the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        self._lock.release()

    def _write(self, data: bytes) -> None:
        if self._size and self._size + len(data) > self._max_bytes:
            self._rotate()
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._file, rest) :]
        os.fsync(self._file)
        self._size += len(data)

    def _rotate(self) -> None:
        older = audit_paths(self._path)[:-1]
        number = int(older[-1].suffix[1:]) + 1 if older else 1
        os.rename(self._path, self._path.with_name(f"{self._path.name}.{number:06}"))
        os.close(self._file)
        self._file = -1
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self._size = 0
        _sync_directory(self._path)

    def _remember(self, seen: dict[tuple[str, str], int]) -> None:
        for key, sequence in seen.items():
            self._seen[key] = sequence
            self._seen.move_to_end(key)
        while len(self._seen) > self._remembered:
            self._seen.popitem(last=False)


def audit_paths(path: Path) -> list[Path]:
    """The files of an audit, the oldest first; the last is `path`."""
    older = [
        (int(match[1]), one)
        for one in path.parent.glob(f"{_escaped(path.name)}.*")
        if (match := _NUMBERED.fullmatch(one.name[len(path.name) :]))
    ]
    return [*(one for _, one in sorted(older)), path]


def audit_lines(paths: Sequence[Path]) -> Iterator[bytes]:
    """The lines of files with their ends, one file after the other."""
    for path in paths:
        with path.open("rb") as file:
            yield from file


class _Lock:
    """One process writes an audit: two chains in one file would break both."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = -1

    def take(self) -> None:
        if self._file < 0:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(file)
                raise
            self._file = file

    def release(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _key(log: str, record: dict[str, object]) -> tuple[str, str]:
    # The end of a namespace comes once in each partition; deletion and anew make two of one name.
    namespace = record["namespace_id"] if record["entity"] == "namespace" else record["namespace"]
    return log, f"{record['entity']} {record['entity_id']} {namespace}"


def _cut_torn_line(file: int) -> int:
    """Cut what stands behind the last newline; the size that is left."""
    size = end = os.fstat(file).st_size
    while end > 0:
        start = max(end - _BLOCK, 0)
        newline = os.pread(file, end - start, start).rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    if end < size:
        os.ftruncate(file, end)
        os.fsync(file)
    return end


def _lines_backwards(paths: Sequence[Path]) -> Iterator[bytes]:
    """Whole lines without their ends, the last one first."""
    for path in reversed(paths):
        with path.open("rb") as file:
            place, rest = file.seek(0, os.SEEK_END), b""
            while place > 0:
                step = min(_BLOCK, place)
                place -= step
                file.seek(place)
                pieces = (file.read(step) + rest).split(b"\n")
                rest = pieces[0]
                yield from (one for one in reversed(pieces[1:]) if one)
            if rest:
                yield rest


def _sync_directory(path: Path) -> None:
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _escaped(name: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", name)
