"""The mutations of the GraphQL face."""

from collections.abc import AsyncIterator

import pytest
from graphql_client import Graph, keys, link, open_graph, remember

from sfm_graph.services.registry import Services


@pytest.fixture
async def graph(services: Services) -> AsyncIterator[Graph]:
    async with open_graph(services) as opened:
        yield opened


async def test_update_replaces_only_what_is_given(graph: Graph) -> None:
    await remember(graph, "a", "old words", title="T", payload={"x": 1})
    query = """mutation ($input: UpdateMemoryInput!) {
        updateMemory(input: $input) { memory { title content payload version } } }"""
    changed = await graph.data(query, input={"ref": {"key": "a"}, "title": None, "content": "new words"})
    assert changed["updateMemory"]["memory"] == {
        "title": None, "content": "new words", "payload": {"x": 1}, "version": 2,
    }  # fmt: skip
    stale = {"ref": {"key": "a"}, "title": "x", "expectedVersion": 1}
    assert await graph.codes(query, input=stale) == ["version_conflict"]
    assert await graph.codes(query, input={"ref": {"key": "nobody"}, "title": "x"}) == ["memory_not_found"]
    assert await graph.codes(query, input={"ref": {"key": "a"}}) == ["invalid_input"]


async def test_forget_and_erase(graph: Graph) -> None:
    ids = {key: (await remember(graph, key))["id"] for key in "abcdef"}
    query = """mutation ($forget: ForgetInput!, $erase: EraseInput!, $again: ForgetInput!, $many: ForgetManyInput!) {
        forget(input: $forget) { forgotten id }
        erase(input: $erase) { erased id }
        again: forget(input: $again) { forgotten id }
        forgetMany(input: $many) { count ids } }"""
    done = await graph.data(
        query, forget={"ref": {"key": "a"}}, erase={"ref": {"id": ids["a"]}}, again={"ref": {"key": "a"}},
        many={"refs": [{"key": "b"}, {"id": ids["c"]}, {"key": "nobody"}]},
    )  # fmt: skip
    assert done["forget"] == {"forgotten": True, "id": ids["a"]}
    assert done["erase"] == {"erased": True, "id": ids["a"]}
    assert done["again"] == {"forgotten": False, "id": None}
    assert done["forgetMany"] == {"count": 2, "ids": [ids["b"], ids["c"]]}
    query = "mutation ($input: ForgetManyInput!) { forgetMany(input: $input) { count } }"
    for nothing in ({}, {"where": {}}, {"where": {"_and": []}}, {"refs": [], "where": {"key": {"eq": "d"}}}):
        assert await graph.codes(query, input=nothing) == ["invalid_input"]
    by_filter = await graph.data(query, input={"where": {"key": {"in": ["d", "e"]}}})
    assert by_filter["forgetMany"] == {"count": 2}
    assert keys((await graph.data("{ memories { edges { node { key } } } }"))["memories"]) == ["f"]


async def test_links_are_made_changed_and_removed(graph: Graph) -> None:
    for key in "abc":
        await remember(graph, key)
    first = await link(graph, "a", "b", type="x")
    query = """mutation ($many: LinkManyInput!, $update: UpdateLinkInput!) {
        linkMany(input: $many) { count failed { index code } stored { operation link { type weight } } }
        updateLink(input: $update) { link { weight properties version } } }"""
    items = [
        {"source": {"key": "a"}, "target": {"key": "c"}, "type": "y", "validTo": "2999-01-01"},
        {"source": {"key": "a"}, "target": {"key": "nobody"}},
        {"source": {"key": "a"}, "target": {"key": "b"}, "type": "x", "weight": 2},
    ]
    done = await graph.data(
        query,
        many={"items": items, "partial": True},
        update={"id": first, "properties": {"p": 1}, "expectedVersion": 2},
    )
    assert done["linkMany"]["failed"] == [{"index": 1, "code": "memory_not_found"}]
    assert done["linkMany"]["stored"] == [
        {"operation": "CREATED", "link": {"type": "y", "weight": 1.0}},
        {"operation": "UPDATED", "link": {"type": "x", "weight": 2.0}},
    ]
    assert done["updateLink"]["link"] == {"weight": 2.0, "properties": {"p": 1}, "version": 3}
    query = "mutation ($input: UnlinkInput!) { unlink(input: $input) { count ids } }"
    assert (await graph.data(query, input={"id": first}))["unlink"] == {"count": 1, "ids": [first]}
    ends = {"source": {"key": "a"}, "target": {"key": "c"}}
    assert (await graph.data(query, input={**ends, "type": "x"}))["unlink"]["count"] == 0
    assert (await graph.data(query, input=ends))["unlink"]["count"] == 1
    for wrong in ({}, {"source": {"key": "a"}}, {"id": first, "type": "x"}):
        assert await graph.codes(query, input=wrong) == ["invalid_input"]


async def test_a_batch_is_all_or_nothing_unless_partial(graph: Graph) -> None:
    query = "mutation ($input: RememberManyInput!) { rememberMany(input: $input) { count failed { index code } } }"
    items = [{"key": "a", "content": "a"}, {"key": "b", "validFrom": "never"}, {"key": "c", "contents": "c"}]
    refused = await graph.send(query, input={"items": items})
    assert refused["errors"][0]["extensions"] == {
        "code": "invalid_input", "details": {"index": 1, "field": "valid_from"},
    }  # fmt: skip
    assert (await graph.data("{ memories { edges { node { key } } } }"))["memories"]["edges"] == []
    done = (await graph.data(query, input={"items": items, "partial": True}))["rememberMany"]
    assert done == {
        "count": 1, "failed": [{"index": 1, "code": "invalid_input"}, {"index": 2, "code": "invalid_input"}],
    }  # fmt: skip
    assert await graph.codes(query, input={"items": [{"content": "x"}] * 10_001}) == ["too_large"]


async def test_an_idempotency_key_gives_the_first_answer_again(graph: Graph) -> None:
    given = {"content": "once", "idempotencyKey": "k1"}
    query = "mutation ($input: RememberInput!) { remember(input: $input) { operation memory { id coordinate } } }"
    first = await graph.data(query, input=given)
    assert await graph.data(query, input=given) == first
    assert await graph.codes(query, input={**given, "content": "twice"}) == ["idempotency_conflict"]
    assert len((await graph.data("{ memories { edges { node { id } } } }"))["memories"]["edges"]) == 1


async def test_namespaces(graph: Graph) -> None:
    create = """mutation ($input: CreateNamespaceInput!) {
        createNamespace(input: $input) { namespace { name counts { memories links } hotBytes } } }"""
    for name in ("one", "two", "three"):
        made = await graph.data(create, input={"name": name})
        empty = {"name": name, "counts": {"memories": 0, "links": 0}, "hotBytes": 0.0}
        assert made["createNamespace"]["namespace"] == empty
    update = """mutation ($input: UpdateNamespaceInput!) {
        updateNamespace(input: $input) { namespace { settings { payloadPaths } } } }"""
    changed = await graph.data(update, input={"name": "one", "payloadPaths": ["a.b"]})
    assert changed["updateNamespace"]["namespace"] == {"settings": {"payloadPaths": ["a.b"]}}
    assert await graph.codes(update, input={"name": "none"}) == ["namespace_not_found"]
    page = """query ($after: String) {
        namespaces(first: 2, after: $after) { edges { node { name } } pageInfo { hasNextPage endCursor } } }"""
    first = (await graph.data(page))["namespaces"]
    rest = (await graph.data(page, after=first["pageInfo"]["endCursor"]))["namespaces"]
    names = [edge["node"]["name"] for edge in first["edges"] + rest["edges"]]
    assert (names, rest["pageInfo"]["hasNextPage"]) == (["one", "three", "two"], False)
    delete = """mutation ($input: DeleteNamespaceInput!) { deleteNamespace(input: $input) { name } }"""
    assert await graph.codes(delete, input={"name": "one", "confirm": "two"}) == ["invalid_input"]
    assert (await graph.data(delete, input={"name": "one", "confirm": "one"}))["deleteNamespace"] == {"name": "one"}
    assert await graph.codes('{ stats(namespace: "one") { name } }') == ["namespace_not_found"]
