"""GET /changes: pages in process, streams over a socket; the cursor of an export."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from served import DEADLINE_SECONDS, Json, Served, remember, serving, until

from sfm_graph.api import sse
from sfm_graph.errors import DatabaseUnavailable
from sfm_graph.services.changes.pages import ChangePage
from sfm_graph.services.registry import Services

STREAM = {"Accept": "text/event-stream"}


@pytest.fixture
async def served(services: Services) -> AsyncIterator[Served]:
    async with serving(services) as opened:
        yield opened


async def page(client: httpx.AsyncClient, **query: Any) -> Json:
    answer = await client.get("/changes", params=query)
    assert answer.status_code == 200, answer.text
    assert answer.headers["Cache-Control"] == "no-store"
    return answer.json()


async def problem(client: httpx.AsyncClient, headers: dict[str, str], **query: Any) -> tuple[int, str]:
    answer = await client.get("/changes", params=query, headers=headers)
    assert answer.headers["Content-Type"] == "application/problem+json", answer.text
    assert answer.status_code == answer.json()["status"]
    return answer.status_code, answer.json()["code"]


async def three(services: Services) -> None:
    """Two memories and a link between them."""
    for key in ("a", "b"):
        await remember(services, key)
    await services.links.link("default", {"key": "a"}, {"key": "b"}, {"type": "cites"})


async def test_pages_lead_from_the_beginning_to_now(client: httpx.AsyncClient, services: Services) -> None:
    await three(services)
    whole = await page(client)
    assert [(one["entity"], one["operation"]) for one in whole["changes"]] == [
        ("memory", "create"),
        ("memory", "create"),
        ("link", "create"),
    ]
    assert whole["more"] is False
    first = whole["changes"][0]
    assert (first["namespace"], first["before"], first["after"]["key"]) == ("default", None, "a")
    assert (await client.get(f"/memories/id:{first['id']}")).json()["key"] == "a"
    part = await page(client, first=2)
    assert (len(part["changes"]), part["more"]) == (2, True)
    rest = await page(client, after=part["cursor"])
    assert [one["entity"] for one in rest["changes"]] == ["link"]
    assert [one["entity"] for one in (await page(client, after=first["cursor"]))["changes"]] == ["memory", "link"]
    assert (await page(client, after=whole["cursor"]))["changes"] == []
    assert (await page(client, after="now"))["changes"] == []


async def test_filters_of_pages(client: httpx.AsyncClient, services: Services) -> None:
    await three(services)
    await remember(services, "a", title="new")
    await remember(services, "far")

    async def keys(**query: Any) -> list[str]:
        found = (await page(client, **query))["changes"]
        return [one["after"].get("key", one["entity"]) for one in found]

    assert await keys(entities="link") == ["link"]
    assert await keys(entities="memory,link", operations="create") == ["a", "b", "link", "far"]
    assert await keys(entities=["memory", "link"], operations=["update", "forget"]) == ["a"]
    assert await keys(link_types="cites") == ["link"]
    assert await keys(link_types="next") == []
    assert await keys(around="key:b", hops=0, entities="memory") == ["b"]
    assert await keys(around="key:b", entities="memory") == ["a", "b", "a"]


@pytest.mark.parametrize("headers", [{}, STREAM])
async def test_what_is_wrong_is_a_problem_with_its_status(
    client: httpx.AsyncClient, services: Services, headers: dict[str, str]
) -> None:
    await remember(services, "a")
    await remember(services, "b", namespace="other")
    foreign = (await page(client, namespace="other"))["cursor"]
    assert await problem(client, headers, namespace="nowhere") == (404, "namespace_not_found")
    assert await problem(client, headers, after="x") == (400, "invalid_cursor")
    assert await problem(client, headers, after=foreign) == (410, "cursor_expired")
    assert await problem(client, headers, entities="memory,thing") == (400, "invalid_input")
    assert await problem(client, headers, operations="reindex") == (400, "invalid_input")
    assert await problem(client, headers, hops="4", around="key:a") == (400, "invalid_input")
    assert await problem(client, headers, first="0") == (400, "invalid_input")
    assert await problem(client, headers, around="key:nobody") == (404, "memory_not_found")
    assert await problem(client, headers, entity="memory") == (400, "invalid_input")


async def test_a_tampered_cursor_is_refused(client: httpx.AsyncClient, services: Services) -> None:
    await remember(services, "a")
    cursor = (await page(client))["cursor"]
    for place in (0, len(cursor) // 2, len(cursor) - 2):
        wrong = cursor[:place] + ("A" if cursor[place] != "A" else "B") + cursor[place + 1 :]
        assert (await problem(client, {}, after=wrong))[0] in (400, 410)
    assert await problem(client, {}, after=cursor + "AAAA") == (400, "invalid_cursor")


async def test_a_stream_goes_on_where_its_client_was(served: Served, services: Services) -> None:
    await remember(services, "old")
    async with served.events("/changes") as events:
        head = events.response.headers
        assert head["Content-Type"].startswith("text/event-stream")
        assert (head["Cache-Control"], head["X-Accel-Buffering"]) == ("no-store", "no")
        # Before anything has happened it is known where to go on.
        place = await events.place()
        await remember(services, "a")
        await remember(services, "b")
        change = await events.next("change")
        data = json.loads(change.data or "")
        assert (data["after"]["key"], data["cursor"]) == ("a", change.id)
    assert change.id is not None
    # The header of a client that comes back wins over the address that it began with.
    for last_id, after, expected in ((change.id, place, ["b"]), (place, "now", ["a", "b"]), ("", place, ["a", "b"])):
        headers = {"Last-Event-ID": last_id} if last_id else {}
        async with served.events("/changes", params={"after": after}, headers=headers) as events:
            heard = [json.loads((await events.next("change")).data or "") for _ in expected]
            assert [one["after"]["key"] for one in heard] == expected
    await until(lambda: services.changes.subscribers == 0)


async def test_a_stream_tells_an_idle_client_of_the_way_it_has_made(services: Services) -> None:
    """Pages without changes reach the client as ids alone."""
    quiet = [ChangePage((), f"place-{number}", more=False) for number in range(3)]
    async with (
        serving(replace(services, changes=Scripted(quiet))) as served,
        served.events("/changes") as events,
    ):
        assert [await events.place() for _ in quiet] == ["place-0", "place-1", "place-2"]
        error = await events.next("error")
        said = json.loads(error.data or "")
        assert (said["code"], said["status"]) == ("database_unavailable", 503)
        assert await events.rest() == []


class Scripted:
    """Changes that yield pages, then break off."""

    def __init__(self, pages: list[ChangePage]) -> None:
        self._pages = pages

    async def cursor(self, *_: Any) -> str:
        return "a-start"

    now = cursor

    async def follow(self, *_: Any, **__: Any) -> AsyncGenerator[ChangePage]:
        for one in self._pages:
            yield one
        raise DatabaseUnavailable("the database is away")


async def test_a_quiet_stream_is_kept_alive(
    served: Served, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "KEEP_ALIVE_SECONDS", 0.05)
    await remember(services, "a")
    async with served.events("/changes") as events:
        await events.place()
        async with asyncio.timeout(DEADLINE_SECONDS):
            while await anext(events.lines) != ":":
                pass


async def test_the_end_of_the_namespace_ends_the_stream(served: Served, services: Services) -> None:
    await remember(services, "a", namespace="brief")
    async with served.events("/changes?namespace=brief") as events:
        await events.place()
        await services.namespaces.delete("brief", confirm="brief")
        (last,) = await events.rest()
        data = json.loads(last.data or "")
        assert (data["entity"], data["operation"], data["id"], data["after"]) == ("namespace", "erase", "brief", None)
    async with served.events("/changes?namespace=brief", headers={"Last-Event-ID": last.id or ""}) as events:
        assert events.response.status_code == 404


async def test_a_client_that_leaves_is_forgotten(served: Served, services: Services) -> None:
    await remember(services, "a")
    async with served.events("/changes") as events:
        await events.place()
        assert (len(served.streams), services.changes.subscribers) == (1, 1)
    await until(lambda: len(served.streams) == 0)
    await until(lambda: services.changes.subscribers == 0)


async def test_an_export_names_the_place_of_its_snapshot(client: httpx.AsyncClient, services: Services) -> None:
    await remember(services, "a")
    answer = await client.get("/export")
    await remember(services, "b")
    found = await page(client, after=answer.headers["X-Changes-Cursor"])
    assert [one["after"]["key"] for one in found["changes"]] == ["b"]
    assert (await client.get("/export", params={"namespace": "nowhere"})).status_code == 404


async def test_the_document_names_both_forms(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    route = document["paths"]["/changes"]["get"]
    assert set(route["responses"]["200"]["content"]) == {"application/json", "text/event-stream"}
    assert {one["name"] for one in route["parameters"] if one["in"] == "header"} == {"Last-Event-ID"}
    shown = set(document["components"]["schemas"]["Change"]["properties"])
    assert shown == {"cursor", "entity", "operation", "id", "entity_id", "namespace", "at", "before", "after"}


def test_events_are_read_as_they_are_written() -> None:
    reader = sse.EventReader()
    written = sse.event("change", b"one\ntwo", id_="7") + sse.place("8") + b":\n\nretry: 5\n\ndata\n\n"
    found = [event for line in written.decode().split("\n")[:-1] if (event := reader.feed(line)) is not None]
    assert found == [
        sse.Event("7", "change", "one\ntwo"),
        sse.Event("8"),
        sse.Event(),
        sse.Event(),
        sse.Event(data=""),
    ]
