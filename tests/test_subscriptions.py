"""GraphQL subscriptions over real sockets: order, places, back-pressure, and every way to end."""

import asyncio
import json
import random
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from served import WATCH, Json, Served, Socket, remember, serving, until
from starlette.types import Message
from starlette.websockets import WebSocket
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from sfm_graph.api.gql import websocket as under_test
from sfm_graph.api.gql.websocket import GraphqlSocket
from sfm_graph.api.streams import Streams
from sfm_graph.app import operations_folder
from sfm_graph.domain.identity import MemoryRef
from sfm_graph.errors import DatabaseUnavailable
from sfm_graph.runtime import open_runtime
from sfm_graph.services.changes.pages import ChangePage
from sfm_graph.services.registry import Services
from sfm_graph.settings import Settings

SUBPROTOCOL = "graphql-transport-ws"


@pytest.fixture
async def served(services: Services) -> AsyncIterator[Served]:
    async with serving(services) as opened:
        yield opened


@pytest.fixture
async def hasty(settings: Settings) -> AsyncIterator[Services]:
    """Services that wait one second for a subscriber."""
    async with open_runtime(settings.model_copy(update={"subscriber_patience_seconds": 1}), maintenance=False) as one:
        yield one


def codes(message: Json) -> list[str]:
    """The codes of an `error` message, or of a `next` with errors."""
    payload = message["payload"]
    errors = payload if message["type"] == "error" else payload["errors"]
    return [error["extensions"]["code"] for error in errors]


async def now(services: Services, namespace: str = "default") -> str:
    """The cursor of this moment."""
    async with services.views.open() as view:
        return await services.changes.cursor(view, namespace)


async def no_connection_is_held(services: Services) -> None:
    """Waits for a moment in which every connection is back in the pool."""
    await until(lambda: services.health.pool()["pool_available"] == services.health.pool()["pool_size"])


async def test_changes_come_in_order_and_go_on_at_a_cursor(served: Served, services: Services) -> None:
    await remember(services, "old")
    start = await now(services)
    async with served.socket() as socket:
        await socket.subscribe(WATCH, after=start)
        for key in ("a", "b", "a"):
            await remember(services, key, title=f"{key} again")
        first, *others = [await socket.change() for _ in range(2)]
        assert (first["entity"], first["operation"], first["memory"]["key"]) == ("MEMORY", "CREATE", "a")
        assert others[0]["memory"]["key"] == "b"
    await services.memory_writes.forget_many("default", [MemoryRef(key="b")])
    async with served.socket() as socket:
        await socket.subscribe(WATCH, after=first["cursor"])
        # The same change; its cursor may be written in another way.
        assert {**await socket.change(), "cursor": ""} == {**others[0], "cursor": ""}
        assert (await socket.change())["operation"] == "UPDATE"
        gone = await socket.change()
        assert (gone["operation"], gone["memory"], gone["id"]) == ("FORGET", None, others[0]["id"])
        await socket.subscribe(WATCH, id="all", after="beginning")
        whole = [await socket.change() for _ in range(5)]
        assert [one["memory"]["key"] for one in whole[:4]] == ["old", "a", "b", "a"]
        assert [one["operation"] for one in whole] == ["CREATE", "CREATE", "CREATE", "UPDATE", "FORGET"]


async def test_filters(served: Served, services: Services) -> None:
    for key in ("a", "b", "c"):
        await remember(services, key)
    start = await now(services)
    await services.links.link("default", {"key": "a"}, {"key": "b"}, {"type": "cites", "weight": 2})
    await services.links.link("default", {"key": "b"}, {"key": "c"}, {"type": "next"})
    for key in ("a", "b", "c"):
        await remember(services, key, title="changed")
    asked = """subscription ($after: String) { changes(after: $after, %s) {
      entity operation link { type weight source { key } } memory { key title } before after } }"""
    async with served.socket() as socket:
        await socket.subscribe(asked % 'linkTypes: ["cites"]', id="links", after=start)
        change = await socket.change()
        assert change["link"] == {"type": "cites", "weight": 2.0, "source": {"key": "a"}}
        assert (change["before"], change["after"]["type"]) == (None, "cites")
        around = 'around: {key: "c"}, hops: 0, entities: [MEMORY], operations: [UPDATE]'
        await socket.subscribe(asked % around, id="around", after=start)
        change = await socket.change()
        assert (change["memory"], change["before"]["title"]) == ({"key": "c", "title": "changed"}, None)
        await socket.subscribe(asked % "hops: 4", id="wrong", after=start)
        assert codes(await socket.hear()) == ["invalid_input"]


async def test_each_event_reads_a_snapshot_of_its_own(served: Served, services: Services) -> None:
    await remember(services, "a")
    start = await now(services)
    asked = """subscription ($after: String) { changes(after: $after, entities: [MEMORY]) {
      memory { key links { edges { node { target { key } } } } } } }"""
    async with served.socket() as socket:
        await socket.subscribe(asked, after=start)
        await remember(services, "a", title="alone")
        assert (await socket.change())["memory"]["links"]["edges"] == []
        await no_connection_is_held(services)
        await remember(services, "b")
        assert (await socket.change())["memory"]["key"] == "b"
        await services.links.link("default", {"key": "a"}, {"key": "b"}, {"type": "next"})
        await remember(services, "a", title="linked")
        edges = (await socket.change())["memory"]["links"]["edges"]
        assert edges == [{"node": {"target": {"key": "b"}}}]
        await no_connection_is_held(services)


async def test_no_namespace_hears_of_another(served: Served, services: Services) -> None:
    for namespace in ("one", "two"):
        await remember(services, "first", namespace=namespace)
    foreign = await now(services, "two")
    async with served.socket() as socket:
        await socket.subscribe(WATCH, ns="one", after=foreign)
        assert codes(await socket.hear()) == ["cursor_expired"]
        await socket.subscribe(WATCH, ns="one", after=await now(services, "one"))
        await remember(services, "elsewhere", namespace="two")
        await remember(services, "here", namespace="one")
        assert (await socket.change())["memory"] == {"key": "here"}


async def test_the_example_operation(served: Served, services: Services) -> None:
    example = operations_folder() / "13-changes.graphql"
    await remember(services, "a")
    async with served.socket() as socket:
        variables = json.loads(example.with_suffix(".json").read_text())
        await socket.subscribe(example.read_text(), **{**variables, "after": await now(services)})
        await services.links.link("default", {"key": "a"}, {"key": "a"}, {"type": "is"})
        change = await socket.change()
        assert (change["entity"], change["memory"], change["link"]["source"]) == ("LINK", None, {"key": "a"})


async def test_the_end_of_the_namespace_ends_the_subscription(served: Served, services: Services) -> None:
    await remember(services, "a", namespace="brief")
    async with served.socket() as socket:
        await socket.subscribe(WATCH, ns="brief", after=await now(services, "brief"))
        await services.namespaces.delete("brief", confirm="brief")
        change = await socket.change()
        assert (change["entity"], change["operation"], change["id"]) == ("NAMESPACE", "ERASE", "brief")
        assert await socket.hear() == {"id": "1", "type": "complete"}


@pytest.mark.parametrize(
    ("query", "variables", "code"),
    [
        (WATCH, {"ns": "nowhere"}, "namespace_not_found"),
        (WATCH, {"after": "no cursor"}, "invalid_cursor"),
        (WATCH, {"ns": ""}, "invalid_input"),
        (WATCH, {"ns": 1}, "graphql_invalid"),
        ("subscription { nothing }", {}, "graphql_invalid"),
        ("subscription {", {}, "graphql_invalid"),
        ("", {}, "graphql_invalid"),
        ("subscription { changes { memory {" + " links { edges { node { source {" * 6, {}, "graphql_invalid"),
        (
            "subscription { changes { memory "
            + "{ links { edges { node { source " * 5
            + "{ key }"
            + " } } } }" * 5
            + " } }",
            {},
            "query_too_complex",
        ),
        ("subscription { changes { " + "id " * 3_000 + "} }", {}, "query_too_complex"),
        ("subscription { a: changes { id } b: changes { id } }", {}, "graphql_invalid"),
        ('subscription { changes(around: {key: "nobody"}) { id } }', {}, "memory_not_found"),
        ('subscription { changes(after: "beginning", operations: [REINDEX]) { id } }', {}, "graphql_invalid"),
    ],
)
async def test_what_is_wrong_is_said_with_its_code(
    served: Served, services: Services, query: str, variables: Json, code: str
) -> None:
    await remember(services, "a")
    async with served.socket() as socket:
        await socket.subscribe(query, **variables)
        message = await socket.hear()
        assert (message["type"], message["id"], codes(message)) == ("error", "1", [code])
        # The id is free again, and the socket as it was.
        await socket.subscribe("{ stats { name } }")
        assert (await socket.hear())["payload"]["data"] == {"stats": {"name": "default"}}
        assert await socket.hear() == {"id": "1", "type": "complete"}


async def test_queries_and_mutations_go_over_the_socket_too(served: Served, services: Services) -> None:
    async with served.socket() as socket:
        write = 'mutation { remember(input: {content: "x", key: "%s"}) { memory { key } } }'
        for key in ("a", "b"):
            await socket.subscribe(write % key)
            assert (await socket.hear())["payload"]["data"] == {"remember": {"memory": {"key": key}}}
            assert (await socket.hear())["type"] == "complete"
        await socket.subscribe("{ memories { edges { node { key } } } }")
        assert len((await socket.hear())["payload"]["data"]["memories"]["edges"]) == 2
        assert (await socket.hear())["type"] == "complete"
        await socket.subscribe('{ node(id: "wrong") { id } }')
        message = await socket.hear()
        assert (message["type"], message["payload"]["data"], codes(message)) == (
            "next",
            {"node": None},
            ["invalid_input"],
        )


class Failing:
    """Changes that break off after one page."""

    async def cursor(self, *_: Any) -> str:
        return "a-start"

    now = cursor

    async def follow(self, *_: Any, **__: Any) -> AsyncGenerator[ChangePage]:
        yield ChangePage((), "a-place", more=False)
        raise DatabaseUnavailable("the database is away")


async def test_an_error_in_the_stream_comes_as_an_answer_and_ends_it(services: Services) -> None:
    async with serving(replace(services, changes=Failing())) as served:
        async with served.socket() as socket:
            await socket.subscribe(WATCH)
            message = await socket.hear()
            assert (message["type"], message["payload"]["data"]) == ("next", None)
            assert codes(message) == ["database_unavailable"]
            assert await socket.hear() == {"id": "1", "type": "complete"}
        async with served.events("/graphql", method="POST", json={"query": WATCH}) as events:
            said = json.loads((await events.next("next")).data or "")
            assert said["errors"][0]["extensions"]["code"] == "database_unavailable"
            assert [one.name for one in await events.rest()] == ["complete"]


@pytest.mark.parametrize(
    ("messages", "code"),
    [
        (["no json"], 4400),
        (["[]"], 4400),
        (['"subscribe"'], 4400),
        (["{}"], 4400),
        ([b"{}"], 4400),
        ([{"type": "connection_init"}, {"type": ["subscribe"]}], 4400),
        ([{"type": "connection_init", "payload": "x"}], 4400),
        ([{"type": "connection_init"}, {"type": "connection_init"}], 4429),
        ([{"type": "subscribe", "id": "1", "payload": {"query": "{ __typename }"}}], 4401),
        ([{"type": "connection_init"}, {"type": "subscribe", "id": 1, "payload": {"query": "{ x }"}}], 4400),
        ([{"type": "connection_init"}, {"type": "subscribe", "id": "", "payload": {"query": "{ x }"}}], 4400),
        ([{"type": "connection_init"}, {"type": "subscribe", "id": "x" * 257, "payload": {}}], 4400),
        ([{"type": "connection_init"}, {"type": "subscribe", "id": "1"}], 4400),
        ([{"type": "connection_init"}, {"type": "subscribe", "id": "1", "payload": []}], 4400),
        ([{"type": "connection_init"}, {"type": "complete", "id": {}}], 4400),
        ([{"type": "connection_init"}, *[{"type": "subscribe", "id": "1", "payload": {"query": WATCH}}] * 2], 4409),
        ([{"type": "connection_init"}, "[" * 2_000], 4400),
        (["x" * (1024**2 + 1)], 1009),
    ],
)
async def test_who_breaks_the_protocol_is_closed(
    served: Served, services: Services, messages: list[Any], code: int
) -> None:
    await remember(services, "a")
    async with connect(f"ws://{served.address}/graphql", subprotocols=[SUBPROTOCOL]) as connection:
        for message in messages:
            await connection.send(json.dumps(message) if isinstance(message, dict) else message)
        assert await Socket(connection).until_closed() == code
    await until(lambda: len(served.streams) == 0)


async def test_malformed_requests_on_a_good_socket_are_errors(served: Served) -> None:
    async with served.socket() as socket:
        for payload in ({"query": 1}, {"query": "{ x }", "variables": []}, {"query": "{ x }", "operationName": 1}):
            await socket.say(type="subscribe", id="1", payload=payload)
            message = await socket.hear()
            assert (message["type"], codes(message)) == ("error", ["invalid_input"])
        await socket.say(type="complete", id="unknown")
        await socket.say(type="ping", payload={"n": 1})
        assert await socket.hear() == {"type": "pong", "payload": {"n": 1}}
        await socket.say(type="pong")
        await socket.say(type="ping")
        assert await socket.hear() == {"type": "pong"}


async def test_another_subprotocol_is_not_spoken(served: Served) -> None:
    for protocols in (None, ["graphql-ws"]):
        async with connect(f"ws://{served.address}/graphql", subprotocols=protocols) as connection:
            async with asyncio.timeout(30):
                await connection.wait_closed()
            assert connection.close_code == 4406


async def test_who_says_nothing_is_closed(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "INIT_SECONDS", 0.05)
    async with connect(f"ws://{served.address}/graphql", subprotocols=[SUBPROTOCOL]) as connection:
        async with asyncio.timeout(30):
            await connection.wait_closed()
        assert connection.close_code == 4408


async def test_a_web_page_of_another_origin_gets_no_socket(served: Served) -> None:
    address = f"ws://{served.address}/graphql"
    refused: list[Json] = [{"origin": origin} for origin in ("http://evil.example", "null", "https://localhost.evil")]
    refused.append({"additional_headers": {"Host": "evil.example"}})
    for options in refused:
        with pytest.raises(InvalidStatus) as caught:
            await connect(address, subprotocols=[SUBPROTOCOL], **options)
        assert caught.value.response.status_code == 403, options
    async with served.socket(origin=served.url) as socket:
        await socket.say(type="ping")
        assert await socket.hear() == {"type": "pong"}


async def test_a_socket_has_so_many_operations_at_once(
    served: Served, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(under_test, "MAX_OPERATIONS", 3)
    await remember(services, "a")
    async with served.socket() as socket:
        for number in range(3):
            await socket.subscribe(WATCH, id=f"open {number}")
        await socket.subscribe(WATCH, id="refused")
        message = await socket.hear()
        assert (message["id"], codes(message)) == ("refused", ["overloaded"])
        await socket.say(type="complete", id="open 0")
        await until(lambda: services.changes.subscribers == 2)
        await socket.subscribe(WATCH, id="admitted", after="beginning")
        assert (await socket.change())["memory"] == {"key": "a"}


async def test_idle_subscribers_hold_no_connection(served: Served, services: Services) -> None:
    await remember(services, "a")
    start = await now(services)
    async with served.socket() as socket, served.socket() as other:
        for number in range(100):
            for one in (socket, other):
                await one.subscribe(WATCH, id=str(number), after=start)
        await until(lambda: services.changes.subscribers == 200)
        await no_connection_is_held(services)
        await remember(services, "b")
        for one in (socket, other):
            heard = [await one.hear() for _ in range(100)]
            assert {message["id"] for message in heard} == set(map(str, range(100)))
            assert {message["payload"]["data"]["changes"]["memory"]["key"] for message in heard} == {"b"}
    await until(lambda: services.changes.subscribers == 0)


async def test_events_by_post_and_get(served: Served, services: Services) -> None:
    await remember(services, "a")
    body = {"query": WATCH, "variables": {"after": "beginning"}}
    asked: list[Json] = [
        {"method": "POST", "json": body},
        {"method": "POST", "json": body, "headers": {"Accept": "application/json, text/event-stream"}},
        {"params": {"query": WATCH, "variables": '{"after": "beginning"}'}},
    ]
    for options in asked:
        async with served.events("/graphql", **options) as events:
            assert events.response.headers["Content-Type"].startswith("text/event-stream")
            assert events.response.headers["Cache-Control"] == "no-store"
            said = json.loads((await events.next("next")).data or "")
            assert said["data"]["changes"]["memory"] == {"key": "a"}
        await until(lambda: len(served.streams) == 0)
    await until(lambda: services.changes.subscribers == 0)


async def test_other_operations_as_events(served: Served, services: Services) -> None:
    write = {"query": 'mutation { remember(input: {content: "x", key: "k"}) { memory { key } } }'}
    async with served.events("/graphql", method="POST", json=write) as events:
        next_, complete = await events.rest()
        assert json.loads(next_.data or "")["data"] == {"remember": {"memory": {"key": "k"}}}
        assert (complete.name, complete.data) == ("complete", "")
    async with served.events("/graphql", params=write) as events:
        said, _ = await events.rest()
        assert "not allowed" in json.loads(said.data or "")["errors"][0]["message"]
    async with served.events("/graphql", method="POST", json={"query": "{ nothing }"}) as events:
        said, _ = await events.rest()
        assert json.loads(said.data or "")["errors"][0]["extensions"]["code"] == "graphql_invalid"
    async with served.events("/graphql", method="POST", json={"query": 1}) as events:
        assert events.response.status_code == 400


async def test_a_subscription_needs_a_stream(client: httpx.AsyncClient) -> None:
    refused = await client.post("/graphql", json={"query": WATCH})
    assert refused.status_code == 400
    assert "subscriptions are not allowed" in refused.json()["errors"][0]["message"]
    assert (await client.post("/graphql", content=b"{}", headers={"Accept": "text/event-stream"})).status_code == 415


class Stalled:
    """An ASGI server whose client stops reading with its second `next`, until it is told to go on."""

    def __init__(self, *messages: Json) -> None:
        self.sent: list[Message] = []
        self.given_up = asyncio.Event()
        self.goes_on = asyncio.Event()
        self._messages = iter(
            [
                {"type": "websocket.connect"},
                *({"type": "websocket.receive", "text": json.dumps(one)} for one in messages),
            ]
        )

    async def receive(self) -> Message:
        for message in self._messages:
            return message
        await asyncio.Event().wait()
        raise AssertionError

    async def send(self, message: Message) -> None:
        if sum('"next"' in one.get("text", "") for one in self.sent) == 1:
            try:
                await self.goes_on.wait()
            except asyncio.CancelledError:
                self.given_up.set()
                raise
        self.sent.append(message)

    def socket(self) -> WebSocket:
        scope = {
            "type": "websocket",
            "subprotocols": [SUBPROTOCOL],
            "headers": [],
            "client": None,
            "path": "/graphql",
        }
        return WebSocket(scope, self.receive, self.send)


async def test_who_takes_nothing_is_told_where_to_go_on(hasty: Services) -> None:
    for key in ("a", "b", "c"):
        await remember(hasty, key)
    asked = {"query": WATCH, "variables": {"after": "beginning"}}
    stalled = Stalled({"type": "connection_init"}, {"type": "subscribe", "id": "1", "payload": asked})
    serving_ = asyncio.create_task(GraphqlSocket(hasty, stalled.socket(), Streams()).serve())
    async with asyncio.timeout(30):
        await stalled.given_up.wait()
        await no_connection_is_held(hasty)
        stalled.goes_on.set()
        await serving_
    assert hasty.changes.subscribers == 0
    taken, error, complete = (json.loads(one["text"]) for one in stalled.sent if '"id":"1"' in one.get("text", ""))
    cursor = taken["payload"]["data"]["changes"]["cursor"]
    (said,) = error["payload"]["errors"]
    assert (said["extensions"]["code"], said["extensions"]["cursor"]) == ("subscriber_too_slow", cursor)
    assert complete["type"] == "complete"
    assert stalled.sent[-1] == {"type": "websocket.close", "code": 1013, "reason": cursor}


async def test_who_never_takes_anything_again_costs_nothing(hasty: Services) -> None:
    noise = random.Random(1)
    for number in range(40):
        # Nothing that compression could make small.
        await remember(hasty, f"large {number}", payload={"text": noise.randbytes(250_000).hex()})
    asked = 'subscription { changes(after: "beginning") { cursor after } }'
    async with (
        serving(hasty) as served,
        served.socket(max_queue=1) as socket,
        served.events("/graphql", method="POST", json={"query": asked}),
        served.events("/changes?after=beginning"),
    ):
        await socket.subscribe(asked)
        await until(lambda: hasty.changes.subscribers == 3)
        await until(lambda: len(served.streams) == 0)
        # Not even what the server had buffered for them.
        await until(lambda: not served.server.server_state.connections)
        assert hasty.changes.subscribers == 0
        await no_connection_is_held(hasty)
        assert await socket.until_closed() == 1006


async def test_a_stopping_service_ends_every_stream(services: Services) -> None:
    await remember(services, "a")
    async with serving(services) as served:
        body = {"query": WATCH}
        async with (
            served.socket() as socket,
            served.events("/graphql", method="POST", json=body) as events,
            served.events("/changes") as changes,
        ):
            await socket.subscribe(WATCH)
            await until(lambda: services.changes.subscribers == 3)
            served.server.should_exit = True
            assert await socket.hear() == {"id": "1", "type": "complete"}
            assert await socket.closed() == (1001, "the service is stopping")
            assert [one.name for one in await events.rest()] == ["complete"]
            assert await changes.rest() == []
    assert services.changes.subscribers == 0


async def test_a_stopping_service_takes_no_new_streams(services: Services) -> None:
    await remember(services, "a")
    streams = Streams()
    await streams.end(0)
    newcomer = Stalled({"type": "connection_init"})
    await GraphqlSocket(services, newcomer.socket(), streams).serve()
    assert newcomer.sent[-1] == {"type": "websocket.close", "code": 1001, "reason": "the service is stopping"}
