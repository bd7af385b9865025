"""A backup of a service at work, and what comes back of it."""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import datetime
from itertools import count
from pathlib import Path

import psycopg
import pytest
from change_tools import everything, page, until
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from sfm_graph.domain.as_of import AsOf
from sfm_graph.domain.identity import MemoryRef
from sfm_graph.domain.recall import RecallQuery
from sfm_graph.errors import Conflict, CursorExpired, DatabaseUnavailable, InvalidInput, Unavailable
from sfm_graph.runtime import open_runtime
from sfm_graph.services.links import LinkRequest
from sfm_graph.services.registry import Services
from sfm_graph.settings import load_settings
from sfm_graph.store import dump_tools
from sfm_graph.store.backup import back_up, restore
from sfm_graph.store.dump_tools import environment, find_tools

TABLES = (
    "namespaces",
    "models",
    "memories",
    "links",
    "embeddings",
    "words",
    "names",
    "api_keys",
    "audit_log",
    "changes",
    "past_words",
    "past_names",
    "past_embeddings",
)
SFM = Path(sys.executable).with_name("sfm")


def _sfm(data_dir: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    settings = {name: value for name, value in os.environ.items() if not name.startswith(("SFM_", "POSTGRES_"))}
    return subprocess.run(
        [SFM, *arguments],
        env={**settings, "SFM_DATA_DIR": str(data_dir)},
        capture_output=True,
        text=True,
        timeout=120,
    )


def _socket(data_dir: Path) -> str:
    return make_conninfo(host=str(data_dir / "socket"), port=5432, user="postgres", dbname="sfm")


def _rows(dsn: str, namespace: str = "demo") -> dict[str, list[str]]:
    """Everything of a namespace, and what belongs to none, as text."""
    with psycopg.connect(dsn) as connection:
        row = connection.execute("select id from namespaces where name = %s", (namespace,)).fetchone()
        assert row
        found = {}
        for table in TABLES:
            # Transaction numbers are a server's own.
            fields = "to_jsonb(t) - 'xid'"
            whole = table in ("namespaces", "models", "api_keys", "audit_log")
            query = f"select ({fields})::text from {table} t" + ("" if whole else f" where namespace_id = {row[0]}")
            found[table] = sorted(one[0] for one in connection.execute(query))  # type: ignore[arg-type]
        return found


def _last_stamp(dsn: str) -> datetime:
    with psycopg.connect(dsn) as connection:
        row = connection.execute("select max(at) from commits").fetchone()
        assert row
        stamp: datetime = row[0]
        return stamp


def _names(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.iterdir())


def _rewrite(file: Path, change: Callable[[bytes], bytes]) -> None:
    file.write_bytes(change(file.read_bytes()))


async def _recalled(services: Services, text: str) -> dict[str, float]:
    async with services.views.open() as view:
        found = await services.recalls.recall(view, "demo", RecallQuery(text, first=10))
        return {hit.memory.key or "": hit.score for hit in found.hits}


@pytest.fixture
def folder() -> Iterator[Path]:
    """Not tmp_path: whenever a session starts, pytest closes the folder above it to the server's user."""
    with tempfile.TemporaryDirectory(prefix="sfm-backup-") as made:
        yield Path(made)


@pytest.fixture
async def served(folder: Path) -> AsyncIterator[Services]:
    """A service on an embedded database that holds something of everything."""
    async with open_runtime(load_settings(data_dir=folder / "data")) as services:
        items = [{"key": f"k{i}", "content": f"Ada wrote note {i} about topic {i % 9}"} for i in range(120)]
        await services.memory_writes.store_many("demo", items)
        requests = [LinkRequest({"key": f"k{i}"}, {"key": f"k{(i * 7) % 120}"}, {"weight": 2.5}) for i in range(120)]
        await services.links.link_many("demo", requests)
        with psycopg.connect(_socket(folder / "data")) as connection:
            connection.execute(
                "insert into api_keys (name, hash, scopes, namespaces, created_by) "
                "values ('k', 'h', '{read}', '{*}', 'me')"
            )
            connection.execute(
                "insert into audit_log (principal, action, scope, allowed, reason) "
                "values ('me', 'x', 'admin', true, '')"
            )
        yield services


async def _write(services: Services, written: list[int], stop: asyncio.Event) -> None:
    for number in count():
        if stop.is_set():
            return
        await services.memory_writes.store_many("written", [{"key": f"w{number:06}", "content": f"text {number}"}])
        written.append(number)


async def _keys(services: Services) -> list[str]:
    with psycopg.connect(_socket(services.settings.data_dir)) as connection:
        query = "select key from memories where key like 'w%' order by key"
        return [row[0] for row in connection.execute(query)]


async def test_a_backup_of_a_service_at_work_restores_whole(served: Services, folder: Path) -> None:
    file, home, other = folder / "today.sfm", folder / "data", folder / "other"
    known = _last_stamp(_socket(home))
    await served.memory_writes.store("demo", {"key": "k0", "content": "Ada wrote another note"})
    written: list[int] = []
    stop = asyncio.Event()
    writer = asyncio.create_task(_write(served, written, stop))
    await until(lambda: len(written) >= 5)
    before = len(written)
    made = await asyncio.to_thread(_sfm, home, "backup", str(file))
    assert made.returncode == 0, made.stderr
    after = len(written)
    # The writer was not held up: it goes on while tables are read, and when all is done.
    await until(lambda: len(written) >= after + 5)
    stop.set()
    await writer
    assert json.loads(made.stdout)["bytes"] == file.stat().st_size
    assert file.stat().st_mode & 0o077 == 0
    assert _names(folder) == ["data", "today.sfm"]
    cursor = (await page(served)).cursor
    kept, recalled = _rows(_socket(home)), await _recalled(served, "Ada about topic 3")
    assert recalled

    back = await asyncio.to_thread(_sfm, home, "restore", str(file), "--data-dir", str(other))
    assert back.returncode == 0, back.stderr
    async with open_runtime(load_settings(data_dir=other), maintenance=False) as restored:
        found = _rows(_socket(other))
        # The writer makes its namespace before the backup, so all of `demo` and what is everybody's is the same.
        assert found == kept
        again = await _recalled(restored, "Ada about topic 3")
        assert list(again) == list(recalled)
        assert again == pytest.approx(recalled, rel=1e-3)
        keys = await _keys(restored)
        assert keys == [f"w{number:06}" for number in range(len(keys))]
        assert before <= len(keys) <= after + 1
        with pytest.raises(CursorExpired):
            await page(restored, cursor)
        async with restored.views.open(AsOf(known=known)) as view:
            was = await restored.memory_reads.get(view, "demo", MemoryRef(key="k0"))
            assert was.content == "Ada wrote note 0 about topic 0"
        start = (await page(restored, "now")).cursor
        await restored.memory_writes.store_many("demo", [{"key": "new", "content": "written after the restore"}])
        assert [one.after()["key"] for one in await everything(restored, start)] == ["new"]
        assert (await restored.health.database()).role == "sfm_service"
        await restored.maintenance.round()
        with (
            psycopg.connect(make_conninfo(_socket(other), user="sfm_service"), autocommit=True) as connection,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            connection.execute("truncate memories")


@pytest.fixture
async def backed_up(database_dsn: str, services: Services, tmp_path: Path) -> Path:
    """A file with a memory or two."""
    await services.memory_writes.store_many("demo", [{"key": "a", "content": "alpha " * 500}, {"content": "beta"}])
    file = tmp_path / "small.sfm"
    await back_up(database_dsn, file)
    return file


@pytest.fixture
def empty(server_dsn: str, database_dsn: str) -> Iterator[str]:
    """An empty database beside this test's own."""
    name = f"{conninfo_to_dict(database_dsn)['dbname']}_empty"
    with psycopg.connect(server_dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        yield make_conninfo(server_dsn, dbname=name)
        connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


def _tables(dsn: str) -> int:
    with psycopg.connect(dsn) as connection:
        row = connection.execute(
            "select count(*) from pg_class where relnamespace = 'public'::regnamespace"
        ).fetchone()
        assert row
        return int(row[0])


async def test_progress_is_told_and_the_epoch_is_new(backed_up: Path, empty: str) -> None:
    told: list[tuple[int, int]] = []
    first = await restore(empty, backed_up, on_entry=lambda done, total: told.append((done, total)))
    assert (first.namespaces, first.memories, first.links) == (1, 2, 0)
    assert told[-1][0] > 20
    assert told == sorted(told)
    with pytest.raises(Conflict, match="not empty"):
        await restore(empty, backed_up)


@pytest.mark.parametrize("keep", [0, 4, 3_000, -200])
async def test_a_file_that_was_cut_is_refused(backed_up: Path, empty: str, keep: int) -> None:
    _rewrite(backed_up, lambda content: content[:keep])
    with pytest.raises(InvalidInput, match="damaged"):
        await restore(empty, backed_up)
    assert _tables(empty) == 0


async def test_a_file_with_other_bytes_in_its_data_is_refused(backed_up: Path, empty: str) -> None:
    def damaged(content: bytes) -> bytes:
        # Compressed data begins with these two bytes and ends with a checksum.
        place = content.rindex(b"\x78\x9c") + 20
        return content[:place] + bytes(one ^ 0xFF for one in content[place : place + 8]) + content[place + 8 :]

    _rewrite(backed_up, damaged)
    with pytest.raises(InvalidInput, match="damaged"):
        await restore(empty, backed_up)
    assert _tables(empty) == 0


async def test_a_strangers_dump_is_refused(database_dsn: str, empty: str, tmp_path: Path) -> None:
    with psycopg.connect(empty, autocommit=True) as connection:
        connection.execute("create table memories (id integer)")
    file = tmp_path / "theirs.dump"
    tools = await find_tools(18)
    await tools.run("pg_dump", ["--format=custom", f"--file={file}"], environment(empty))
    with psycopg.connect(empty, autocommit=True) as connection:
        connection.execute("drop table memories")
    with pytest.raises(InvalidInput, match="no backup of sfm_graph"):
        await restore(empty, file)


async def test_a_newer_schema_is_refused(database_dsn: str, empty: str, tmp_path: Path) -> None:
    with psycopg.connect(database_dsn, autocommit=True) as connection:
        connection.execute("insert into schema_migrations values (999, 'later', 'x')")
    tools, file = await find_tools(18), tmp_path / "later.dump"
    await tools.run("pg_dump", ["--format=custom", "--schema=public", f"--file={file}"], environment(database_dsn))
    with pytest.raises(InvalidInput, match="schema 999"):
        await restore(empty, file)
    assert _tables(empty) == 0


async def test_an_empty_database_is_nothing_to_back_up(empty: str, tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnavailable, match="nothing to back up"):
        await back_up(empty, tmp_path / "x")
    assert _names(tmp_path) == []


async def test_a_file_is_replaced_only_when_asked(database_dsn: str, tmp_path: Path) -> None:
    file = tmp_path / "one"
    file.write_text("precious")
    with pytest.raises(Conflict, match="--overwrite"):
        await back_up(database_dsn, file)
    assert file.read_text() == "precious"
    sizes: list[int] = []
    made = await back_up(database_dsn, file, overwrite=True, on_size=sizes.append)
    assert sizes[-1] == made.bytes == file.stat().st_size
    with pytest.raises(Unavailable, match="cannot be written"):
        await back_up(database_dsn, tmp_path / "nowhere" / "one")


async def test_without_tools_of_the_servers_version_it_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    old = tmp_path / "bin"
    old.mkdir()
    for program in ("pg_dump", "pg_restore"):
        (old / program).write_text(f"#!/bin/sh\necho '{program} (PostgreSQL) 15.3'\n")
        (old / program).chmod(0o755)
    monkeypatch.setattr(dump_tools, "_folders", lambda: [old])
    with pytest.raises(Unavailable, match=r"PostgreSQL 18.*found: 15.*postgresql-client-18"):
        await find_tools(18)
    assert (await find_tools(15)).major == 15
    monkeypatch.setattr(dump_tools, "_folders", list)
    with pytest.raises(Unavailable, match="found: none"):
        await find_tools(18)


async def test_a_full_disk_leaves_nothing(database_dsn: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    said = "pg_dump: error: could not write to output file: No space left on device"
    for program, text in (("pg_dump", f"echo '{said}' >&2; exit 1"), ("pg_restore", "exit 1")):
        (tools / program).write_text(
            f'#!/bin/sh\nif [ "$1" = --version ]; then echo "x (PostgreSQL) 18.0"; else {text}; fi\n'
        )
        (tools / program).chmod(0o755)
    monkeypatch.setattr(dump_tools, "_folders", lambda: [tools])
    with pytest.raises(Unavailable, match="the disk is full"):
        await back_up(database_dsn, tmp_path / "x.sfm")
    assert _names(tmp_path) == ["bin"]


def test_passwords_go_by_environment_only() -> None:
    told = environment(
        "postgresql://me:secret@db.example:6432/memory?sslmode=verify-full&sslrootcert=/certs/root.pem"
    )
    assert (told["PGPASSWORD"], told["PGHOST"], told["PGPORT"], told["PGDATABASE"]) == (
        "secret", "db.example", "6432", "memory",
    )  # fmt: skip
    assert (told["PGUSER"], told["PGSSLMODE"], told["PGSSLROOTCERT"]) == ("me", "verify-full", "/certs/root.pem")


async def test_a_password_is_in_no_argument(
    database_dsn: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[str] = []
    run = dump_tools.Tools.run

    async def watched(
        self: dump_tools.Tools, program: str, arguments: list[str], *rest: object, **more: object
    ) -> bytes:
        seen.extend(arguments)
        return await run(self, program, arguments, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(dump_tools.Tools, "run", watched)
    await back_up(make_conninfo(database_dsn, password="hunter2"), tmp_path / "x")
    assert any(one.startswith("--file=") for one in seen)
    assert "hunter2" not in " ".join(seen)


def test_commands_refuse_what_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    nothing = _sfm(tmp_path / "data", "backup", str(tmp_path / "x"))
    assert (nothing.returncode, json.loads(nothing.stderr)["code"]) == (1, "not_found")
    missing = _sfm(tmp_path / "data", "restore", str(tmp_path / "x"))
    assert (missing.returncode, json.loads(missing.stderr)["code"]) == (1, "not_found")
    assert not list((tmp_path / "data").iterdir())
