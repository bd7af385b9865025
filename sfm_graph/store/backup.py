"""Backups in one file, taken while the service runs, and restored into an empty database."""

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from sfm_graph.errors import Conflict, DatabaseFailure, DatabaseUnavailable, InvalidInput, SfmError, Unavailable
from sfm_graph.store.backup_file import Contents, contents, read_whole, watched, writable
from sfm_graph.store.change_stream import adopt, log_of
from sfm_graph.store.database import Database, translated
from sfm_graph.store.dump_tools import Failed, Tools, environment, find_tools
from sfm_graph.store.migrations import MIGRATION_LOCK, bring_up, connected, make_ready, migrations
from sfm_graph.store.roles import OWNER_ROLE, TABLES
from sfm_graph.store.statements import statement

_DISK_FULL = "No space left on device"


@dataclass(frozen=True, slots=True)
class Backup:
    """A file with everything that was committed at one moment. `schema`: the last migration; `bytes`: its size."""

    file: str
    bytes: int
    schema: int

    def as_json(self) -> dict[str, Any]:
        """The form of `sfm backup`."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Restored:
    """What a backup brought: namespaces, memories and links by number; the change log's new epoch."""

    file: str
    schema: int
    namespaces: int
    memories: int
    links: int
    epoch: str

    def as_json(self) -> dict[str, Any]:
        """The form of `sfm restore`."""
        return asdict(self)


async def back_up(
    conninfo: str, file: Path, *, overwrite: bool = False, on_size: Callable[[int], None] = lambda nbytes: None
) -> Backup:
    """Write everything to `file`, which is there whole and verified or not at all; `on_size` is told how large it is.

    Raises Conflict when the file exists, or another backup is writing it; Unavailable without room, or without tools
    of the server's version; DatabaseUnavailable when there is nothing to back up.
    """
    with writable(file, overwrite=overwrite) as part:
        async with connected(conninfo) as connection:
            tools = await find_tools(connection.info.server_version // 10_000)
            scope = await _scope(connection)
        arguments = ["--format=custom", "--no-password", f"--file={part}", *scope]
        async with watched(part, on_size):
            await _told(tools.run("pg_dump", arguments, environment(conninfo)), "the database cannot be backed up")
        found = await contents(tools, part)
        await read_whole(tools, part)
    return Backup(str(file), await asyncio.to_thread(_size, file), found.schema)


async def restore(
    conninfo: str, file: Path, *, login: bool = False, on_entry: Callable[[int, int], None] = lambda done, total: None
) -> Restored:
    """Bring a backup into an empty database, all of it or nothing, and to this version's schema. Its change log goes
    on in a new epoch: older cursors have expired. `on_entry` is told how many of its entries are done, of how many.
    `login` as of `migrate`.

    A file from a stranger may hold any SQL. Raises InvalidInput for a file that is damaged, no backup of ours, or of
    a newer version; Conflict when the database is not empty; Unavailable without room or tools.
    """
    with translated():
        async with connected(conninfo) as connection:
            tools = await find_tools(connection.info.server_version // 10_000)
            found = await contents(tools, file)
            await read_whole(tools, file)
            # A service that is started meanwhile waits for its tables.
            await connection.execute("select pg_advisory_lock(%s)", (MIGRATION_LOCK,))
            schema = await _empty_schema(connection)
            if any(one["schema"] != schema for one in found.entries if one["kind"] == "TABLE"):
                raise InvalidInput(f"{file} holds another schema than {schema}; search_path has to name that one")
            is_owned = await make_ready(connection) is not None
            await _bring_in(tools, conninfo, file, found, on_entry, role=OWNER_ROLE if is_owned else None)
            role = await bring_up(connection, login=login)
            for table in TABLES:
                await connection.execute(f"analyze {table}")
    return await _opened(conninfo, role, file)


async def _bring_in(
    tools: Tools, conninfo: str, file: Path, found: Contents, on_entry: Callable[[int, int], None], *,
    role: str | None,
) -> None:  # fmt: skip
    chosen = found.chosen
    done = 0

    def count(line: str) -> None:
        nonlocal done
        if line.startswith(("pg_restore: creating ", "pg_restore: processing ", "pg_restore: executing ")):
            done = min(done + 1, len(chosen))
            on_entry(done, len(chosen))

    with tempfile.NamedTemporaryFile("w", suffix=".list") as listed:
        listed.writelines(f"{one[0]}\n" for one in chosen)
        listed.flush()
        name = make_conninfo(dbname=conninfo_to_dict(conninfo).get("dbname"))
        arguments = [
            "--verbose", "--exit-on-error", "--single-transaction", "--no-owner", "--no-privileges", "--no-password",
            f"--use-list={listed.name}", f"--dbname={name}", *([f"--role={role}"] if role else []), str(file),
        ]  # fmt: skip
        work = tools.run("pg_restore", arguments, environment(conninfo), on_line=count)
        await _told(work, "the backup cannot be restored")


async def _opened(conninfo: str, role: str | None, file: Path) -> Restored:
    database = Database(conninfo, role=role, max_size=2)
    database.on_arrival(adopt)
    try:
        await database.open()
        async with database.read() as session:
            epoch = (await log_of(session)).epoch
            namespaces, memories, links = await session.one("backup_counts")
    finally:
        await database.close()
    schema = max(one.number for one in migrations())
    return Restored(str(file), schema, namespaces, memories, links, str(epoch))


async def _scope(connection: AsyncConnection) -> list[str]:
    """The schema with our tables, and the role that may read all of them."""
    row = await (await connection.execute(statement("role_owner_of_tables"))).fetchone()
    if row is None:
        raise DatabaseUnavailable("there is nothing to back up: this database has no tables of sfm_graph")
    owner, usable = row
    if not usable:
        raise DatabaseUnavailable(f"the tables belong to the role {owner}, which this connection may not take on")
    (schema,) = await (await connection.execute("select quote_ident(current_schema())")).fetchone() or ("public",)
    return [f"--schema={schema}", f"--role={owner}"]


async def _empty_schema(connection: AsyncConnection) -> str:
    row = await (await connection.execute(statement("backup_room"))).fetchone()
    schema, first = row or (None, None)
    if schema is None:
        raise DatabaseUnavailable("the database has no schema for tables: search_path names none that exists")
    if first is not None:
        raise Conflict(
            f"the database is not empty, it has {first}: a backup is restored into a new data directory "
            "(--data-dir), or an empty database (POSTGRES_URL)"
        )
    return str(schema)


def _size(file: Path) -> int:
    return file.stat().st_size


async def _told(work: Awaitable[object], problem: str) -> None:
    try:
        await work
    except Failed as exc:
        if _DISK_FULL in exc.said:
            raise Unavailable(f"{problem}: the disk is full: {exc.said}") from exc
        raise _refusal(f"{problem}: {exc.said}", exc.said) from exc


def _refusal(message: str, said: str) -> SfmError:
    away = ("connection to server", "server closed the connection", "terminating connection", "could not connect")
    return DatabaseUnavailable(message) if any(one in said for one in away) else DatabaseFailure(message)
