"""The GraphQL face: its schema, its example operations, and every query."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from graphql import GraphQLEnumType, GraphQLInputObjectType, GraphQLInterfaceType, GraphQLObjectType, build_schema
from graphql_client import Graph, keys, link, open_graph, remember

from sfm_graph.api.gql.schema import schema_sdl
from sfm_graph.services.registry import Services

FOLDER = Path(__file__).parents[1] / "graphql"
OPERATIONS = sorted((FOLDER / "operations").glob("*.graphql"))


@pytest.fixture
async def graph(services: Services) -> AsyncIterator[Graph]:
    async with open_graph(services) as opened:
        yield opened


def test_the_committed_schema_is_the_served_one() -> None:
    assert (FOLDER / "schema.graphql").read_text("utf-8") == schema_sdl()


def test_everything_in_the_schema_is_described() -> None:
    schema = build_schema(schema_sdl())
    bare = []
    for name, type_ in schema.type_map.items():
        if name.startswith("__"):
            continue
        if not type_.description:
            bare.append(name)
        if isinstance(type_, GraphQLObjectType | GraphQLInterfaceType | GraphQLInputObjectType):
            for field_name, field in type_.fields.items():
                if not field.description:
                    bare.append(f"{name}.{field_name}")
                for argument_name, argument in getattr(field, "args", {}).items():
                    if not argument.description:
                        bare.append(f"{name}.{field_name}({argument_name})")
    assert not bare
    assert any(isinstance(type_, GraphQLEnumType) for type_ in schema.type_map.values())


async def test_the_example_operations_run_in_order(graph: Graph) -> None:
    assert len(OPERATIONS) >= 8
    answers = {}
    for path in OPERATIONS:
        if path.stem == "13-changes":
            continue  # a subscription: test_subscriptions.py runs it
        variables = json.loads(path.with_suffix(".json").read_text("utf-8"))
        answers[path.stem] = await graph.data(path.read_text("utf-8"), **variables)
    assert answers["02-link-them"]["link"]["link"]["source"] == {"title": "Ada Lovelace"}
    assert keys(answers["03-recall-explained"]["recall"])[0] == "ada"
    assert keys(answers["04-memories-page"]["memories"]) == ["engine", "ada"]
    assert keys(answers["05-one-memory"]["memory"]["neighbors"]) == ["engine"]
    assert answers["06-shortest-path"]["shortestPath"]["cost"] == 0.5
    assert [node["key"] for node in answers["07-traverse"]["traverse"]["nodes"]] == ["ada", "engine"]
    many = answers["08-remember-many"]["rememberMany"]
    assert (many["count"], [one["index"] for one in many["failed"]]) == (2, [2])
    assert answers["09-namespace"]["stats"]["counts"]["memories"] == 4
    assert [path["cost"] for path in answers["10-paths"]["paths"]] == [0.5]
    assert [keys(answers["11-rank"][name]) for name in ("around", "linked")] == [["ada", "engine"]] * 2
    compact = answers["12-traverse-compact"]["traverse"]["compact"]
    assert (compact["nodes"]["key"], compact["links"]["target"]) == (["ada", "engine"], [1])
    assert keys(answers["14-as-of"]["now"])[0] == keys(answers["14-as-of"]["then"])[0] == "ada"


async def test_a_memory_comes_back_as_it_was_stored(graph: Graph) -> None:
    given = {
        "key": "k", "coordinate": [1, 2.5], "kind": "SEMANTIC", "title": "T", "content": "C",
        "payload": {"deep": [{"n": None}], "big": 2**63}, "importance": 3.5,
        "validFrom": "2001-02-03T04:05:06+02:00", "validTo": "9999-12-31T00:00:00",
    }  # fmt: skip
    fields = "namespace key coordinate kind title content payload importance version validFrom validTo"
    query = f"""mutation ($input: StoreMemoryInput!) {{
        storeMemory(input: $input) {{ operation memory {{ {fields} }} }} }}"""
    stored = (await graph.data(query, input=given))["storeMemory"]
    assert stored["operation"] == "CREATED"
    assert stored["memory"] == {
        **given, "namespace": "default", "version": 1, "coordinate": [1.0, 2.5],
        "validFrom": "2001-02-03T02:05:06+00:00", "validTo": "9999-12-31T00:00:00+00:00",
    }  # fmt: skip
    for ref in ({"key": "k"}, {"coordinate": [1, 2.5]}):
        found = await graph.data(f"query ($ref: MemoryRef!) {{ memory(ref: $ref) {{ {fields} }} }}", ref=ref)
        assert found["memory"] == stored["memory"]
    again = await graph.data(query, input={"key": "k", "content": "other", "expectedVersion": 1})
    assert again["storeMemory"]["memory"]["version"] == 2
    assert await graph.codes(query, input={"key": "k", "content": "late", "expectedVersion": 1}) == [
        "version_conflict"
    ]


async def test_nodes_are_found_by_global_id(graph: Graph) -> None:
    memory = (await remember(graph, "a"))["id"]
    await remember(graph, "b")
    joined = await link(graph, "a", "b")
    query = """query ($ids: [ID!]!, $id: ID!) {
        node(id: $id) { id __typename }
        nodes(ids: $ids) { id ... on Memory { key } ... on Link { type target { key } } } }"""
    gone = "bTo5OTk5OmRlZmF1bHQ"
    found = await graph.data(query, ids=[joined, gone, memory], id=memory)
    assert found["node"] == {"id": memory, "__typename": "Memory"}
    assert found["nodes"] == [
        {"id": joined, "type": "related", "target": {"key": "b"}}, None, {"id": memory, "key": "a"},
    ]  # fmt: skip
    assert await graph.codes(query, ids=["nonsense"], id=memory) == ["invalid_input"]
    assert await graph.codes(query, ids=[memory] * 101, id=memory) == ["too_large"]


async def test_recall_explains_scores_as_sums(graph: Graph) -> None:
    await remember(graph, "cat", "the cat sleeps on the mat", kind="SEMANTIC")
    await remember(graph, "dog", "the dog barks at the moon")
    query = """query ($kinds: [MemoryKind!], $weights: RecallWeights, $explain: Boolean!) {
        recall(query: "sleeping cat", first: 5, kinds: $kinds, weights: $weights, explain: $explain) {
          edges { score node { key } explanation { legs { leg rank weight contribution } } }
          pageInfo { hasNextPage } } }"""
    found = (await graph.data(query, explain=True))["recall"]
    assert keys(found) == ["cat", "dog"]
    assert found["pageInfo"] == {"hasNextPage": False}
    for edge in found["edges"]:
        legs = edge["explanation"]["legs"]
        assert {one["leg"] for one in legs} == {"DENSE", "LEXICAL", "IMPORTANCE"}
        assert sum(one["contribution"] for one in legs) == pytest.approx(edge["score"])
    silent = (await graph.data(query, explain=False, kinds=["SEMANTIC"]))["recall"]
    assert [(edge["node"]["key"], edge["explanation"]) for edge in silent["edges"]] == [("cat", None)]
    words = (await graph.data(query, explain=True, weights={"dense": 0}))["recall"]["edges"][0]
    assert [one["leg"] for one in words["explanation"]["legs"]] == ["LEXICAL", "IMPORTANCE"]
    for weights in ({"dense": -1}, {"dense": 0, "lexical": 0}):
        assert await graph.codes(query, explain=True, weights=weights) == ["invalid_input"]


async def test_recall_takes_a_filter_and_a_vector(graph: Graph) -> None:
    query = """mutation ($space: CreateNamespaceInput!, $many: RememberManyInput!) {
        createNamespace(input: $space) { namespace { name model { dimension } settings { payloadPaths } } }
        rememberMany(input: $many) { count } }"""
    space = {"name": "v", "payloadPaths": ["year"], "model": {"name": "m", "dimension": 3}}
    items = [
        {"key": f"k{place}", "content": "word", "payload": {"year": 2000 + place}, "embedding": [place, 1, 0]}
        for place in range(3)
    ]
    made = await graph.data(query, space=space, many={"namespace": "v", "items": items})
    assert made["createNamespace"]["namespace"] == {
        "name": "v", "model": {"dimension": 3}, "settings": {"payloadPaths": ["year"]},
    }  # fmt: skip
    query = """query ($vector: Vector!, $where: MemoryWhere) {
        recall(namespace: "v", query: "word", embedding: $vector, where: $where, weights: {lexical: 0}) {
          edges { node { key } } } }"""
    assert keys((await graph.data(query, vector=[1, 0, 0]))["recall"]) == ["k2", "k1", "k0"]
    late = {"payload": [{"path": ["year"], "lt": 2002}]}
    assert keys((await graph.data(query, vector=[1, 0, 0], where=late))["recall"]) == ["k1", "k0"]
    assert await graph.codes(query, vector=[1, 0]) == ["model_mismatch"]
    assert await graph.codes(query, vector=["x"]) == ["invalid_input"]


async def test_walks(graph: Graph) -> None:
    for key in "abcde":
        await remember(graph, key)
    for source, target, weight in (("a", "b", 1), ("b", "c", 1), ("a", "c", 5), ("c", "d", 1)):
        await link(graph, source, target, weight=weight, type="road" if weight == 1 else "rail")
    query = """query ($a: MemoryRef!, $d: MemoryRef!, $e: MemoryRef!) {
        near: neighbors(ref: $a, hops: 2, direction: OUT) { edges { hops link { type } node { key } } }
        into: neighbors(ref: $d, direction: OUT) { edges { node { key } } }
        short: shortestPath(from: $a, to: $d) { cost nodes { key } }
        cheap: shortestPath(from: $a, to: $d, weighted: true) { cost nodes { key } links { type } }
        rail: shortestPath(from: $a, to: $d, types: ["rail"]) { cost }
        apart: shortestPath(from: $a, to: $e) { cost }
        start: memory(ref: $a) {
          pathTo(ref: $d, maxHops: 2) { nodes { key } }
          links(direction: OUT, types: ["rail"]) { edges { node { target { key } } } } }
        part: traverse(start: [$a], depth: 1) { truncated nodes { key } links { type } compact }
        cut: traverse(start: [$a], depth: 10, limit: 2) { truncated nodes { key } } }"""
    found = await graph.data(query, a={"key": "a"}, d={"key": "d"}, e={"key": "e"})
    assert [(edge["hops"], edge["node"]["key"]) for edge in found["near"]["edges"]] == [(1, "b"), (1, "c"), (2, "d")]
    assert found["into"]["edges"] == []
    assert (found["short"]["cost"], [one["key"] for one in found["short"]["nodes"]]) == (2.0, ["a", "c", "d"])
    assert (found["cheap"]["cost"], [one["key"] for one in found["cheap"]["nodes"]]) == (3.0, ["a", "b", "c", "d"])
    assert (found["rail"], found["apart"]) == (None, None)
    assert [one["key"] for one in found["start"]["pathTo"]["nodes"]] == ["a", "c", "d"]
    assert found["start"]["links"]["edges"] == [{"node": {"target": {"key": "c"}}}]
    assert [one["key"] for one in found["part"]["nodes"]] == ["a", "b", "c"]
    compact = found["part"]["compact"]
    assert compact["nodes"]["key"] == ["a", "b", "c"]
    ends = list(zip(compact["links"]["source"], compact["links"]["target"], compact["links"]["type"], strict=True))
    assert ends == [(0, 1, "road"), (1, 2, "road"), (0, 2, "rail")]
    assert (found["cut"]["truncated"], len(found["cut"]["nodes"])) == (True, 2)
    unknown = 'query { neighbors(ref: {key: "nobody"}) { edges { hops } } }'
    assert await graph.codes(unknown) == ["memory_not_found"]


async def test_reading_makes_no_namespace(graph: Graph) -> None:
    query = """{ memory(namespace: "x", ref: {key: "k"}) { id }
        memories(namespace: "x") { edges { cursor } }
        recall(namespace: "x", query: "q") { edges { score } } }"""
    assert await graph.data(query) == {"memory": None, "memories": {"edges": []}, "recall": {"edges": []}}
    assert (await graph.data("{ namespaces { edges { cursor } } }"))["namespaces"]["edges"] == []
