"""A service of our own to measure: `sfm serve` on a fresh data directory and a free port of the loopback."""

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

START_SECONDS = 60


@dataclass(frozen=True)
class Service:
    """A running service and where its data is."""

    port: int
    pid: int
    data_dir: Path

    def connection(self) -> http.client.HTTPConnection:
        """A keep-alive connection: the standard library's, since a heavier client would be measured with it."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)

    def resident_megabytes(self) -> float:
        """Resident memory of the serving process, without the database's."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024


def ask(connection: http.client.HTTPConnection, method: str, path: str, body: Any = None) -> Any:
    """One JSON request. Raises RuntimeError for an answer that is not 2xx."""
    data = None if body is None else json.dumps(body)
    connection.request(method, path, data, {"Content-Type": "application/json"} if data else {})
    answer = connection.getresponse()
    text = answer.read()
    if answer.status >= 300:
        raise RuntimeError(f"{method} {path}: {answer.status} {text[:500]!r}")
    return json.loads(text)


@contextmanager
def serving(kept_data_dir: Path | None = None, /, **settings: str) -> Iterator[Service]:
    """Start a service and stop it at the end. Its data is removed then, but for a data directory that is given.

    Settings are environment variables.
    """
    data_dir = kept_data_dir or Path(tempfile.mkdtemp(prefix="sfm-bench-"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"SFM_DATA_DIR": str(data_dir), "SFM_PORT": str(port), **settings}
    command = [sys.executable, "-c", "from sfm_graph.cli import main; main()", "serve"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    service = Service(port, process.pid, data_dir)
    try:
        _wait_until_ready(service, process)
        yield service
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
        if kept_data_dir is None:
            shutil.rmtree(data_dir, ignore_errors=True)


def _wait_until_ready(service: Service, process: subprocess.Popen[bytes]) -> None:
    for _ in range(START_SECONDS * 10):
        if process.poll() is not None:
            raise RuntimeError(f"the service stopped with {process.returncode} before it was ready")
        try:
            ask(service.connection(), "GET", "/readyz")
            return
        except (OSError, RuntimeError):
            time.sleep(0.1)
    raise RuntimeError(f"the service was not ready after {START_SECONDS} s")


def percentiles(seconds: list[float]) -> dict[str, float]:
    """p50, p95 and p99 in milliseconds."""
    ordered = sorted(seconds)
    return {f"p{p}_ms": round(ordered[min(len(ordered) - 1, len(ordered) * p // 100)] * 1e3, 3) for p in (50, 95, 99)}


def say(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)
