"""The log: ids on every line of a request, one handler for all, and nothing secret in it."""

import io
import json
import logging
import re
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from contextvars import copy_context
from dataclasses import replace

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import SecretStr

from sfm_graph.adapters.caches.redis import RedisCache
from sfm_graph.app import app_for
from sfm_graph.cli.welcome import welcome
from sfm_graph.services.registry import Services
from sfm_graph.settings import LogFormat, load_settings
from sfm_graph.telemetry import request_ids
from sfm_graph.telemetry.export import tracing_to_collector
from sfm_graph.telemetry.logs import _QUIET, MAX_MESSAGE_CHARS, start_logging
from sfm_graph.telemetry.masking import mask, mask_bounded
from sfm_graph.telemetry.request_ids import RequestIds, request_id

log = logging.getLogger("sfm_graph.test")
TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in _QUIET}
    yield
    root.handlers[:] = before
    root.setLevel(level)
    for name, one in levels.items():
        logging.getLogger(name).setLevel(one)


def started(log_format: LogFormat, level: str = "info") -> io.StringIO:
    written = io.StringIO()
    start_logging(log_format, level, stream=written)
    return written


def test_a_line_of_text() -> None:
    written = started(LogFormat.TEXT)
    log.info("two\nlines of %s", "it")
    log.debug("not this")
    line = written.getvalue()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \S+ INFO sfm_graph\.test: two\\nlines of it\n", line)


def test_text_from_elsewhere_makes_no_line_of_its_own() -> None:
    written = started(LogFormat.TEXT)
    forged = "2026-01-01 00:00:00 INFO sfm_graph: all is well"
    try:
        raise ValueError(f"no\n{forged}\r{forged}\u2028{forged}\x1b[2K")
    except ValueError:
        log.exception("it said\x0b\x85%s", "\x1b[1A", stack_info=True)
    first, *others = written.getvalue().splitlines()
    assert first.endswith(r"it said\x0b\x85\x1b[1A")
    assert len(others) > 3
    assert [one for one in others if not one.startswith("    ")] == []
    assert any(forged in one for one in others)
    assert "\x1b" not in written.getvalue()


@pytest.mark.parametrize("log_format", LogFormat)
def test_a_long_exception_is_shown_by_its_begin_and_its_end(log_format: LogFormat) -> None:
    written = started(log_format)
    try:
        raise ValueError("://a:b" * 200_000 + " that was it")
    except ValueError:
        log.exception("the message")
    shown = written.getvalue()
    assert MAX_MESSAGE_CHARS / 2 < len(shown) < MAX_MESSAGE_CHARS + 1_000
    assert "Traceback" in shown
    assert "that was it" in shown


def test_a_line_of_json() -> None:
    written = started(LogFormat.JSON)
    try:
        raise ValueError('of "postgresql://sfm:hunter2@db/sfm"')
    except ValueError:
        log.exception('it said "%s"\n', "\ud800")
    line = json.loads(written.getvalue())
    assert (line["level"], line["logger"], line["message"]) == ("error", "sfm_graph.test", 'it said "?"\n')
    assert "Traceback" in line["exception"]
    assert "hunter2" not in line["exception"]
    assert written.getvalue().count("\n") == 1


def test_other_peoples_loggers_write_through_the_same_handler() -> None:
    theirs = logging.getLogger("uvicorn.error")
    other = io.StringIO()
    theirs.addHandler(logging.StreamHandler(other))
    theirs.propagate = False
    written = started(LogFormat.JSON)
    theirs.error("from %s", "there")
    logging.getLogger("httpx").info("HTTP Request: POST https://hooks.example/secret")
    assert json.loads(written.getvalue())["message"] == "from there"
    assert other.getvalue() == ""


async def test_every_line_of_a_request_has_its_ids(client: httpx.AsyncClient, services: Services) -> None:
    async def failing() -> None:
        log.warning("inside")

    services.health.report = failing  # type: ignore[method-assign, assignment]
    async with tracing_to_collector(load_settings(), "test", exporter=InMemorySpanExporter()):
        written = started(LogFormat.JSON)
        headers = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01", "X-Request-ID": "mine-1"}
        answer = await client.get("/readyz", headers=headers)
    assert answer.status_code == 500
    assert answer.headers["X-Request-ID"] == "mine-1"
    line = json.loads(written.getvalue().splitlines()[0])
    assert (line["message"], line["request_id"], line["trace_id"]) == ("inside", "mine-1", TRACE)
    assert re.fullmatch("[0-9a-f]{16}", line["span_id"])


def test_a_line_after_a_request_still_has_its_ids() -> None:
    # The server logs what nobody caught when the request's own span has ended.
    written = started(LogFormat.TEXT)

    def work() -> None:
        request_ids.begin(RequestIds("r", "t", "s"))
        log.error("after it")

    copy_context().run(work)
    assert written.getvalue().endswith("after it [request_id=r trace_id=t span_id=s]\n")


@pytest.mark.parametrize("sent", ["", "a b", "x" * 129, "<script>", "é"])
async def test_a_request_id_of_another_form_is_replaced(client: httpx.AsyncClient, sent: str) -> None:
    answer = await client.get("/ping", headers={"X-Request-ID": sent.encode()})
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["X-Request-ID"])


def test_each_request_has_another_id() -> None:
    assert request_id(None) != request_id(None)
    assert request_id("given.by-a_caller:1") == "given.by-a_caller:1"


SECRETS = [
    "postgresql://sfm:{}@db:5432/sfm",
    "cannot reach rediss://:{}@cache:6379/0.",
    "Authorization: Bearer {}",
    "{{'authorization': 'Basic {}', 'x': 1}}",
    "(b'authorization', b'Bearer {}')",
    'headers {{"Authorization": "Bearer {}"}}',
    "host=db user=sfm password={} dbname=sfm",
    "password='{}'",
    "sslpassword={} sslmode=verify-full",
    "{{'clientSecret': '{}'}}",
    r"password='it\'s {}'",
    "password='" + "long" * 200 + "{}'",
    "password='never ends {}",
    "api_key={}&x=1",
    '{{"secret": "{}"}}',
    "SFM_QDRANT_API_KEY={}",
]


@pytest.mark.parametrize("text", SECRETS)
@pytest.mark.parametrize("secret", ["hunter2hunter2", "p-_.~9ABCdefgh"])
def test_secrets_are_masked_and_the_rest_stays(text: str, secret: str) -> None:
    shown = mask(text.format(secret))
    assert secret not in shown
    assert "***" in shown


@pytest.mark.parametrize("password", ["p@ss:w/rd?x", "a:b", "x" * 3_000, "with a space", "123,45"])
def test_passwords_of_urls_are_masked_whole(password: str) -> None:
    shown = mask(f"connecting to postgresql://sfm:{password}@db.example:5432/sfm?sslmode=require now")
    assert shown == "connecting to postgresql://sfm:***@db.example:5432/sfm?sslmode=require now"


def test_several_urls_in_a_line_are_masked_each() -> None:
    shown = mask("http://a:1/x to redis://:one@b and postgresql://u:two@c, ask me@here")
    assert shown == "http://a:1/x to redis://:***@b and postgresql://u:***@c, ask me@here"


@given(st.integers(0, 3_000))
def test_a_cut_goes_through_no_secret(before: int) -> None:
    secret = "hunter2" * 60
    text = (
        "x" * before
        + f" postgresql://sfm:{secret}@db "
        + "y" * 6_000
        + f" postgresql://sfm:{secret}@db "
        + "x" * before
    )
    assert "hunter2" not in mask_bounded(text, 4_000)


def test_an_api_key_is_masked() -> None:
    assert mask("the key sfm_12_Ab-9_hunter2hunter2 was refused") == "the key sfm_*** was refused"


def test_a_jwt_is_masked() -> None:
    token = ".".join(["eyJhbGciOiJSUzI1NiJ9", "eyJzdWIiOiIxIn0abc", "c2lnbmF0dXJl"])
    assert mask(f"token refused ({token})") == "token refused (***)"


@pytest.mark.parametrize(
    "text",
    [
        "applying migration 1 foundation",
        "GET http://localhost:9595/memories?key=a@b",
        "2026-11-21 10:00:00 INFO sfm_graph: 3 tokens of 5 are left",
        "no memory with key 'x' in 'default'",
        "cannot reach redis://cache:6379 now, ask admin@example.com",
        "http://a:1 and http://b:2, me@c",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert mask(text) == text


@given(st.text(max_size=200))
def test_any_text_can_be_masked_and_logged(text: str) -> None:
    written = started(LogFormat.JSON)
    log.error("%s", text)
    (line,) = written.getvalue().splitlines() if written.getvalue().count("\n") == 1 else [None]
    assert line is not None
    assert json.loads(line)["level"] == "error"


def test_masking_takes_time_by_the_length_alone() -> None:
    # A pattern that tries again from each place would take minutes for these.
    parts = (
        "://",
        "password=",
        "password='",
        "Bearer ",
        "a_",
        "a-",
        "://a:",
        "://a:b",
        "://a:b ",
        "://a:b@ ",
        "sfm_1_",
        "eyJ",
    )
    for part in parts:
        mask(part * (500_000 // len(part)))


def test_the_process_logs_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    start_logging(LogFormat.TEXT, "warning")
    log.info("no")
    log.warning("yes")
    assert logging.getLogger().handlers[0].stream is sys.stderr  # type: ignore[attr-defined]
    assert capsys.readouterr().err.endswith("yes\n")


@asynccontextmanager
async def logged_client(services: Services) -> AsyncIterator[httpx.AsyncClient]:
    """Speaks to an app over services, from an address, with the access log on."""
    changed = replace(services, settings=services.settings.model_copy(update={"access_log": True}))
    app = app_for(changed)
    transport = httpx.ASGITransport(app, client=("192.0.2.7", 1))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost:9595") as opened,
    ):
        yield opened


def accesses(written: io.StringIO) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    return [line for line in lines if line["logger"] == "sfm_graph.access"]


async def test_a_line_for_each_request(services: Services) -> None:
    made = await services.keys.create("boss", scopes=["read"], namespaces=["*"])
    async with logged_client(services) as client:
        written = started(LogFormat.JSON)
        headers = {"Authorization": f"Bearer {made.token}", "X-Request-ID": "mine-1"}
        await client.get("/memories/1,2,3?namespace=hidden", headers=headers)
        await client.delete("/memories/1,2,3?namespace=hidden", headers=headers)
        await client.get("/memories/hidden")
        await client.get("/hidden", headers=headers)
    shown = f"key:{made.key.id} (boss)"
    expected = [
        ("GET", "/memories/{coordinate:path}", 404, shown),
        ("DELETE", "/memories/{coordinate:path}", 403, shown),
        ("GET", "/memories/{coordinate:path}", 401, "anonymous"), ("GET", "unmatched", 404, shown),
    ]  # fmt: skip
    found = accesses(written)
    assert [(one["method"], one["route"], one["status"], one["principal"]) for one in found] == expected
    assert {one["client"] for one in found} == {"192.0.2.7"}
    assert found[0]["request_id"] == "mine-1"
    assert all(isinstance(one["ms"], float) for one in found)
    assert str(found[0]["message"]).startswith("GET /memories/{coordinate:path} 404 ")
    assert "hidden" not in json.dumps(found)


async def test_requests_are_no_lines_unless_they_are_asked_for(client: httpx.AsyncClient) -> None:
    written = started(LogFormat.JSON)
    await client.get("/ping")
    assert accesses(written) == []


async def test_a_refused_token_is_told_with_the_clients_address(services: Services) -> None:
    await services.keys.create("boss", scopes=["read"], namespaces=["*"])
    async with logged_client(services) as client:
        written = started(LogFormat.TEXT)
        await client.get("/memories")
        await client.get("/memories", headers={"Authorization": "Bearer wrongwrongwrong"})
    text = written.getvalue()
    assert "authentication failed for 192.0.2.7: a bearer token is needed in the Authorization header" in text
    assert "authentication failed for 192.0.2.7: the token is of no kind that this service takes" in text
    assert "***" not in text
    assert "wrongwrong" not in text


async def test_that_the_cache_goes_and_comes_back_is_one_line_each(monkeypatch: pytest.MonkeyPatch) -> None:
    # Nobody listens on port 1.
    cache = RedisCache.open(load_settings(redis_url=SecretStr("redis://:hunter2@127.0.0.1:1/0")))
    monkeypatch.setattr(cache, "_cool_down_seconds", 0.000_001)
    written = started(LogFormat.TEXT)
    for _ in range(3):
        assert (await cache.state())["status"] == "degraded"

    async def added() -> None:
        cache._alive += 1

    monkeypatch.setattr(cache, "_add", added)
    for _ in range(3):
        assert (await cache.state())["status"] == "up"
    first, second = written.getvalue().splitlines()
    assert "WARNING" in first
    assert "the cache is not used: Redis at" in first
    assert "the cache is used again" in second
    assert "hunter2" not in written.getvalue()
    await cache.aclose()


@pytest.mark.parametrize("is_open", [True, False])
def test_the_greeting_is_a_line_of_json_where_the_log_is(
    capsys: pytest.CaptureFixture[str], *, is_open: bool
) -> None:
    settings = load_settings(
        log_format=LogFormat.JSON, api_token=None if is_open else SecretStr("0123456789abcdef"),
    )  # fmt: skip
    written = started(LogFormat.JSON)
    welcome(settings, "http://localhost:9595", keys=False)
    line = json.loads(written.getvalue())
    assert (line["message"], line["url"]) == ("sfm_graph serves http://localhost:9595", "http://localhost:9595")
    assert line["open"] is is_open
    assert capsys.readouterr().err == ""
    welcome(settings.model_copy(update={"log_format": LogFormat.TEXT}), "http://localhost:9595", keys=False)
    assert ("open to all programs" in capsys.readouterr().err) is is_open
