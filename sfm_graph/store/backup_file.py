"""The file of a backup: how it comes to be, and whether it is a whole one of ours."""

import asyncio
import fcntl
import os
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from sfm_graph.errors import Conflict, InvalidInput, Unavailable
from sfm_graph.store.dump_tools import Failed, Tools, environment
from sfm_graph.store.migrations import migrations

# What a backup consists of: what stands beside it in a dump, a stranger's comes with others.
_KINDS = (
    "TABLE", "VIEW", "TABLE ATTACH", "TABLE DATA", "SEQUENCE", "SEQUENCE OWNED BY", "SEQUENCE SET", "FUNCTION",
    "DEFAULT", "CONSTRAINT", "FK CONSTRAINT", "INDEX", "INDEX ATTACH", "TRIGGER",
)  # fmt: skip
# Made anew for the database that is restored into.
_LEFT_OUT = ("SCHEMA", "EXTENSION", "COMMENT", "ACL")
_ENTRY = re.compile(
    rf"(?P<id>\d+; \d+ \d+) (?P<kind>{'|'.join(sorted((*_KINDS, *_LEFT_OUT), key=len, reverse=True))})"
    r" (?P<schema>\S+) (?P<name>.*)"
)
_LOOK_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Contents:
    """What a file holds: its entries as pg_restore lists them, and the checksums of migrations by number."""

    entries: list[re.Match[str]]
    applied: dict[int, str]

    @property
    def chosen(self) -> list[re.Match[str]]:
        """The entries that are restored."""
        return [one for one in self.entries if one["kind"] in _KINDS]

    @property
    def schema(self) -> int:
        """The number of the last migration."""
        return max(self.applied)


async def contents(tools: Tools, file: Path) -> Contents:
    """Raises InvalidInput unless this is a backup of ours, of a schema that this version knows."""
    if not await asyncio.to_thread(file.is_file):
        raise InvalidInput(f"{file} is no file")
    listed = await _read(tools, file, ["--list"])
    lines = [line for line in listed.decode(errors="replace").splitlines() if line and not line.startswith(";")]
    entries = [_ENTRY.fullmatch(line) for line in lines]
    found = [one for one in entries if one is not None]
    tables = {one["name"].rsplit(" ", 1)[0] for one in found if one["kind"] == "TABLE DATA"}
    if len(found) < len(lines) or not {"schema_migrations", "memories", "links", "change_log"} <= tables:
        raise InvalidInput(f"{file} is no backup of sfm_graph")
    rows = await _read(tools, file, ["--data-only", "--table=schema_migrations", "--file=-"])
    applied = dict(_applied(rows.decode(errors="replace")))
    known = {one.number: one.checksum for one in migrations()}
    if not applied or any(known.get(number) != checksum for number, checksum in applied.items()):
        raise InvalidInput(
            f"{file} has schema {max(applied, default=0)}, which this version does not know (it knows {max(known)}): "
            "restore it with the version that wrote it, or a newer one"
        )
    return Contents(found, applied)


def _applied(text: str) -> Iterator[tuple[int, str]]:
    """Rows of schema_migrations: number, name, checksum, time."""
    for line in text.splitlines():
        fields = line.split("\t")
        if len(fields) == 4 and fields[0].isdecimal():
            yield int(fields[0]), fields[2]


async def read_whole(tools: Tools, file: Path) -> None:
    """The table of contents stands at the beginning: only reading all of it tells that nothing is missing."""
    try:
        await tools.run("pg_restore", ["--file=-", str(file)], environment(""))
    except Failed as exc:
        raise InvalidInput(f"{file} is damaged: {exc.said}") from exc


async def _read(tools: Tools, file: Path, arguments: list[str]) -> bytes:
    try:
        return await tools.run("pg_restore", [*arguments, str(file)], environment(""), keep=True)
    except Failed as exc:
        raise InvalidInput(f"{file} is damaged, or no backup of sfm_graph: {exc.said}") from exc


@contextmanager
def writable(file: Path, *, overwrite: bool) -> Iterator[Path]:
    """A private file beside `file` that takes its place at the end, on disk; removed when that does not come."""
    part = file.with_name(f"{file.name}.part")
    if file.exists() and not overwrite:
        raise Conflict(f"{file} exists already; --overwrite replaces it")
    try:
        with open(os.open(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600), "r+b") as held:
            _alone(held, part)
            try:
                yield part
                os.fsync(held.fileno())
                os.replace(part, file)
            finally:
                part.unlink(missing_ok=True)
        _remember(file.parent)
    except OSError as exc:
        raise Unavailable(f"{file} cannot be written: {exc.strerror}") from exc


def _alone(held: BinaryIO, part: Path) -> None:
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        raise Conflict(f"another backup is writing {part}") from exc


def _remember(folder: Path) -> None:
    """Have the folder on disk with the file's new name."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


@asynccontextmanager
async def watched(part: Path, on_size: Callable[[int], None]) -> AsyncIterator[None]:
    """While the context lasts, and at its end, `on_size` is told how many bytes a file has."""

    def size() -> int:
        return part.stat().st_size

    async def watch() -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            on_size(await asyncio.to_thread(size))

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.wait({watching})
    on_size(await asyncio.to_thread(size))
