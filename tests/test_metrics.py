"""Metrics: bounded labels, stages, gauges of services, and one page of all workers."""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import httpx
import pytest
from served import DEADLINE_SECONDS, serving, until

from sfm_graph.api.gauges import MAX_SERIES
from sfm_graph.api.metrics import Metrics
from sfm_graph.app import app_for
from sfm_graph.domain.position import Position
from sfm_graph.domain.snapshot import Snapshot
from sfm_graph.errors import DatabaseUnavailable, Overloaded
from sfm_graph.hot.cache import HotBudget, HotCache
from sfm_graph.services.health import ChangeLogFacts
from sfm_graph.services.registry import Services
from sfm_graph.store.followers import Key, StoredPosition
from sfm_graph.telemetry.counters import CODES, REFUSALS
from sfm_graph.telemetry.stages import STAGES, stage
from sfm_graph.telemetry.worker_files import fold

DOCUMENT = Path(__file__).parents[1] / "docs" / "observability.md"


def value(page: str, series: str) -> float:
    """A sample's value, 0 where there is none."""
    found = re.search(rf"^{re.escape(series)} (\S+)$", page, re.MULTILINE)
    return float(found[1]) if found else 0.0


async def page_of(client: httpx.AsyncClient) -> str:
    return (await client.get("/metrics")).text


@contextmanager
def growing(before: str, after: str, *series: str) -> Iterator[None]:
    yield
    assert [one for one in series if value(after, one) <= value(before, one)] == []


def runs(name: str) -> str:
    return f'sfm_stage_duration_seconds_count{{stage="{name}"}}'


async def test_recall_walk_and_write_are_timed_stage_by_stage(client: httpx.AsyncClient) -> None:
    before = await page_of(client)
    for number in (1, 2):
        await client.post("/store", json={"coordinate": [number], "content": f"the orchard {number}"})
    await client.post("/link", json={"from_coord": [1], "to_coord": [2], "type": "next"})
    assert (await client.post("/recall", json={"query": "orchard"})).status_code == 200
    await client.post("/store", json={"coordinate": [3], "content": "the orchard 3"})
    assert (await client.post("/recall", json={"query": "orchard"})).status_code == 200
    earlier = {"query": "orchard", "known_at": datetime.now(UTC).isoformat()}
    assert (await client.post("/recall", json=earlier)).status_code == 200
    walk = {"query": "{ shortestPath(from: {coordinate: [1]}, to: {coordinate: [2]}) { cost } }"}
    assert "errors" not in (await client.post("/graphql", json=walk)).json()
    after = await page_of(client)
    grown = {name for name in STAGES if value(after, runs(name)) > value(before, runs(name))}
    # A reranker, a relay and subscribers are not part of this.
    assert grown == set(STAGES) - {"recall.rerank", "relay.publish", "subscriber.deliver"}


async def test_labels_come_from_fixed_sets(client: httpx.AsyncClient) -> None:
    for path in ("/memories/1,2,3", "/nowhere/at/all", "/memories/%00", "/namespaces/secret-team"):
        await client.get(path)
    await client.request("BREW", "/pot")
    page = await page_of(client)
    assert "secret-team" not in page
    routes = set(re.findall(r'route="([^"]+)"', page))
    assert {"/memories/{coordinate:path}", "unmatched"} <= routes
    assert {one for one in routes if not re.fullmatch(r"unmatched|/[a-z_.{}:/*-]*", one)} == set()
    assert set(re.findall(r'code="([^"]+)"', page)) == set(CODES)


async def test_what_is_refused_before_routing_counts_for_its_route(client: httpx.AsyncClient) -> None:
    name = "sfm_http_request_duration_seconds_count"
    asked = {
        ("GET", "/memories/1,2", "/memories/{coordinate:path}"): {"X-Request-Timeout-Ms": "soon"},
        ("GET", "/graphql", "/graphql"): {"X-Request-Timeout-Ms": "soon"},
        ("POST", "/recall", "/recall"): {"Host": "evil.example"},
        ("PATCH", "/recall", "/recall"): {"Host": "evil.example"},
        ("GET", "/nowhere", "unmatched"): {"X-Request-Timeout-Ms": "soon"},
    }
    series = {f'{name}{{method="{method}",route="{route}",status="4xx"}}' for method, _, route in asked}
    before = await page_of(client)
    for (method, path, _), headers in asked.items():
        assert (await client.request(method, path, headers=headers)).status_code in (400, 403)
    after = await page_of(client)
    assert {one: value(after, one) - value(before, one) for one in series} == dict.fromkeys(series, 1)


async def test_refusals_are_counted_by_code_on_every_face(client: httpx.AsyncClient) -> None:
    before = await page_of(client)
    await client.get("/memories/9,9")
    await client.post("/graphql", json={"query": "{ nothingOfTheKind }"})
    after = await page_of(client)
    for code in ("memory_not_found", "graphql_invalid"):
        series = f'sfm_refusals_total{{code="{code}"}}'
        assert value(after, series) == value(before, series) + 1
    REFUSALS.add("made up")
    assert value(await page_of(client), 'sfm_refusals_total{code="other"}') >= 1


async def test_a_request_under_way_is_counted_and_so_is_one_that_failed(
    client: httpx.AsyncClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The one that asks.
    assert value(await page_of(client), "sfm_http_requests_in_flight") == 1

    async def failing() -> None:
        raise ValueError("a defect")

    monkeypatch.setattr(services.health, "report", failing)
    assert (await client.get("/readyz")).status_code == 500
    page = await page_of(client)
    assert value(page, "sfm_http_requests_in_flight") == 1
    name = "sfm_http_request_duration_seconds_count"
    assert value(page, f'{name}{{method="GET",route="/readyz",status="5xx"}}') == 1


async def test_gauges_tell_of_database_pool_and_log(client: httpx.AsyncClient) -> None:
    page = await page_of(client)
    assert value(page, "sfm_database_up") == 1
    assert value(page, "sfm_database_pool_size") >= 1
    assert value(page, "sfm_change_log_partitions") >= 2
    assert value(page, "sfm_workers") == 1
    assert value(page, "sfm_hot_budget_bytes") > 0
    assert value(page, 'sfm_problem{part="maintenance"}') == 0


async def test_a_database_that_is_away_is_said_and_the_page_still_comes(
    client: httpx.AsyncClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away() -> None:
        raise DatabaseUnavailable("it is away")

    for name in ("ping", "change_log"):
        with monkeypatch.context() as patched:
            patched.setattr(services.health, name, away)
            assert value(await page_of(client), "sfm_database_up") == 0
        assert value(await page_of(client), "sfm_database_up") == 1


async def test_a_database_whose_connections_are_all_in_use_is_up(
    client: httpx.AsyncClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def busy() -> None:
        raise Overloaded("no connection became free")

    async def silent() -> None:
        await asyncio.sleep(3_600)

    for doing in (busy, silent):
        monkeypatch.setattr(services.health, "change_log", doing)
        async with asyncio.timeout(DEADLINE_SECONDS):
            assert value(await page_of(client), "sfm_database_up") == 1


def following(*names: str) -> Callable[[], Awaitable[ChangeLogFacts]]:
    """A change log that these read."""
    now = datetime.now(UTC)

    async def change_log() -> ChangeLogFacts:
        stored = [StoredPosition(Key(name, 1, 0), Position(Snapshot("1:1:")), UUID(int=1), now) for name in names]
        return ChangeLogFacts(2, now, stored)

    return change_log


async def test_a_follower_that_is_gone_is_gone_from_the_page(
    client: httpx.AsyncClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    for turn in range(3):
        names = [f"f{turn}-{number}" for number in range(MAX_SERIES)]
        monkeypatch.setattr(services.health, "change_log", following(*names))
        page = await page_of(client)
        assert set(re.findall(r'sfm_follower_idle_seconds\{follower="([^"]+)"', page)) == set(names)
    monkeypatch.setattr(services.health, "change_log", following(*(f"g{number}" for number in range(1_000))))
    assert (await page_of(client)).count("sfm_follower_idle_seconds{") == MAX_SERIES


async def test_a_problem_is_1_as_long_as_it_lasts(client: httpx.AsyncClient, services: Services) -> None:
    services.maintenance.problem = "no room"
    assert value(await page_of(client), 'sfm_problem{part="maintenance"}') == 1
    services.maintenance.problem = None
    assert value(await page_of(client), 'sfm_problem{part="maintenance"}') == 0


async def test_two_apps_in_one_process_count_their_own_requests(services: Services) -> None:
    counted = []
    for times in (1, 3):
        app = app_for(services)
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://localhost:9595") as client,
        ):
            for _ in range(times):
                await client.get("/ping")
            page = await page_of(client)
        series = 'sfm_http_request_duration_seconds_count{method="GET",route="/ping",status="2xx"}'
        counted.append(value(page, series))
    assert counted == [1, 3]


async def test_a_subscriber_is_no_request_that_took_long(services: Services) -> None:
    await services.memory_writes.store("default", {"content": "x"})
    async with serving(services) as served, httpx.AsyncClient(base_url=served.url) as client:
        before = await page_of(client)
        async with served.events("/changes"):
            await until(lambda: services.changes.subscribers == 1)
            page = await page_of(client)
            assert value(page, "sfm_change_subscribers") == 1
            assert value(page, "sfm_http_requests_in_flight") == 2
            assert value(page, runs("subscriber.deliver")) > value(before, runs("subscriber.deliver"))
        await until(lambda: services.changes.subscribers == 0)
        assert 'route="/changes"' not in await page_of(client)


def test_evictions_are_counted() -> None:
    class Version:
        snapshot, nbytes = Snapshot("1:1:"), 60

    from sfm_graph.telemetry.counters import HOT_EVICTIONS

    cache: HotCache[Version] = HotCache(HotBudget(100))
    before = HOT_EVICTIONS._value.get()
    for namespace in (1, 2, 3):
        cache.publish(namespace, Version())
    assert HOT_EVICTIONS._value.get() == before + 2


def test_an_unknown_stage_is_refused() -> None:
    with pytest.raises(KeyError):
        stage("recall.nothing")


WORKER = """
import asyncio, os, sys
from sfm_graph.api.metrics import Metrics
from sfm_graph.telemetry.stages import stage
from sfm_graph.telemetry.counters import REFUSALS
metrics = Metrics()
metrics.requests.labels("GET", "/ping", "2xx").observe(0.01)
metrics.in_flight.inc(2)
REFUSALS.add("overloaded", 3)
with stage("recall.dense"):
    pass
print("ready", flush=True)
sys.stdin.readline()
print(asyncio.run(metrics.exposition()).decode(), flush=True)
sys.stdin.readline()
"""


def test_one_page_has_the_numbers_of_all_workers(tmp_path: Path) -> None:
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    try:
        for one in workers:
            assert one.stdout is not None
            assert one.stdout.readline() == "ready\n"
        # What it counted stays; what it had under way is over.
        workers[2].kill()
        workers[2].wait()
        assert fold(tmp_path, workers[2].pid)
        assert not list(tmp_path.glob(f"*_{workers[2].pid}.db"))
        asked = workers[0]
        assert asked.stdout is not None
        page = asked.communicate("\n\n", timeout=DEADLINE_SECONDS)[0]
    finally:
        for one in workers:
            one.kill()
            one.communicate()
    series = 'sfm_http_request_duration_seconds_count{method="GET",route="/ping",status="2xx"}'
    assert value(page, series) == 3
    assert value(page, 'sfm_refusals_total{code="overloaded"}') == 9
    assert value(page, runs("recall.dense")) == 3
    assert value(page, "sfm_http_requests_in_flight") == 4


async def test_every_metric_is_documented() -> None:
    page = (await Metrics().exposition()).decode()
    told = DOCUMENT.read_text()
    names = [name for name in re.findall(r"^# TYPE (\S+) ", page, re.MULTILINE) if name.startswith("sfm_")]
    assert [name for name in names if f"| `{name}` |" not in told and not name.startswith("sfm_database_")] == []
    missing = [name for name in names if name.startswith("sfm_database_") and f"`{name}`" not in told]
    assert missing == []
    assert [name for name in STAGES if f"`{name}`" not in told] == []
