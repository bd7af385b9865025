"""What `sfm doctor` says of what is plugged in."""

import asyncio
import socket
from pathlib import Path

import psycopg
import pytest
from redis_server import redis_server
from server_process import served

from sfm_graph.cli.doctor import Result, checks
from sfm_graph.services.registry import Services


@pytest.fixture
def database(database_dsn: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """This test's database in the environment, and a port that is free."""
    monkeypatch.setenv("POSTGRES_URL", database_dsn)
    monkeypatch.setenv("SFM_PORT", "0")
    return database_dsn


@pytest.fixture
def nobody() -> str:
    """Where nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{taken.getsockname()[1]}"


async def _looked() -> dict[str, Result]:
    return {one.check: one for one in await checks(None)}


@pytest.mark.usefixtures("database")
async def test_all_is_well() -> None:
    found = await _looked()
    assert all(one.ok for one in found.values()), found
    assert "open to all programs of this machine" in found["access"].found
    assert found["role"].found == "sfm_service, taken on by postgres: only the rights that statements use"
    assert "event bus" not in found


@pytest.mark.usefixtures("database")
async def test_a_bus_that_is_away(monkeypatch: pytest.MonkeyPatch, nobody: str) -> None:
    monkeypatch.setenv("SFM_EVENT_BUS", "redis")
    monkeypatch.setenv("REDIS_URL", f"redis://user:hunter2@{nobody}/0")
    away = (await _looked())["event bus"]
    assert not away.ok
    assert nobody in away.found
    assert "hunter2" not in away.found
    monkeypatch.setenv("SFM_EVENT_BUS", "kafka")
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", nobody)
    away = (await _looked())["event bus"]
    assert not away.ok
    assert "changes wait in the log" in away.found


@pytest.mark.usefixtures("database")
async def test_a_bus_that_answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        monkeypatch.setenv("SFM_EVENT_BUS", "redis")
        monkeypatch.setenv("REDIS_URL", server.url)
        assert (await _looked())["event bus"].ok


@pytest.mark.usefixtures("database")
async def test_qdrant_that_is_away(monkeypatch: pytest.MonkeyPatch, nobody: str) -> None:
    monkeypatch.setenv("QDRANT_URL", f"http://{nobody}")
    away = (await _looked())["qdrant"]
    assert not away.ok
    assert "recall goes on in Postgres" in away.found


@pytest.mark.usefixtures("database")
async def test_an_address_that_others_reach_without_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFM_HOST", "0.0.0.0")
    refused = (await _looked())["access"]
    assert not refused.ok
    assert "SOMA_API_TOKEN" in refused.found
    monkeypatch.setenv("SOMA_API_TOKEN", "a-long-secret-token-of-the-test-0123456789")
    found = (await _looked())["access"]
    assert (found.ok, found.found) == (True, "by a token")


async def test_a_follower_that_left(services: Services, database: str) -> None:
    await services.memory_writes.store_many("demo", [{"content": "a"}])
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            "insert into followers (name, shard, shards, seen, epoch) "
            "select 'relay:kafka', 0, 1, '3:3:', epoch from change_log"
        )
    found = (await _looked())["follower"]
    assert (found.ok, "relay:kafka 1/1 has 1 changes to read" in found.found) == (True, True)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("update changes set at = now() - interval '1 hour'")
    found = (await _looked())["follower"]
    assert not found.ok
    assert "sfm followers --forget relay:kafka" in found.found


@pytest.mark.usefixtures("database")
async def test_the_service_that_has_the_port(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, database: str) -> None:
    with served(tmp_path, POSTGRES_URL=database) as server:
        monkeypatch.setenv("SFM_PORT", str(server.port))
        found = (await _looked())["port"]
        assert (found.ok, found.found) == (True, f"127.0.0.1 port {server.port}: sfm_graph serves here")


@pytest.mark.usefixtures("database")
async def test_somebody_else_who_has_the_port(monkeypatch: pytest.MonkeyPatch) -> None:
    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{"status":"ok"}')
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(other, "127.0.0.1", 0) as taken:
        monkeypatch.setenv("SFM_PORT", str(taken.sockets[0].getsockname()[1]))
        found = (await _looked())["port"]
        assert not found.ok
        assert "another service?" in found.found


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize(
    "given",
    [
        {"SOMA_API_TOKEN": "short"},
        {"SOMA_API_TOKEN_FILE": "/nowhere/token"},
        {"SFM_JWT_ISSUER": "i", "SFM_JWT_AUDIENCE": "a", "SFM_JWT_PUBLIC_KEY_FILE": "/nowhere/key.pem"},
        {"SFM_JWT_ISSUER": "i"},
    ],
)
async def test_a_wrong_credential_is_a_row(given: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    found = (await _looked())["settings"]
    assert not found.ok
    assert list(given)[-1][:7] in found.found


@pytest.mark.usefixtures("database")
async def test_more_connections_than_the_server_has(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await _looked())["connections"].ok
    monkeypatch.setenv("UVICORN_WORKERS", "4")
    monkeypatch.setenv("SFM_POOL_MAX_SIZE", "100")
    found = (await _looked())["connections"]
    assert not found.ok
    assert found.found.startswith("400 at most")
