"""What a fault run kills with SIGKILL and starts again: programs, an embedded Postgres, a Kafka broker."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import httpx
import psutil
import psycopg
from kafka_broker import KafkaBroker, free_ports
from psycopg import sql

from sfm_graph.store.embedded import EmbeddedServer, embedded_postgres

# What runs, on a loaded machine, in seconds: for a start, and for an end in order.
START_SECONDS = 120.0
STOP_SECONDS = 60.0
# Settings, and what would make each start compile all modules anew, for 4 s.
_NOT_THEIRS = (
    "SFM_", "KAFKA_", "REDIS_", "POSTGRES_", "QDRANT_", "SOMA_", "MEMORY_MODE", "UVICORN_", "PYTHONDONTWRITEBYTECODE"
)  # fmt: skip


class Victim(Protocol):
    """Something that dies at once and can be brought back."""

    async def kill(self) -> None:
        """SIGKILL; it is gone when this returns."""

    async def start(self) -> None:
        """It is at its work, or about to be, when this returns."""


class Program:
    """One of our commands as a process, looked after as by a supervisor: one that ends by itself is started again."""

    def __init__(
        self, name: str, home: Path, command: Sequence[str], environment: Mapping[str, str], port: int | None = None
    ) -> None:
        """`port`: of its metrics and health, on loopback."""
        self.name = name
        self.port = port
        self.log = home / f"{name}.log"
        self._home = home
        self._command = [str(Path(sys.executable).with_name(command[0])), *command[1:]]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_THEIRS)}
        # The name of its database connections says which process holds a lock.
        self._environment = {**inherited, "PGAPPNAME": name, **environment}
        self._process: subprocess.Popen[bytes] | None = None
        self._wanted = False
        self._keeper: asyncio.Task[None] | None = None
        self.ended_alone = 0

    async def start(self) -> None:
        self._wanted = True
        self._spawn()
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep(), name=f"keeper of {self.name}")

    async def kill(self) -> None:
        self._wanted = False
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            await asyncio.to_thread(self._process.wait, STOP_SECONDS)

    @property
    def pid(self) -> int:
        """Of the process that runs now. AssertionError when none was started."""
        assert self._process is not None
        return self._process.pid

    async def freeze(self, seconds: float) -> None:
        """Stop it for a while: work piles up for it."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGSTOP)
            try:
                await asyncio.sleep(seconds)
            finally:
                self._process.send_signal(signal.SIGCONT)

    async def stop(self) -> int:
        """End it in order; its exit code. Killed when it does not end."""
        self._wanted = False
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        if self._process is None:
            return 0
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            return await asyncio.to_thread(self._process.wait, STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return await asyncio.to_thread(self._process.wait)

    async def metric(self, name: str) -> float:
        """The sum of a metric over all its labels; 0 while the process does not answer."""
        with suppress(httpx.HTTPError):
            async with httpx.AsyncClient(trust_env=False, timeout=5) as client:
                text = (await client.get(f"http://127.0.0.1:{self.port}/metrics")).text
            lines = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
            return sum(float(value) for labelled, value in lines if labelled.partition("{")[0] == name)
        return 0.0

    def _spawn(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self._home,
                env=self._environment,
            )  # fmt: skip

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(0.2)
            if self._wanted and self._process is not None and self._process.poll() is not None:
                self.ended_alone += 1
                await asyncio.sleep(0.3)
                if self._wanted:
                    self._spawn()


@dataclass
class DatabaseServer:
    """An embedded Postgres that this process owns, with a database `sfm`."""

    server: EmbeddedServer

    @property
    def dsn(self) -> str:
        return self.server.superuser_dsn("sfm")

    def url(self, database: str = "sfm") -> str:
        """As settings take it."""
        return f"postgresql://postgres@/{database}?host={quote(str(self.server.socket_dir), safe='')}&port=5432"

    async def kill(self) -> None:
        pid = self.server.pid
        if pid is None:
            return
        postmaster = psutil.Process(pid)
        processes = [postmaster, *postmaster.children(recursive=True)]
        for one in processes:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        await asyncio.to_thread(psutil.wait_procs, processes, STOP_SECONDS)

    async def start(self) -> None:
        await self.server.ensure_running()

    async def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """The answer of a statement on `sfm`."""
        async with await psycopg.AsyncConnection.connect(self.dsn, autocommit=True) as connection:
            return await (await connection.execute(query, values)).fetchall()  # type: ignore[arg-type]


@asynccontextmanager
async def database_server(folder: Path, *databases: str) -> AsyncIterator[DatabaseServer]:
    """A started server with empty databases `sfm` and these. Durable, as in production: what is tested is a crash."""
    async with embedded_postgres(folder) as server:
        async with await psycopg.AsyncConnection.connect(server.superuser_dsn(), autocommit=True) as connection:
            for name in ("sfm", *databases):
                await connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        yield DatabaseServer(server)


class Broker:
    """A Kafka broker whose consumers may have sessions of a second."""

    def __init__(self, home: Path) -> None:
        self.kafka = KafkaBroker(home / "kafka", free_ports(3), with_security=False)

    def open(self) -> None:
        """Make its storage and start it; blocks."""
        self.kafka.prepare()
        with (self.kafka.home / "server.properties").open("a") as properties:
            properties.write("group.min.session.timeout.ms=1000\n")
        self.kafka.start()

    async def kill(self) -> None:
        await asyncio.to_thread(self.kafka.kill)

    async def start(self) -> None:
        await asyncio.to_thread(self.kafka.start)


async def answers(port: int, path: str = "/readyz") -> None:
    """Wait until a service is ready."""
    async with asyncio.timeout(START_SECONDS), httpx.AsyncClient(trust_env=False, timeout=5) as client:
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if (await client.get(f"http://127.0.0.1:{port}{path}")).is_success:
                    return
            await asyncio.sleep(0.05)


async def until(holds: Callable[[], Any], what: str, seconds: float) -> float:
    """Ask an async function until it answers with something true; the seconds that took. AssertionError: too long."""
    started = time.monotonic()
    while not await holds():
        assert time.monotonic() - started < seconds, f"not within {seconds:.0f} s: {what}"
        await asyncio.sleep(0.1)
    return time.monotonic() - started
