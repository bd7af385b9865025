"""The embedded database against the real server: starts, stops, crashes and who may reach it."""

# ruff: noqa: ASYNC110, ASYNC220, ASYNC240 - what is waited for is another process, the files are local and small

import asyncio
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from sfm_graph.errors import DatabaseUnavailable
from sfm_graph.store.embedded import EmbeddedServer, embedded_postgres

QUICK = {"fsync": "off", "shared_buffers": "16MB"}
needs_proc = pytest.mark.skipif(not Path("/proc/self").exists(), reason="reads /proc")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="root alone changes its user")


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """Not tmp_path: whenever a session starts, pytest closes the folder above it to the server's user."""
    with tempfile.TemporaryDirectory(prefix="sfm-embedded-") as folder:
        yield Path(folder) / "data"


async def query(server: EmbeddedServer, statement: str) -> Any:
    connection = await psycopg.AsyncConnection.connect(server.superuser_dsn(), autocommit=True)
    async with connection:
        cursor = await connection.execute(statement.encode())
        return await cursor.fetchall() if cursor.description else None


def pid_of(server: EmbeddedServer) -> int:
    assert server.pid is not None
    return server.pid


async def gone(pid: int) -> bool:
    for _ in range(500):
        if not Path(f"/proc/{pid}/cwd").exists():
            return True
        await asyncio.sleep(0.02)
    return False


async def test_first_start_makes_a_private_database(data_dir: Path) -> None:
    async with embedded_postgres(data_dir, {**QUICK, "listen_addresses": "*"}) as server:
        await query(server, "create extension vector")
        assert await query(server, "select '[1,2]'::vector <-> '[1,2]'") == [(0.0,)]
        assert await query(server, "show listen_addresses") == [("",)]
        assert await query(server, "show data_checksums") == [("on",)]
        assert await query(server, "select upper('é'), 'b' < 'a', 'Z' < 'a'") == [("É", False, True)]
        for folder in (data_dir / "postgres", server.socket_dir):
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert server.pid is None


async def test_restart_keeps_rows(data_dir: Path) -> None:
    async with embedded_postgres(data_dir, QUICK) as server:
        await query(server, "create table kept as select 42 as number")
    async with embedded_postgres(data_dir, {**QUICK, "work_mem": "7MB"}) as server:
        assert await query(server, "select number from kept") == [(42,)]
        assert await query(server, "show work_mem") == [("7MB",)]


async def test_users_share_one_server_and_the_last_stops_it(data_dir: Path) -> None:
    async with embedded_postgres(data_dir, QUICK) as first:
        async with embedded_postgres(data_dir, QUICK) as second:
            pid = pid_of(first)
            assert second.pid == pid
        assert first.pid == pid
        assert await query(first, "select 1") == [(1,)]
    assert first.pid is None


async def test_users_that_come_at_once_start_one_server(data_dir: Path) -> None:
    entered = asyncio.Barrier(3)

    async def use() -> int | None:
        async with embedded_postgres(data_dir, QUICK) as server:
            await entered.wait()
            return server.pid

    assert len(set(await asyncio.gather(use(), use(), use()))) == 1


@needs_proc
async def test_server_survives_the_terminal_and_holds_no_lock(data_dir: Path) -> None:
    async with embedded_postgres(data_dir, QUICK) as server:
        pid = pid_of(server)
        assert os.getsid(pid) != os.getsid(0)
        held = {os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()}
        assert not [name for name in held if name.endswith(".lock")]


@needs_root
@needs_proc
async def test_root_hands_the_server_to_another_user(data_dir: Path) -> None:
    data_dir.parent.chmod(0o700)
    async with embedded_postgres(data_dir, QUICK) as server:
        status = Path(f"/proc/{server.pid}/status").read_text()
        users = next(line for line in status.splitlines() if line.startswith("Uid:")).split()[1:]
        groups = next(line for line in status.splitlines() if line.startswith("Groups:")).split()[1:]
        assert "0" not in users
        assert "0" not in groups
        assert stat.S_IMODE(data_dir.parent.stat().st_mode) == 0o701


@needs_proc
async def test_killed_server_keeps_committed_rows_while_an_old_backend_lingers(data_dir: Path) -> None:
    async with embedded_postgres(data_dir, QUICK) as server:
        await query(server, "create table kept as select 42 as number")
        busy = asyncio.create_task(query(server, "select count(*) from generate_series(1, 15000000)"))
        while not (await query(server, "select 1 from pg_stat_activity where query like '%15000000)'")):
            await asyncio.sleep(0.01)
        old = pid_of(server)
        os.kill(old, signal.SIGKILL)
        assert await gone(old)
    async with embedded_postgres(data_dir, QUICK) as server:
        assert await query(server, "select number from kept") == [(42,)]
        assert server.pid != old
    await asyncio.gather(busy, return_exceptions=True)


@needs_proc
async def test_stale_pid_file_with_a_reused_pid(data_dir: Path) -> None:
    async with embedded_postgres(data_dir, QUICK) as server:
        await query(server, "create table kept as select 42 as number")
        os.kill(old := pid_of(server), signal.SIGKILL)
        assert await gone(old)
    pid_file = data_dir / "postgres" / "postmaster.pid"
    owner = pid_file.stat().st_uid
    with subprocess.Popen(["sleep", "60"], user=owner if os.geteuid() == 0 else None) as stranger:
        for file in (pid_file, data_dir / "socket" / ".s.PGSQL.5432.lock"):
            file.write_text(file.read_text().replace(str(old), str(stranger.pid), 1))
        async with embedded_postgres(data_dir, QUICK) as server:
            assert await query(server, "select number from kept") == [(42,)]
        assert stranger.poll() is None
        stranger.kill()


async def test_unreadable_pid_file(data_dir: Path) -> None:
    async with embedded_postgres(data_dir, QUICK):
        pass
    (data_dir / "postgres" / "postmaster.pid").write_text("")
    async with embedded_postgres(data_dir, QUICK) as server:
        assert await query(server, "select 1") == [(1,)]


async def test_ensure_running_restarts_once(data_dir: Path) -> None:
    async with embedded_postgres(data_dir, QUICK) as server:
        await query(server, "create table kept as select 42 as number")
        await server.ensure_running()
        os.kill(old := pid_of(server), signal.SIGKILL)
        assert await gone(old)
        pids: set[int | None] = set()

        async def ensure() -> None:
            await server.ensure_running()
            pids.add(server.pid)

        await asyncio.gather(ensure(), ensure(), ensure())
        assert len(pids) == 1
        assert pids.isdisjoint({old, None})
        assert await query(server, "select number from kept") == [(42,)]
    with pytest.raises(DatabaseUnavailable, match="closed"):
        await server.ensure_running()
    assert server.pid is None


CLIENT = """
import asyncio, sys
from pathlib import Path
from sfm_graph.store.embedded import embedded_postgres

async def main():
    async with embedded_postgres(Path(sys.argv[1]), {"fsync": "off", "shared_buffers": "16MB"}) as server:
        print(server.pid, flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


@needs_proc
async def test_killed_client_leaves_a_server_that_the_next_user_stops(data_dir: Path) -> None:
    client = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CLIENT, str(data_dir), stdout=asyncio.subprocess.PIPE
    )
    assert client.stdout is not None
    pid = int(await client.stdout.readline())
    client.kill()
    await client.wait()
    async with embedded_postgres(data_dir, QUICK) as server:
        assert server.pid == pid
        assert await query(server, "select 1") == [(1,)]
    assert await gone(pid)


@needs_proc
async def test_cancelled_start_leaves_no_server(data_dir: Path) -> None:
    async with embedded_postgres(data_dir, QUICK):
        pass

    async def use() -> None:
        async with embedded_postgres(data_dir, QUICK):
            pytest.fail("the start went on")

    pid_file = data_dir / "postgres" / "postmaster.pid"
    task = asyncio.create_task(use())
    while not pid_file.exists():
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for _ in range(500):
        if not pid_file.exists():
            break
        await asyncio.sleep(0.02)
    assert not pid_file.exists()


async def test_cancelled_user_still_stops_the_server(data_dir: Path) -> None:
    entered: asyncio.Future[EmbeddedServer] = asyncio.get_running_loop().create_future()

    async def use() -> None:
        async with embedded_postgres(data_dir, QUICK) as server:
            entered.set_result(server)
            await asyncio.sleep(60)

    task = asyncio.create_task(use())
    server = await entered
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert server.pid is None


@needs_proc
async def test_copy_of_a_running_data_directory_is_another_database(data_dir: Path) -> None:
    async with embedded_postgres(data_dir, QUICK) as original:
        copy = data_dir.with_name("copy")
        shutil.copytree(data_dir, copy, ignore=shutil.ignore_patterns(".s.PGSQL.5432"))
        async with embedded_postgres(copy, QUICK) as server:
            assert server.pid != original.pid
            assert server.socket_dir == copy / "socket"


async def test_half_made_database_is_made_again(data_dir: Path) -> None:
    leftover = data_dir / "postgres.init-killed"
    leftover.mkdir(parents=True)
    (leftover / "PG_VERSION").write_text("18\n")
    async with embedded_postgres(data_dir, QUICK) as server:
        assert await query(server, "select 1") == [(1,)]
    assert not list(data_dir.glob("postgres.init-*"))


async def test_database_of_another_version(data_dir: Path) -> None:
    (data_dir / "postgres").mkdir(parents=True)
    (data_dir / "postgres" / "PG_VERSION").write_text("16\n")
    with pytest.raises(DatabaseUnavailable, match=r"made by PostgreSQL '16', this is 18: dump it"):
        async with embedded_postgres(data_dir, QUICK):
            pass


async def test_folder_that_is_no_database(data_dir: Path) -> None:
    (data_dir / "postgres").mkdir(parents=True)
    (data_dir / "postgres" / "thesis.txt").write_text("mine")
    with pytest.raises(DatabaseUnavailable, match="something else than a database"):
        async with embedded_postgres(data_dir, QUICK):
            pass
    assert (data_dir / "postgres" / "thesis.txt").read_text() == "mine"


async def test_data_directory_that_is_a_file(data_dir: Path) -> None:
    data_dir.write_text("")
    with pytest.raises(DatabaseUnavailable, match="cannot use the data directory"):
        async with embedded_postgres(data_dir, QUICK):
            pass


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shared_buffers": "many"}, "shared_buffers"),
        ({"no_such_setting": "1"}, "no_such_setting"),
        ({"work_mem": "1MB'\nlisten_addresses = '*"}, "not a PostgreSQL setting"),
    ],
)
async def test_wrong_settings_are_named(data_dir: Path, settings: dict[str, str], message: str) -> None:
    with pytest.raises(DatabaseUnavailable, match=message):
        async with embedded_postgres(data_dir, {**QUICK, **settings}):
            pass


@pytest.mark.parametrize("name", ["long-" * 30, "a,b", "with 'quotes\" and $(shell) é"])
async def test_awkward_paths(data_dir: Path, name: str) -> None:
    place = data_dir / name
    async with embedded_postgres(place, QUICK) as server:
        assert await query(server, "select 1") == [(1,)]
        assert stat.S_IMODE(server.socket_dir.stat().st_mode) == 0o700
        moved = server.socket_dir.parent != place
        assert moved == (len(name) > 100 or "," in name)
    assert server.socket_dir.exists() != moved


async def test_missing_programs(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DatabaseUnavailable, match="POSTGRES_URL"):
        async with embedded_postgres(data_dir, QUICK):
            pass


async def test_stranger_who_made_the_socket_folder_first(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    public = data_dir.parent / "public"
    public.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(public))
    place = data_dir / "a,b"
    async with embedded_postgres(place, QUICK) as server:
        folder = server.socket_dir
    assert folder.parent == public
    folder.symlink_to(data_dir.parent)
    with pytest.raises(DatabaseUnavailable, match="cannot hold the database's socket"):
        async with embedded_postgres(place, QUICK):
            pass


async def test_only_the_superuser_of_the_machine_reaches_the_socket(data_dir: Path) -> None:
    async with embedded_postgres(data_dir, QUICK) as server:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(server.socket_dir / ".s.PGSQL.5432"))
        assert stat.S_IMODE((server.socket_dir / ".s.PGSQL.5432").stat().st_mode) == 0o700


async def test_log_is_bounded(data_dir: Path) -> None:
    data_dir.mkdir()
    (data_dir / "postgres.log").write_bytes(b"old line\n" * 1_200_000)
    async with embedded_postgres(data_dir, QUICK):
        assert (data_dir / "postgres.log").stat().st_size < 100_000
    assert (data_dir / "postgres.log.1").stat().st_size > 10_000_000
