"""What a hostile GraphQL request meets: a 200 or a 4xx with a code, never a 500, never a stall for long."""

import json
from collections.abc import AsyncIterator
from itertools import cycle, islice
from typing import Any

import pytest
from graphql import get_introspection_query, parse
from graphql_client import Graph, open_graph

from sfm_graph.api.gql import context as context_module
from sfm_graph.api.gql.limits import MAX_ALIASES, MAX_DEPTH, excess_of
from sfm_graph.services.memory_reads import MemoryReads
from sfm_graph.services.registry import Services


@pytest.fixture
async def graph(services: Services) -> AsyncIterator[Graph]:
    async with open_graph(services) as opened:
        yield opened


def nested(depth: int) -> str:
    """A valid document that is `depth` levels deep."""
    levels = [
        'memory(ref: {key: "k"})',
        *islice(cycle(["links(first: 2)", "edges", "node", "source"]), depth - 2),
        "__typename",
    ]
    return "{ " + " { ".join(levels) + " }" * depth


def spread_bomb(levels: int, name: str = "__typename") -> str:
    """Fragments that each spread the next one twice."""
    fragments = [f"fragment F{n} on Query {{ ...F{n + 1} ...F{n + 1} }}" for n in range(levels)]
    return "{ ...F0 } " + " ".join(fragments) + f" fragment F{levels} on Query {{ {name} }}"


COMPLEX = [
    nested(30),
    "{" + "a{" * 150 + "b" + "}" * 151,
    "{ memory(ref: {key: " + "[" * 300 + "]" * 300 + "}) { id } }",
    "{ " + " ".join(f"a{n}: __typename" for n in range(MAX_ALIASES + 1)) + " }",
    "{ " + "namespaces { edges { cursor } } " * 200 + "}",
    "{ __typename " + "@skip(if: false) " * 3_000 + "}",
    '{ memory(ref: {key: "' + "x" * 10_000_000 + '"}) { id } }',
    "#" * 200_000 + "\n{ __typename }",
    spread_bomb(60, "x: __typename"),
    "{ " + "__typename " * 1_500 + "}",
]


async def test_complex_documents_are_refused(graph: Graph) -> None:
    for query in COMPLEX:
        assert await graph.codes(query) == ["query_too_complex"], query[:80]


async def test_a_fragment_is_measured_once() -> None:
    assert excess_of(parse(spread_bomb(200, "a"))) == "the document asks for more than 2000 fields"
    deep = "{ ...F0 } " + " ".join(f"fragment F{n} on Q {{ a {{ ...F{n + 1} }} }}" for n in range(30))
    assert excess_of(parse(deep + " fragment F30 on Q { b }")) == (
        f"the document is nested 31 levels deep; at most {MAX_DEPTH} are answered"
    )
    assert excess_of(parse("{ ...A } fragment A on Q { a { ...B } } fragment B on Q { ...A }")) is None


async def test_what_tools_and_people_ask_is_answered(graph: Graph) -> None:
    found = await graph.data(get_introspection_query(input_value_deprecation=True, specified_by_url=True))
    assert {"Memory", "Link", "RecallConnection"} <= {one["name"] for one in found["__schema"]["types"]}
    assert await graph.codes(nested(MAX_DEPTH)) == []
    assert await graph.codes(nested(MAX_DEPTH + 1)) == ["query_too_complex"]


INVALID = [
    "{ ...A } fragment A on Query { ...B } fragment B on Query { ...A }",
    "query A { __typename } query A { __typename }",
    "query A { __typename } query B { __typename }",
    "{ __proto__ }",
    "query __proto__($constructor: Int = 1) { __typename @toString }",
    "{ __typename ",
    "",
    "   ",
    "fragment A on Query { __typename }",
    "subscription { a }",
    "query A { __typename } mutation B { __typename }",
    "type Query { a: Int }",
    "{ ...Missing }",
    "{ memories(first: 99999999999) { edges { cursor } } }",
    "{ memories(first: 1.5) { edges { cursor } } }",
    "{ memories(orderBy: {field: NONE}) { edges { cursor } } }",
    "{ memory(ref: {}) { id } }",
    '{ memory(ref: {key: "a", id: "b"}) { id } }',
    "{ memory(ref: {key: null}) { id } }",
    "mutation { deleteNamespace { name } }",
]


async def test_invalid_documents_have_a_code(graph: Graph) -> None:
    for query in INVALID:
        response = await graph.http.post("/graphql", json={"query": query})
        assert response.status_code in (200, 400), query
        codes = {error["extensions"]["code"] for error in response.json()["errors"]}
        assert codes == {"graphql_invalid"}, query
        assert "data" not in response.json()


WRONG_VARIABLES: list[tuple[str, dict[str, Any], str]] = [
    ("query ($n: Int!) { memories(first: $n) { edges { cursor } } }", {"n": "5"}, "graphql_invalid"),
    ("query ($n: Int!) { memories(first: $n) { edges { cursor } } }", {}, "graphql_invalid"),
    ("query ($n: Int!) { memories(first: $n) { edges { cursor } } }", {"n": 2**40}, "graphql_invalid"),
    ("query ($n: Int!) { memories(first: $n) { edges { cursor } } }", {"n": 0}, "invalid_input"),
    ("query ($n: Int!) { memories(first: $n) { edges { cursor } } }", {"n": 101}, "invalid_input"),
    ("query ($i: [ID!]!) { nodes(ids: $i) { id } }", {"i": ["x"] * 1_000_000}, "too_large"),
    ("query ($i: [ID!]!) { nodes(ids: $i) { id } }", {"i": [{}] * 50_000}, "graphql_invalid"),
    ("query ($q: String!) { recall(query: $q) { edges { score } } }", {"q": "a\x00b"}, "invalid_input"),
    ("query ($q: String!) { recall(query: $q) { edges { score } } }", {"q": "x" * 100_001}, "too_large"),
    ("query ($c: [Float!]!) { memory(ref: {coordinate: $c}) { id } }", {"c": []}, "invalid_coordinate"),
    ("query ($c: [Float!]!) { memory(ref: {coordinate: $c}) { id } }", {"c": [0.0] * 65}, "invalid_coordinate"),
    ("query ($s: String!) { memories(namespace: $s) { edges { cursor } } }", {"s": " a"}, "invalid_input"),
    ("query ($s: String!) { memories(namespace: $s) { edges { cursor } } }", {"s": "a\x00"}, "invalid_input"),
    ("query ($s: String!) { memory(ref: {key: $s}) { id } }", {"s": "\x00"}, "invalid_input"),
    ("query ($t: DateTime!) { memories(where: {createdAt: {gt: $t}}) { edges { cursor } } }",
     {"t": "10000-01-01"}, "invalid_input"),
    ("query ($t: DateTime!) { memories(where: {createdAt: {gt: $t}}) { edges { cursor } } }",
     {"t": 5}, "invalid_input"),
    ("mutation ($i: RememberInput!) { remember(input: $i) { operation } }",
     {"i": {"payload": {"x": "y" * 2_000_000}}}, "too_large"),
    ("mutation ($i: RememberInput!) { remember(input: $i) { operation } }",
     {"i": {"payload": []}}, "invalid_input"),
    ("mutation ($i: RememberInput!) { remember(input: $i) { operation } }", {"i": {}}, "invalid_input"),
    ("mutation ($i: StoreMemoryInput!) { storeMemory(input: $i) { operation } }",
     {"i": {"coordinate": [1e308], "importance": -1}}, "invalid_input"),
]  # fmt: skip


async def test_wrong_variables_have_a_code(graph: Graph) -> None:
    for query, variables, code in WRONG_VARIABLES:
        assert set(await graph.codes(query, **variables)) == {code}, query


WRONG_BODIES = [
    (b"", 400, "invalid_input"),
    (b"{", 400, "invalid_input"),
    (b"[]", 400, "invalid_input"),
    (b"null", 400, "invalid_input"),
    (b'[{"query": "{ __typename }"}]', 400, "invalid_input"),
    (b"{}", 400, "graphql_invalid"),
    (b'{"query": 1}', 400, "invalid_input"),
    (b'{"query": "{ __typename }", "variables": []}', 400, "invalid_input"),
    (b'{"query": "{ __typename }", "operationName": {}}', 400, "invalid_input"),
    (b'{"query": "{ __typename }", "operationName": "B"}', 400, "graphql_invalid"),
    (b'{"query": "{ __typename }", "variables": {"a": 1e400}}', 400, "invalid_input"),
    (b'{"query": "{ __typename }", "variables": {"a": NaN}}', 400, "invalid_input"),
    (b'{"query": "{ __typename }", "variables": {"a": "\\ud800"}}', 400, "invalid_input"),
    (b'{"query": "{ __typename }", "variables": {"a": 18446744073709551616}}', 400, "invalid_input"),
    (b'{"query": "\xff"}', 400, "invalid_input"),
    (
        b'{"query": "{ __typename }", "variables": {"a": ' + b"[" * 5_000 + b"]" * 5_000 + b"}}",
        400,
        "invalid_input",
    ),
    (b'{"query": "{ memory(ref: {key: \\"\\\\uD800\\"}) { id } }"}', 200, "graphql_invalid"),
]


async def test_wrong_bodies_have_a_code(graph: Graph) -> None:
    for body, status, code in WRONG_BODIES:
        response = await graph.http.post("/graphql", content=body, headers={"content-type": "application/json"})
        found = response.json()["errors"][0]["extensions"]["code"]
        assert (response.status_code, found) == (status, code), body[:80]


async def test_deep_variables_are_refused(graph: Graph) -> None:
    where: dict[str, Any] = {"key": {"eq": "k"}}
    payload: Any = {}
    for _ in range(240):
        where, payload = {"_not": where}, {"a": payload}
    query = "query ($w: MemoryWhere) { memories(where: $w) { edges { cursor } } }"
    assert set(await graph.codes(query, w=where)) <= {"invalid_input", "graphql_invalid", "query_too_complex"}
    assert await graph.codes(query, w=where) != []
    query = "mutation ($i: RememberInput!) { remember(input: $i) { operation } }"
    assert await graph.codes(query, i={"payload": payload}) == ["invalid_input"]
    keyed = {"payload": payload, "idempotencyKey": "k"}
    assert await graph.codes(query, i=keyed) == ["invalid_input"]
    # Nothing of all this was stored.
    assert (await graph.data("{ namespaces { edges { cursor } } }"))["namespaces"]["edges"] == []


async def test_get_takes_queries_only(graph: Graph) -> None:
    page = await graph.http.get("/graphql", headers={"accept": "text/html,*/*"})
    assert page.headers["content-type"].startswith("text/html")
    found = await graph.http.get(
        "/graphql", params={"query": "query Q($n: Int!) { memories(first: $n) { edges { cursor } } }",
                            "variables": '{"n": 5}', "operationName": "Q"},
        headers={"accept": "text/html"},
    )  # fmt: skip
    assert found.json()["data"] == {"memories": {"edges": []}}
    write = 'mutation { remember(input: {content: "x"}) { operation } }'
    refused = await graph.http.get("/graphql", params={"query": write})
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST")
    assert (await graph.http.get("/graphql")).status_code == 400
    assert (await graph.http.get("/graphql", params={"query": "{ a }", "variables": "{"})).status_code == 400
    assert (await graph.data("{ namespaces { edges { cursor } } }"))["namespaces"]["edges"] == []


async def test_the_response_media_type_decides_the_status(graph: Graph) -> None:
    accept = {"accept": "application/graphql-response+json, application/json;q=0.9"}
    for query, status in (("{ nothing }", 400), ("{ __typename }", 200), ('{ stats(namespace: "x") { name } }', 200)):
        response = await graph.http.post("/graphql", json={"query": query}, headers=accept)
        assert response.status_code == status
        assert response.headers["content-type"] == "application/graphql-response+json"


async def test_a_request_reads_a_bounded_number_of_nodes(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context_module, "MAX_NODES", 500)
    items = [{"key": f"k{n}", "content": "x"} for n in range(30)]
    links = [{"source": {"key": f"k{a}"}, "target": {"key": f"k{b}"}} for a in range(30) for b in range(30) if a < b]
    await graph.data(
        """mutation ($m: RememberManyInput!, $l: LinkManyInput!) {
            rememberMany(input: $m) { count } linkMany(input: $l) { count } }""",
        m={"items": items}, l={"items": links},
    )  # fmt: skip
    for query in (
        "{ memories(first: 30) { edges { node { links(first: 30) { edges { node { id } } } } } } }",
        "{ memories(first: 10) { edges { node { links(first: 20) { edges { node { target { id } } } } } } } }",
        "{ memories(first: 10) { edges { node { neighbors { edges { hops } } } } } }",
        "{ memories(first: 10) { edges { node { similar { edges { score } } } } } }",
        '{ traverse(start: [{key: "k0"}]) { links { type } } }',
        "{" + " ".join(f'a{n}: recall(query: "x") {{ edges {{ score }} }}' for n in range(6)) + "}",
        "{" + " ".join(f"a{n}: memories {{ edges {{ cursor }} }}" for n in range(6)) + "}",
    ):
        assert set(await graph.codes(query)) == {"query_too_complex"}, query
    assert (
        await graph.codes("{ memories(first: 10) { edges { node { links(first: 20) { edges { cursor } } } } } }")
        == []
    )


async def test_an_unexpected_error_is_masked_and_logged(
    graph: Graph, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def failing(*_: Any, **__: Any) -> Any:
        raise RuntimeError("the password is swordfish")

    monkeypatch.setattr(MemoryReads, "list", failing)
    answer = await graph.send("{ memories { edges { cursor } } }")
    assert answer["errors"][0]["extensions"] == {"code": "internal_error"}
    assert "swordfish" not in json.dumps(answer)
    assert "swordfish" in caplog.text
