"""Who may do what: every route, field, subscription, command and service, for every scope, here and elsewhere.

The tables stand in `authorisation_tables.py`; what there is to be guarded is read from the app.
"""

import asyncio
import inspect
import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from string import Template
from typing import Any, get_type_hints

import httpx
import pytest
import typer
from authorisation_tables import (
    ABOUT_MANY,
    COMMANDS,
    FIELDS,
    LOCAL_COMMANDS,
    METRICS,
    OPEN,
    READ,
    READING_FIELDS,
    ROUTES,
    SUBSCRIBE,
    WRITE,
)
from graphql import (
    FieldNode,
    Node,
    OperationDefinitionNode,
    SelectionSetNode,
    Visitor,
    get_named_type,
    parse,
    print_ast,
    visit,
)
from graphql_examples import GRAPHQL
from rest_examples import EXAMPLES, Example, documented_routes, fill
from served import Served, serving
from starlette.routing import BaseRoute, Route, WebSocketRoute
from test_isolation import _everything
from typer.testing import CliRunner
from websockets.asyncio.client import connect

import sfm_graph
from sfm_graph.api.authentication import OPEN_PATHS, OPEN_PREFIX
from sfm_graph.api.gql.schema import build_schema
from sfm_graph.app import app_for
from sfm_graph.cli import app as command_line
from sfm_graph.domain.access import Scope
from sfm_graph.runtime import open_runtime
from sfm_graph.services.access import guard
from sfm_graph.services.access.guard import scope_of
from sfm_graph.services.registry import Services
from sfm_graph.settings import Settings

Json = dict[str, Any]
MINE, OTHER = "mine", "other"
MY_WORD, OTHER_WORD = "alphaword", "bravoword"
MASTER = "a-static-token-of-tests"

# Public methods of services that no face reaches for a caller: why each needs no guard.
UNGUARDED = {
    "Views.open": "a connection and its snapshot; faces may do nothing with it but hand it on",
    "Views.together": "a turn to hold several connections; it reads nothing",
    "Views.forget_all": "memory of the process",
    "Health.report": "open paths: the state of dependencies, of no namespace",
    "Health.database": "`sfm doctor`",
    "Health.ping": "metrics",
    "Health.change_log": "metrics",
    "Health.unread": "`sfm doctor`",
    "Consolidation.round": "background work",
    "Relay.run": "background work",
    "Following.run": "background work",
    "Following.round": "background work",
    "Keys.grant_of": "background work of copies that a key has made",
    "Retention.prepare": "background work",
    "Retention.round": "background work",
    "Retention.prune": "background work",
    "VectorIndexing.run": "background work",
    "VectorIndexing.handle": "background work",
    "VectorIndexing.load": "background work",
    "VectorIndexing.state": "health",
    "Accesses.run": "background work",
    "Accesses.flush": "background work",
    "Accesses.state": "health",
    "Fading.run": "background work",
    "Fading.round": "background work",
    "Fading.run_rounds": "background work",
    "Maintenance.run": "background work",
    "Extraction.run": "background work",
    "Extraction.round": "background work",
    "Maintenance.round": "background work",
    "Limits.take": "asked by the middleware of every request",
    "Limits.admit": "asked by the middleware of every request",
    "Limits.admit_guess": "asked where a token was wrong",
    "Limits.spend": "asked by GraphQL of every request",
    "Limits.left": "says what is left, of the caller alone",
    "Limits.state": "health",
    "Authentication.caller": "finds out who calls",
    "Authentication.required": "finds out who calls",
    "Authentication.has_any": "the start of the process",
    "Authentication.needed_after_revoking": "asked after Keys.revoke, which is guarded",
    "Keys.authenticate": "finds out who calls",
    "Keys.exist": "finds out who calls",
    "Keys.run": "background work",
    "Keys.note_use": "background work",
    "AuditLog.record": "written by the guard itself",
    "CacheUse.state": "health",
}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """With a token, so that nobody may do anything without one."""
    return Settings(**{**settings.model_dump(exclude_unset=True), "api_token": MASTER})


@dataclass(frozen=True)
class Tokens:
    """One token for each single scope, on MINE alone; and one with all scopes there."""

    by_scope: dict[Scope, str]
    all_of_mine: str

    def __iter__(self) -> Iterator[tuple[Scope, str]]:
        return iter(self.by_scope.items())


@pytest.fixture
async def tokens(services: Services) -> Tokens:
    for namespace, word in ((MINE, MY_WORD), (OTHER, OTHER_WORD)):
        await fill(services, namespace, word)
    made = {scope: await _token(services, scope.value, [scope]) for scope in Scope}
    return Tokens(made, await _token(services, "all", list(Scope)))


async def _token(services: Services, name: str, scopes: list[Scope], namespaces: tuple[str, ...] = (MINE,)) -> str:
    created = await services.keys.create(name, scopes=scopes, namespaces=list(namespaces))
    return created.token


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@asynccontextmanager
async def _client_of(services: Services, token: str | None) -> AsyncIterator[httpx.AsyncClient]:
    app = app_for(services)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    headers = _bearer(token) if token else {}
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=headers) as client,
    ):
        yield client


# Services


def _public_methods() -> Iterator[tuple[str, Any]]:
    for kind in get_type_hints(Services).values():
        classes = [one for one in getattr(kind, "__args__", (kind,)) if inspect.isclass(one)]
        for one in classes:
            if not one.__module__.startswith("sfm_graph.services"):
                continue
            for member, method in inspect.getmembers(one, inspect.isfunction):
                if not member.startswith("_") and (
                    inspect.iscoroutinefunction(inspect.unwrap(method))
                    or inspect.isasyncgenfunction(inspect.unwrap(method))
                    or hasattr(method, "__wrapped__")
                ):
                    yield f"{one.__name__}.{member}", method
    assert len(fields(Services)) > 10


def test_every_service_call_is_guarded_or_says_why_not() -> None:
    bare = {name for name, method in _public_methods() if scope_of(method) is None}
    assert sorted(name for name in bare - UNGUARDED.keys() if not name.endswith(".aclose")) == []
    assert UNGUARDED.keys() <= bare, "they are guarded now, or gone"


def test_faces_only_hand_views_on() -> None:
    """A view reads without asking; what it reads for a caller has to go through a service, which asks."""
    found = [
        f"{path.name}: {line.strip()}"
        for face in ("api", "cli", "client")
        for path in (Path(sfm_graph.__file__).parent / face).rglob("*.py")
        for line in path.read_text().splitlines()
        if re.search(r"\bview\.\w+|\.session\b", line)
    ]
    assert found == []


# REST


async def test_the_table_of_routes_is_whole(services: Services) -> None:
    async with _client_of(services, MASTER) as client:
        document = (await client.get("/openapi.json")).json()
    assert documented_routes(document) == ROUTES.keys()


async def test_without_a_token_only_open_paths_answer(services: Services) -> None:
    app = app_for(services)
    async with app.router.lifespan_context(app):
        routes = list(_flat(app.router.routes))
    assert {one.path for one in routes} >= {"/graphql", "/metrics", "/memories", "/static/{path:path}"}
    async with _client_of(services, None) as client:
        for route in routes:
            path = (
                route.path.replace("{coordinate:path}", "1").replace("{name:path}", "x").replace("{path:path}", "x")
            )
            for method in sorted(route.methods or ()):
                body = {} if method in ("GET", "HEAD") else {"json": {}}
                answer = await client.request(method, path, **body)
                opened = route.path in OPEN_PATHS or route.path.startswith(OPEN_PREFIX)
                assert (answer.status_code == 401) != opened, (method, path, answer.status_code)
                if not opened:
                    assert answer.headers["WWW-Authenticate"] == "Bearer"


def _flat(routes: list[BaseRoute]) -> Iterator[Route]:
    for one in routes:
        if isinstance(one, Route):
            yield one
        elif hasattr(one, "original_router"):
            yield from _flat(one.original_router.routes)
        else:
            assert isinstance(one, WebSocketRoute), one


@pytest.mark.parametrize("scope", [*Scope, None], ids=str)
async def test_a_route_takes_its_scope_on_its_own_namespace(
    services: Services, tokens: Tokens, database_dsn: str, scope: Scope | None
) -> None:
    before = await _everything(database_dsn, OTHER)
    async with _client_of(services, tokens.by_scope[scope] if scope else None) as client:
        for namespace in (OTHER, MINE):
            for example in EXAMPLES:
                await _check_route(client, example, scope, namespace)
            assert await _everything(database_dsn, OTHER) == before


async def _check_route(client: httpx.AsyncClient, example: Example, scope: Scope | None, namespace: str) -> None:
    answer = await example.send(client, namespace)
    place = (example.route, scope, namespace, answer.text)
    needed = ROUTES[example.route]
    if needed is OPEN:
        assert answer.status_code == 200, place
    elif scope is None:
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated"), place
    elif scope is needed and (namespace == MINE or example.route in ABOUT_MANY):
        assert answer.status_code in (200, 201, 404), place
    else:
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden"), place
    assert OTHER_WORD not in answer.text, place
    assert f'"{OTHER}"' not in answer.text or answer.status_code >= 400, place


@pytest.mark.parametrize("scope", Scope, ids=str)
async def test_metrics_take_their_own_scope(services: Services, tokens: Tokens, scope: Scope) -> None:
    async with _client_of(services, tokens.by_scope[scope]) as client:
        assert (await client.get("/metrics")).status_code == (200 if scope is METRICS else 403)


# GraphQL


def test_the_table_of_fields_is_whole() -> None:
    schema = build_schema()._schema
    roots = (schema.query_type, schema.mutation_type, schema.subscription_type)
    assert {name for root in roots if root for name in root.fields} == FIELDS.keys()


def test_every_field_that_reads_is_in_the_table() -> None:
    """Fields of Memory and Link that take arguments, or give objects, read something."""
    schema = build_schema()._schema
    for name, reading in READING_FIELDS.items():
        for field, definition in schema.type_map[name].fields.items():  # type: ignore[attr-defined]
            is_object = hasattr(get_named_type(definition.type), "fields")
            assert (field in reading) == (is_object or bool(definition.args)), (name, field)


class _OnlyRoots(Visitor):
    """Leaves of each root field nothing but its type's name."""

    def enter_operation_definition(self, node: OperationDefinitionNode, *_: Any) -> Node:
        kept = [_bare(one) for one in node.selection_set.selections if isinstance(one, FieldNode)]
        return OperationDefinitionNode(
            operation=node.operation, selection_set=SelectionSetNode(selections=tuple(kept)),
            variable_definitions=node.variable_definitions, directives=(),
        )  # fmt: skip


def _bare(field: FieldNode) -> FieldNode:
    # A namespace reads its counts when they are asked for.
    text = "{ createdAt }" if field.name.value == "stats" else "{ __typename }"
    inner = parse(text).definitions[0].selection_set  # type: ignore[attr-defined]
    return FieldNode(
        alias=field.alias, name=field.name, arguments=field.arguments, directives=(), selection_set=inner
    )


def _operation(field: str, ids: dict[str, str], namespace: str) -> str:
    text = Template(GRAPHQL[field]).safe_substitute(
        ids, NS=json.dumps(namespace), SOURCE=json.dumps(f"{namespace}/source")
    )
    return print_ast(visit(parse(text), _OnlyRoots()))


async def _ids(services: Services, namespace: str) -> dict[str, str]:
    async with _client_of(services, MASTER) as client:
        near = await client.get("/neighbors", params={"coord": "key:b", "namespace": namespace})
        key = await services.keys.create(f"of {namespace}", scopes=[Scope.READ], namespaces=[namespace])
    found = near.json()["neighbors"][1]
    return {"ID": found["memory"]["id"], "LINK": found["link"]["id"], "KEY": str(key.key.id)}


def _codes(answer: httpx.Response) -> set[str]:
    return {one["extensions"]["code"] for one in answer.json().get("errors", ())}


@pytest.mark.parametrize("scope", [*Scope, None], ids=str)
async def test_a_field_takes_its_scope_on_its_own_namespace(
    services: Services, tokens: Tokens, database_dsn: str, scope: Scope | None
) -> None:
    ids = {namespace: await _ids(services, namespace) for namespace in (MINE, OTHER)}
    before = await _everything(database_dsn, OTHER)
    async with _client_of(services, tokens.by_scope[scope] if scope else None) as client:
        for namespace in (OTHER, MINE):
            for field in GRAPHQL:
                answer = await client.post("/graphql", json={"query": _operation(field, ids[namespace], namespace)})
                place = (field, scope, namespace, answer.text)
                if scope is None:
                    assert (answer.status_code, _codes(answer)) == (401, {"unauthenticated"}), place
                elif scope is not FIELDS[field] or (namespace == OTHER and field not in ABOUT_MANY):
                    assert _codes(answer) == {"forbidden"}, place
                elif field not in ABOUT_MANY:
                    assert "forbidden" not in _codes(answer), place
                assert OTHER_WORD not in answer.text, place
            assert await _everything(database_dsn, OTHER) == before


async def test_many_namespaces_are_those_within_reach(services: Services, tokens: Tokens) -> None:
    query = "{ namespaces { edges { node { name } } } }"
    async with _client_of(services, tokens.all_of_mine) as client:
        answer = await client.post("/graphql", json={"query": query})
        assert [edge["node"]["name"] for edge in answer.json()["data"]["namespaces"]["edges"]] == [MINE]
        assert [one["name"] for one in (await client.get("/namespaces")).json()["namespaces"]] == [MINE]
        assert [one["name"] for one in (await client.get("/stats")).json()["namespaces"]] == [MINE]
        made = await client.post("/graphql", json={"query": GRAPHQL["createNamespace"]})
        assert _codes(made) == {"forbidden"}


@pytest.mark.parametrize("kind", READING_FIELDS)
async def test_who_wrote_needs_read_to_read_on(services: Services, tokens: Tokens, kind: str) -> None:
    ids = await _ids(services, MINE)
    calls = {
        "Memory": ('remember(input: {key: "b", content: "new", namespace: "mine"})', "memory"),
        "Link": (f'updateLink(input: {{id: "{ids["LINK"]}", weight: 3}})', "link"),
    }
    inner = {"neighbors": "{ edges { node { id } } }", "similar": "{ edges { node { id } } }"}
    inner |= {
        "links": "{ edges { node { id } } }",
        "pathTo": "{ nodes { id } }",
        "source": "{ id }",
        "target": "{ id }",
        "history": "{ edges { cursor } }",
        "provenance": "{ id }",
        "accesses": "{ count }",
    }
    arguments = {"pathTo": '(ref: {key: "a"})'}
    call, member = calls[kind]
    async with _client_of(services, tokens.by_scope[WRITE]) as client:
        for field in READING_FIELDS[kind]:
            selection = f"{field}{arguments.get(field, '')} {inner[field]}"
            answer = await client.post(
                "/graphql", json={"query": f"mutation {{ {call} {{ {member} {{ id {selection} }} }} }}"}
            )
            assert _codes(answer) == {"forbidden"}, (field, answer.text)
        plain = await client.post(
            "/graphql", json={"query": f"mutation {{ {call} {{ {member} {{ id version }} }} }}"}
        )
        assert "errors" not in plain.json()


# Subscriptions

WATCH = 'subscription { changes(namespace: "%s", after: "beginning") { cursor } }'


@pytest.mark.parametrize("scope", Scope, ids=str)
@pytest.mark.parametrize("namespace", [MINE, OTHER])
async def test_subscriptions_take_their_scope(
    services: Services, tokens: Tokens, scope: Scope, namespace: str
) -> None:
    allowed = scope is SUBSCRIBE and namespace == MINE
    async with serving(services) as served:
        headers = _bearer(tokens.by_scope[scope])
        for by_payload in (False, True):
            message = await _first_of_socket(served, headers, namespace, by_payload=by_payload)
            assert message["type"] == ("next" if allowed else "error"), message
            assert ("'forbidden'" in str(message)) != allowed, message
        async with served.events(
            "/graphql", method="POST", headers=headers, json={"query": WATCH % namespace}
        ) as events:
            event = await events.next("next")
            assert ("forbidden" in str(event.data)) != allowed
        async with httpx.AsyncClient(base_url=served.url) as client:
            sse = {**headers, "Accept": "text/event-stream"}
            query = {"namespace": namespace, "after": "beginning"}
            async with client.stream("GET", "/changes", headers=sse, params=query) as response:
                assert response.status_code == (200 if allowed else 403)


async def _first_of_socket(served: Served, headers: dict[str, str], namespace: str, *, by_payload: bool) -> Any:
    async with connect(
        f"ws://{served.address}/graphql", subprotocols=["graphql-transport-ws"],  # type: ignore[list-item]
        additional_headers={} if by_payload else headers,
    ) as socket:  # fmt: skip
        init: Json = {"type": "connection_init", **({"payload": headers} if by_payload else {})}
        await socket.send(json.dumps(init))
        assert json.loads(await socket.recv()) == {"type": "connection_ack"}
        subscribe = {"type": "subscribe", "id": "1", "payload": {"query": WATCH % namespace}}
        await socket.send(json.dumps(subscribe))
        return json.loads(await socket.recv())


async def test_a_socket_without_a_token_is_closed(services: Services) -> None:
    async with serving(services) as served:
        for init in (
            {},
            {"payload": {"Authorization": "Bearer wrong-token-of-nobody"}},
            {"payload": {"Authorization": 7}},
        ):
            async with connect(f"ws://{served.address}/graphql", subprotocols=["graphql-transport-ws"]) as socket:  # type: ignore[list-item]
                await socket.send(json.dumps({"type": "connection_init", **init}))
                await asyncio.wait_for(socket.wait_closed(), 30)
                assert socket.close_code == 4403, init


# The command line

runner = CliRunner()


def test_the_table_of_commands_is_whole() -> None:
    group = typer.main.get_command(command_line)
    commands = group.commands  # type: ignore[attr-defined]
    assert commands.keys() == COMMANDS.keys() | LOCAL_COMMANDS
    speaking = {name for name, one in commands.items() if "url" in [parameter.name for parameter in one.params]}
    assert speaking == COMMANDS.keys()


async def test_a_command_takes_its_scope_on_its_own_namespace(
    services: Services, tokens: Tokens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"$LINES": tmp_path / "lines.ndjson", "$ITEMS": tmp_path / "items.ndjson"}
    files["$LINES"].write_text('{"type": "memory", "key": "imported", "content": "imported"}\n')
    files["$ITEMS"].write_text('{"key": "p", "content": "so", "payload": {"prediction": "so", "confidence": 0.5}}\n')
    # What `revoke-copy` revokes.
    for namespace in (MINE, OTHER):
        await services.copies.copy(namespace, f"{namespace}/source", {"start": [{"key": "s"}]})
    async with serving(services) as served:
        for scope, token in tokens:
            monkeypatch.setenv("SFM_TOKEN", token)
            for command, (needed, arguments) in COMMANDS.items():
                given = [str(files.get(one, one)) for one in arguments]
                for namespace in (OTHER, MINE):
                    about = [] if command in ABOUT_MANY else ["--namespace", namespace]
                    line = [command, *given, "--url", served.url, *about]
                    done = await asyncio.to_thread(runner.invoke, command_line, line)
                    allowed = scope is needed and (namespace == MINE or command in ABOUT_MANY)
                    place = (line, scope, done.output, done.exception)
                    assert ("forbidden" not in done.output) == allowed, place
                    assert (done.exit_code == 0) == allowed, place


# What else could go round it


async def test_a_revoked_key_is_worth_nothing_at_once(services: Services, tokens: Tokens) -> None:
    async with _client_of(services, tokens.by_scope[READ]) as client:
        assert (await client.get("/memories", params={"namespace": MINE})).status_code == 200
        await services.keys.revoke("read")
        assert (await client.get("/memories", params={"namespace": MINE})).status_code == 401


async def test_an_import_ends_with_its_key(
    services: Services, tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "RENEWAL_SECONDS", 0.0)

    async def lines() -> AsyncIterator[bytes]:
        for number in range(40):
            yield b"".join(b'{"type": "memory", "content": "%d %d"}\n' % (number, line) for line in range(1_000))
            if number == 5:
                with guard.acting(services.authentication.local):
                    await services.keys.revoke("write")

    async with _client_of(services, tokens.by_scope[WRITE]) as client:
        headers = {"Content-Type": "application/x-ndjson"}
        answer = await client.post("/import", params={"namespace": MINE}, content=lines(), headers=headers)
    assert "unauthenticated" in answer.text
    async with services.views.open() as view:
        counts = (await services.namespaces.statistics(view, MINE)).counts
    assert sum(counts.memories_by_kind.values()) < 30_000


async def test_a_subscription_ends_with_its_key(
    services: Services, tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "RENEWAL_SECONDS", 0.0)
    async with serving(services) as served:
        headers = _bearer(tokens.by_scope[SUBSCRIBE])
        async with served.events("/changes", headers=headers, params={"namespace": MINE}) as events:
            await events.place()
            await services.keys.revoke("subscribe")
            await services.memory_writes.store(MINE, {"content": "said afterwards"})
            told = await events.rest()
    assert [event.name for event in told] == ["error"]
    assert "unauthenticated" in str(told[0].data)
    assert "afterwards" not in str(told)


async def test_idempotency_keys_are_their_principals_own(services: Services, tokens: Tokens) -> None:
    second = await _token(services, "second writer", [WRITE])
    versions = []
    for token in (tokens.by_scope[WRITE], second, tokens.by_scope[WRITE]):
        async with _client_of(services, token) as client:
            body = {"key": "once", "content": "said once", "namespace": MINE}
            answer = await client.post("/remember", json=body, headers={"Idempotency-Key": "k"})
            versions.append(answer.json()["version"])
    assert versions == [1, 2, 1]


async def test_an_admin_of_some_namespaces_is_none_of_others(services: Services, tokens: Tokens) -> None:
    create = """mutation ($namespaces: [String!]!) { createApiKey(input: {
      name: "more", scopes: [READ], namespaces: $namespaces}) { token } }"""
    async with _client_of(services, tokens.all_of_mine) as client:
        for namespaces in ([OTHER], ["*"], [MINE, OTHER], ["min*"]):
            answer = await client.post("/graphql", json={"query": create, "variables": {"namespaces": namespaces}})
            assert _codes(answer) == {"forbidden"}, namespaces
        listed = await client.post(
            "/graphql", json={"query": "{ apiKeys(first: 100) { edges { node { namespaces } } } }"}
        )
        assert {tuple(one["node"]["namespaces"]) for one in listed.json()["data"]["apiKeys"]["edges"]} == {(MINE,)}


async def test_nothing_is_open_on_loopback_once_there_is_a_key(database_dsn: str, settings: Settings) -> None:
    open_settings = settings.model_copy(update={"api_token": None})
    async with open_runtime(open_settings, maintenance=False) as services, _client_of(services, None) as client:
        assert (await client.get("/memories")).status_code == 200
        await _token(services, "first", [READ])
        assert (await client.get("/memories")).status_code == 401


@pytest.mark.parametrize(("address", "status"), [("127.0.0.1", 200), ("::1", 200), ("192.0.2.7", 401)])
async def test_open_means_by_loopback(database_dsn: str, settings: Settings, address: str, status: int) -> None:
    """Also when another server than ours serves the app, on an address that the settings do not know."""
    async with open_runtime(settings.model_copy(update={"api_token": None}), maintenance=False) as services:
        app = app_for(services)

        async def served_there(scope: Any, receive: Any, send: Any) -> None:
            await app({**scope, "server": (address, 9595)}, receive, send)

        transport = httpx.ASGITransport(served_there)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
        ):
            assert (await client.get("/memories")).status_code == status
