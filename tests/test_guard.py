"""Who may speak to the service: Host, Origin, content type, size; and the security headers."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from sfm_graph.api.guard import Guard, host_of
from sfm_graph.app import app_for
from sfm_graph.domain import access
from sfm_graph.errors import SettingsError
from sfm_graph.services.registry import Services
from sfm_graph.settings import load_settings

JSON = {"Content-Type": "application/json"}
HOSTS = ("localhost", "127.0.0.1", "[::1]")


def _code(answer: httpx.Response) -> tuple[int, str]:
    if answer.request.url.path == "/graphql":
        return answer.status_code, answer.json()["errors"][0]["extensions"]["code"]
    assert answer.headers["Content-Type"] == "application/problem+json"
    return answer.status_code, answer.json()["code"]


async def test_known_hosts_are_served(client: httpx.AsyncClient) -> None:
    for host in ("localhost", "localhost:9595", "LOCALHOST", "127.0.0.1:80", "[::1]:9595", "[::1]"):
        assert (await client.get("/ping", headers={"Host": host})).status_code == 200, host


async def test_other_hosts_are_refused(client: httpx.AsyncClient) -> None:
    hosts = (
        "evil.example evil.example:9595 localhost.evil.example localhost:80:80 localhost:x ::1 [::1 localhost@evil"
    )
    for path in ("/", "/ping", "/graphql", "/memories", "/metrics", "/openapi.json", "/nowhere"):
        for host in ["", *hosts.split()]:
            assert _code(await client.get(path, headers={"Host": host})) == (403, "access_refused"), (path, host)


async def test_a_host_given_twice_is_refused(client: httpx.AsyncClient) -> None:
    headers = [("Host", "localhost"), ("Host", "evil.example")]
    assert _code(await client.get("/ping", headers=headers)) == (400, "invalid_input")


async def test_writes_from_other_origins_are_refused(client: httpx.AsyncClient) -> None:
    for path in ("/remember", "/graphql", "/import"):
        for origin in ("http://evil.example", "null", "https://localhost.evil.example", "file://", "localhost"):
            answer = await client.post(path, json={"content": "x"}, headers={"Origin": origin})
            assert _code(answer) == (403, "access_refused"), (path, origin)


async def test_writes_from_the_services_own_pages_are_taken(client: httpx.AsyncClient) -> None:
    answer = await client.post("/remember", json={"content": "x"}, headers={"Origin": "http://localhost:9595"})
    assert answer.status_code == 201


async def test_a_read_from_another_origin_is_answered_but_not_shared(client: httpx.AsyncClient) -> None:
    answer = await client.get("/memories", headers={"Origin": "http://evil.example"})
    assert answer.status_code == 200
    assert not [name for name in answer.headers if name.startswith("access-control-")]


async def test_what_a_page_can_send_anywhere_is_refused(client: httpx.AsyncClient) -> None:
    forms = ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/json")
    for path in ("/remember", "/link", "/graphql", "/delete_many", "/recall", "/import"):
        for headers in ({}, *({"Content-Type": form} for form in forms)):
            answer = await client.post(path, content=b'{"content": "x"}', headers=headers)
            assert _code(answer) == (415, "unsupported_media_type"), (path, headers)


async def test_deletes_without_a_body_need_no_type(client: httpx.AsyncClient) -> None:
    assert (await client.delete("/memories/1,2,3")).json() == {"deleted": False}
    assert _code(await client.request("DELETE", "/link", content=b"{}")) == (415, "unsupported_media_type")


async def test_every_answer_carries_the_security_headers(client: httpx.AsyncClient) -> None:
    for path in ("/", "/ping", "/memories/9", "/nowhere", "/graphql", "/static/icon.svg"):
        answer = await client.get(path)
        assert answer.headers.get_list("X-Content-Type-Options") == ["nosniff"], path
        assert answer.headers.get_list("Referrer-Policy") == ["no-referrer"], path
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin", path


@pytest.fixture
async def narrow(services: Services) -> AsyncIterator[httpx.AsyncClient]:
    """A client on an app that takes bodies of 2,000 bytes."""
    app = app_for(services)
    guard = Guard(app, host_names=HOSTS, max_body_bytes=2_000)
    transport = httpx.ASGITransport(guard)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as opened,
    ):
        yield opened


async def _chunks(size: int, sent: list[int]) -> AsyncIterator[bytes]:
    for _ in range(0, size, 500):
        sent.append(500)
        yield b" " * 500


async def test_large_bodies_are_refused(narrow: httpx.AsyncClient) -> None:
    for path in ("/remember", "/graphql", "/store_bulk"):
        announced = await narrow.post(path, content=b" " * 2_001, headers=JSON)
        assert _code(announced) == (413, "too_large")
        assert announced.headers["Connection"] == "close"
        sent: list[int] = []
        chunked = await narrow.post(path, content=_chunks(100_000, sent), headers=JSON)
        assert chunked.status_code == 413
        assert "too_large" in chunked.text
        assert sum(sent) < 5_000


async def test_an_import_is_not_bounded_as_a_whole(narrow: httpx.AsyncClient) -> None:
    lines = b"".join(b'{"type": "memory", "content": "line %d"}\n' % number for number in range(500))
    answer = await narrow.post("/import", content=lines, headers={"Content-Type": "application/x-ndjson"})
    assert answer.json()["memories"]["created"] == 500


@pytest.mark.parametrize(
    ("headers", "admitted"),
    [
        ({"host": "localhost:9595"}, True),
        ({"host": "localhost:9595", "origin": "http://localhost:9595"}, True),
        ({"host": "localhost:9595", "origin": "http://evil.example"}, False),
        ({"host": "localhost:9595", "origin": "null"}, False),
        ({"host": "evil.example"}, False),
        ({}, False),
    ],
)
async def test_websockets_are_checked_at_the_handshake(headers: dict[str, str], admitted: bool) -> None:
    reached: list[Scope] = []

    async def app(scope: Scope, _: Receive, __: Send) -> None:
        reached.append(scope)

    sent: list[Any] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    guard = Guard(app, host_names=HOSTS, max_body_bytes=1)
    await guard({"type": "websocket", "path": "/graphql", "headers": raw}, receive, send)
    assert bool(reached) is admitted
    assert [one["type"] for one in sent] == ([] if admitted else ["websocket.close"])


@pytest.mark.parametrize(
    ("authority", "host"),
    [("A:1", "a"), ("[::1]:1", "[::1]"), ("a:", "a"), ("a:1x", ""), ("[::1]1", ""), ("", ""), ("a:1:2", "")],
)
def test_host_of(authority: str, host: str) -> None:
    assert host_of(authority) == host


PAGE = "https://app.example"


@asynccontextmanager
async def _with(services: Services, **changed: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an app whose settings are changed, with a key that may do everything."""
    token = (await services.keys.create("page", scopes=list(access.Scope), namespaces=["*"])).token
    app = app_for(replace(services, settings=services.settings.model_copy(update=changed)))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=headers) as opened,
    ):
        yield opened


async def _preflight(client: httpx.AsyncClient, origin: str) -> httpx.Response:
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
    del client.headers["Authorization"]
    return await client.options("/remember", headers={"Origin": origin, **asked})


async def test_no_page_elsewhere_is_let_in_by_default(services: Services) -> None:
    async with _with(services) as client:
        answer = await _preflight(client, PAGE)
        assert not [name for name in answer.headers if name.startswith("access-control-")]


async def test_pages_that_are_named_are_let_in(services: Services) -> None:
    async with _with(services, cors_origins=f"{PAGE}, https://other.example") as client:
        stored = await client.post("/remember", json={"content": "x"}, headers={"Origin": PAGE})
        assert (stored.status_code, stored.headers["Access-Control-Allow-Origin"]) == (201, PAGE)
        assert "access-control-allow-credentials" not in stored.headers
        refused = await client.post("/remember", json={"content": "x"}, headers={"Origin": f"{PAGE}.evil"})
        assert refused.status_code == 403
        allowed = await _preflight(client, PAGE)
        assert (allowed.status_code, allowed.headers["Access-Control-Allow-Origin"]) == (200, PAGE)
        assert "authorization" in allowed.headers["Access-Control-Allow-Headers"].lower()
        assert "access-control-allow-origin" not in (await _preflight_of_stranger(client)).headers


async def test_pages_that_are_let_in_may_send_and_see_what_is_documented(services: Services) -> None:
    sent = "x-request-timeout-ms,x-request-id,traceparent,tracestate,idempotency-key,if-match,last-event-id"
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": sent}
    async with _with(services, cors_origins=PAGE) as client:
        allowed = await client.options("/remember", headers={"Origin": PAGE, **asked})
        assert allowed.status_code == 200, allowed.text
        answer = await client.post("/remember", json={"content": "x"}, headers={"Origin": PAGE, "X-Request-ID": "me"})
        seen = set(answer.headers["Access-Control-Expose-Headers"].lower().split(", "))
        assert seen >= {"x-request-id", "etag", "retry-after", "x-changes-cursor", "ratelimit-remaining"}
        assert answer.headers["X-Request-ID"] == "me"
        other = {**asked, "Access-Control-Request-Headers": "x-unheard-of"}
        assert (await client.options("/remember", headers={"Origin": PAGE, **other})).status_code == 400


async def _preflight_of_stranger(client: httpx.AsyncClient) -> httpx.Response:
    asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    return await client.options("/remember", headers=asked)


async def test_what_is_no_page_may_load_nothing(client: httpx.AsyncClient) -> None:
    for path in ("/ping", "/memories", "/nowhere"):
        policy = (await client.get(path)).headers["Content-Security-Policy"]
        assert policy == "default-src 'none'; frame-ancestors 'none'", path


async def test_any_host_is_served_when_it_says_so(services: Services) -> None:
    async with _with(services, allowed_hosts="*") as client:
        there = {"Host": "memory.example:443"}
        assert (await client.get("/ping", headers=there)).status_code == 200
        for origin, status in (("https://memory.example", 201), ("https://evil.example", 403)):
            answer = await client.post("/remember", json={"content": "x"}, headers={**there, "Origin": origin})
            assert answer.status_code == status, origin


def test_any_host_needs_a_token() -> None:
    with pytest.raises(SettingsError, match="SFM_ALLOWED_HOSTS"):
        load_settings(allowed_hosts="*")
    assert load_settings(allowed_hosts="*", api_token="a-token-that-is-long").host_names == {"*"}
