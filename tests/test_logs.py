"""The log: ids on every line of a request, one handler for all, and nothing secret in it."""

import io
import json
import logging
import re
import sys
from collections.abc import Iterator
from contextvars import copy_context

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from sfm_graph.services.registry import Services
from sfm_graph.settings import LogFormat, load_settings
from sfm_graph.telemetry import request_ids
from sfm_graph.telemetry.export import tracing_to_collector
from sfm_graph.telemetry.logs import start_logging
from sfm_graph.telemetry.masking import mask
from sfm_graph.telemetry.request_ids import RequestIds, request_id

log = logging.getLogger("sfm_graph.test")
TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    root.handlers[:] = before
    root.setLevel(level)


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


@pytest.mark.parametrize("password", ["p@ss:w/rd?x", "a:b", "x" * 300])
def test_passwords_of_urls_are_masked_whole(password: str) -> None:
    shown = mask(f"connecting to postgresql://sfm:{password}@db.example:5432/sfm?sslmode=require now")
    assert shown == "connecting to postgresql://sfm:***@db.example:5432/sfm?sslmode=require now"


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
    for text in ("://" * 30_000, "password=" * 10_000, "Bearer " * 15_000, "a_" * 50_000, "://a:" * 20_000):
        mask(text)


def test_the_process_logs_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    start_logging(LogFormat.TEXT, "warning")
    log.info("no")
    log.warning("yes")
    assert logging.getLogger().handlers[0].stream is sys.stderr  # type: ignore[attr-defined]
    assert capsys.readouterr().err.endswith("yes\n")
