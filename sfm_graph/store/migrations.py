"""Bringing a database to this version's schema: roles, extension, migrations under one lock."""

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import LiteralString, TypeVar

import psycopg
from psycopg import AsyncConnection, sql

from sfm_graph.errors import DatabaseUnavailable
from sfm_graph.store import roles
from sfm_graph.store.database import translated
from sfm_graph.store.roles import OWNER_ROLE, SERVICE_ROLE
from sfm_graph.store.statements import sql_folder

log = logging.getLogger(__name__)

T = TypeVar("T")

MIGRATION_LOCK = 0x5F6D6772_61706801
MIN_SERVER = 160_000
# A migration holds up those who read a table for so long at most, at a time; in all it waits five minutes.
LOCK_WAIT_MS = 1_000
LOCK_PAUSE_SECONDS = 2.0
LOCK_ATTEMPTS = 100
MIN_VECTOR = (0, 8, 0)


@dataclass(frozen=True, slots=True)
class Migration:
    """One file of `sql/migrations/`, in the order of its number."""

    number: int
    name: str
    text: LiteralString

    @property
    def checksum(self) -> str:
        """Hash of the text: an applied migration must never change."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def migrations() -> list[Migration]:
    """All migrations of this version in order."""
    return [_migration(path) for path in sorted((sql_folder() / "migrations").glob("*.sql"))]


def _migration(path: Path) -> Migration:
    number, name = path.stem.split("_", 1)
    return Migration(int(number), name, path.read_text())


async def migrate(conninfo: str, *, login: bool = False) -> str | None:
    """Apply what is missing. Returns the role that the service has to take on, None for the connection's own.

    Tables belong to a role of their own and the service's role has just the rights that its statements use, where the
    connection may make these roles or take them on; else its own role owns them. `login`: one may connect as the
    service's role. Concurrent callers wait for each other.
    Raises DatabaseUnavailable when the server or pgvector is too old or missing, or the schema is newer.
    """
    with translated():
        async with connected(conninfo) as connection:
            if connection.info.server_version < MIN_SERVER:
                raise DatabaseUnavailable("PostgreSQL 16 or newer is needed")
            await connection.execute("select pg_advisory_lock(%s)", (MIGRATION_LOCK,))
            return await _between_readers(connection, lambda: bring_up(connection, login=login))


async def _between_readers(connection: AsyncConnection, work: Callable[[], Awaitable[T]]) -> T:
    """What `work` gives, which may be done over and over: it does not wait long for a table that a backup reads,
    since whoever came after it would wait for both. Raises DatabaseUnavailable after five minutes."""
    await connection.execute(sql.SQL("set lock_timeout = {}").format(LOCK_WAIT_MS))
    for attempt in range(LOCK_ATTEMPTS):
        try:
            return await work()
        except psycopg.errors.LockNotAvailable:
            await connection.execute("reset role")
            if attempt == 0:
                log.warning("waiting for a long transaction, such as a backup, that reads a table to be changed")
            await asyncio.sleep(LOCK_PAUSE_SECONDS)
    raise DatabaseUnavailable("a long transaction, such as a backup, kept a table from being migrated; end it")


async def bring_up(connection: AsyncConnection, *, login: bool = False) -> str | None:
    """As `migrate`, over an autocommit connection that holds the lock; it has the owner's role afterwards."""
    schema = await make_ready(connection)
    if schema is None:
        await _apply(connection)
        return None
    if login:
        await connection.execute(sql.SQL("alter role {} login").format(sql.Identifier(SERVICE_ROLE)))
    await connection.execute(sql.SQL("set role {}").format(sql.Identifier(OWNER_ROLE)))
    await _apply(connection)
    await roles.grant(connection, schema)
    return SERVICE_ROLE


async def make_ready(connection: AsyncConnection) -> str | None:
    """The extension and the roles. The schema that the owner's tables are in, None where it is nobody's but ours."""
    await _extension(connection)
    return await roles.prepare(connection)


@asynccontextmanager
async def connected(conninfo: str) -> AsyncIterator[AsyncConnection]:
    """An autocommit connection. Raises DatabaseUnavailable that says why there is none."""
    try:
        connection = await AsyncConnection.connect(conninfo, autocommit=True)
    except psycopg.OperationalError as exc:
        reason = " ".join(str(exc).split())
        raise DatabaseUnavailable(f"the database cannot be reached: {reason}") from exc
    async with connection:
        yield connection


async def ensure_database(conninfo: str, name: str) -> None:
    """Create a database unless it exists; `conninfo` leads to another one of the server."""
    with translated():
        async with connected(conninfo) as connection:
            if not await _value(connection, "select 1 from pg_database where datname = %s", name):
                try:
                    await connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
                except (psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation):
                    log.debug("another process created the database meanwhile")


async def _extension(connection: AsyncConnection) -> None:
    try:
        await connection.execute("create extension if not exists vector")
    except psycopg.errors.InsufficientPrivilege as exc:
        raise DatabaseUnavailable("as a superuser, in this database: create extension vector") from exc
    except psycopg.errors.Error as exc:
        raise DatabaseUnavailable(f"the pgvector extension cannot be created: {exc}") from exc
    version = str(await _value(connection, "select extversion from pg_extension where extname = 'vector'"))
    if tuple(int(part) for part in version.split(".")) < MIN_VECTOR:
        raise DatabaseUnavailable(f"pgvector 0.8 or newer is needed, this database has {version}")


async def _apply(connection: AsyncConnection) -> None:
    await connection.execute(
        "create table if not exists schema_migrations (number integer primary key, name text not null, "
        "checksum text not null, applied_at timestamptz not null default now())"
    )
    cursor = await connection.execute("select number, checksum from schema_migrations")
    applied: dict[int, str] = dict(await cursor.fetchall())
    known = migrations()
    if newer := set(applied) - {migration.number for migration in known}:
        raise DatabaseUnavailable(f"the schema is newer than this version: it has migration {max(newer)}")
    for migration in known:
        if migration.number not in applied:
            await _apply_one(connection, migration)
        elif applied[migration.number] != migration.checksum:
            raise DatabaseUnavailable(f"migration {migration.number} was changed after it had been applied")


async def _apply_one(connection: AsyncConnection, migration: Migration) -> None:
    log.info("applying migration %d %s", migration.number, migration.name)
    async with connection.transaction():
        await connection.execute(migration.text)
        await connection.execute(
            "insert into schema_migrations (number, name, checksum) values (%s, %s, %s)",
            (migration.number, migration.name, migration.checksum),
        )


async def _value(connection: AsyncConnection, query: LiteralString, *parameters: object) -> object:
    row = await (await connection.execute(query, parameters)).fetchone()
    return row[0] if row else None
