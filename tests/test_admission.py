"""How many requests at once, how long each: refused at once beyond the first, ended beyond the second."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress

import httpx
import psycopg
import pytest
from pydantic import SecretStr
from served import Served, remember, serving, until
from starlette.types import Message, Receive, Scope, Send
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from sfm_graph.api import admission, exchange, pace
from sfm_graph.api.admission import Admission
from sfm_graph.api.connections import Connection
from sfm_graph.api.pace import LEAST_BYTES_PER_SECOND, Pace
from sfm_graph.domain.change_filter import ChangeFilter
from sfm_graph.runtime import open_runtime
from sfm_graph.services.changes.changes import MAX_CATCHING_UP
from sfm_graph.services.changes.pages import ChangePage
from sfm_graph.services.changes.reader import Reader
from sfm_graph.services.health import HealthReport
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
            # Imports have a number of their own.
            line, head = b'{"type": "memory", "key": "a", "content": "x"}', {"Content-Type": "application/x-ndjson"}
            taken = await client.post("/import", params={"namespace": "other"}, content=line, headers=head)
            assert taken.status_code == 200
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


async def test_an_import_that_trickles_is_ended(settings: Settings) -> None:
    async with opened(settings, subscriber_patience_seconds=1) as services, serving(services) as served:
        host, _, port = served.address.partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        head = b"POST /import HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n"
        writer.write(head + b"Transfer-Encoding: chunked\r\n\r\n")
        answer = asyncio.create_task(reader.readline())

        async def trickled() -> bool:
            if not writer.is_closing():
                writer.write(b"1\r\n \r\n")
            await asyncio.sleep(0.1)
            return answer.done()

        await until(trickled)
        assert b" 503 " in await answer
        writer.close()


async def test_an_export_that_trickles_is_ended(settings: Settings, small_buffers: None) -> None:
    async with (
        opened(settings, max_transfers=1, subscriber_patience_seconds=2) as services,
        serving(services) as served,
        httpx.AsyncClient(base_url=served.url, timeout=LONG_SECONDS) as client,
    ):
        items = [{"key": str(one), "content": "long " * 18_000} for one in range(30)]
        (await client.post("/store_bulk", json={"namespace": NAMESPACE, "items": items})).raise_for_status()
        with _lazy(served.address, _get(f"/export?namespace={NAMESPACE}")) as lazy:
            lazy.setblocking(False)
            taken = 0

            async def cut_off() -> bool:
                nonlocal taken
                await asyncio.sleep(0.1)
                with suppress(BlockingIOError):
                    taken += len(lazy.recv(200))
                return taken > 0 and _is_cut_off(served, lazy)

            await until(cut_off)
        assert (await client.get("/export", params={"namespace": NAMESPACE})).status_code == 200


def test_pace() -> None:
    one = Pace(30)
    for _ in range(1_000):
        # One at the least rate may go on for ever, and one that was fast saves nothing up.
        one.count(4, 4 * LEAST_BYTES_PER_SECOND)
        assert one.seconds_left == 30
    for left in (5, 4, 4):
        one.count(29, 4 * LEAST_BYTES_PER_SECOND)
        assert one.seconds_left == left
    one.count(1, 0)
    one.count(0, 10**9)
    assert one.seconds_left == 30


@pytest.fixture
def small_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a client does not read is soon noticed."""
    made = Connection.connection_made

    def connection_made(self: Connection, transport: asyncio.Transport) -> None:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        made(self, transport)

    monkeypatch.setattr(Connection, "connection_made", connection_made)


def _get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


@contextmanager
def _lazy(address: str, said: bytes) -> Iterator[socket.socket]:
    """A client that says something and reads nothing."""
    with socket.socket() as lazy:
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        lazy.connect(("127.0.0.1", int(address.partition(":")[2])))
        lazy.sendall(said)
        yield lazy


def _is_cut_off(served: Served, lazy: socket.socket) -> bool:
    return lazy.getsockname() not in {one.client for one in served.server.server_state.connections}


async def _seen_cut_off(served: Served, lazy: socket.socket) -> None:
    await until(lambda: not _is_cut_off(served, lazy))
    await until(lambda: _is_cut_off(served, lazy))


_NO_BODY = (
    b"POST /store HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Content-Length: 100\r\nX-Request-Timeout-Ms: 200\r\n\r\n"
)
UNREAD = {
    "a file": 20 * _get("/static/vendor/swagger-ui-5.35.0.min.js"),
    "JSON": 20 * _get("/openapi.json"),
    "a late 503": _get("/openapi.json") + _NO_BODY,
    "not counted": 5_000 * _get("/healthz"),
}


@pytest.mark.parametrize("said", UNREAD.values(), ids=UNREAD.keys())
async def test_who_does_not_read_is_cut_off(settings: Settings, small_buffers: None, said: bytes) -> None:
    async with (
        opened(settings, max_requests=1, subscriber_patience_seconds=1) as services,
        serving(services) as served,
        httpx.AsyncClient(base_url=served.url, timeout=LONG_SECONDS) as client,
    ):
        with _lazy(served.address, said) as lazy:
            await _seen_cut_off(served, lazy)
        assert (await client.get("/namespaces")).status_code == 200


async def test_a_refusal_that_nobody_reads_is_cut_off(
    settings: Settings, database_dsn: str, small_buffers: None
) -> None:
    async with (
        opened(settings, max_requests=1, subscriber_patience_seconds=1) as services,
        serving(services) as served,
        httpx.AsyncClient(base_url=served.url, timeout=LONG_SECONDS) as client,
    ):
        async with _locked(database_dsn, client):
            held = asyncio.create_task(_store(client, "first"))
            await until(lambda: _is(1, database_dsn))
            with _lazy(served.address, 2_000 * _get("/namespaces")) as lazy:
                await until(lambda: _is_cut_off(served, lazy))
            assert not held.done()
        assert (await held).status_code == 200


async def test_an_answer_that_waits_to_be_read_keeps_nobody_out(
    settings: Settings, small_buffers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "PROMPT_SECONDS", 2.0)
    monkeypatch.setattr(admission, "MAX_UNTAKEN", 1)
    async with (
        opened(settings, max_requests=1, subscriber_patience_seconds=3_600) as services,
        serving(services) as served,
        httpx.AsyncClient(base_url=served.url, timeout=LONG_SECONDS) as client,
    ):

        async def answers(status: int) -> bool:
            return (await client.get("/namespaces")).status_code == status

        with _lazy(served.address, UNREAD["JSON"]) as first:
            await until(lambda: answers(503))
            await until(lambda: answers(200))
            # There is room for one; the next is not waited for.
            with _lazy(served.address, UNREAD["JSON"]) as second:
                await _seen_cut_off(served, second)
            assert not _is_cut_off(served, first)
        assert await answers(200)


async def test_nothing_keeps_liveness_out(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "MAX_REPORTS", 0)
    monkeypatch.setattr(admission, "MAX_EXPOSITIONS", 1)
    async with serving(services) as served, httpx.AsyncClient(base_url=served.url, timeout=LONG_SECONDS) as asking:
        for path, status in {"/readyz": 503, "/health": 503, "/metrics": 200, "/healthz": 200, "/ping": 200}.items():
            assert (await asking.get(path)).status_code == status, path


async def test_few_followers_read_the_log_at_once(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    read, reading, most, goes_on = Reader.from_database, 0, 0, asyncio.Event()

    async def from_database(self: Reader) -> ChangePage:
        nonlocal reading, most
        reading += 1
        most = max(most, reading)
        try:
            await goes_on.wait()
            return await read(self)
        finally:
            reading -= 1

    monkeypatch.setattr(Reader, "from_database", from_database)
    await remember(services, "first")

    async def first_page() -> ChangePage:
        async with aclosing(services.changes.follow("default", "beginning", ChangeFilter())) as pages:
            return await anext(pages)

    async with asyncio.timeout(LONG_SECONDS):
        asking = [asyncio.create_task(first_page()) for _ in range(3 * MAX_CATCHING_UP)]
        await until(lambda: reading == MAX_CATCHING_UP)
        # Whoever goes away while it waits takes no place with it.
        asking[-1].cancel()
        goes_on.set()
        found = await asyncio.gather(*asking[:-1])
    assert all(page.changes for page in found)
    assert most == MAX_CATCHING_UP


WRITE = """mutation { remember(input: {content: "again", key: "first", namespace: "locked"}) { memory { key } } }"""


async def test_what_is_no_subscription_is_a_request_in_any_form(settings: Settings, database_dsn: str) -> None:
    limits = {"max_requests": 2, "request_timeout_ms": 500}
    async with (
        opened(settings, **limits) as services,
        serving(services) as served,
        httpx.AsyncClient(base_url=served.url, timeout=LONG_SECONDS) as client,
    ):
        head = {"Accept": "text/event-stream"}

        async def as_events() -> tuple[int, str]:
            answer = await client.post("/graphql", json={"query": WRITE}, headers=head)
            return answer.status_code, answer.text

        async with _locked(database_dsn, client):
            found = [text for _, text in await asyncio.gather(*[as_events() for _ in range(20)])]
            late = sum("deadline_exceeded" in text for text in found)
            # On a slow machine the last ones come when the first have ended.
            assert 2 <= late < 10
            assert late + sum("overloaded" in text for text in found) == 20
            async with served.socket() as one:
                for number in range(20):
                    await one.subscribe(WRITE, id=str(number))
                heard = [await one.hear() for _ in range(22)]
            refused = [message for message in heard if message["type"] == "error"]
            assert [message["payload"][0]["extensions"]["code"] for message in refused] == ["overloaded"] * 18
            ended = [message for message in heard if message["type"] == "next"]
            codes = [message["payload"]["errors"][0]["extensions"]["code"] for message in ended]
            assert codes == ["deadline_exceeded"] * 2
            assert sum(message["type"] == "complete" for message in heard) == 2
        await until(lambda: _is(0, database_dsn))
        status, text = await as_events()
        assert status == 200
        assert text.startswith('event: next\ndata: {"data":{"remember":{"memory":{"key":"first"}}}')
        assert text.endswith("event: complete\ndata: \n\n")
        async with served.socket() as one:
            await one.subscribe(WRITE)
            assert (await one.hear())["payload"]["data"] == {"remember": {"memory": {"key": "first"}}}


async def test_who_does_not_say_who_it_is_takes_no_place_of_streams(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "MAX_NEWCOMERS_EACH", 2)
    async with serving(services) as served:
        address, options = f"ws://{served.address}/graphql", {"subprotocols": ["graphql-transport-ws"]}
        async with served.socket() as before, connect(address, **options), connect(address, **options) as silent:
            with pytest.raises(InvalidStatus) as refused:
                await connect(address, **options)
            assert refused.value.response.status_code == 503
            await before.say(type="ping")
            assert await before.hear() == {"type": "pong"}
            # Who says it makes room for the next one.
            await silent.send('{"type": "connection_init"}')
            assert json.loads(await silent.recv()) == {"type": "connection_ack"}
            async with served.socket() as next_one:
                await next_one.say(type="ping")
                assert await next_one.hear() == {"type": "pong"}


async def test_probes_at_the_same_time_are_one_look(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    looks, goes_on = 0, asyncio.Event()

    async def report() -> HealthReport:
        nonlocal looks
        looks += 1
        await goes_on.wait()
        return HealthReport(looks > 1, {"database": {"status": "down" if looks == 1 else "up"}})

    monkeypatch.setattr(services.health, "report", report)
    async with serving(services) as served, httpx.AsyncClient(base_url=served.url, timeout=LONG_SECONDS) as client:
        asking = [asyncio.create_task(client.get("/readyz")) for _ in range(40)]
        await until(lambda: looks == 1)
        goes_on.set()
        # Those that came while the first look was young see it as well.
        assert {(await one).status_code for one in asking} <= {200, 503}
        assert looks <= 2
        await until(lambda: _is_ready(client))
        assert looks == 2


async def _is_ready(client: httpx.AsyncClient) -> bool:
    return (await client.get("/readyz")).status_code == 200


async def test_what_is_the_matter_is_told_to_who_may_see_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = {"cache": {"status": "degraded", "reason": "Redis at 127.0.0.1:1 does not answer"}}

    async def report() -> HealthReport:
        return HealthReport(True, parts)

    async def parts_for(client: httpx.AsyncClient, token: str | None) -> object:
        headers = {} if token is None else {"Authorization": token}
        answer = await client.get("/health", headers=headers)
        assert answer.status_code == 200
        return answer.json()["parts"]

    for token in (None, "one-of-thirty-two-characters-0123"):
        secret = None if token is None else SecretStr(token)
        async with opened(settings, api_token=secret) as services, serving(services) as served:
            monkeypatch.setattr(services.health, "report", report)
            async with httpx.AsyncClient(base_url=served.url, timeout=LONG_SECONDS) as client:
                if token is None:
                    assert await parts_for(client, None) == parts
                    continue
                for stranger in (None, "Bearer wrong", "Basic x"):
                    assert await parts_for(client, stranger) == {"cache": {"status": "degraded"}}
                assert await parts_for(client, f"Bearer {token}") == parts


class _Answers:
    """What an app sends, through the middleware around it."""

    def __init__(self, app: object, *, milliseconds: int) -> None:
        self.messages: list[Message] = []
        self._app = Admission(
            app, max_requests=1, max_transfers=1, request_timeout_ms=milliseconds, patience_seconds=1
        )  # type: ignore[arg-type]

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
