"""`sfm relay` and `sfm qdrant` as processes: what they answer on a port of their own, and that it is nothing else."""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from fault_processes import START_SECONDS, Program, answers, until
from redis_server import redis_server
from served import serving
from server_process import free_port

from sfm_graph.app import operations_app
from sfm_graph.cli.serving import answer
from sfm_graph.runtime import running
from sfm_graph.services.registry import Services

TOKEN = "a-token-of-32-characters-or-more"
MINE = {"Authorization": f"Bearer {TOKEN}"}
PROBES = ("/healthz", "/ping", "/readyz", "/health")
NOT_SERVED = ("/", "/docs", "/openapi.json", "/memories", "/stats", "/graphql", "/recall", "/changes/stream")


@asynccontextmanager
async def _program(home: Path, command: str, port: int | None, **environment: str) -> AsyncIterator[Program]:
    options = [] if port is None else ["--port", str(port)]
    program = Program(command, home, ["sfm", command, *options], environment)
    try:
        await program.start()
        yield program
    finally:
        await program.stop()


@asynccontextmanager
async def _client(port: int) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=20) as client:
        yield client


async def _metrics(client: httpx.AsyncClient) -> dict[str, float]:
    response = await client.get("/metrics", headers=MINE)
    assert response.status_code == 200
    lines = [line.rsplit(" ", 1) for line in response.text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in lines}


async def _part(client: httpx.AsyncClient, name: str) -> dict[str, Any]:
    response = await client.get("/readyz", headers=MINE)
    assert response.status_code == 200
    return response.json()["parts"][name]


async def test_a_relay_tells_how_far_behind_it_is(services: Services, database_dsn: str, tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "redis").mkdir()
    with redis_server(tmp_path / "redis") as redis:
        async with (
            _program(
                tmp_path, "relay", port,
                POSTGRES_URL=database_dsn, SFM_EVENT_BUS="redis", REDIS_URL=redis.url, SOMA_API_TOKEN=TOKEN,
            ) as relay,
            _client(port) as client,
        ):  # fmt: skip
            await answers(port)

            async def metric(name: str) -> float:
                return (await _metrics(client))[name]

            async def relays() -> bool:
                return (
                    await metric('sfm_relay_active{shard="0"}') == 1
                    and (await _part(client, "relay"))["status"] == "up"
                )

            async def is_behind() -> bool:
                return await metric('sfm_relay_lag_seconds{shard="0"}') > 0

            async def waits() -> bool:
                return (await _part(client, "relay"))["status"] == "waiting"

            async def has_caught_up() -> bool:
                return not await is_behind() and await metric("sfm_relay_events_total") == 1

            await until(relays, "it has the shard", START_SECONDS)
            assert await metric("sfm_database_up") == 1
            redis.kill()
            await services.memory_writes.store("demo", {"key": "a", "content": "waits"})
            await until(is_behind, "its lag is shown", START_SECONDS)
            await until(waits, "it says what it waits for", START_SECONDS)
            assert await metric("sfm_relay_events_total") == 0
            redis.start()
            await until(has_caught_up, "it has relayed the change", START_SECONDS)
            assert await relay.stop() == 0, relay.log.read_text()
            assert relay.ended_alone == 0


async def test_nothing_but_health_and_metrics_is_served(database_dsn: str, tmp_path: Path) -> None:
    port = free_port()
    async with (
        _program(
            tmp_path, "qdrant", port,
            POSTGRES_URL=database_dsn, QDRANT_URL=f"http://127.0.0.1:{free_port()}", SOMA_API_TOKEN=TOKEN,
        ) as qdrant,
        _client(port) as client,
    ):  # fmt: skip
        await answers(port)
        assert [(await client.get(path)).status_code for path in PROBES] == [200] * len(PROBES)
        assert (await _part(client, "qdrant"))["status"] == "down", "the database is all that it cannot do without"
        refused = await client.get("/metrics")
        assert (refused.status_code, refused.json()["code"]) == (401, "unauthenticated")
        assert "sfm_follower_idle_seconds" in (await client.get("/metrics", headers=MINE)).text
        for path in NOT_SERVED:
            assert (await client.get(path, headers=MINE)).status_code == 404, path
        assert (await client.post("/recall", json={"query": "x"}, headers=MINE)).status_code == 404
        assert (await client.get("/healthz", headers={"Host": "elsewhere.example"})).status_code == 403
        assert await qdrant.stop() == 0, qdrant.log.read_text()


async def test_without_a_port_nothing_listens(database_dsn: str, tmp_path: Path) -> None:
    async with _program(
        tmp_path, "relay", None,
        POSTGRES_URL=database_dsn, SFM_EVENT_BUS="redis", REDIS_URL=f"redis://127.0.0.1:{free_port()}/0",
        SFM_PORT=str(free_port()),
    ) as relay:  # fmt: skip

        async def works() -> bool:
            return "stop with Ctrl-C" in relay.log.read_text()

        await until(works, "it has begun", START_SECONDS)
        connections = psutil.Process(relay.pid).net_connections(kind="inet")
        assert [one for one in connections if one.status == psutil.CONN_LISTEN] == []
        assert await relay.stop() == 0, relay.log.read_text()


def _sfm(*arguments: str, **environment: str) -> tuple[int, str]:
    """Exit code, and what was said, of a command that ends by itself."""
    done = subprocess.run(
        [str(Path(sys.executable).with_name("sfm")), *arguments],
        env={"PATH": os.environ["PATH"], "SFM_EVENT_BUS": "redis", "REDIS_URL": "redis://h:1/0", **environment},
        check=False, capture_output=True, text=True, timeout=START_SECONDS,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def test_beyond_loopback_it_needs_a_way_to_authenticate(database_dsn: str) -> None:
    options = ["--host", "0.0.0.0", "--port", "0"]
    code, said = _sfm("relay", *options, POSTGRES_URL=database_dsn)
    assert (code, "host_refused" in said) == (1, True), said


def test_options_that_cannot_be_followed(database_dsn: str) -> None:
    code, said = _sfm("relay", "--host", "127.0.0.1", POSTGRES_URL=database_dsn)
    assert (code, "--port" in said) == (2, True), said


async def test_a_port_in_use_is_said_before_anything_starts(services: Services) -> None:
    async with serving(services) as server:
        port = server.address.rpartition(":")[2]
        code, said = await asyncio.to_thread(_sfm, "relay", "--port", port, POSTGRES_URL="postgresql://h:1/none")
    assert (code, "port_in_use" in said) == (1, True), said
    assert "sfm relay --port" in said


async def test_a_follower_that_dies_ends_the_process(services: Services) -> None:

    answering = asyncio.Event()

    async def dies() -> None:
        await answering.wait()
        raise ArithmeticError("a defect")

    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(ArithmeticError):
        async with asyncio.timeout(START_SECONDS), running(dies(), "follower") as task:
            await answer(services.settings, operations_app(services), listener, answering.set, beside=task)
