"""The GraphQL fields that follow links: which links, which order, which bounds, and what each refuses."""

from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from graphql_client import Graph, keys, link, open_graph, remember

from sfm_graph.api.gql import context as context_module
from sfm_graph.runtime import open_runtime
from sfm_graph.services import walk_runner
from sfm_graph.services import walks as walks_service
from sfm_graph.services.registry import Services
from sfm_graph.services.traversal import Traversal
from sfm_graph.settings import Settings

ROADS = (
    ("a", "b", {"type": "road", "weight": 1}),
    ("b", "c", {"type": "road", "weight": 1, "validTo": "2020-01-01"}),
    ("a", "c", {"type": "rail", "weight": 5, "properties": {"toll": True}}),
    ("c", "d", {"type": "road", "weight": 1}),
    ("c", "d", {"type": "rail", "weight": 3}),
)


@pytest.fixture
async def graph(services: Services) -> AsyncIterator[Graph]:
    """a -> b -> c by road until 2020, a -> c by rail, two ways c -> d; e alone."""
    async with open_graph(services) as opened:
        for key in "abcde":
            await remember(opened, key, title=key.upper())
        for source, target, fields in ROADS:
            await link(opened, source, target, **fields)
        yield opened


NEIGHBORS = """query ($ref: MemoryRef!, $hops: Int! = 1, $where: MemoryWhere, $linkWhere: LinkWhere, $asOf: AsOf,
    $first: Int! = 20, $after: String, $direction: Direction! = BOTH) {
  neighbors(ref: $ref, hops: $hops, where: $where, linkWhere: $linkWhere, asOf: $asOf, first: $first, after: $after,
      direction: $direction) {
    edges { hops link { type } node { key } } pageInfo { hasNextPage endCursor } truncated hot counts } }"""
PATHS = """query ($from: MemoryRef!, $to: MemoryRef!, $k: Int! = 3, $mode: PathMode! = SHORTEST_K, $where: LinkWhere,
    $weighted: Boolean! = false, $maxHops: Int! = 64, $asOf: AsOf, $types: [String!], $direction: Direction! = BOTH) {
  paths(from: $from, to: $to, k: $k, mode: $mode, where: $where, weighted: $weighted, maxHops: $maxHops, asOf: $asOf,
      types: $types, direction: $direction) { cost hot nodes { key } links { type weight } } }"""
RANK = """query ($seeds: [MemoryRef!], $by: RankBy! = PAGERANK, $first: Int! = 20, $direction: Direction! = BOTH,
    $where: LinkWhere, $asOf: AsOf, $unlinked: Boolean! = false, $types: [String!]) {
  rank(seeds: $seeds, by: $by, first: $first, direction: $direction, where: $where, asOf: $asOf, unlinked: $unlinked,
      types: $types) {
    edges { score group node { key } } pageInfo { hasNextPage endCursor } truncated estimated } }"""
TRAVERSE = """query ($start: [MemoryRef!]!, $depth: Int! = 1, $limit: Int! = 100, $where: LinkWhere, $asOf: AsOf) {
  traverse(start: $start, depth: $depth, limit: $limit, where: $where, asOf: $asOf) {
    truncated hot nodes { key } links { type } compact } }"""


async def near(graph: Graph, key: str, **asked: Any) -> dict[str, Any]:
    return (await graph.data(NEIGHBORS, ref={"key": key}, **asked))["neighbors"]


async def ways(graph: Graph, source: str, target: str, **asked: Any) -> list[tuple[str, list[str], float]]:
    """Of each path its memories, its links and its cost."""
    found = (await graph.data(PATHS, **{"from": {"key": source}, "to": {"key": target}}, **asked))["paths"]
    return [
        ("".join(one["key"] for one in path["nodes"]), [one["type"] for one in path["links"]], path["cost"])
        for path in found
    ]


async def ranked(graph: Graph, *seeds: str, **asked: Any) -> dict[str, Any]:
    return (await graph.data(RANK, seeds=[{"key": key} for key in seeds], **asked))["rank"]


async def test_a_filter_on_links_and_one_on_memories(graph: Graph) -> None:
    assert keys(await near(graph, "a", hops=3)) == ["b", "c", "d"]
    assert keys(await near(graph, "a", hops=3, linkWhere={"type": {"eq": "road"}})) == ["b"]
    assert keys(await near(graph, "a", hops=3, linkWhere={"weight": {"gt": 1}})) == ["c", "d"]
    toll = {"properties": [{"path": ["toll"], "eq": True}]}
    assert keys(await near(graph, "a", hops=3, linkWhere=toll)) == ["c"]
    # The memory filter chooses what is answered, not what is walked through.
    assert keys(await near(graph, "a", hops=3, where={"key": {"eq": "d"}})) == ["d"]


async def test_the_time_of_a_walk(graph: Graph) -> None:
    then = {"valid": "2019-12-31T23:59:59Z"}
    assert keys(await near(graph, "b")) == ["a"]
    assert keys(await near(graph, "b", asOf=then)) == ["a", "c"]
    assert keys(await near(graph, "b", asOf={"valid": "2020-01-01"})) == ["a"]
    assert keys(await near(graph, "b", asOf={})) == keys(await near(graph, "b", asOf={"valid": None})) == ["a"]
    assert await ways(graph, "a", "d", weighted=True, k=1) == [("acd", ["rail", "road"], 6.0)]
    assert await ways(graph, "a", "d", weighted=True, k=1, asOf=then) == [("abcd", ["road"] * 3, 3.0)]
    query = """query ($asOf: AsOf, $d: MemoryRef!) { memory(ref: {key: "b"}) {
        neighbors(asOf: $asOf, direction: OUT) { edges { node { key } } }
        pathTo(ref: $d, asOf: $asOf, direction: OUT) { cost hot }
        cheap: pathTo(ref: $d, asOf: $asOf, where: {type: {eq: "road"}}) { links { type } } }
      shortestPath(from: {key: "b"}, to: $d, asOf: $asOf, direction: OUT, where: {weight: {lt: 2}}) { cost } }"""
    found = await graph.data(query, asOf=then, d={"key": "d"})
    assert keys(found["memory"]["neighbors"]) == ["c"]
    assert found["memory"]["pathTo"] == {"cost": 2.0, "hot": True}
    assert found["memory"]["cheap"] == {"links": [{"type": "road"}] * 2}
    assert found["shortestPath"] == {"cost": 2.0}
    now = await graph.data(query, d={"key": "d"})
    assert (now["memory"]["pathTo"], now["memory"]["cheap"], now["shortestPath"]) == (None, None, None)


async def test_neighbour_pages_and_counts(graph: Graph) -> None:
    page = await near(graph, "a", hops=3, first=2)
    assert (keys(page), page["pageInfo"]["hasNextPage"], page["truncated"]) == (["b", "c"], True, False)
    assert (page["counts"], page["hot"]) == ([2, 1], True)
    after = page["pageInfo"]["endCursor"]
    rest = await near(graph, "a", hops=3, first=2, after=after)
    assert (keys(rest), rest["pageInfo"]["hasNextPage"], rest["counts"]) == (["d"], False, [2, 1])
    # Of the links alone: a filter on memories does not change it.
    assert (await near(graph, "a", hops=3, where={"key": {"eq": "d"}}))["counts"] == [2, 1]
    assert (await near(graph, "a", hops=3, linkWhere={"type": {"eq": "road"}}))["counts"] == [1]
    assert (await near(graph, "e", hops=3))["counts"] == []
    # A cursor belongs to its query, its filters and time as given among it.
    for other in (
        {"linkWhere": {"weight": {"lt": 9}}}, {"asOf": {"valid": "2030-01-01"}}, {"where": {"key": {"eq": "d"}}},
        {"hops": 2}, {"direction": "OUT"},
    ):  # fmt: skip
        asked = {"hops": 3, "first": 2, "after": after, **other}
        assert await graph.codes(NEIGHBORS, ref={"key": "a"}, **asked) == ["invalid_cursor"], other


async def test_counts_are_read_only_when_asked_for(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    async def failing(*_: Any, **__: Any) -> Any:
        raise AssertionError("nobody asked for it")

    monkeypatch.setattr(walks_service.Walks, "reach_count", failing)
    query = '{ neighbors(ref: {key: "a"}) { edges { node { key } } truncated } }'
    assert keys((await graph.data(query))["neighbors"]) == ["b", "c"]
    assert await graph.codes('{ neighbors(ref: {key: "a"}) { counts } }') == ["internal_error"]


async def test_a_walk_that_is_cut_says_so(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    # From a two links lead on, from b and c more.
    monkeypatch.setattr(walk_runner, "MAX_LINKS", 3)
    query = """query ($hops: Int!, $first: Int! = 20) { neighbors(ref: {key: "a"}, hops: $hops, first: $first) {
        edges { node { key } } truncated pageInfo { hasNextPage endCursor } } }"""
    whole, cut = [(await graph.data(query, hops=hops))["neighbors"] for hops in (1, 3)]
    assert (keys(whole), whole["truncated"]) == (["b", "c"], False)
    assert (keys(cut), cut["truncated"], cut["pageInfo"]["hasNextPage"]) == (["b", "c"], True, False)
    # On a full page nobody knows; the next one is empty and says it.
    full = (await graph.data(query, hops=3, first=2))["neighbors"]
    assert full["pageInfo"]["hasNextPage"] is True
    asked = {"ref": {"key": "a"}, "hops": 3, "first": 2, "after": full["pageInfo"]["endCursor"]}
    rest = (await graph.data(NEIGHBORS.replace(" counts", ""), **asked))["neighbors"]
    assert (keys(rest), rest["truncated"], rest["pageInfo"]["hasNextPage"]) == ([], True, False)
    part = (await graph.data(TRAVERSE, start=[{"key": "a"}], depth=3))["traverse"]
    assert part["truncated"] is True
    ends = {"from": {"key": "a"}, "to": {"key": "d"}}
    assert await graph.codes(PATHS, **ends, mode="SIMPLE", k=100) == ["walk_too_large"]


async def test_paths_in_order(graph: Graph) -> None:
    assert await ways(graph, "a", "d") == [("acd", ["rail", "road"], 2.0), ("acd", ["rail", "rail"], 2.0)]
    assert await ways(graph, "a", "d", weighted=True) == [("acd", ["rail", "road"], 6.0), ("acd", ["rail"] * 2, 8.0)]
    then = {"valid": "2019-01-01"}
    by_length = ["acd", "acd", "abcd", "abcd"]
    for mode in ("SHORTEST_K", "SIMPLE"):
        found = await ways(graph, "a", "d", mode=mode, k=100, asOf=then)
        assert ([way[0] for way in found], [way[2] for way in found]) == (by_length, [2.0, 2.0, 3.0, 3.0]), mode
    cheapest = await ways(graph, "a", "d", k=100, asOf=then, weighted=True)
    assert [way[2] for way in cheapest] == [3.0, 5.0, 6.0, 8.0]
    assert len(await ways(graph, "a", "d", mode="ALL_SHORTEST", k=100, asOf=then)) == 2
    assert len(await ways(graph, "a", "d", mode="SIMPLE", k=100, asOf=then, maxHops=2)) == 2
    assert await ways(graph, "a", "d", types=["rail"]) == [("acd", ["rail"] * 2, 2.0)]
    assert await ways(graph, "d", "a", direction="OUT") == []
    assert await ways(graph, "a", "e") == []
    for mode in ("SHORTEST_K", "ALL_SHORTEST", "SIMPLE"):
        assert await ways(graph, "a", "a", mode=mode) == [("a", [], 0.0)]


async def test_traverse_reads_what_is_asked_for(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    found = (await graph.data(TRAVERSE, start=[{"key": "a"}], where={"weight": {"lte": 3}}, depth=2))["traverse"]
    assert ([one["key"] for one in found["nodes"]], found["links"]) == (["a", "b"], [{"type": "road"}])
    assert (found["truncated"], found["hot"]) == (False, True)
    asked = {"start": [{"key": "a"}, {"key": "d"}], "asOf": {"valid": "2019-01-01"}}
    found = (await graph.data(TRAVERSE, **asked))["traverse"]
    assert [one["key"] for one in found["nodes"]] == ["a", "b", "c", "d"]
    assert [one["type"] for one in found["links"]] == ["road", "road", "rail", "road", "rail"]
    columns = found["compact"]
    assert columns["nodes"]["title"] == ["A", "B", "C", "D"]
    assert (columns["nodes"]["kind"], columns["nodes"]["importance"]) == (["EPISODIC"] * 4, [1.0] * 4)
    assert columns["links"]["source"] == [0, 1, 0, 2, 2]
    assert columns["links"]["target"] == [1, 2, 2, 3, 3]
    assert columns["links"]["type"] == [one["type"] for one in found["links"]]
    assert columns["links"]["weight"] == [1.0, 1.0, 5.0, 1.0, 3.0]
    query = """query ($ids: [ID!]!) { nodes(ids: $ids) { ... on Memory { key } ... on Link { type weight } } }"""
    ids = [columns["nodes"]["id"][3], columns["links"]["id"][4]]
    assert (await graph.data(query, ids=ids))["nodes"] == [{"key": "d"}, {"type": "rail", "weight": 3.0}]

    async def failing(*_: Any) -> Any:
        raise AssertionError("nobody asked for it")

    monkeypatch.setattr(Traversal, "links_of", failing)
    for fields in ("truncated", "nodes { key }", "compact"):
        await graph.data(f'{{ traverse(start: [{{key: "a"}}]) {{ {fields} }} }}')
    monkeypatch.setattr(Traversal, "memories_of", failing)
    await graph.data('{ traverse(start: [{key: "a"}]) { compact } }')
    monkeypatch.setattr(Traversal, "outlines_of", failing)
    await graph.data('{ traverse(start: [{key: "a"}]) { truncated hot } }')


async def test_rankings(graph: Graph) -> None:
    degrees = await ranked(graph, by="DEGREE")
    assert [(edge["node"]["key"], edge["score"]) for edge in degrees["edges"]] == [
        ("c", 3.0), ("a", 2.0), ("d", 2.0), ("b", 1.0),
    ]  # fmt: skip
    assert (degrees["truncated"], degrees["estimated"]) == (False, 0.0)
    assert degrees["pageInfo"] == {"hasNextPage": False, "endCursor": None}
    assert [edge["group"] for edge in degrees["edges"]] == [None] * 4
    then = {"valid": "2019-01-01"}
    assert keys(await ranked(graph, by="DEGREE", asOf=then, first=1)) == ["c"]
    assert (await ranked(graph, by="DEGREE", asOf=then, first=1))["truncated"] is True
    roads = await ranked(graph, by="WEAK_COMPONENTS", where={"type": {"eq": "road"}})
    assert [(edge["node"]["key"], edge["group"], edge["score"]) for edge in roads["edges"]] == [
        ("a", 0, 2.0), ("b", 0, 2.0), ("c", 1, 2.0), ("d", 1, 2.0),
    ]  # fmt: skip
    strong = await ranked(graph, by="STRONG_COMPONENTS", direction="OUT")
    assert [edge["score"] for edge in strong["edges"]] == [1.0] * 4
    assert {edge["group"] for edge in (await ranked(graph, by="COMMUNITIES"))["edges"]} <= {0, 1}
    everywhere = await ranked(graph)
    assert sum(edge["score"] for edge in everywhere["edges"]) == pytest.approx(1.0)
    around = await ranked(graph, "b")
    # The strengths 1 / (1 + weight) between a, b, c and d; the walk starts at b.
    strengths = np.array([[0, 1 / 2, 1 / 6, 0], [1 / 2, 0, 0, 0], [1 / 6, 0, 0, 3 / 4], [0, 0, 3 / 4, 0]])
    steps = strengths / strengths.sum(axis=0)
    exact = np.linalg.solve(np.eye(4) - 0.85 * steps, 0.15 * np.array([0, 1, 0, 0]))
    expected = dict(zip("abcd", exact.tolist(), strict=True))
    assert keys(around) == sorted(expected, key=lambda key: -expected[key])
    assert {edge["node"]["key"]: edge["score"] for edge in around["edges"]} == pytest.approx(expected, abs=1e-4)
    assert around["estimated"] < 1e-4
    alone = (await ranked(graph, "e", first=1))["edges"]
    assert [(edge["node"]["key"], edge["score"]) for edge in alone] == [("e", pytest.approx(1.0, abs=1e-3))]
    assert keys(await ranked(graph, "b", by="JACCARD")) == ["c"]
    assert keys(await ranked(graph, "a", by="JACCARD", unlinked=True)) == ["d"]
    assert keys(await ranked(graph, "a", by="ADAMIC_ADAR", types=["road"])) == []


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    (PATHS, {"from": {"key": "a"}, "to": {"key": "d"}, "k": 0}, "invalid_input"),
    (PATHS, {"from": {"key": "a"}, "to": {"key": "d"}, "k": 101}, "invalid_input"),
    (PATHS, {"from": {"key": "a"}, "to": {"key": "d"}, "k": -1}, "invalid_input"),
    (PATHS, {"from": {"key": "a"}, "to": {"key": "d"}, "maxHops": 0}, "invalid_input"),
    (PATHS, {"from": {"key": "a"}, "to": {"key": "d"}, "maxHops": 65}, "invalid_input"),
    (PATHS, {"from": {"key": "a"}, "to": {"key": "d"}, "mode": "ALL"}, "graphql_invalid"),
    (PATHS, {"from": {"key": "a"}, "to": {"key": "d"}, "mode": "SIMPLE", "weighted": True}, "invalid_input"),
    (PATHS, {"from": {"key": "a"}, "to": {"key": "d"}, "where": {"weight": {"in": [1]}}}, "graphql_invalid"),
    (PATHS, {"from": {"key": "a"}, "to": {"key": "d"}, "where": {"properties": [{"path": []}]}}, "invalid_input"),
    (PATHS, {"from": {"key": "a"}, "to": {"key": "d"}, "asOf": {"valid": "yesterday"}}, "invalid_input"),
    (PATHS, {"from": {"key": "a"}, "to": {"key": "d"}, "types": ["x"] * 101}, "invalid_input"),
    (PATHS, {"from": {"key": "a"}, "to": {"key": "nobody"}}, "memory_not_found"),
    (PATHS, {"from": {"key": "nobody"}, "to": {"key": "nobody"}}, "memory_not_found"),
    (NEIGHBORS, {"ref": {"key": "a"}, "hops": 0}, "invalid_input"),
    (NEIGHBORS, {"ref": {"key": "a"}, "hops": -1}, "invalid_input"),
    (NEIGHBORS, {"ref": {"key": "a"}, "asOf": {"valid": "10000-01-01"}}, "invalid_input"),
    (NEIGHBORS, {"ref": {"key": "a"}, "asOf": {"known": "2020-01-01"}}, "known_expired"),
    (NEIGHBORS, {"ref": {"key": "a"}, "asOf": {"since": "2020-01-01"}}, "graphql_invalid"),
    (NEIGHBORS, {"ref": {"key": "a"}, "linkWhere": {"kind": {"eq": "ENTITY"}}}, "graphql_invalid"),
    (NEIGHBORS, {"ref": {"key": "nobody"}}, "memory_not_found"),
    (TRAVERSE, {"start": []}, "invalid_input"),
    (TRAVERSE, {"start": [{"key": "a"}] * 101}, "invalid_input"),
    (TRAVERSE, {"start": [{"key": "a"}, {"key": "nobody"}]}, "memory_not_found"),
    (TRAVERSE, {"start": [{"key": "a"}], "depth": -1}, "invalid_input"),
    (TRAVERSE, {"start": [{"key": "a"}], "limit": 10_001}, "invalid_input"),
    (RANK, {"by": "JACCARD"}, "invalid_input"),
    (RANK, {"by": "ADAMIC_ADAR", "seeds": []}, "invalid_input"),
    (RANK, {"by": "DEGREE", "seeds": [{"key": "a"}]}, "invalid_input"),
    (RANK, {"by": "PAGERANK", "seeds": [{"key": "a"}], "unlinked": True}, "invalid_input"),
    (RANK, {"by": "BEST"}, "graphql_invalid"),
    (RANK, {"first": 0}, "invalid_input"),
    (RANK, {"first": 1_001}, "invalid_input"),
    (RANK, {"seeds": [{"key": "a"}] * 101}, "invalid_input"),
    (RANK, {"seeds": [{"key": "nobody"}]}, "memory_not_found"),
]


async def test_what_no_walk_takes(graph: Graph) -> None:
    for query, variables, code in REFUSED:
        assert set(await graph.codes(query, **variables)) == {code}, variables


async def test_walks_count_what_they_answer(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context_module, "MAX_NODES", 110)
    # A walk counts 100. Two paths have three memories and two links each; a subgraph has four memories, four links.
    ends = 'from: {key: "a"}, to: {key: "d"}'
    assert await graph.codes(f"{{ paths({ends}) {{ cost }} }}") == []
    monkeypatch.setattr(context_module, "MAX_NODES", 107)
    start = 'start: [{key: "a"}], depth: 3'
    for query, refused in (
        (f"{{ paths({ends}) {{ cost }} }}", True),
        (f"{{ shortestPath({ends}) {{ cost }} }}", False),
        (f"{{ traverse({start}) {{ nodes {{ key }} }} }}", False),
        (f"{{ traverse({start}) {{ nodes {{ key }} links {{ type }} }} }}", True),
        (f"{{ traverse({start}) {{ nodes {{ key }} compact }} }}", False),
        ("{ rank(by: DEGREE) { edges { score } } }", False),
        ("{ rank(by: DEGREE) { edges { score } } stats { name } a: rank { truncated } }", True),
        ('{ neighbors(ref: {key: "a"}) { truncated counts } }', True),
    ):
        assert await graph.codes(query) == (["query_too_complex"] if refused else []), query
    monkeypatch.setattr(walks_service, "MAX_SUBGRAPH_LINKS", 100)
    monkeypatch.setattr(context_module, "MAX_NODES", 100)
    assert await graph.codes(f"{{ traverse({start}) {{ compact }} }}") == []
    monkeypatch.setattr("sfm_graph.api.gql.walks.COLUMNS_PER_NODE", 8)
    assert await graph.codes(f"{{ traverse({start}) {{ compact }} }}") == ["query_too_complex"]


async def test_one_request_walks_one_snapshot(
    graph: Graph, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is walked, ranked and read in one request fits together, whoever writes meanwhile."""
    query = """{ paths(from: {key: "a"}, to: {key: "d"}, k: 10) { cost }
        traverse(start: [{key: "a"}], depth: 3) { links { id } compact }
        rank(by: DEGREE) { edges { score } }
        neighbors(ref: {key: "c"}) { edges { hops } counts } }"""
    before = services.traversal.paths

    async def paths_and_write(*arguments: Any, **options: Any) -> Any:
        found = await before(*arguments, **options)
        await services.links.link("default", {"key": "a"}, {"key": "d"}, {"type": "air"})
        return found

    with monkeypatch.context() as patched:
        patched.setattr(services.traversal, "paths", paths_and_write)
        found = await graph.data(query)
    assert [path["cost"] for path in found["paths"]] == [2.0, 2.0]
    assert len(found["traverse"]["links"]) == len(found["traverse"]["compact"]["links"]["id"]) == 4
    assert sum(edge["score"] for edge in found["rank"]["edges"]) == 8.0
    assert found["neighbors"]["counts"] == [2]
    again = await graph.data(query)
    assert [path["cost"] for path in again["paths"]] == [1.0, 2.0, 2.0]
    assert (len(again["traverse"]["links"]), again["neighbors"]["counts"]) == (5, [2])


async def test_without_memory_the_answers_are_the_same(graph: Graph, settings: Settings) -> None:
    small = settings.model_copy(update={"hot_budget_bytes": 0})
    asked = [
        (NEIGHBORS, {"ref": {"key": "a"}, "hops": 3, "linkWhere": {"weight": {"lt": 9}}}),
        (PATHS, {"from": {"key": "a"}, "to": {"key": "d"}, "k": 10, "asOf": {"valid": "2019-01-01"}}),
        (TRAVERSE, {"start": [{"key": "a"}], "depth": 2}),
    ]
    async with open_runtime(small, maintenance=False) as services, open_graph(services) as cold:
        for query, variables in asked:
            warm, slow = await graph.send(query, **variables), await cold.send(query, **variables)
            assert str(slow) == str(warm).replace("'hot': True", "'hot': False")
            assert "'hot': False" in str(slow)
        assert await cold.codes(RANK) == ["walk_too_large"]
