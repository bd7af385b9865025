"""Bringing a database to this version's schema: roles, extension, migrations under one lock."""

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import LiteralString

import psycopg
from psycopg import AsyncConnection, sql

from sfm_graph.errors import DatabaseUnavailable
from sfm_graph.store.database import translated
from sfm_graph.store.statements import sql_folder

log = logging.getLogger(__name__)

SERVICE_ROLE = "sfm_service"
MIGRATION_LOCK = 0x5F6D6772_61706801
MIN_SERVER = 160_000
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


async def migrate(conninfo: str) -> str | None:
    """Apply what is missing. Returns the role that the service has to take on, None for the connection's own.

    A superuser's connection is used to create the extension and the service's role only: tables belong to that role
    and the service never runs as the superuser. Concurrent callers wait for each other.
    Raises DatabaseUnavailable when the server or pgvector is too old or missing, or the schema is newer.
    """
    with translated():
        async with await AsyncConnection.connect(conninfo, autocommit=True) as connection:
            if connection.info.server_version < MIN_SERVER:
                raise DatabaseUnavailable("PostgreSQL 16 or newer is needed")
            await connection.execute("select pg_advisory_lock(%s)", (MIGRATION_LOCK,))
            role = await _prepare(connection)
            await _apply(connection, role)
            return role


async def ensure_database(conninfo: str, name: str) -> None:
    """Create a database unless it exists; `conninfo` leads to another one of the server."""
    with translated():
        async with await AsyncConnection.connect(conninfo, autocommit=True) as connection:
            if not await _value(connection, "select 1 from pg_database where datname = %s", name):
                try:
                    await connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
                except (psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation):
                    log.debug("another process created the database meanwhile")


async def _prepare(connection: AsyncConnection) -> str | None:
    is_super = await _value(connection, "select rolsuper from pg_roles where rolname = current_user")
    try:
        await connection.execute("create extension if not exists vector")
    except psycopg.errors.Error as exc:
        raise DatabaseUnavailable(f"the pgvector extension cannot be created: {exc}") from exc
    version = str(await _value(connection, "select extversion from pg_extension where extname = 'vector'"))
    if tuple(int(part) for part in version.split(".")) < MIN_VECTOR:
        raise DatabaseUnavailable(f"pgvector 0.8 or newer is needed, this database has {version}")
    if not is_super:
        return None
    if not await _value(connection, "select 1 from pg_roles where rolname = %s", SERVICE_ROLE):
        try:
            await connection.execute(sql.SQL("create role {}").format(sql.Identifier(SERVICE_ROLE)))
        except (psycopg.errors.DuplicateObject, psycopg.errors.UniqueViolation):
            log.debug("another database's migration created the role meanwhile")
    await connection.execute(
        sql.SQL("grant create, usage on schema public to {}").format(sql.Identifier(SERVICE_ROLE))
    )
    return SERVICE_ROLE


async def _apply(connection: AsyncConnection, role: str | None) -> None:
    if role:
        await connection.execute(sql.SQL("set role {}").format(sql.Identifier(role)))
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
