"""What one GraphQL request sees: one snapshot, its own writes, one namespace, whole pages, few statements."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from graphql_client import Graph, open_graph

from sfm_graph.domain.identity import Entity, encode_global_id
from sfm_graph.services.memory_reads import MemoryReads
from sfm_graph.services.registry import Services


@pytest.fixture
async def graph(services: Services) -> AsyncIterator[Graph]:
    async with open_graph(services) as opened:
        yield opened


async def fill(graph: Graph, count: int, namespace: str = "default") -> list[str]:
    """`count` memories m0, m1 ... each linked to the next; their global ids."""
    items = [{"key": f"m{place}", "content": f"memory number {place}"} for place in range(count)]
    links = [{"source": {"key": f"m{place}"}, "target": {"key": f"m{place + 1}"}} for place in range(count - 1)]
    query = """mutation ($memories: RememberManyInput!, $links: LinkManyInput!) {
        rememberMany(input: $memories) { stored { memory { id } } }
        linkMany(input: $links) { count } }"""
    done = await graph.data(
        query, memories={"namespace": namespace, "items": items}, links={"namespace": namespace, "items": links}
    )
    return [one["memory"]["id"] for one in done["rememberMany"]["stored"]]


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every statement that is executed from now on."""
    seen: list[str] = []
    execute = psycopg.AsyncConnection.execute

    async def counted(self: psycopg.AsyncConnection, query: Any, *args: Any, **options: Any) -> Any:
        seen.append(str(query))
        return await execute(self, query, *args, **options)

    monkeypatch.setattr(psycopg.AsyncConnection, "execute", counted)
    return seen


async def test_a_page_with_links_and_ends_takes_few_statements(graph: Graph, statements: list[str]) -> None:
    await fill(graph, 40)
    query = """query ($first: Int!) { memories(first: $first) { edges { node { key
        links { edges { node { type source { key } target { key } } } } } } } }"""
    taken = {}
    for first in (1, 20):
        statements.clear()
        found = await graph.data(query, first=first)
        taken[first] = len(statements)
    links = [edge["node"] for one in found["memories"]["edges"] for edge in one["node"]["links"]["edges"]]
    assert len(links) == 39
    assert links[0] == {"type": "related", "source": {"key": "m0"}, "target": {"key": "m1"}}
    # begin with snapshot, namespace, page, links, ends, rollback
    assert taken == {1: 6, 20: 6}


async def test_all_fields_of_a_query_see_one_snapshot(
    graph: Graph, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(graph, 3)
    list_memories = MemoryReads.list
    written: list[str] = []

    async def list_and_write(self: MemoryReads, *args: Any, **options: Any) -> Any:
        page = await list_memories(self, *args, **options)
        if len(written) < 2:
            written.append(f"meanwhile{len(written)}")
            await services.memory_writes.store("default", {"key": written[-1], "content": "memory number 3"})
        return page

    monkeypatch.setattr(MemoryReads, "list", list_and_write)
    query = """{ a: memories { edges { node { key similar { edges { node { key } } } } } }
        b: memories { edges { node { key } } }
        recall(query: "memory number 3") { edges { node { key } } }
        c: memories { edges { node { key } } }
        stats { counts { memories } } }"""
    found = await graph.data(query)
    old = {"m0", "m1", "m2"}
    for field in ("a", "b", "c", "recall"):
        assert {edge["node"]["key"] for edge in found[field]["edges"]} == old, field
    similar = {one["node"]["key"] for edge in found["a"]["edges"] for one in edge["node"]["similar"]["edges"]}
    assert similar == old
    assert found["stats"]["counts"]["memories"] == 3
    assert written == ["meanwhile0", "meanwhile1"]
    after = await graph.data(query)
    assert {edge["node"]["key"] for edge in after["recall"]["edges"]} == old | set(written)
    assert after["stats"]["counts"]["memories"] == 5


async def test_a_payload_reads_its_own_write_and_those_before(graph: Graph) -> None:
    query = """mutation ($a: RememberInput!, $b: RememberInput!, $ab: LinkInput!, $ba: LinkInput!,
                         $drop: ForgetInput!) {
        a: remember(input: $a) { memory { ...around } }
        b: remember(input: $b) { memory { ...around } }
        ab: link(input: $ab) { link { source { ...around } target { ...around } } }
        ba: link(input: $ba) { link { source { ...around } } }
        forget(input: $drop) { forgotten }
        c: remember(input: $b) { memory { ...around } } }
      fragment around on Memory {
        key links { edges { node { source { key } } } } similar { edges { node { key } } } }"""

    def around(memory: dict[str, Any]) -> tuple[str, list[str], list[str]]:
        sources = [edge["node"]["source"]["key"] for edge in memory["links"]["edges"]]
        return memory["key"], sources, [edge["node"]["key"] for edge in memory["similar"]["edges"]]

    done = await graph.data(
        query,
        a={"key": "a", "content": "the same words"},
        b={"key": "b", "content": "the same words"},
        ab={"source": {"key": "a"}, "target": {"key": "b"}},
        ba={"source": {"key": "b"}, "target": {"key": "a"}},
        drop={"ref": {"key": "a"}},
    )
    assert around(done["a"]["memory"]) == ("a", [], [])
    assert around(done["b"]["memory"]) == ("b", [], ["a"])
    assert around(done["ab"]["link"]["source"]) == ("a", ["a"], ["b"])
    assert around(done["ba"]["link"]["source"]) == ("b", ["a", "b"], ["a"])
    assert around(done["c"]["memory"]) == ("b", [], [])


async def test_a_failed_mutation_leaves_the_next_one_its_turn(graph: Graph) -> None:
    query = """mutation {
        wrong: updateMemory(input: {ref: {key: "nobody"}, title: "x"}) { memory { id } } }"""
    assert await graph.codes(query) == ["memory_not_found"]
    assert len(await fill(graph, 2)) == 2


@pytest.mark.parametrize(
    "order", [None, {"field": "CREATED_AT"}, {"field": "KEY", "descending": True}, {"field": "COORDINATE"}]
)
async def test_pages_are_whole_while_others_write(graph: Graph, order: dict[str, Any] | None) -> None:
    await fill(graph, 25)
    query = """query ($order: MemoryOrder, $after: String) {
        memories(orderBy: $order, first: 7, after: $after) {
          edges { cursor node { key } } pageInfo { hasNextPage endCursor hasPreviousPage startCursor } } }"""
    seen: list[str] = []
    after = None
    for page in range(20):
        found = (await graph.data(query, order=order, after=after))["memories"]
        seen += [edge["node"]["key"] for edge in found["edges"]]
        info = found["pageInfo"]
        assert info["hasPreviousPage"] == (after is not None)
        assert (info["startCursor"], info["endCursor"]) == (
            found["edges"][0]["cursor"], found["edges"][-1]["cursor"],
        )  # fmt: skip
        after = info["endCursor"]
        if not info["hasNextPage"]:
            break
        await graph.data(f'mutation {{ remember(input: {{key: "new{page}", content: "x"}}) {{ operation }} }}')
    assert len(seen) == len(set(seen))
    assert {f"m{place}" for place in range(25)} <= set(seen)


async def test_links_and_neighbors_are_paged(graph: Graph) -> None:
    await fill(graph, 2)
    spokes = [{"key": f"s{place}", "content": "spoke"} for place in range(30)]
    rims = [{"key": f"r{place}", "content": "rim"} for place in range(30)]
    links = [{"source": {"key": "m0"}, "target": {"key": f"s{place}"}} for place in range(30)]
    links += [{"source": {"key": f"s{place}"}, "target": {"key": f"r{place}"}} for place in range(30)]
    await graph.data(
        """mutation ($memories: RememberManyInput!, $links: LinkManyInput!) {
            rememberMany(input: $memories) { count } linkMany(input: $links) { count } }""",
        memories={"items": spokes + rims}, links={"items": links},
    )  # fmt: skip
    query = """query ($links: String, $near: String, $where: MemoryWhere) { memory(ref: {key: "m0"}) {
        links(first: 8, after: $links) { edges { node { id } } pageInfo { hasNextPage endCursor } }
        neighbors(hops: 2, where: $where, first: 13, after: $near) {
          edges { hops node { key } } pageInfo { hasNextPage endCursor } } } }"""
    for where, expected in ((None, 61), ({"key": {"in": ["r3", "r4", "s5", *(f"r{n}" for n in range(10, 30))]}}, 23)):
        seen: dict[str, list[Any]] = {"links": [], "neighbors": []}
        cursors: dict[str, str | None] = {"links": None, "neighbors": None}
        for _ in range(9):
            found = (await graph.data(query, links=cursors["links"], near=cursors["neighbors"], where=where))[
                "memory"
            ]
            for name, connection in found.items():
                seen[name] += [tuple(edge["node"].values()) for edge in connection["edges"]]
                cursors[name] = connection["pageInfo"]["endCursor"] or cursors[name]
        assert len(seen["links"]) == len(set(seen["links"])) == 31
        assert len(seen["neighbors"]) == len(set(seen["neighbors"])) == expected


async def test_a_cursor_of_another_query_is_refused(graph: Graph) -> None:
    await fill(graph, 5)
    query = """query ($after: String, $links: String, $near: String, $spaces: String, $where: MemoryWhere) {
        memories(first: 2, after: $after, where: $where) { pageInfo { endCursor } }
        memory(ref: {key: "m2"}) {
          links(first: 1, after: $links) { pageInfo { endCursor } }
          neighbors(first: 1, after: $near) { pageInfo { endCursor } } }
        namespaces(first: 1, after: $spaces) { pageInfo { endCursor } } }"""
    found = await graph.data(query)
    memories = found["memories"]["pageInfo"]["endCursor"]
    near = found["memory"]["neighbors"]["pageInfo"]["endCursor"]
    spaces = found["namespaces"]["pageInfo"]["endCursor"]
    assert await graph.codes(query, after=memories, near=near, spaces=spaces) == []
    for wrong in (
        {"after": near}, {"links": memories}, {"near": memories}, {"spaces": memories}, {"after": "x"},
        {"near": spaces}, {"after": ""}, {"after": memories, "where": {"key": {"eq": "m1"}}}, {"after": "é" * 5_000},
    ):  # fmt: skip
        assert await graph.codes(query, **wrong) == ["invalid_cursor"], wrong


async def test_nothing_of_another_namespace_is_reached(graph: Graph) -> None:
    mine = await fill(graph, 3, "mine")
    await fill(graph, 3, "theirs")
    query = """query ($id: ID!) {
        memory(namespace: "theirs", ref: {id: $id}) { key }
        node(id: $id) { ... on Memory { namespace links { edges { node { target { namespace } } } } } } }"""
    found = await graph.data(query, id=mine[1])
    assert found["memory"] is None
    assert found["node"]["namespace"] == "mine"
    assert {edge["node"]["target"]["namespace"] for edge in found["node"]["links"]["edges"]} == {"mine"}
    # The same row number under the other namespace's name is nobody.
    row = encode_global_id(Entity.MEMORY, "theirs", 1)
    assert row != mine[0]
    assert (await graph.data("query ($id: ID!) { node(id: $id) { id } }", id=row))["node"] is None
    for attempt in (
        'mutation ($id: ID!) { forget(input: {namespace: "theirs", ref: {id: $id}}) { forgotten } }',
        """mutation ($id: ID!) { updateMemory(input: {namespace: "theirs", ref: {id: $id}, title: "x"}) {
            memory { id } } }""",
        """mutation ($id: ID!) { link(input: {namespace: "theirs", source: {id: $id}, target: {key: "m1"}}) {
            link { id } } }""",
        'query ($id: ID!) { neighbors(namespace: "theirs", ref: {id: $id}) { edges { hops } } }',
        'query ($id: ID!) { traverse(namespace: "theirs", start: [{id: $id}]) { truncated } }',
        'query ($id: ID!) { shortestPath(namespace: "theirs", from: {key: "m1"}, to: {id: $id}) { cost } }',
    ):
        assert await graph.codes(attempt, id=mine[1]) == ["memory_not_found"], attempt
    query = """{ mine: recall(namespace: "mine", query: "memory") { edges { node { namespace } } }
        theirs: recall(namespace: "theirs", query: "memory") { edges { node { namespace } } } }"""
    for namespace, connection in (await graph.data(query)).items():
        assert [edge["node"]["namespace"] for edge in connection["edges"]] == [namespace] * 3


async def test_a_part_that_breaks_the_snapshot_ends_the_request(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(graph, 2)

    async def failing(*_: Any, **__: Any) -> Any:
        raise psycopg.errors.QueryCanceled("canceling statement due to statement timeout")

    monkeypatch.setattr(MemoryReads, "list", failing)
    query = '{ stats { name } memory(ref: {key: "m1"}) { links { edges { cursor } } } }'
    assert await graph.codes(query) == []
    codes = await graph.codes('{ node(id: "bToxOmRlZmF1bHQ") { id } memories { edges { cursor } } }')
    assert codes == ["overloaded"]
    assert await graph.codes(query) == []


async def test_requests_at_the_same_time_do_not_wait_for_each_other_for_ever(graph: Graph) -> None:
    await fill(graph, 5)
    read = """query ($key: String!) { memory(ref: {key: $key}) { key similar(first: 2) { edges { node { key } } }
        neighbors { edges { node { links { edges { node { source { key } } } } } } } } }"""
    write = """mutation ($a: String!, $b: String!) {
        remember(input: {key: $a, content: "x"}) { memory { key links { edges { cursor } } } }
        again: remember(input: {key: $b, content: "y"}) { memory { key } } }"""
    # More than there are connections, and each holds one while it reads.
    sent = [
        graph.data(write, a=f"w{place}", b=f"v{place}") if place % 3 == 0 else graph.data(read, key=f"m{place % 5}")
        for place in range(48)
    ]
    answers = await asyncio.gather(*sent)
    assert [answer["remember"]["memory"]["key"] for answer in answers[::3]] == [
        f"w{place}" for place in range(0, 48, 3)
    ]
    assert answers[1]["memory"]["key"] == "m1"
