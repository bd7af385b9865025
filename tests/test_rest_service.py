"""REST: namespaces, import and export, and what those who run the service look at."""

import logging
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError

from sfm_graph import errors
from sfm_graph.api.problems import INTERNAL_ERROR, METHOD_NOT_ALLOWED, add_problem_handlers
from sfm_graph.app import app_for
from sfm_graph.services.health import HealthReport
from sfm_graph.services.registry import Services

LINES = {"Content-Type": "application/x-ndjson"}
DOCUMENT = Path(__file__).parents[1] / "docs" / "http.md"
DEFAULTS = {
    "payload_paths": [],
    "language": "english",
    "cues": {
        "aliases": ["aliases", "alias"],
        "author": ["author", "speaker"],
        "sequence": ["sequence", "session", "conversation", "thread"],
        "position": ["position", "turn"],
        "date": ["date", "timestamp"],
    },
    "linkers": {},
    "fading": None,
    "max_memories": None,
    "functional_types": [],
    "extraction": False,
    "consolidation": None,
    "content_policy": None,
}


def _code(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["Content-Type"] == "application/problem+json"
    return answer.status_code, answer.json()["code"]


async def test_the_life_of_a_namespace(client: httpx.AsyncClient) -> None:
    assert _code(await client.get("/namespaces/demo")) == (404, "namespace_not_found")
    made = await client.put("/namespaces/demo", json={"settings": {"payload_paths": ["step"]}})
    assert (made.json()["name"], made.json()["settings"]) == ("demo", {**DEFAULTS, "payload_paths": ["step"]})
    for step in range(3):
        await client.post("/remember?namespace=demo", json={"content": "x", "payload": {"step": step}})
    where = '{"payload": {"path": "step", "gte": 1}}'
    later = await client.get("/memories", params={"namespace": "demo", "where": where})
    assert [one["payload"]["step"] for one in later.json()["memories"]] == [1, 2]
    shown = (await client.get("/namespaces/demo")).json()
    assert (shown["memories"], shown["links"], shown["model"]["name"]) == ({"episodic": 3}, {}, "hashing")
    assert _code(await client.delete("/namespaces/demo")) == (400, "invalid_input")
    assert _code(await client.delete("/namespaces/demo?confirm=dem")) == (400, "invalid_input")
    assert (await client.delete("/namespaces/demo?confirm=demo")).json() == {"deleted": True}
    assert _code(await client.delete("/namespaces/demo?confirm=demo")) == (404, "namespace_not_found")


async def test_a_name_with_a_slash(client: httpx.AsyncClient) -> None:
    assert (await client.put("/namespaces/team/agent", json={})).json()["name"] == "team/agent"
    assert (await client.get("/namespaces/team%2Fagent")).json()["name"] == "team/agent"


async def test_namespaces_and_stats_page_by_page(client: httpx.AsyncClient) -> None:
    for name in ("c", "a", "b"):
        await client.post("/remember", json={"content": "x", "namespace": name})
    for path in ("/namespaces", "/stats"):
        page = (await client.get(path, params={"first": "2"})).json()
        assert [one["name"] for one in page["namespaces"]] == ["a", "b"]
        rest = (await client.get(path, params={"first": "2", "after": page["next"]})).json()
        assert ([one["name"] for one in rest["namespaces"]], rest["next"]) == (["c"], None)
    one = (await client.get("/stats?namespace=b")).json()
    assert [(each["name"], each["memories"]) for each in one["namespaces"]] == [("b", {"episodic": 1})]
    assert one["backends"]["database"]["status"] == "up"
    assert one["backends"]["embedder"]["name"] == "hashing"
    assert _code(await client.get("/stats?namespace=nowhere")) == (404, "namespace_not_found")


async def test_what_is_exported_can_be_imported(client: httpx.AsyncClient) -> None:
    await client.post("/store", json={"coordinate": [1], "key": "a", "content": "Ä", "payload": {"n": 2**63}})
    await client.post("/store", json={"coordinate": [2], "content": "b", "title": "B", "valid_to": "2040-01-01"})
    await client.post("/link", json={"from_coord": [1], "to_coord": [2], "type": "next", "weight": 0.25})
    exported = await client.get("/export")
    assert (exported.headers["Content-Type"], len(exported.text.splitlines())) == ("application/x-ndjson", 3)
    report = await client.post("/import?namespace=copy", content=exported.content, headers=LINES)
    assert report.json()["memories"] == {"created": 2, "updated": 0, "unchanged": 0}
    assert report.json()["links"] == {"created": 1, "updated": 0, "unchanged": 0}
    assert (await client.get("/export?namespace=copy")).content == exported.content
    again = (await client.post("/import?namespace=copy", content=exported.content, headers=LINES)).json()
    assert (again["memories"]["unchanged"], again["failed"]) == (2, 0)
    assert _code(await client.get("/export?namespace=nowhere")) == (404, "namespace_not_found")


async def test_an_import_says_which_lines_failed(client: httpx.AsyncClient) -> None:
    content = b'{"type": "memory", "content": "x"}\n\n{"type": "memory"\n{"id": "d", "text": "plain", "metadata": {}}'
    report = (await client.post("/import", content=content, headers=LINES)).json()
    assert (report["memories"]["created"], report["failed"]) == (2, 1)
    assert [(one["line"], one["code"]) for one in report["failures"]] == [(3, "invalid_json")]
    assert (await client.get("/memories/key:d")).json()["content"] == "plain"


async def test_alive_and_ready(client: httpx.AsyncClient) -> None:
    for path in ("/healthz", "/ping"):
        assert (await client.get(path)).json() == {"status": "ok"}
    for path in ("/readyz", "/health"):
        answer = (await client.get(path)).json()
        assert (answer["status"], answer["parts"]["database"]["status"]) == ("up", "up")


async def test_not_ready_is_503(
    client: httpx.AsyncClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def down() -> HealthReport:
        return HealthReport(False, {"database": {"status": "down"}})

    monkeypatch.setattr(services.health, "report", down)
    answer = await client.get("/readyz")
    assert (answer.status_code, answer.json()["status"], answer.headers["Retry-After"]) == (503, "down", "1")
    assert (await client.get("/healthz")).status_code == 200


async def test_metrics_count_by_route_and_status(client: httpx.AsyncClient) -> None:
    await client.get("/memories/9,9")
    await client.get("/memories/8,8")
    await client.post("/recall", json={"query": "x"})
    await client.request("BREW", "/pot")
    text = (await client.get("/metrics")).text
    name = "sfm_http_request_duration_seconds_count"
    assert f'{name}{{method="GET",route="/memories/{{coordinate:path}}",status="4xx"}} 2.0' in text
    assert f'{name}{{method="POST",route="/recall",status="2xx"}} 1.0' in text
    assert f'{name}{{method="other",route="unmatched",status="4xx"}} 1.0' in text
    assert "sfm_database_pool_size" in text
    assert "sfm_hot_bytes" in text


async def test_pages_are_served(client: httpx.AsyncClient) -> None:
    for path in ("/", "/docs", "/static/operations.json", "/openapi.json"):
        assert (await client.get(path)).status_code == 200, path


async def test_an_app_can_be_started_again(services: Services) -> None:
    app = app_for(services)
    for _ in range(2):
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client,
        ):
            assert (await client.post("/graphql", json={"query": "{ __typename }"})).json()["data"]
    assert not [route for route in app.router.routes if getattr(route, "path", "") == "/graphql"]


async def test_unknown_routes_and_methods_are_problems(client: httpx.AsyncClient) -> None:
    unknown = await client.get("/nowhere")
    assert _code(unknown) == (404, "not_found")
    assert unknown.json() == {
        "type": "urn:sfm-graph:problem:not_found", "title": "Not found", "status": 404, "detail": "Not Found",
        "code": "not_found", "instance": "/nowhere",
    }  # fmt: skip
    wrong = await client.get("/recall")
    assert (_code(wrong), wrong.headers["Allow"]) == ((405, METHOD_NOT_ALLOWED), "POST")


@pytest.fixture
async def failing() -> httpx.AsyncClient:
    """A client on an app whose one route raises what the query names."""
    app = FastAPI()
    add_problem_handlers(app)
    causes = {
        "unavailable": errors.DatabaseUnavailable("the database cannot be reached"),
        "invalid": RequestValidationError([{"loc": ("query", "x"), "msg": "is wrong", "type": "x"}]),
        "unexpected": ZeroDivisionError("a secret"),
    }

    @app.get("/")
    async def fail(request: Request) -> None:
        raise causes[request.url.query]

    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://localhost")


async def test_every_kind_of_error_becomes_a_problem(
    failing: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    async with failing:
        away = await failing.get("/?unavailable")
        assert (_code(away), away.headers["Retry-After"]) == ((503, "database_unavailable"), "1")
        invalid = await failing.get("/?invalid")
        assert (_code(invalid), invalid.json()["detail"]) == ((400, "invalid_input"), "query.x: is wrong")
        unexpected = await failing.get("/?unexpected")
        assert _code(unexpected) == (500, INTERNAL_ERROR)
        assert "secret" not in unexpected.text


def _classes(kind: type[errors.SfmError]) -> Iterator[type[errors.SfmError]]:
    for each in kind.__subclasses__():
        # What never leaves its module, such as a lost race, is no error of a caller.
        if each.__module__ == errors.__name__:
            yield each
            yield from _classes(each)


def test_every_code_is_documented_with_its_status() -> None:
    rows = [line.split("|")[1:4] for line in DOCUMENT.read_text("utf-8").splitlines() if line.startswith("| `")]
    documented = {code.strip(" `"): status.strip() for code, status, _ in rows if status.strip().isdecimal()}
    raised = {each.code: str(each.http_status) for each in _classes(errors.SfmError)}
    assert documented == {**raised, METHOD_NOT_ALLOWED: "405", INTERNAL_ERROR: "500"}


async def test_every_route_is_documented(client: httpx.AsyncClient) -> None:
    text = DOCUMENT.read_text("utf-8")
    paths = (await client.get("/openapi.json")).json()["paths"]
    missing = [path for path in [*paths, "/graphql", "/metrics", "/docs"] if f"{path}`" not in text]
    assert missing == []


async def test_a_busy_pool_is_no_database_that_is_down(services: Services, client: httpx.AsyncClient) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(services.settings.pool_max_size):
            await stack.enter_async_context(services.views.open())
        answer = await client.get("/readyz")
    assert (answer.status_code, answer.json()["parts"]["database"]["status"]) == (200, "up")
