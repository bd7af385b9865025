"""SIGTERM in the middle of everything: what was accepted is answered, and what was answered is stored."""

import asyncio
import itertools
import os
import signal
import socket
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import psycopg
import pytest
from server_process import Client, Dropped, Server, served, status, wait_for
from starlette.types import Receive, Scope, Send

from sfm_graph.cli import serving
from sfm_graph.settings import Settings

CLIENTS = 8
SLOW_ITEMS = 150


@dataclass
class Outcome:
    """What eight clients saw."""

    answered: int = 0
    stored: set[str] = field(default_factory=set)
    dropped: list[str] = field(default_factory=list)
    farewells: int = 0


async def _loop(port: int, name: str, outcome: Outcome) -> None:
    """Short and slow writes and reads on one connection after the other, until none can be made any more."""
    client: Client | None = None
    for number in itertools.count():
        try:
            if client is None:
                client = await Client.connected(port)
        except ConnectionRefusedError:
            return
        keys = [f"{name}-{number}-{item}" for item in range(SLOW_ITEMS if number % 4 == 3 else 1)]
        try:
            if number % 4 == 1:
                status, headers, _ = await client.ask("GET", "/memories?first=5&namespace=stop")
                keys = []
            else:
                items = [{"key": key, "content": f"about {key}"} for key in keys]
                status, headers, _ = await client.ask("POST", "/store_bulk", {"namespace": "stop", "items": items})
        except Dropped as dropped:
            outcome.dropped.append(str(dropped))
            return
        if status >= 300 and not (number == 1 and status == 404):
            outcome.dropped.append(f"status {status}")
        outcome.answered += 1
        outcome.stored.update(keys)
        if headers.get("connection") == "close":
            outcome.farewells += 1
            client.close()
            client = None


async def _load_until_gone(server: Server, seconds: float) -> Outcome:
    outcome = Outcome()
    clients = [asyncio.create_task(_loop(server.port, f"c{one}", outcome)) for one in range(CLIENTS)]
    await asyncio.sleep(seconds)
    server.process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(60):
        await asyncio.gather(*clients)
    return outcome


@pytest.mark.parametrize(
    ("workers", "wait", "drain"), [(1, 0.5, 0), (1, 0.73, 0), (1, 0.91, 1), (2, 0.6, 0), (2, 0.8, 1)]
)
def test_sigterm_under_load_drops_no_accepted_request(
    database_dsn: str, tmp_path: Path, workers: int, wait: float, drain: int
) -> None:
    with served(
        tmp_path, POSTGRES_URL=database_dsn, UVICORN_WORKERS=str(workers), SFM_DRAIN_SECONDS=str(drain)
    ) as server:
        outcome = asyncio.run(_load_until_gone(server, wait))
        assert server.process.wait(60) == 0, server.log
    assert not outcome.dropped
    assert outcome.answered > CLIENTS
    assert outcome.farewells >= CLIENTS
    with psycopg.connect(database_dsn) as connection:
        stored = {key for (key,) in connection.execute("select key from memories where key is not null").fetchall()}
    assert outcome.stored <= stored
    assert "Traceback" not in server.log


def test_it_is_not_ready_at_once_and_answers_until_the_drain_is_over(database_dsn: str, tmp_path: Path) -> None:
    with served(tmp_path, POSTGRES_URL=database_dsn, SFM_DRAIN_SECONDS="120") as server:
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: status(server.port, "/readyz") == 503, lambda: server.log)

        async def ask() -> tuple[int, str | None, bytes]:
            client = await Client.connected(server.port)
            status, headers, _ = await client.ask("GET", "/namespaces")
            client.close()
            other = await Client.connected(server.port)
            _, _, body = await other.ask("GET", "/readyz")
            other.close()
            return status, headers.get("connection"), body

        code, connection, body = asyncio.run(ask())
        assert (code, connection) == (200, "close")
        assert b'"stopping"' in body
        # Once more, and nobody waits for the drain.
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(60) == 0


def test_what_does_not_end_in_time_is_told_so(database_dsn: str, tmp_path: Path) -> None:
    with served(tmp_path, POSTGRES_URL=database_dsn, SFM_GRACEFUL_TIMEOUT_SECONDS="1") as server:
        body = {"namespace": "stop", "key": "a", "content": "x"}

        async def stuck() -> tuple[int, bytes]:
            client = await Client.connected(server.port)
            assert (await client.ask("POST", "/store", body))[0] == 201
            async with await psycopg.AsyncConnection.connect(database_dsn) as connection:
                await connection.execute("select * from memories for update")
                asking = asyncio.create_task(client.ask("POST", "/store", {**body, "content": "y"}))
                await asyncio.sleep(0.5)
                server.process.send_signal(signal.SIGTERM)
                status, _, answer = await asking
                client.close()
            return status, answer

        status_code, answer = asyncio.run(stuck())
        assert status_code == 503
        assert b'"unavailable"' in answer
        assert server.process.wait(60) == 0


async def test_a_stop_just_before_the_server_listens_for_it_is_heeded(settings: Settings) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while scope["type"] == "lifespan":
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return

    before = {stop: signal.getsignal(stop) for stop in serving.STOPS}
    said: list[str] = []
    try:
        serving.leave_stops_to_uvicorn()
        os.kill(os.getpid(), signal.SIGTERM)
        app.state = SimpleNamespace()  # type: ignore[attr-defined]
        with socket.create_server(("127.0.0.1", 0)) as listener:
            async with asyncio.timeout(30):
                await serving.answer(settings, app, listener, lambda: said.append("ready"))
    finally:
        serving._stop_asked.clear()
        for stop, handler in before.items():
            signal.signal(stop, handler)
    assert said == []
