"""`sfm serve` as a process, and a plain HTTP client that says exactly what became of each request."""

import asyncio
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

START_SECONDS = 60.0
_NOT_ITS = ("SFM_", "KAFKA_", "REDIS_", "POSTGRES_", "QDRANT_", "SOMA_", "MEMORY_MODE", "UVICORN_", "PROMETHEUS_")


class Server:
    """A started server; `log` is what it says."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text()

    def workers(self) -> list[psutil.Process]:
        """The server processes of a parent."""
        found = []
        for one in psutil.Process(self.process.pid).children():
            with suppress(psutil.ZombieProcess, psutil.NoSuchProcess):
                if "sfm_graph.cli.worker" in one.cmdline():
                    found.append(one)
        return found

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(START_SECONDS)


@contextmanager
def served(folder: Path, **environment: str) -> Iterator[Server]:
    """A server that answers; ended with the block."""
    port = free_port()
    with started(folder, port, environment) as server:
        wait_for(lambda: status(port, "/readyz") == 200, lambda: server.log)
        yield server


@contextmanager
def started(folder: Path, port: int, environment: Mapping[str, str]) -> Iterator[Server]:
    """A server that was just begun."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_ITS)}
    log = folder / f"serve-{port}.log"
    with log.open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-c", "from sfm_graph.cli import main; main()", "serve"],
            env={**inherited, "SFM_PORT": str(port), **environment}, cwd=folder,
            stdin=subprocess.DEVNULL, stdout=said, stderr=said,
        )  # fmt: skip
    try:
        yield Server(process, port, log)
    finally:
        family: list[psutil.Process] = []
        if process.poll() is None:
            family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        process.terminate()
        try:
            process.wait(START_SECONDS)
        finally:
            for one in family:
                with suppress(psutil.NoSuchProcess):
                    one.kill()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def status(port: int, path: str) -> int | None:
    """The status of one GET on a connection of its own; None: nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def wait_for(holds: Any, account: Any = lambda: "", seconds: float = START_SECONDS) -> float:
    """Poll; the seconds that it took. AssertionError with an account when it takes too long."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < seconds, account()
        time.sleep(0.05)
    return time.monotonic() - began


class Dropped(Exception):
    """A request was sent on a connection that had been accepted, and was not answered in full."""


class Client:
    """One kept-alive connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    @classmethod
    async def connected(cls, port: int) -> "Client":
        """Raises ConnectionRefusedError."""
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def ask(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers in lower case, body. Raises Dropped."""
        try:
            self.send(method, path, body, headers)
            return await self.answer()
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            raise Dropped(f"{method} {path}: {error!r}") from error

    def send(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> None:
        data = b"" if body is None else json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(data)}"]
        lines += ["Content-Type: application/json", *(f"{name}: {value}" for name, value in (headers or {}).items())]
        self.writer.write("\r\n".join([*lines, "", ""]).encode() + data)

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in head[1:] if line)}
        return int(head[0].split()[1]), headers, await self._reader.readexactly(int(headers["content-length"]))

    def close(self) -> None:
        self.writer.close()
