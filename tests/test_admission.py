"""How many requests at once, how long each: refused at once beyond the first, ended beyond the second."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import httpx
import psycopg
import pytest
from served import serving, until
from starlette.types import Message, Receive, Scope, Send
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from sfm_graph.api import admission, exchange
from sfm_graph.api.admission import Admission
from sfm_graph.runtime import open_runtime
from sfm_graph.services.registry import Services
from sfm_graph.settings import Settings

NAMESPACE = "locked"
LONG_SECONDS = 30.0


@asynccontextmanager
async def opened(settings: Settings, **changed: object) -> AsyncIterator[Services]:
    async with open_runtime(settings.model_copy(update=changed), maintenance=False) as services:
        yield services


async def _store(client: httpx.AsyncClient, key: str, **options: object) -> httpx.Response:
    body = {"namespace": NAMESPACE, "key": key, "content": f"about {key}"}
    return await client.post("/store", json=body, **options)  # type: ignore[arg-type]


@asynccontextmanager
async def _locked(dsn: str, client: httpx.AsyncClient) -> AsyncIterator[None]:
    """Every write to the namespace waits until the block ends."""
    (await _store(client, "first")).raise_for_status()
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        await connection.execute("select * from namespaces where name = %s for update", (NAMESPACE,))
        await connection.execute("select * from memories for update")
        yield
        await connection.rollback()


async def _waiting(dsn: str) -> int:
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        found = await connection.execute(
            "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
        )
        return (await found.fetchone() or (0,))[0]


async def test_beyond_so_many_requests_the_next_is_refused_at_once(settings: Settings, database_dsn: str) -> None:
    async with (
        opened(settings, max_requests=2) as services,
        serving(services) as served,
        httpx.AsyncClient(base_url=served.url, timeout=LONG_SECONDS) as client,
    ):
        async with _locked(database_dsn, client):
            held = [asyncio.create_task(_store(client, "first")) for _ in range(2)]
            await until(lambda: _is(2, database_dsn))
            refused = await client.get("/namespaces")
            assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
            assert int(refused.headers["Retry-After"]) >= 1
            assert (await client.get("/healthz")).status_code == 200
            assert (await client.get("/readyz")).status_code == 200
            assert (await client.get("/metrics")).status_code == 200
            # Nobody waits for its body, of which nothing is sent.
            status, headers, _ = await _said(served.address, b"POST /store HTTP/1.1", b"Content-Length: 9000000")
            assert (status, headers["connection"]) == (503, "close")
            graphql = await client.post("/graphql", json={"query": "{ namespaces { edges { node { name } } } }"})
            assert (graphql.status_code, graphql.json()["errors"][0]["extensions"]["code"]) == (503, "overloaded")
            assert not any(task.done() for task in held)
        assert {(await one).status_code for one in held} == {200}
        assert (await client.get("/namespaces")).status_code == 200


async def _is(count: int, dsn: str) -> bool:
    return await _waiting(dsn) == count


async def _said(address: str, *lines: bytes, body: bytes = b"") -> tuple[int, dict[str, str], bytes]:
    host, _, port = address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        head = [*lines, b"Host: localhost", b"Content-Type: application/json", b"", b""]
        writer.write(b"\r\n".join(head) + body)
        async with asyncio.timeout(LONG_SECONDS):
            answer = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in answer[1:] if line)
            return int(answer[0].split()[1]), headers, await reader.readexactly(int(headers["content-length"]))
    finally:
        writer.close()


async def test_a_statement_ends_with_its_request_and_leaves_a_connection_that_works(
    services: Services, client: httpx.AsyncClient, database_dsn: str
) -> None:
    async with _locked(database_dsn, client):
        for _ in range(2 * services.settings.pool_max_size):
            late = await _store(client, "first", headers={"X-Request-Timeout-Ms": "150"})
            assert (late.status_code, late.json()["code"]) == (503, "deadline_exceeded")
        await until(lambda: _is(0, database_dsn))
    assert (await _store(client, "first")).status_code == 200
    pool = services.health.pool()
    assert pool["pool_available"] == pool["pool_size"]


async def test_a_request_waits_for_a_connection_no_longer_than_it_may(settings: Settings, database_dsn: str) -> None:
    async with (
        opened(settings, pool_max_size=2, pool_timeout_ms=20_000) as services,
        serving(services) as served,
        httpx.AsyncClient(base_url=served.url, timeout=LONG_SECONDS) as client,
    ):
        async with _locked(database_dsn, client):
            held = [asyncio.create_task(_store(client, "first")) for _ in range(2)]
            await until(lambda: _is(2, database_dsn))
            late = await client.get("/namespaces", headers={"X-Request-Timeout-Ms": "200"})
            assert (late.status_code, late.json()["code"]) == (503, "deadline_exceeded")
        assert {(await one).status_code for one in held} == {200}


@pytest.mark.parametrize("given", ["0", "-1", "1.5", "soon", "٣"])
async def test_a_deadline_is_a_number_of_milliseconds(client: httpx.AsyncClient, given: str) -> None:
    answer = await client.get("/namespaces", headers={b"X-Request-Timeout-Ms": given.encode()})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_input")


async def test_a_body_that_does_not_come_ends_its_request(services: Services) -> None:
    async with serving(services) as served:
        status, headers, body = await _said(
            served.address, b"POST /store HTTP/1.1", b"Content-Length: 100", b"X-Request-Timeout-Ms: 200",
            body=b'{"key":',
        )  # fmt: skip
    assert (status, headers["connection"]) == (503, "close")
    assert json.loads(body)["code"] == "deadline_exceeded"


async def test_streams_are_neither_counted_nor_ended(settings: Settings) -> None:
    async with (
        opened(settings, max_requests=1) as services,
        serving(services) as served,
        httpx.AsyncClient(base_url=served.url, timeout=LONG_SECONDS) as client,
    ):
        (await _store(client, "first")).raise_for_status()
        path = f"/changes?namespace={NAMESPACE}&after=now"
        async with served.events(path, headers={"X-Request-Timeout-Ms": "100"}) as events:
            await events.place()
            await asyncio.sleep(exchange.GRACE_SECONDS + 0.3)
            assert (await _store(client, "second")).status_code == 201
            assert (await events.next("change")).data


async def test_streams_have_a_number_of_their_own(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "MAX_STREAMS", 1)
    async with serving(services) as served:
        async with served.socket() as opened_one:
            with pytest.raises(InvalidStatus) as refused:
                await connect(f"ws://{served.address}/graphql", subprotocols=["graphql-transport-ws"])
            assert refused.value.response.status_code == 503
            async with httpx.AsyncClient(base_url=served.url, timeout=LONG_SECONDS) as client:
                (await _store(client, "first")).raise_for_status()
                path = f"/changes?namespace={NAMESPACE}"
                events = await client.get(path, headers={"Accept": "text/event-stream"})
                assert (events.status_code, events.json()["code"]) == (503, "overloaded")
            await opened_one.say(type="ping")
            assert await opened_one.hear() == {"type": "pong"}
        async with served.socket():
            pass


async def test_an_export_that_nobody_takes_gives_its_connection_back(settings: Settings) -> None:
    async with (
        opened(settings, max_transfers=1, subscriber_patience_seconds=1) as services,
        serving(services) as served,
        httpx.AsyncClient(base_url=served.url, timeout=LONG_SECONDS) as client,
    ):
        items = [{"key": str(one), "content": "long " * 18_000} for one in range(120)]
        for at in range(0, len(items), 30):
            body = {"namespace": NAMESPACE, "items": items[at : at + 30]}
            (await client.post("/store_bulk", json=body)).raise_for_status()
        lazy = socket.socket()
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with lazy:
            lazy.connect(("127.0.0.1", int(served.address.partition(":")[2])))
            lazy.sendall(f"GET /export?namespace={NAMESPACE} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            await until(lambda: services.health.pool()["pool_available"] < services.health.pool()["pool_size"])
            refused = await client.get("/export", params={"namespace": NAMESPACE})
            assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
            refused = await client.post("/import", content=b"{}", headers={"Content-Type": "application/x-ndjson"})
            assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
            await until(lambda: services.health.pool()["pool_available"] == services.health.pool()["pool_size"])
        whole = await client.get("/export", params={"namespace": NAMESPACE})
        assert whole.status_code == 200
        assert len(whole.content.splitlines()) == len(items)


async def test_an_import_that_does_not_come_is_ended(settings: Settings) -> None:
    async with opened(settings, subscriber_patience_seconds=1) as services, serving(services) as served:
        line = b'{"type": "memory", "key": "a", "content": "x"}\n'
        host, _, port = served.address.partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        head = b"POST /import HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n"
        writer.write(head + b"Content-Length: 1000\r\n\r\n" + line)
        async with asyncio.timeout(LONG_SECONDS):
            assert b" 503 " in await reader.readline()
        writer.close()


class _Answers:
    """What an app sends, through the middleware around it."""

    def __init__(self, app: object, *, milliseconds: int) -> None:
        self.messages: list[Message] = []
        self._app = Admission(app, max_requests=1, max_transfers=1, request_timeout_ms=milliseconds)  # type: ignore[arg-type]

    async def ask(self) -> None:
        class App:
            class state:
                stopping = False

        scope = {"type": "http", "method": "GET", "path": "/x", "headers": [], "app": App}
        await self._app(scope, self._receive, self._send)

    async def _receive(self) -> Message:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    async def _send(self, message: Message) -> None:
        self.messages.append(message)


async def test_what_swallows_its_cancellation_keeps_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "AGAIN_SECONDS", 0.05)
    swallowed = 0

    async def stubborn(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal swallowed
        while swallowed < 3:
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            swallowed += 1
            if swallowed == 1:
                # Too late: nobody may see it beside the refusal.
                await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.Event().wait()

    answers = _Answers(stubborn, milliseconds=100)
    async with asyncio.timeout(LONG_SECONDS):
        await answers.ask()
    assert swallowed == 3
    assert [message["type"] for message in answers.messages] == ["http.response.start", "http.response.body"]
    assert answers.messages[0]["status"] == 503
    assert json.loads(answers.messages[1]["body"])["code"] == "deadline_exceeded"
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()


async def test_a_cancellation_from_elsewhere_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.Event().wait()

    answers = _Answers(slow, milliseconds=60_000)
    asking = asyncio.create_task(answers.ask())
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.wait([asking])
    assert asking.cancelled()
    assert not answers.messages
