"""Running pg_dump and pg_restore: where they are, what they are told, what they say."""

import asyncio
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from psycopg import pq
from psycopg.conninfo import conninfo_to_dict

from sfm_graph.errors import DatabaseUnavailable, Unavailable
from sfm_graph.store.embedded.site import server_programs

# What is kept of a tool's messages, for the error: the last ones.
SAID_BYTES = 4_000
# Of what it writes to stdout, where that is asked for.
WRITTEN_BYTES = 10_000_000
_CHUNK = 65_536
_VERSION = re.compile(rb"\) (\d+)")


class Failed(Exception):
    """A tool ended with an error; `said` is the end of its messages."""

    def __init__(self, said: str) -> None:
        super().__init__(said)
        self.said = said


@dataclass(frozen=True, slots=True)
class Tools:
    """A folder with pg_dump and pg_restore of one major version."""

    folder: Path
    major: int

    async def run(
        self,
        program: str,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        *,
        on_line: Callable[[str], None] = lambda line: None,
        keep: bool = False,
    ) -> bytes:
        """What a program writes to stdout, nothing unless `keep`; `on_line` is given its messages.

        Cancelling ends it. Raises Failed, Unavailable when it cannot be run.
        """
        try:
            process = await asyncio.create_subprocess_exec(
                self.folder / program,
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE if keep else asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                env=dict(environment),
            )
        except OSError as exc:
            raise Unavailable(f"{self.folder / program} cannot be run: {exc.strerror}") from exc
        try:
            said, written = await asyncio.gather(_messages(process.stderr, on_line), _output(process.stdout))
            status = await process.wait()
        finally:
            if process.returncode is None:
                process.terminate()
                await process.wait()
        if status:
            raise Failed(said.strip() or f"{program} ended with status {status}")
        return written


async def find_tools(server_major: int) -> Tools:
    """Tools that fit a server: of its own version, else the oldest newer one. Raises Unavailable."""
    found = [tools for tools in [await _tools(folder) for folder in _folders()] if tools is not None]
    fitting = [tools for tools in found if tools.major >= server_major]
    if not fitting:
        seen = ", ".join(str(tools.major) for tools in found) or "none"
        raise Unavailable(
            f"the database is PostgreSQL {server_major}: pg_dump and pg_restore of that version or a newer one are "
            f"needed on PATH (found: {seen}), such as of the package postgresql-client-{server_major}"
        )
    return min(fitting, key=lambda tools: tools.major)


def environment(conninfo: str) -> dict[str, str]:
    """How tools connect, passwords included: arguments are seen by every user of a machine, this is not."""
    names = {option.keyword.decode(): option.envvar for option in pq.Conninfo.get_defaults()}
    # libpq reads the rest of these for this process too.
    inherited = {
        name: value for name, value in os.environ.items() if name.startswith("PG") or name in ("HOME", "PATH")
    }
    given: dict[str, str] = {}
    for name, value in conninfo_to_dict(conninfo).items():
        variable = names.get(name)
        if variable and value is not None:
            given[variable.decode()] = str(value)
    return {"PATH": os.defpath, **inherited, **given, "LC_ALL": "C"}


def _folders() -> list[Path]:
    folders = []
    # An installation without the embedded server has only what is on PATH.
    with suppress(DatabaseUnavailable):
        folders.append(server_programs())
    on_path = shutil.which("pg_dump")
    return [*folders, Path(on_path).parent] if on_path else folders


async def _tools(folder: Path) -> Tools | None:
    majors = []
    for program in ("pg_dump", "pg_restore"):
        try:
            told = await Tools(folder, 0).run(program, ["--version"], environment(""), keep=True)
        except (Failed, Unavailable):
            return None
        match = _VERSION.search(told)
        majors.append(int(match[1]) if match else 0)
    return Tools(folder, min(majors))


async def _messages(stream: asyncio.StreamReader | None, on_line: Callable[[str], None]) -> str:
    said, rest = b"", b""
    while stream is not None and (chunk := await stream.read(_CHUNK)):
        said = (said + chunk)[-SAID_BYTES:]
        *lines, rest = (rest + chunk).split(b"\n")
        rest = rest[-SAID_BYTES:]
        for line in lines:
            on_line(line.decode(errors="replace"))
    return said.decode(errors="replace")


async def _output(stream: asyncio.StreamReader | None) -> bytes:
    written = b""
    while stream is not None and (chunk := await stream.read(_CHUNK)):
        written += chunk[: WRITTEN_BYTES - len(written)]
    return written
