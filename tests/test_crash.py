"""`kill -9` of service and database in the middle of writes: nothing acknowledged is lost, nothing is half there."""

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from sfm_graph.api.rest.shared_report import FRESH_SECONDS

START_SECONDS = 30
BATCH = 7


class Served:
    """`sfm serve` on a data directory; its embedded database syncs, since that is what is tested."""

    def __init__(self, data_dir: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.data_dir = data_dir
        environment = os.environ | {"SFM_DATA_DIR": str(data_dir), "SFM_PORT": str(self.port)}
        command = [sys.executable, "-c", "from sfm_graph.cli import main; main()", "serve"]
        self.process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def wait_until_ready(self) -> float:
        """Seconds until it answered."""
        started = time.monotonic()
        while time.monotonic() - started < START_SECONDS:
            try:
                self.ask("GET", "/readyz", None)
                return time.monotonic() - started
            except (OSError, http.client.HTTPException, AssertionError):
                time.sleep(0.05)
        raise AssertionError("the service did not become ready")

    def ask(self, method: str, path: str, body: Any) -> Any:
        """One request on a connection of its own. AssertionError unless it is answered with 2xx."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(
                method, path, None if body is None else json.dumps(body), {"Content-Type": "application/json"}
            )
            answer = connection.getresponse()
            text = answer.read()
            assert answer.status < 300, text
            return json.loads(text)
        finally:
            connection.close()

    def postgres(self) -> list[psutil.Process]:
        """The postmaster and its children."""
        pid = int((self.data_dir / "postgres" / "postmaster.pid").read_text().splitlines()[0])
        postmaster = psutil.Process(pid)
        return [postmaster, *postmaster.children(recursive=True)]

    def dsn(self) -> str:
        """The superuser's connection string of its database."""
        lines = (self.data_dir / "postgres" / "postmaster.pid").read_text().splitlines()
        return f"host={lines[4]} user=postgres dbname=sfm"

    def stop(self) -> None:
        """End it in peace."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=30)


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A folder that the database's user can reach: pytest's own is private to the user that runs the tests."""
    folder = Path(tempfile.mkdtemp(prefix="sfm-crash-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def _write_until_dead(served: Served, writer: int, acknowledged: set[str]) -> None:
    """Batches of memories, each linked in a chain; only what was answered is acknowledged."""
    for number in range(10_000):
        keys = [f"w{writer}-{number}-{place}" for place in range(BATCH)]
        items = [{"key": key, "content": f"crash test {key}"} for key in keys]
        try:
            answer = served.ask("POST", "/store_bulk", {"namespace": "crash", "items": items})
        except (OSError, http.client.HTTPException, AssertionError):
            return
        assert len(answer["stored"]) == BATCH if isinstance(answer["stored"], list) else answer["stored"] == BATCH
        acknowledged.update(keys)


@pytest.mark.parametrize("victims", ["database", "both"])
def test_nothing_acknowledged_is_lost_and_nothing_is_half_written(data_dir: Path, victims: str) -> None:
    kill_in_the_middle(data_dir, victims, seconds=1.5)


def kill_in_the_middle(data_dir: Path, victims: str, *, seconds: float) -> None:
    """Write, kill, restart, and assert that all acknowledged batches are there, each of them whole."""
    served = Served(data_dir)
    try:
        served.wait_until_ready()
        acknowledged: list[set[str]] = [set() for _ in range(4)]
        writers = [
            threading.Thread(target=_write_until_dead, args=(served, place, acknowledged[place]))
            for place in range(4)
        ]
        for writer in writers:
            writer.start()
        time.sleep(seconds)
        postgres = served.postgres()
        if victims == "both":
            served.process.kill()
        for process in postgres:
            if process.is_running():
                process.kill()
        for writer in writers:
            writer.join(timeout=30)
        served.process.kill()
        served.process.wait()

        served = Served(data_dir)
        served.wait_until_ready()
        written = set().union(*acknowledged)
        assert len(written) > 5 * BATCH, "the run was too short to mean anything"
        with psycopg.connect(served.dsn()) as connection:
            keys = {row[0] for row in connection.execute("select key from memories").fetchall()}
            assert written <= keys, f"{len(written - keys)} acknowledged memories were lost"
            batches: dict[str, int] = {}
            for key in keys:
                batch = key.rsplit("-", 1)[0]
                batches[batch] = batches.get(batch, 0) + 1
            assert set(batches.values()) == {BATCH}, "a batch was half written"
            for table, column in (("words", "memory_id"), ("embeddings", "memory_id"), ("changes", "entity_id")):
                query = f"select (select count(*) from memories), (select count(distinct {column}) from {table})"
                row = connection.execute(query).fetchone()  # type: ignore[arg-type]
                assert row is not None
                assert row[0] == row[1], table
        some = min(written)
        matches = served.ask("POST", "/recall", {"namespace": "crash", "query": f"crash test {some}", "top_k": 3})
        assert some in [match["key"] for match in matches["matches"]]
        served.stop()
    finally:
        if served.process.poll() is None:
            served.stop()


def test_an_embedded_database_that_died_is_started_again(data_dir: Path) -> None:
    served = Served(data_dir)
    try:
        served.wait_until_ready()
        served.ask("POST", "/remember", {"content": "kept"})
        for process in served.postgres():
            if process.is_running():
                process.kill()
        time.sleep(FRESH_SECONDS)  # until then a report may be of before
        served.wait_until_ready()
        matches = served.ask("POST", "/recall", {"query": "kept"})["matches"]
        assert [match["content"] for match in matches] == ["kept"]
    finally:
        served.stop()


def test_a_restart_answers_within_seconds(data_dir: Path) -> None:
    served = Served(data_dir)
    served.wait_until_ready()
    served.ask("POST", "/remember", {"content": "before the restart"})
    served.stop()
    assert served.process.returncode == 0
    again = Served(data_dir)
    try:
        again.wait_until_ready()
        (match,) = again.ask("POST", "/recall", {"query": "restart"})["matches"]
        assert match["content"] == "before the restart"
    finally:
        again.stop()
