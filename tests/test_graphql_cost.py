"""What a GraphQL request costs: counted before it runs, never less than what it reads, and paid from a budget."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
from graphql import GraphQLObjectType, get_introspection_query, get_named_type, is_leaf_type, parse
from graphql_client import Graph, link, open_graph, remember
from hypothesis import HealthCheck, assume, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from served import WATCH, serving

from sfm_graph.api.gql import context as context_module
from sfm_graph.api.gql.cost import answer_size
from sfm_graph.api.gql.cost.plan import Measurement, plan_of
from sfm_graph.api.gql.cost.rules import COLUMNS, RULES
from sfm_graph.api.gql.schema import build_schema
from sfm_graph.app import operations_folder
from sfm_graph.runtime import open_runtime
from sfm_graph.services.registry import Services
from sfm_graph.settings import Settings

SCHEMA = build_schema()._schema


@pytest.fixture
async def graph(services: Services) -> AsyncIterator[Graph]:
    async with open_graph(services) as opened:
        yield opened


@pytest.fixture
async def filled(graph: Graph) -> Graph:
    """Ten memories, of which each one links to the next three."""
    for place in range(10):
        await remember(graph, f"k{place}", title=f"K{place}")
    for place in range(10):
        for step in (1, 2, 3):
            await link(graph, f"k{place}", f"k{(place + step) % 10}")
    return graph


def measured(query: str, /, **variables: Any) -> Measurement:
    plan = plan_of(SCHEMA, parse(query), None)
    assert plan is not None
    return Measurement(plan, variables)


def cost(query: str, /, **variables: Any) -> int:
    return measured(query, **variables).total


def test_every_field_that_may_cost_something_has_a_rule() -> None:
    """A field that resolves by itself, takes arguments, or answers objects or a list."""
    wanted = set()
    for name, type_ in SCHEMA.type_map.items():
        if name.startswith("__") or not isinstance(type_, GraphQLObjectType):
            continue
        for field_name, field in type_.fields.items():
            definition = field.extensions["strawberry-definition"]
            is_plain = is_leaf_type(get_named_type(field.type)) and "[" not in str(field.type)
            if definition.base_resolver is not None or field.args or not is_plain:
                wanted.add(f"{name}.{field_name}")
    assert wanted == RULES.keys()


COSTS: list[tuple[str, dict[str, Any], int]] = [
    ("{ __typename }", {}, 0),
    (get_introspection_query(), {}, 0),
    ('{ memory(ref: {key: "a"}) { key title } }', {}, 1),
    ('{ a: memory(ref: {key: "a"}) { key } b: memory(ref: {key: "b"}) { key } }', {}, 2),
    ("{ memories { pageInfo { endCursor } } }", {}, 120),
    ("{ memories(first: 3) { edges { node { key } } } }", {}, 103),
    ("query ($n: Int!) { memories(first: $n) { edges { cursor } } }", {"n": 7}, 107),
    ("query ($n: Int! = 9) { memories(first: $n) { edges { cursor } } }", {}, 109),
    ("query ($n: Int! = 9) { memories(first: $n) { edges { cursor } } }", {"n": 10**30}, 200),
    ("{ memories(first: 99999999999999999999999) { edges { cursor } } }", {}, 200),
    ("{ memories(first: -5) { edges { cursor } } }", {}, 100),
    ("{ memories(first: 4) { edges { node { links(first: 5) { edges { node { target { key } } } } } } } }", {}, 144),
    ("{ memories(first: 4) { ...P } } fragment P on MemoryConnection { edges { node { ...M } } } "
     "fragment M on Memory { links(first: 5) { edges { cursor } } }", {}, 124),
    ("query ($i: [ID!]!) { nodes(ids: $i) { id ... on Link { source { key } } } }", {"i": ["a", "b"]}, 4),
    ('{ nodes(ids: ["a", "b", "c"]) { id } }', {}, 3),
    ('{ recall(query: "x", first: 5, expand: 2) { edges { explanation { path { nodes { key } links { id } } } } } }',
     {}, 114),
    ('{ neighbors(ref: {key: "a"}, hops: 3, first: 10) { edges { node { key } } counts } }', {}, 240),
    ('{ traverse(start: [{key: "a"}], depth: 2, limit: 50) { nodes { key } } }', {}, 251),
    ('{ traverse(start: [{key: "a"}], limit: 50) { links { source { key } } } }', {}, 151 + 40_000),
    ('{ traverse(start: [{key: "a"}], limit: 50) { compact } }', {}, 151 + COLUMNS),
    ('{ shortestPath(from: {key: "a"}, to: {key: "b"}, maxHops: 4) { nodes { similar(first: 1) { hot } } } }',
     {}, 113 + 5 * 101),
    ('{ paths(from: {key: "a"}, to: {key: "b"}, k: 2, maxHops: 4) { links { source { key } } } }', {}, 126 + 8),
    ("{ rank(by: DEGREE, first: 5) { edges { score } } }", {}, 105),
    ("{ rank(first: 5) { edges { score } } }", {}, 1_105),
    ('{ rank(seeds: [{key: "a"}], first: 5) { edges { score } } }', {}, 106),
    ("{ stats { name hotBytes counts { linksByType { count } } } }", {}, 201),
    ("mutation ($i: [MemoryItem!]!) { rememberMany(input: {items: $i}) { stored { memory { key } } } }",
     {"i": [{}] * 5}, 20),
    ("mutation ($i: RememberManyInput!) { rememberMany(input: $i) { count } }", {"i": {"items": [{}] * 5}}, 15),
    ("mutation { forgetMany(input: {where: {kind: {eq: ENTITY}}}) { count } }", {}, 10_010),
    ('mutation { a: forget(input: {ref: {key: "a"}}) { id } b: forget(input: {ref: {key: "b"}}) { id } }', {}, 20),
    ("subscription { changes { memory { links(first: 5) { edges { node { target { key } } } } } } }", {}, 11),
]  # fmt: skip


@pytest.mark.parametrize(("query", "variables", "expected"), COSTS)
def test_what_fields_cost(query: str, variables: dict[str, Any], expected: int) -> None:
    assert cost(query, **variables) == expected


def test_a_fragment_is_measured_once() -> None:
    """Sixty fragments that each spread the next one twice, in other pages."""
    fragments = " ".join(
        f"fragment F{n} on Memory {{ a: links(first: 2) {{ ...E{n} }} b: links(first: 1) {{ ...E{n} }} }} "
        f"fragment E{n} on LinkConnection {{ edges {{ node {{ source {{ ...F{n + 1} }} }} }} }}"
        for n in range(60)
    )
    total = cost('{ memory(ref: {key: "a"}) { ...F0 } } ' + fragments + " fragment F60 on Memory { key }")
    # A memory's links cost 3 and three times what is at their end, which is read for 1.
    expected = 0
    for _ in range(60):
        expected = 3 + 3 * (1 + expected)
    assert total == 1 + expected


def test_what_makes_it_expensive_is_named() -> None:
    deep = "memories(first: 50) { edges { node { title around: links(first: 90) { edges { node { type } } } } } }"
    assert measured("{ stats { name } many: " + deep + " }").heaviest() == "many.edges.node.around"
    assert measured('{ a: memories { edges { cursor } } traverse(start: [{key: "a"}]) { compact } }').heaviest() == (
        "traverse.compact"
    )
    spread = "{ ...A } fragment A on Query { rank { edges { score } } stats { name } }"
    assert measured(spread).heaviest() == "rank"


def test_the_examples_and_introspection_are_far_below_the_limit(settings: Settings) -> None:
    examples = sorted(operations_folder().glob("*.graphql"))
    assert examples
    for example in examples:
        total = cost(example.read_text(), **json.loads(example.with_suffix(".json").read_text()))
        assert 0 < total < settings.max_query_cost // 10, example.name


async def test_an_answer_says_its_cost(filled: Graph) -> None:
    answer = await filled.send("{ memories(first: 5) { edges { node { links { edges { cursor } } } } } }")
    assert answer["extensions"] == {"cost": {"requested": 205, "actual": 105 + 30, "limit": 1_000_000}}
    answer = await filled.send('mutation { remember(input: {content: "x"}) { memory { key } } }')
    assert answer["extensions"]["cost"] == {"requested": 10, "actual": 0, "limit": 1_000_000}
    assert "extensions" not in await filled.send("{ nothing }")
    found = await filled.http.get("/graphql", params={"query": "{ stats { name } }"})
    assert found.json()["extensions"]["cost"]["requested"] == 1


async def test_what_costs_too_much_is_not_executed(settings: Settings) -> None:
    async with (
        open_runtime(settings.model_copy(update={"max_query_cost": 120}), maintenance=False) as services,
        open_graph(services) as graph,
    ):
        assert await graph.codes("{ memories { edges { cursor } } }") == []
        answer = await graph.send("{ memories(first: 21) { edges { cursor } } }")
        assert "data" not in answer
        (error,) = answer["errors"]
        assert error["extensions"] == {
            "code": "query_too_complex",
            "details": {"cost": 121, "limit": 120, "heaviest": "memories"},
        }
        assert answer["extensions"]["cost"] == {"requested": 121, "actual": 0, "limit": 120}
        # What execution refuses anyway keeps its own words.
        query = "query ($n: Int!) { memories(first: $n) { edges { cursor } } }"
        assert await graph.codes(query, n="five") == ["graphql_invalid"]
        assert await graph.codes(query, n=0) == ["invalid_input"]


@pytest.fixture
async def thrifty(settings: Settings) -> AsyncIterator[Services]:
    """Services with a budget of 1,000 in an hour."""
    changed = {"cost_budget": 1_000, "rate_limit_window_seconds": 3_600.0}
    async with open_runtime(settings.model_copy(update=changed), maintenance=False) as services:
        yield services


async def test_a_budget_is_never_overspent(thrifty: Services) -> None:
    async with open_graph(thrifty) as graph:
        body = {"query": "{ memories(first: 100) { edges { cursor } } }"}
        responses = await asyncio.gather(*(graph.http.post("/graphql", json=body) for _ in range(12)))
        answered = [one for one in responses if one.status_code == 200]
        assert len(answered) == 5
        assert {one.json()["extensions"]["cost"]["budget"]["limit"] for one in responses} == {1_000}
        left = sorted(one.json()["extensions"]["cost"]["budget"]["remaining"] for one in answered)
        assert left == [0, 200, 400, 600, 800]
        refused = next(one for one in responses if one.status_code != 200)
        assert (refused.status_code, refused.json()["errors"][0]["extensions"]["code"]) == (429, "budget_spent")
        assert "data" not in refused.json()
        assert 600 < int(refused.headers["retry-after"]) <= 720
        shown = refused.json()["extensions"]["cost"]
        assert shown["budget"]["remaining"] == 0
        assert shown == {"requested": 200, "actual": 0, "limit": 1_000, "budget": shown["budget"]}
        assert 3_000 < shown["budget"]["resetSeconds"] <= 3_600
        details = refused.json()["errors"][0]["extensions"]["details"]
        assert details.keys() == {"cost", "limit", "remaining", "reset_seconds", "retry_after"}
        # What costs nothing is answered still.
        assert await graph.data("{ __typename }") == {"__typename": "Query"}


async def test_what_no_budget_pays_for_is_refused_in_the_same_words(thrifty: Services) -> None:
    async with open_graph(thrifty) as graph:
        await graph.data("{ memories(first: 50) { edges { cursor } } }")
        dear = "{ rank(first: 100) { edges { score } } }"
        answer = await graph.send(dear)
        assert answer["errors"][0]["extensions"] == {
            "code": "query_too_complex", "details": {"cost": 1_200, "limit": 1_000, "heaviest": "rank"},
        }  # fmt: skip
        shown = answer["extensions"]["cost"]
        assert (shown["requested"], shown["actual"], shown["limit"]) == (1_200, 0, 1_000)
        assert shown["budget"]["limit"] == 1_000
        assert 850 <= shown["budget"]["remaining"] < 1_000
        # What is free says, too, how much is left.
        free = (await graph.send("{ __typename }"))["extensions"]["cost"]
        assert free.keys() == shown.keys()
        assert free["budget"].keys() == shown["budget"].keys()


STRICT = {"Accept": "application/graphql-response+json"}
STATUSES: list[tuple[str, str, int, int]] = [
    ("{ nothing }", "graphql_invalid", 200, 400),
    ("{ memories { edges ", "graphql_invalid", 200, 400),
    ("{ rank(first: 100) { edges { score } } }", "query_too_complex", 200, 400),
    ("{ memories(first: 0) { edges { cursor } } }", "invalid_input", 200, 200),
    ("{ memories(first: 100) { edges { cursor } } }", "budget_spent", 429, 429),
]


async def test_the_status_of_a_refusal_follows_the_media_type(thrifty: Services) -> None:
    async with open_graph(thrifty) as graph:
        for _ in range(4):
            await graph.data("{ memories(first: 100) { edges { cursor } } }")
        for query, code, lenient, strict in STATUSES:
            for headers, status in (({}, lenient), (STRICT, strict)):
                answer = await graph.http.post("/graphql", json={"query": query}, headers=headers)
                assert answer.json()["errors"][0]["extensions"]["code"] == code
                assert answer.status_code == status, (query, headers)
                assert ("retry-after" in answer.headers) == (status == 429)


async def test_each_event_is_paid_for_when_the_budget_has_it(settings: Settings) -> None:
    changed = {"cost_budget": 2, "rate_limit_window_seconds": 1.0}
    async with open_runtime(settings.model_copy(update=changed), maintenance=False) as services:
        for key in "abcde":
            await services.memory_writes.store("default", {"key": key, "content": key})
        async with serving(services) as served, served.socket() as socket:
            await socket.subscribe(WATCH, after="beginning")
            heard = [(await socket.hear())["payload"] for _ in range(5)]
            assert [one["data"]["changes"]["memory"]["key"] for one in heard] == list("abcde")
            assert {one["extensions"]["cost"]["requested"] for one in heard} == {1}
            assert min(one["extensions"]["cost"]["budget"]["remaining"] for one in heard) == 0
            await socket.subscribe("{ memories { edges { cursor } } }", id="dear")
            message = await socket.hear()
            assert (message["type"], message["id"]) == ("error", "dear")
            assert message["payload"][0]["extensions"]["code"] == "query_too_complex"


async def test_an_answer_has_a_bounded_number_of_values(filled: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    # A field of the query, one of the connection, one of each edge, two of each node, and the coordinate's numbers.
    query = "{ memories(first: 10) { edges { node { key coordinate } } } }"
    found = await filled.data(query)
    numbers = sum(len(edge["node"]["coordinate"]) for edge in found["memories"]["edges"])
    values = 1 + 1 + 10 * (1 + 2) + numbers
    monkeypatch.setattr(answer_size, "MAX_VALUES", values)
    assert await filled.codes(query) == []
    monkeypatch.setattr(answer_size, "MAX_VALUES", values - 1)
    assert set(await filled.codes(query)) == {"query_too_complex"}


async def test_an_answer_has_a_bounded_length(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    await remember(graph, "a", "x" * 1_000, payload={"y": "z" * 500})
    await remember(graph, "b", "v" * 1_000)
    query = '{ memory(ref: {key: "a"}) { a: content b: content payload } }'
    length = 2 * 1_000 + len('{"y":""}') + 500
    monkeypatch.setattr(answer_size, "MAX_CHARS", length)
    assert await graph.codes(query) == []
    # Each request begins anew, and the mutation's part of an answer counts as any other.
    assert await graph.codes(query) == []
    monkeypatch.setattr(answer_size, "MAX_CHARS", length - 1)
    answer = await graph.send(query)
    assert {one["extensions"]["code"] for one in answer["errors"]} == {"query_too_complex"}
    assert len(json.dumps(answer["data"])) < length
    assert await graph.codes("{ memories { edges { node { content } } } }") == []
    monkeypatch.setattr(answer_size, "MAX_CHARS", 1_999)
    assert await graph.codes("{ memories { edges { node { content } } } }") == ["query_too_complex"]


async def test_a_large_answer_lets_others_run(filled: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_size, "VALUES_PER_TURN", 50)
    values = 0
    add = answer_size.AnswerSize.add

    def counted(size: answer_size.AnswerSize, more: int) -> None:
        nonlocal values
        values += more
        add(size, more)

    monkeypatch.setattr(answer_size.AnswerSize, "add", counted)

    async def in_one_turn() -> int:
        """Of all turns of the loop, the most values that one completed."""
        most, seen = 0, values
        with suppress(asyncio.CancelledError):
            while True:
                await asyncio.sleep(0)
                most, seen = max(most, values - seen), values
        return most

    async def most_of(query: str) -> int:
        watching = asyncio.create_task(in_one_turn())
        await asyncio.sleep(0)
        await filled.data(query)
        await asyncio.sleep(0)
        watching.cancel()
        return await watching

    leaves = " ".join(f"a{n}: title" for n in range(30))
    links = "links(first: 6) { edges { node { id type weight } } }"
    assert await most_of(f"{{ memories(first: 10) {{ edges {{ node {{ {leaves} {links} }} }} }} }}") <= 50 + 2 * 31
    assert values > 500
    # What introspection answers is at hand as a whole.
    assert await most_of(get_introspection_query()) <= 50 + 2 * 31
    assert values > 5_000
    monkeypatch.setattr(answer_size, "VALUES_PER_TURN", 100_000)
    assert await most_of(get_introspection_query()) > 5_000


LEAVES = {"Memory": ["id", "key", "title"], "Link": ["id", "type"]}
FIRST = st.integers(1, 12)


@st.composite
def memory_fields(draw: st.DrawFn, depth: int) -> str:
    """A selection on a memory."""
    parts = [draw(st.sampled_from(LEAVES["Memory"]))]
    if depth:
        first = draw(FIRST)
        inner, ends = draw(memory_fields(depth - 1)), draw(link_fields(depth - 1))
        parts += draw(
            st.lists(
                st.sampled_from(
                    [
                        f"links(first: {first}) {{ edges {{ node {{ {ends} }} }} }}",
                        f"around: neighbors(first: {first}) {{ edges {{ node {{ {inner} }} link {{ id }} }} }}",
                        f"counted: neighbors(first: {first}) {{ counts }}",
                        f"similar(first: {first}) {{ edges {{ node {{ {inner} }} }} }}",
                        f"why: similar {{ edges {{ explanation {{ path {{ nodes {{ {inner} }} }} }} }} }}",
                        f'pathTo(ref: {{key: "k{first % 10}"}}) {{ nodes {{ {inner} }} links {{ {ends} }} }}',
                    ]
                ),
                max_size=2,
                unique=True,
            )
        )
    return " ".join(parts)


@st.composite
def link_fields(draw: st.DrawFn, depth: int) -> str:
    """A selection on a link."""
    parts = [draw(st.sampled_from(LEAVES["Link"]))]
    if depth and draw(st.booleans()):
        parts.append(f"{draw(st.sampled_from(['source', 'target']))} {{ {draw(memory_fields(depth - 1))} }}")
    return " ".join(parts)


@st.composite
def root_fields(draw: st.DrawFn) -> list[str]:
    """The fields of a query, each under its own name. $first is an argument of the listing."""
    inner, ends, first = draw(memory_fields(2)), draw(link_fields(2)), draw(FIRST)
    of_link, to = f"links {{ {ends} }}", 'from: {key: "k0"}, to: {key: "k5"}'
    fields = [
        f"memories(first: $first) {{ edges {{ node {{ {inner} }} }} }}",
        f'memory(ref: {{key: "k1"}}) {{ {inner} }}',
        f'recall(query: "k{first}", first: {first}, expand: {first}) {{ edges {{ node {{ {inner} }} }} }}',
        f'traverse(start: [{{key: "k1"}}], depth: 2, limit: {first}) {{ nodes {{ {inner} }} {of_link} compact }}',
        f'neighbors(ref: {{key: "k2"}}, hops: 3, first: {first}) {{ edges {{ node {{ {inner} }} }} counts }}',
        f"shortestPath({to}, maxHops: {first}) {{ nodes {{ {inner} }} }}",
        f"paths({to}, k: {first}, maxHops: 8) {{ nodes {{ id }} {of_link} }}",
        f"rank(by: DEGREE, first: {first}) {{ edges {{ node {{ {inner} }} }} }}",
        "stats { hotBytes counts { memories } }",
        "namespaces { edges { node { hotBytes } } }",
    ]
    chosen = draw(st.lists(st.sampled_from(range(len(fields))), min_size=1, max_size=3, unique=True))
    return [f"f{place}: {fields[place]}" for place in chosen]


def document(fields: list[str]) -> str:
    text = " ".join(fields)
    return ("query ($first: Int! = 1) { " if "$first" in text else "{ ") + text + " }"


@hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(fields=root_fields(), first=FIRST)
async def test_no_request_reads_more_than_it_may_cost(filled: Graph, fields: list[str], first: int) -> None:
    answer = await filled.send(document(fields), first=first)
    codes = {one["extensions"]["code"] for one in answer.get("errors", [])}
    assume("query_too_complex" not in codes)
    assert codes <= {"memory_not_found"}
    found = answer["extensions"]["cost"]
    assert found["actual"] <= found["requested"] == cost(document(fields), first=first)


@given(fields=root_fields(), first=FIRST, more=st.integers(0, 200))
def test_more_never_costs_less(fields: list[str], first: int, more: int) -> None:
    whole = cost(document(fields), first=first)
    assert whole <= cost(document(fields), first=first + more)
    assert cost(document(fields[1:] or ["__typename"]), first=first) <= whole


async def test_what_is_read_is_counted_up_to_the_bound(filled: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context_module, "MAX_NODES", 108)
    answer = await filled.send("{ memories(first: 10) { edges { cursor } } }")
    assert answer["errors"][0]["extensions"]["code"] == "query_too_complex"
    assert answer["extensions"]["cost"]["actual"] == 100
