"""Several server processes: one listener, one set of metrics, and a parent that looks after them."""

import asyncio
import re
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from fault_processes import database_server
from server_process import Client, Server, free_port, served, started, status, wait_for

AWAY_SECONDS = 16.0
BACK_SECONDS = 5.0


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that the database's user can reach."""
    made = Path(tempfile.mkdtemp(prefix="sfm-workers-"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


async def _asked(port: int, method: str, path: str, body: object = None) -> bytes:
    client = await Client.connected(port)
    try:
        status, _, answer = await client.ask(method, path, body)
        assert status < 300, answer
        return answer
    finally:
        client.close()


def _pids(server: Server) -> set[int]:
    return {one.pid for one in server.workers()}


def test_workers_share_one_database_and_are_measured_as_one(folder: Path) -> None:
    with served(folder, SFM_DATA_DIR=str(folder / "data"), UVICORN_WORKERS="2") as server:
        wait_for(lambda: "sfm_graph serves" in server.log, lambda: server.log)
        assert len(_pids(server)) == 2
        assert {int(pid) for pid in re.findall(r"worker (\d+) answers", server.log)} == _pids(server)
        assert "Access    open to all programs" in server.log
        assert f"new database in {folder / 'data'}" in server.log
        metrics = Path(server.workers()[0].environ()["PROMETHEUS_MULTIPROC_DIR"])
        assert metrics.is_dir()

        async def write(count: int) -> None:
            for one in range(count):
                body = {"namespace": "work", "key": f"k{one}", "content": "x"}
                await _asked(server.port, "POST", "/store", body)

        asyncio.run(write(40))
        text = asyncio.run(_asked(server.port, "GET", "/metrics")).decode()
        counted = re.findall(r'^sfm_http_request_duration_seconds_count\{.*route="/store".*\} (\S+)$', text, re.M)
        assert sum(map(float, counted)) == 40
        assert server.stop() == 0, server.log
    assert not metrics.exists()
    assert not (folder / "data" / "postgres" / "postmaster.pid").exists()


def test_a_worker_that_dies_is_replaced(database_dsn: str, tmp_path: Path) -> None:
    with served(tmp_path, POSTGRES_URL=database_dsn, UVICORN_WORKERS="2") as server:
        wait_for(lambda: "sfm_graph serves" in server.log, lambda: server.log)
        before = _pids(server)
        victim = min(before)
        psutil.Process(victim).kill()
        wait_for(lambda: len(_pids(server) - before) == 1 and victim not in _pids(server), lambda: server.log)
        # The replacement answers too: the other one is stopped for a moment.
        other = psutil.Process(max(before))
        other.suspend()
        try:
            wait_for(lambda: status(server.port, "/readyz") == 200, lambda: server.log)
        finally:
            other.resume()
        assert server.stop() == 0, server.log


def test_workers_do_not_outlive_a_parent_that_was_killed(database_dsn: str, tmp_path: Path) -> None:
    # Nobody is left to remove its folder of metrics.
    environment = {"POSTGRES_URL": database_dsn, "UVICORN_WORKERS": "2", "TMPDIR": str(tmp_path)}
    with served(tmp_path, **environment) as server:
        wait_for(lambda: "sfm_graph serves" in server.log, lambda: server.log)
        workers = server.workers()
        server.process.kill()
        _, alive = psutil.wait_procs(workers, 60)
        assert not alive, server.log
        assert status(server.port, "/healthz") is None


def test_workers_that_cannot_start_end_their_parent(tmp_path: Path) -> None:
    nobody = f"postgresql://postgres@127.0.0.1:{free_port()}/sfm"
    with started(tmp_path, free_port(), {"POSTGRES_URL": nobody, "UVICORN_WORKERS": "2"}) as server:
        assert server.process.wait(60) == 1
        assert "database_unavailable" in server.log
        assert "Traceback" not in server.log


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_stop_during_the_start_is_heeded(tmp_path: Path, workers: str) -> None:
    with started(tmp_path, free_port(), {"SFM_DATA_DIR": str(tmp_path / "d"), "UVICORN_WORKERS": workers}) as server:
        wait_for(
            lambda: b"cli" in b"".join(Path(f"/proc/{server.process.pid}/cmdline").read_bytes().split()), seconds=5
        )
        wait_for(lambda: (tmp_path / "d").exists(), lambda: server.log)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0, server.log
        assert "Traceback" not in server.log


async def test_readiness_follows_the_database(folder: Path) -> None:
    """After an absence that is long enough for a pool to wait longer and longer before it tries again."""
    async with database_server(folder / "database") as database:
        with served(folder, POSTGRES_URL=database.url()) as server:
            await database.kill()
            wait_for(lambda: status(server.port, "/readyz") == 503, lambda: server.log, 15)
            with pytest.raises(AssertionError):
                wait_for(lambda: status(server.port, "/readyz") != 503, seconds=AWAY_SECONDS)
            await database.start()
            took = wait_for(lambda: status(server.port, "/readyz") == 200, lambda: server.log)
            assert took < BACK_SECONDS
