"""One trace from a request to its consumer, what spans tell and do not tell, and a collector that is away."""

import asyncio
import gzip
import logging
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from kafka_mock import mock_cluster
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import SecretStr
from redis_server import free_port, redis_server
from served import serving, until

from sfm_consumers.assembly import Plan, consume
from sfm_consumers.settings import load_consumer_settings
from sfm_graph.adapters.buses.kafka_records import records_of
from sfm_graph.app import app_for
from sfm_graph.domain.event import Event
from sfm_graph.runtime import open_runtime
from sfm_graph.services.registry import Services
from sfm_graph.settings import EventBusKind, Settings, load_settings
from sfm_graph.telemetry import export, tracing
from sfm_graph.telemetry.export import FLUSH_SECONDS, tracing_to_collector
from sfm_graph.telemetry.messages import distinct, handling
from sfm_graph.telemetry.stages import stage

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"
UNSAMPLED = f"00-{TRACE}-b7ad6b7169203331-00"
SECRET = "whsec_" + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@pytest.fixture
async def spans() -> AsyncIterator[InMemorySpanExporter]:
    """Where spans go in this test."""
    exporter = InMemorySpanExporter()
    async with tracing_to_collector(load_settings(), "test", exporter=exporter):
        yield exporter


@asynccontextmanager
async def speaking_to(services: Services) -> AsyncIterator[httpx.AsyncClient]:
    app = app_for(services)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost:9595") as client,
    ):
        yield client


def names(exporter: InMemorySpanExporter, trace: str = TRACE) -> list[str]:
    return [one.name for one in exporter.get_finished_spans() if trace_of(one) == trace]


def trace_of(span: ReadableSpan) -> str:
    assert span.context is not None
    return f"{span.context.trace_id:032x}"


@asynccontextmanager
async def receiver() -> AsyncIterator[tuple[str, list[dict[str, str]]]]:
    """A webhook: its URL, and the headers of each request."""
    seen: list[dict[str, str]] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[1:-2]
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head)}
        await reader.readexactly(int(headers["content-length"]))
        seen.append(headers)
        writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook", seen


async def test_one_trace_from_the_request_to_the_consumer_and_beyond(
    settings: Settings, spans: InMemorySpanExporter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SFM_WEBHOOK_SECRET", SECRET)
    with redis_server(tmp_path) as redis:
        on_redis = settings.model_copy(
            update={"event_bus": EventBusKind.REDIS, "redis_url": SecretStr(redis.url), "data_dir": tmp_path}
        )
        async with receiver() as (url, seen), open_runtime(on_redis, maintenance=False) as services:
            assert services.relay is not None
            relaying = asyncio.create_task(services.relay.run())
            stop = asyncio.Event()
            plan = Plan(
                "webhook", "g", EventBusKind.REDIS, {"url": url, "allow_http": "true"}, on_redis,
                load_consumer_settings(port=0),
            )  # fmt: skip
            consuming = asyncio.create_task(consume(plan, stop, lambda _: None))
            try:
                async with speaking_to(services) as client:
                    body = {"content": "x", "key": "k", "coordinate": [1]}
                    answer = await client.post("/store", json=body, headers={"traceparent": PARENT})
                    assert answer.status_code == 201, answer.text
                    await client.post("/store", json={"content": "y", "coordinate": [2]})
                await until(lambda: len(seen) >= 2)
            finally:
                stop.set()
                relaying.cancel()
                await asyncio.wait([relaying, consuming])
            consuming.result()
    mine = [one for one in seen if one["traceparent"].split("-")[1] == TRACE]
    assert len(mine) == 1, "the receiver got the trace of the request, and the other event that of another"
    found = spans.get_finished_spans()
    in_trace = {one.name: one for one in found if trace_of(one) == TRACE}
    assert {"POST /store", "write.transaction", "process memory.events"} <= set(in_trace)
    assert any(name.startswith("sql ") for name in in_trace)
    assert in_trace["process memory.events"].parent is not None
    published = [one for one in found if one.name == "publish redis"]
    assert TRACE in {f"{link.context.trace_id:032x}" for one in published for link in one.links}
    assert mine[0]["ce-traceparent"].split("-")[1] == TRACE


async def test_the_log_says_who_made_a_change_only_where_that_is_traced(
    services: Services, spans: InMemorySpanExporter
) -> None:
    async with speaking_to(services) as client:
        for coordinate, parent in ((1, PARENT), (2, UNSAMPLED)):
            body = {"content": "x", "coordinate": [coordinate]}
            await client.post("/store", json=body, headers={"traceparent": parent})
    await services.memory_writes.store("default", {"content": "y"})
    async with services.views.open() as view:
        rows = await view.session.dynamic("select trace from changes where operation = 'create' order by id")
    assert re.fullmatch(rf"00-{TRACE}-[0-9a-f]{{16}}-01", rows[0][0])
    assert [one for (one,) in rows[1:]] == [None, None]
    page = await first_page(services)
    assert page[0].trace == rows[0][0]


async def first_page(services: Services) -> list[Any]:
    from sfm_graph.domain.change_filter import ChangeFilter

    async with services.views.open() as view:
        found = await services.changes.page(view, "default", None, ChangeFilter(), 10)
    return [one.change for one in found.changes]


async def test_a_traced_recall_and_walk_show_their_stages_and_statements(
    services: Services, spans: InMemorySpanExporter
) -> None:
    for number in (1, 2):
        await services.memory_writes.store("default", {"content": f"the orchard {number}", "coordinate": [number]})
    query = "query Mine($q: String!) { recall(query: $q) { edges { node { id } } } }"
    async with speaking_to(services) as client:
        secret = "orchard of secrets"
        answer = await client.post("/recall", json={"query": secret}, headers={"traceparent": PARENT})
        assert answer.status_code == 200
        found = names(spans)
        assert {"POST /recall", "recall.embed", "recall.load", "recall.dense", "recall.fuse", "pool.wait"} <= set(
            found
        )
        spans.clear()
        body = {"query": query, "variables": {"q": secret}}
        answer = await client.post("/graphql", json=body, headers={"traceparent": PARENT})
        assert "graphql query Mine" in names(spans)
        told = "".join(one.to_json() for one in spans.get_finished_spans())
        assert secret not in told
        assert "recall(" not in told


async def test_what_runs_in_the_background_makes_no_traces(services: Services, spans: InMemorySpanExporter) -> None:
    await services.memory_writes.store("default", {"content": "x"})
    with stage("recall.dense"):
        pass
    assert spans.get_finished_spans() == ()


async def test_an_error_is_told_by_its_code_and_not_its_words(
    services: Services, spans: InMemorySpanExporter
) -> None:
    async with speaking_to(services) as client:
        await client.get("/memories/9,9", headers={"traceparent": PARENT})
    (server,) = [one for one in spans.get_finished_spans() if one.name == "GET /memories/{coordinate:path}"]
    assert server.attributes is not None
    assert server.attributes["http.response.status_code"] == 404
    assert server.status.is_unset
    with pytest.raises(ValueError, match="of a secret"), tracing.span("failing"):
        raise ValueError("of a secret")
    failing = spans.get_finished_spans()[-1]
    assert "secret" not in failing.to_json()
    assert failing.attributes == {"error.type": "ValueError"}


@pytest.mark.parametrize("given", ["", "00-0-0-01", PARENT + "-x", f"ff-{TRACE}-b7ad6b7169203331-01", "0" * 5_000])
async def test_a_broken_traceparent_begins_a_trace(
    services: Services, spans: InMemorySpanExporter, given: str
) -> None:
    async with speaking_to(services) as client:
        assert (await client.get("/ping", headers={"traceparent": given})).status_code == 200
    (one,) = spans.get_finished_spans()
    assert one.parent is None
    assert trace_of(one) != TRACE


async def test_a_batch_of_several_requests_is_in_the_trace_of_each(spans: InMemorySpanExporter) -> None:
    other = PARENT.replace(TRACE, "1" * 32)
    with handling("c", "memory.events", [PARENT, None, other, PARENT, "junk"]):
        assert tracing.traceparent() is not None
    assert sorted(trace_of(one) for one in spans.get_finished_spans()) == [TRACE, "1" * 32]


def test_distinct_traces_are_bounded() -> None:
    many = [f"00-{number:032x}-{number:016x}-01" for number in range(1, 200)]
    assert distinct([*many, many[0], None, "x"]) == many[:64]


def test_kafka_records_carry_the_trace_for_others_too() -> None:
    event = Event("memory.events", "n/1", "log", 1, (("traceparent", PARENT),), b'{"a":1}', False, PARENT)
    (record,) = records_of(event, tombstones=False)
    assert ("ce_traceparent", PARENT.encode()) in record.headers
    assert ("traceparent", PARENT.encode()) in record.headers


async def test_kafka_gets_the_trace_of_the_request(settings: Settings, spans: InMemorySpanExporter) -> None:
    from confluent_kafka import Consumer

    with mock_cluster() as cluster:
        for topic in ("memory.events", "link.events"):
            cluster.make_topic(topic, 1)
        on_kafka = settings.model_copy(
            update={"event_bus": EventBusKind.KAFKA, "kafka_bootstrap_servers": cluster.bootstrap}
        )
        async with open_runtime(on_kafka, maintenance=False) as services:
            assert services.relay is not None
            relaying = asyncio.create_task(services.relay.run())
            async with speaking_to(services) as client:
                await client.post("/store", json={"content": "x", "coordinate": [1]}, headers={"traceparent": PARENT})
            await until(lambda: any(one.name == "publish kafka" for one in spans.get_finished_spans()))
            relaying.cancel()
            await asyncio.wait([relaying])
        reader = Consumer({"bootstrap.servers": cluster.bootstrap, "group.id": "g", "auto.offset.reset": "earliest"})
        reader.subscribe(["memory.events"])
        message = await asyncio.to_thread(reader.poll, 30)
        headers = {name: value.decode() for name, value in message.headers()}
        await asyncio.to_thread(reader.close)
    assert headers["traceparent"].split("-")[1] == TRACE
    assert headers["ce_traceparent"] == headers["traceparent"]


async def test_spans_reach_a_collector(settings: Settings) -> None:
    posted: list[ExportTraceServiceRequest] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
            except asyncio.IncompleteReadError:
                break
            assert head.startswith("POST /v1/traces ")
            length = re.search(r"(?i)content-length: (\d+)", head)
            assert length is not None
            body = await reader.readexactly(int(length[1]))
            if re.search(r"(?i)content-encoding: gzip", head):
                body = gzip.decompress(body)
            posted.append(ExportTraceServiceRequest.FromString(body))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as collector:
        endpoint = f"http://127.0.0.1:{collector.sockets[0].getsockname()[1]}"
        async with (
            open_runtime(settings.model_copy(update={"otlp_endpoint": endpoint}), maintenance=False) as services,
            speaking_to(services) as client,
        ):
            assert tracing.is_on()
            await client.get("/ping", headers={"traceparent": PARENT})
        # The end of the runtime has sent them.
        assert not tracing.is_on()
    resources = [one for request in posted for one in request.resource_spans]
    assert {
        value.value.string_value
        for one in resources for value in one.resource.attributes if value.key == "service.name"
    } == {"sfm-graph"}  # fmt: skip
    told = [span for one in resources for scope in one.scope_spans for span in scope.spans]
    assert [(span.name, span.trace_id.hex()) for span in told] == [("GET /ping", TRACE)]


async def test_a_collector_that_is_away_delays_nothing_and_says_so_once(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    away = settings.model_copy(update={"otlp_endpoint": f"http://127.0.0.1:{free_port()}"})
    with caplog.at_level(logging.DEBUG, "opentelemetry"):
        async with tracing_to_collector(away, "test"):
            for _ in range(2_000):
                with tracing.span("x"):
                    pass
            await until(lambda: bool(caplog.records))
            ending = time.monotonic()
        assert time.monotonic() - ending < FLUSH_SECONDS + 10
    said = [one for one in caplog.records if one.name.startswith("opentelemetry") and one.levelno >= logging.WARNING]
    assert len(said) == 1, said


async def test_a_collector_that_never_answers_delays_the_end_by_seconds_alone(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The end would take as long as the last request to it.
    monkeypatch.setattr(export, "_EXPORT_SECONDS", 120.0)
    opened: list[asyncio.StreamWriter] = []

    async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        opened.append(writer)

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as collector:
        endpoint = f"http://127.0.0.1:{collector.sockets[0].getsockname()[1]}"
        async with tracing_to_collector(settings.model_copy(update={"otlp_endpoint": endpoint}), "test"):
            with tracing.span("x"):
                pass
            ending = time.monotonic()
        assert time.monotonic() - ending < FLUSH_SECONDS + 30
        assert opened
        for one in opened:
            one.close()
            await one.wait_closed()


async def test_operations_over_a_websocket_have_traces_of_their_own(
    services: Services, spans: InMemorySpanExporter
) -> None:
    async with serving(services) as served, served.socket() as socket:
        for number in ("1", "2"):
            await socket.subscribe("query Known { namespaces { edges { node { name } } } }", id=number)
            assert (await socket.hear())["type"] == "next"
            assert (await socket.hear())["type"] == "complete"
        asked = [one for one in spans.get_finished_spans() if one.name == "graphql query Known"]
    assert len({trace_of(one) for one in asked}) == 2
    assert [one.parent for one in asked] == [None, None]


async def test_the_ratio_bounds_callers_too_and_their_trace_goes_on_in_logs(
    services: Services, settings: Settings
) -> None:
    exporter = InMemorySpanExporter()
    few = settings.model_copy(update={"trace_sample_ratio": 0.0})
    # Chosen by the caller, so that it would be recorded at any ratio by its id.
    lowest = f"00-{'1' * 16}{'0' * 16}-b7ad6b7169203331-01"
    async with tracing_to_collector(few, "test", exporter=exporter), speaking_to(services) as client:
        for parent in (PARENT, lowest):
            assert (await client.get("/ping", headers={"traceparent": parent})).status_code == 200
        with tracing.span("POST", "server", parent=PARENT), stage("recall.dense"):
            assert tracing.traceparent() is None
            found = tracing.ids()
            assert found is not None
            assert found[0] == TRACE
        with tracing.span("begins here"):
            assert tracing.traceparent() is None
        # The request that wrote it was recorded.
        with handling("c", "memory.events", [PARENT]), tracing.span("below"):
            assert tracing.traceparent() is not None
    assert [one.name for one in exporter.get_finished_spans()] == ["below", "process memory.events"]


async def test_of_sampled_callers_the_ratio_is_recorded(settings: Settings) -> None:
    exporter = InMemorySpanExporter()
    half = settings.model_copy(update={"trace_sample_ratio": 0.5})
    async with tracing_to_collector(half, "test", exporter=exporter):
        for _ in range(400):
            # One trace, many requests.
            with tracing.span("POST", "server", parent=PARENT):
                pass
    # 8 standard deviations.
    assert 120 < len(exporter.get_finished_spans()) < 280


def test_nothing_of_the_sdk_is_imported_while_tracing_is_off() -> None:
    code = (
        "import sys, sfm_graph.app, sfm_consumers.assembly\n"
        "from sfm_graph.telemetry import stages, logs, export\n"
        "with stages.stage('recall.dense'): pass\n"
        "print([one for one in sys.modules if one.startswith(('opentelemetry.sdk', 'opentelemetry.exporter'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
