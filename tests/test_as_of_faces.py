"""As of when something is read, by every face: what hangs below inherits it, several moments fit into one request."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from graphql_client import Graph, keys, link, open_graph, remember
from pydantic import SecretStr
from typer.testing import CliRunner

from sfm_graph import AsyncMemorySystem, MemoryMode
from sfm_graph.cli import app as command
from sfm_graph.domain.as_of import AsOf
from sfm_graph.domain.identity import MemoryRef
from sfm_graph.domain.recall import RecallQuery
from sfm_graph.errors import KnownExpired
from sfm_graph.runtime import open_runtime
from sfm_graph.services.registry import Services
from sfm_graph.services.view import View, Views

DAY = "2020-06-01T00:00:00+00:00"
BEFORE = "2019-01-01"
AROUND = """{ key content
  links(direction: OUT) { edges { node { type source { key } target { key content } } } }
  neighbors(hops: 3) { edges { node { key content } link { type } } counts }
  similar { edges { node { key } } }
  pathTo(ref: {key: "c"}) { nodes { key } links { type } } }"""


@dataclass
class Past:
    """A graph with a past. `then`: before `a` was reworded and linked anew, `b` forgotten, `d` stored."""

    graph: Graph
    services: Services
    then: datetime
    later: datetime

    @property
    def as_of(self) -> dict[str, str]:
        return {"known": self.then.isoformat()}


@pytest.fixture
async def past(services: Services) -> AsyncIterator[Past]:
    async with open_graph(services) as graph:
        await remember(graph, "a", "Ada at the mill", agent="tutor")
        await remember(graph, "b", "the harbour at night")
        await remember(graph, "c", "the old chapel", validTo=DAY)
        await link(graph, "a", "b", type="road", agent="tutor")
        await link(graph, "b", "c", type="road", validFrom=DAY)
        await link(graph, "a", "c", type="rail", weight=9, validTo=DAY)
        then = datetime.now(UTC)
        await remember(graph, "a", "Ada in London")
        await graph.data('mutation { forget(input: {ref: {key: "b"}}) { id } }')
        await remember(graph, "d", "Dora at the mill")
        await link(graph, "a", "d", type="road")
        yield Past(graph, services, then, datetime.now(UTC))


QUERIES = {
    "memory": 'memory(ref: {key: "a"}, asOf: $asOf) { content }',
    "memories": "memories(asOf: $asOf) { edges { node { key } } }",
    "recall": 'recall(query: "harbour", first: 1, asOf: $asOf) { edges { node { key } } }',
    "neighbors": 'neighbors(ref: {key: "a"}, hops: 2, asOf: $asOf) { edges { node { key } } counts }',
    "traverse": 'traverse(start: [{key: "a"}], depth: 3, asOf: $asOf) { nodes { key } links { type } compact }',
    "shortestPath": 'shortestPath(from: {key: "a"}, to: {key: "c"}, asOf: $asOf) { nodes { key } }',
    "paths": 'paths(from: {key: "a"}, to: {key: "c"}, k: 9, asOf: $asOf) { nodes { key } }',
    "rank": "rank(by: DEGREE, asOf: $asOf) { edges { node { key } score } }",
    "stats": "stats(asOf: $asOf) { counts { memories links } }",
}


async def asked(past: Past, field: str, as_of: dict[str, Any] | None = None) -> Any:
    return (await past.graph.data(f"query ($asOf: AsOf) {{ {QUERIES[field]} }}", asOf=as_of))[field]


async def test_every_query_as_it_was_known(past: Past) -> None:
    then = {field: await asked(past, field, past.as_of) for field in QUERIES}
    assert then["memory"] == {"content": "Ada at the mill"}
    assert (keys(then["memories"]), keys(then["recall"])) == (["a", "b", "c"], ["b"])
    assert (keys(then["neighbors"]), then["neighbors"]["counts"]) == (["b", "c"], [1, 1])
    assert [one["key"] for one in then["traverse"]["nodes"]] == ["a", "b", "c"]
    assert [one["type"] for one in then["traverse"]["links"]] == ["road", "road"]
    assert then["traverse"]["compact"]["nodes"]["key"] == ["a", "b", "c"]
    assert then["shortestPath"] == {"nodes": [{"key": "a"}, {"key": "b"}, {"key": "c"}]}
    assert len(then["paths"]) == 1
    assert [(one["node"]["key"], one["score"]) for one in then["rank"]["edges"]] == [("b", 2), ("a", 1), ("c", 1)]
    assert then["stats"]["counts"] == {"memories": 3, "links": 3}

    now = {field: await asked(past, field) for field in QUERIES}
    assert now == {field: await asked(past, field, {"known": None}) for field in QUERIES}
    assert now["memory"] == {"content": "Ada in London"}
    assert (keys(now["memories"]), keys(now["neighbors"])) == (["a", "c", "d"], ["d"])
    assert (now["shortestPath"], now["paths"]) == (None, [])
    assert now["stats"]["counts"] == {"memories": 3, "links": 2}


async def test_every_query_as_it_was_valid(past: Past) -> None:
    """Listings without a time say all that is known; with one what was valid then, as recall and walks always do."""
    early = {field: await asked(past, field, {"valid": BEFORE}) for field in QUERIES}
    assert keys(early["memories"]) == ["a", "c", "d"]
    assert keys(await asked(past, "memories", {"valid": "2021-01-01"})) == ["a", "d"]
    assert early["shortestPath"] == {"nodes": [{"key": "a"}, {"key": "c"}]}
    assert early["stats"]["counts"] == {"memories": 3, "links": 2}
    assert (await asked(past, "stats", {"valid": "2021-01-01"}))["counts"] == {"memories": 2, "links": 1}
    chapel = 'query ($asOf: AsOf) { memory(ref: {key: "c"}, asOf: $asOf) { key } }'
    for as_of, found in ((None, {"key": "c"}), ({"valid": BEFORE}, {"key": "c"}), ({"valid": DAY}, None)):
        assert (await past.graph.data(chapel, asOf=as_of))["memory"] == found
    both = {**past.as_of, "valid": BEFORE}
    assert [one["nodes"] for one in await asked(past, "paths", both)] == [[{"key": "a"}, {"key": "c"}]]
    assert keys(await asked(past, "neighbors", both)) == ["b", "c"]


async def test_what_hangs_below_is_of_the_same_moment(past: Past) -> None:
    query = f"""query ($asOf: AsOf) {{
      memory(ref: {{key: "a"}}, asOf: $asOf) {AROUND}
      recall(query: "Ada", first: 1, asOf: $asOf) {{ edges {{ node {AROUND} }} }} }}"""
    found = await past.graph.data(query, asOf=past.as_of)
    memory = found["memory"]
    assert found["recall"]["edges"][0]["node"] == memory
    assert memory["content"] == "Ada at the mill"
    ends = [(one["node"]["type"], one["node"]["target"]["key"]) for one in memory["links"]["edges"]]
    assert ends == [("road", "b"), ("rail", "c")]
    assert memory["links"]["edges"][0]["node"]["target"]["content"] == "the harbour at night"
    assert (keys(memory["neighbors"]), memory["neighbors"]["counts"]) == (["b", "c"], [1, 1])
    assert keys(memory["similar"]) == ["b"]
    assert [one["type"] for one in memory["pathTo"]["links"]] == ["road", "road"]
    # As of a time of validity a memory's links are those that were valid then.
    links = 'query ($asOf: AsOf) { memory(ref: {key: "a"}, asOf: $asOf) { links { edges { node { type } } } } }'
    for as_of, types in ((None, ["rail", "road"]), ({"valid": DAY}, ["road"]), ({"valid": None}, ["rail", "road"])):
        page = (await past.graph.data(links, asOf=as_of))["memory"]["links"]
        assert [one["node"]["type"] for one in page["edges"]] == types, as_of


async def test_a_field_may_say_otherwise_time_by_time(past: Past) -> None:
    query = """query ($known: DateTime!, $valid: DateTime!) {
      memory(ref: {key: "a"}, asOf: {known: $known}) {
        content
        now: neighbors(asOf: {known: null}) { edges { node { key } } }
        then: neighbors(hops: 2) { edges { node { key } } }
        early: neighbors(hops: 2, asOf: {valid: $valid}) { edges { node { key
          neighbors { edges { node { key } link { type } } }
          links(asOf: {valid: null, known: null}) { edges { node { type } } } } } } } }"""
    found = (await past.graph.data(query, known=past.then.isoformat(), valid=BEFORE))["memory"]
    assert found["content"] == "Ada at the mill"
    assert (keys(found["now"]), keys(found["then"]), keys(found["early"])) == (["d"], ["b", "c"], ["b", "c"])
    (b, c) = [edge["node"] for edge in found["early"]["edges"]]
    assert (keys(b["neighbors"]), keys(c["neighbors"])) == (["a"], ["a"])
    assert (b["links"]["edges"], c["links"]["edges"]) == ([], [{"node": {"type": "rail"}}])


async def test_what_is_not_there_at_the_other_moment_is_joined_to_nothing(past: Past) -> None:
    """The example of docs/time.md where the hit was forgotten since, and the other way round."""
    query = """query ($asOf: AsOf, $other: AsOf) {
      recall(query: "the harbour at night", first: 1, asOf: $asOf) { edges { node {
        key neighbors { edges { node { key } link { type } } }
        other: neighbors(asOf: $other) { edges { node { key } } pageInfo { hasNextPage } truncated counts }
        pathTo(ref: {key: "c"}, asOf: $other) { nodes { key } }
        links(asOf: $other) { edges { node { type } } } history { edges { node { memory {
          neighbors { edges { node { key } } } pathTo(ref: {key: "a"}) { nodes { key } } } } } } } } } }"""
    (hit,) = (await past.graph.data(query, asOf=past.as_of, other={"known": None}))["recall"]["edges"]
    nothing = {"edges": [], "pageInfo": {"hasNextPage": False}, "truncated": False, "counts": []}
    node = hit["node"]
    assert (node["key"], keys(node["neighbors"])) == ("b", ["a", "c"])
    assert (node["other"], node["pathTo"], node["links"]) == (nothing, None, {"edges": []})
    versions = [one["node"]["memory"] for one in node["history"]["edges"]]
    assert versions == [{"neighbors": {"edges": []}, "pathTo": None}]
    dora = query.replace("the harbour at night", "Dora")
    (hit,) = (await past.graph.data(dora, asOf=None, other=past.as_of))["recall"]["edges"]
    assert (hit["node"]["key"], hit["node"]["other"], hit["node"]["pathTo"]) == ("d", nothing, None)
    # What the path should lead to is still asked for by name.
    missing = 'query { memory(ref: {key: "a"}) { pathTo(ref: {key: "b"}) { nodes { key } } } }'
    assert await past.graph.codes(missing) == ["memory_not_found"]


@asynccontextmanager
async def counted(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[AsOf]]:
    """As of when views are opened inside."""
    opened: list[AsOf] = []
    original = Views.open

    @asynccontextmanager
    async def noted(self: Views, as_of: AsOf = AsOf()) -> AsyncIterator[View]:  # noqa: B008
        opened.append(as_of)
        async with original(self, as_of) as view:
            yield view

    monkeypatch.setattr(Views, "open", noted)
    yield opened
    monkeypatch.undo()


async def test_a_moment_of_validity_costs_no_connection(past: Past, monkeypatch: pytest.MonkeyPatch) -> None:
    query = """query ($now: AsOf, $one: AsOf, $other: AsOf) {
      a: memories(asOf: $now) { edges { node { key links(asOf: $one) { edges { node { target { key } } } } } } }
      b: memories(asOf: $one) { edges { node { key neighbors { edges { node { key } } } } } }
      c: recall(query: "mill", asOf: $other) { edges { node { key links { edges { node { type } } } } } } }"""
    valid = [{"valid": f"{year}-01-01"} for year in (2001, 2002)]
    async with counted(monkeypatch) as opened:
        await past.graph.data(query, now=None, one=valid[0], other=valid[1])
        assert opened == [AsOf()]
    known = [{"known": past.then.isoformat()}, {"known": past.later.isoformat(), **valid[0]}]
    async with counted(monkeypatch) as opened:
        found = await past.graph.data(query, now=None, one=known[0], other=known[1])
        assert {one.known for one in opened} == {None, past.then, past.later}
        assert len(opened) == 3
    assert (keys(found["a"]), keys(found["b"])) == (["a", "c", "d"], ["a", "b", "c"])
    # One connection serves a request that looks at one moment alone; all come back.
    async with counted(monkeypatch) as opened:
        await asked(past, "memories", past.as_of)
        assert [one.known for one in opened] == [past.then]
    pool = past.services.views._database.statistics()
    assert pool["pool_available"] == pool["pool_size"]


async def test_moments_of_one_request_are_bounded(past: Past) -> None:
    fields = " ".join(f"m{i}: memories(asOf: {{known: $t{i}}}) {{ edges {{ node {{ key }} }} }}" for i in range(4))
    query = f"query ({' '.join(f'$t{i}: DateTime' for i in range(4))}) {{ {fields} }}"
    times = {f"t{i}": (past.later - timedelta(milliseconds=i)).isoformat() for i in range(3)}
    assert await past.graph.codes(query, **times, t3=past.then.isoformat()) == ["query_too_complex"]
    # The same moment is one, whatever its offset; null is the present, which is none of them.
    again = past.later.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    for last in (again, None):
        assert await past.graph.codes(query, **times, t3=last) == []


async def test_requests_that_look_back_do_not_starve_each_other(past: Past) -> None:
    """Each holds three connections in the end, of eight; all are answered."""
    query = """query ($then: DateTime, $later: DateTime) {
      a: memories { edges { node { key } } }
      b: memories(asOf: {known: $then}) { edges { node { key } } }
      c: memories(asOf: {known: $later}) { edges { node { key } } } }"""
    times = {"then": past.then.isoformat(), "later": past.later.isoformat()}
    answers = await asyncio.gather(*(past.graph.data(query, **times) for _ in range(24)))
    assert all(one == answers[0] for one in answers)
    assert keys(answers[0]["b"]) == ["a", "b", "c"]


async def test_an_earlier_moment_is_charged(past: Past) -> None:
    for field in QUERIES:
        costs = {}
        for name, as_of in (("now", None), ("valid", {"valid": BEFORE}), ("known", past.as_of)):
            answer = await past.graph.send(f"query ($asOf: AsOf) {{ {QUERIES[field]} }}", asOf=as_of)
            costs[name] = answer["extensions"]["cost"]
            assert costs[name]["actual"] <= costs[name]["requested"], (field, name)
        assert costs["valid"]["requested"] == costs["now"]["requested"]
        assert costs["known"]["requested"] == costs["now"]["requested"] + 100, field


REFUSED = [
    ({"known": "9999-01-01"}, "invalid_input"),
    ({"known": "2001-01-01"}, "known_expired"),
    ({"known": "yesterday"}, "invalid_input"),
    ({"valid": "10000-01-01"}, "invalid_input"),
    ({"valid": 7}, "invalid_input"),
    ({"since": "2001-01-01"}, "graphql_invalid"),
]


async def test_moments_that_nobody_can_tell(past: Past) -> None:
    for field in QUERIES:
        for as_of, code in REFUSED:
            codes = await past.graph.codes(f"query ($asOf: AsOf) {{ {QUERIES[field]} }}", asOf=as_of)
            assert set(codes) == {code}, (field, as_of)
    # A refused moment does not end the request; the present and other moments go on.
    query = """query ($then: DateTime) { a: memory(ref: {key: "a"}, asOf: {known: "2001-01-01"}) { key }
      b: memory(ref: {key: "a"}, asOf: {known: $then}) { content } c: memory(ref: {key: "a"}) { content } }"""
    answer = await past.graph.send(query, then=past.then.isoformat())
    assert [error["extensions"]["code"] for error in answer["errors"]] == ["known_expired"]
    assert answer["data"] == {"a": None, "b": {"content": "Ada at the mill"}, "c": {"content": "Ada in London"}}
    # A memory that was not known then is not there.
    unknown = {"memory": None}
    query = 'query ($asOf: AsOf) { memory(ref: {key: "d"}, asOf: $asOf) { key } }'
    assert await past.graph.data(query, asOf=past.as_of) == unknown


async def test_pages_belong_to_their_moment(past: Past) -> None:
    query = """query ($asOf: AsOf, $after: String) {
      memories(first: 1, asOf: $asOf, after: $after) { edges { node { key } } pageInfo { endCursor } } }"""
    found, after = [], None
    for _ in range(3):
        page = (await past.graph.data(query, asOf=past.as_of, after=after))["memories"]
        found, after = [*found, *keys(page)], page["pageInfo"]["endCursor"]
    assert found == ["a", "b", "c"]
    for other in (None, {"valid": BEFORE}, {"known": past.later.isoformat()}):
        assert await past.graph.codes(query, asOf=other, after=after) == ["invalid_cursor"]


async def test_what_is_read_after_a_mutation_may_look_back(past: Past) -> None:
    query = """mutation ($asOf: AsOf) {
      one: updateMemory(input: {ref: {key: "d"}, content: "Dora"}) { memory { content
        neighbors { edges { node { content neighbors(asOf: $asOf, hops: 2) { edges { node { key } } } } } } } }
      two: updateMemory(input: {ref: {key: "a"}, content: "Ada"}) { memory { content
        neighbors { edges { node { content } } } } } }"""
    found = await past.graph.data(query, asOf=past.as_of)
    (ada,) = found["one"]["memory"]["neighbors"]["edges"]
    assert (ada["node"]["content"], keys(ada["node"]["neighbors"])) == ("Ada in London", ["b", "c"])
    assert found["two"]["memory"]["neighbors"]["edges"] == [{"node": {"content": "Dora"}}]


ROUTES: list[tuple[str, str, dict[str, Any], str]] = [
    ("GET", "/memories/key:a", {}, "content"),
    ("GET", "/memories", {}, "memories"),
    ("GET", "/range", {"min": "-9,-9,-9", "max": "9,9,9"}, "memories"),
    ("POST", "/keyword_search", {"term": "the"}, "results"),
    ("POST", "/payloads_by_coords", {"coords": ["key:b", "key:d"]}, "payloads"),
    ("POST", "/recall", {"query": "harbour"}, "matches"),
    ("POST", "/memories/search", {"query": "harbour"}, "matches"),
    ("POST", "/recall_with_scores", {"query": "harbour"}, "results"),
    ("POST", "/recall_with_context", {"query": "harbour", "context": {"text": "night"}}, "results"),
    ("POST", "/recall_batch", {"queries": ["harbour"]}, "batches"),
    ("GET", "/neighbors", {"coord": "key:a", "hops": "2"}, "neighbors"),
    ("GET", "/graph/neighbors", {"coord": "key:a", "hops": "2"}, "neighbors"),
    ("GET", "/shortest_path", {"frm": "key:a", "to": "key:c"}, "found"),
    ("GET", "/graph/path", {"frm": "key:a", "to": "key:c"}, "found"),
    ("GET", "/traverse", {"start": "key:a", "depth": "3"}, "nodes"),
    ("GET", "/rank", {"by": "degree"}, "results"),
    ("GET", "/stats", {"namespace": "default"}, "namespaces"),
    ("GET", "/namespaces/default", {}, "memories"),
]


async def test_every_route_looks_back(client: httpx.AsyncClient, past: Past) -> None:
    async def answer(method: str, path: str, fields: dict[str, Any]) -> httpx.Response:
        if method == "GET":
            return await client.get(path, params=fields)
        return await client.post(path, json=fields)

    known = {"known_at": past.then.isoformat()}
    shown: dict[str, Any] = {}
    for method, path, fields, name in ROUTES:
        then = await answer(method, path, {**fields, **known})
        assert then.status_code == 200, (path, then.text)
        shown[path] = then.json()[name]
        now = (await answer(method, path, fields)).json()[name]
        if path not in ("/namespaces/default", "/stats"):
            assert shown[path] != now, path
        for wrong, status, code in (
            ({"known_at": "2001-01-01"}, 410, "known_expired"),
            ({"known_at": "9999-01-01"}, 400, "invalid_input"),
            ({"known_at": "x"}, 400, "invalid_input"),
            ({"valid_at": "x"}, 400, "invalid_input"),
        ):
            refused = await answer(method, path, {**fields, **wrong})
            assert (refused.status_code, refused.json()["code"]) == (status, code), (path, wrong)
    assert shown["/memories/key:a"] == "Ada at the mill"
    assert [one["key"] for one in shown["/memories"]] == ["a", "b", "c"]
    assert [one["key"] for one in shown["/keyword_search"]] == ["a", "b", "c"]
    assert [one is None for one in shown["/payloads_by_coords"]] == [False, True]
    assert shown["/recall"][0]["key"] == shown["/recall_with_scores"][0]["memory"]["key"] == "b"
    assert [one["memory"]["key"] for one in shown["/neighbors"]] == ["b", "c"]
    assert shown["/shortest_path"] is True
    assert shown["/namespaces/default"] == {"episodic": 3}
    both = {**known, "valid_at": "2021-01-01"}
    assert (await answer("GET", "/namespaces/default", both)).json()["links"] == {"road": 2}
    assert (await client.get("/memories/key:c", params={"valid_at": DAY})).status_code == 404
    valid = (await answer("GET", "/memories", {"valid_at": DAY})).json()["memories"]
    assert [one["key"] for one in valid] == ["a", "d"]
    # One snapshot serves a batch: a query of it has no moment of its own.
    batch = {"queries": [{"query": "harbour", **known}]}
    assert (await answer("POST", "/recall_batch", batch)).json()["code"] == "invalid_input"


async def test_the_python_face_looks_back(past: Past, database_dsn: str) -> None:
    async with AsyncMemorySystem(MemoryMode.TEST, "default", postgres_url=SecretStr(database_dsn)) as memory:
        then = past.then
        assert (await memory.get("key:a", known_at=then))["content"] == "Ada at the mill"
        assert await memory.retrieve("key:c", valid_at=DAY) is None
        assert (await memory.recall("harbour", 1, known_at=then.isoformat()))[0]["key"] == "b"
        assert (await memory.recall("harbour", 9, valid_at=BEFORE))[-1]["key"] in ("a", "c", "d")
        box = await memory.range((-9, -9, -9), (9, 9, 9), known_at=then)
        assert {one["key"] for one in box["memories"]} == {"a", "b", "c"}
        words = await memory.keyword_search("mill", known_at=then)
        assert [one["key"] for one in words["results"]] == ["a"]
        around = await memory.neighbors("key:a", hops=2, known_at=then, valid_at=BEFORE)
        assert {one["memory"]["key"] for one in around} == {"b", "c"}
        found = await memory.shortest_path("key:a", "key:c", known_at=then)
        assert found is not None
        assert len(found["links"]) == 2
        assert await memory.shortest_path("key:a", "key:c") is None
        assert (await memory.stats(known_at=then, valid_at=DAY))["links"] == {"road": 2}
        with pytest.raises(KnownExpired):
            await memory.get("key:a", known_at="2001-01-01")


async def test_the_command_looks_back(past: Past, database_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTGRES_URL", database_dsn)
    known = ["--known-at", past.then.isoformat()]

    def sfm(*arguments: str) -> Any:
        result = CliRunner().invoke(command, arguments)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    def all_of_them() -> list[Any]:
        return [
            sfm("get", "key:a", *known)["content"],
            [one["key"] for one in sfm("recall", "harbour", "-k", "1", *known)["matches"]],
            len(sfm("range", "-9,-9,-9", "9,9,9", *known, "--valid-at", DAY)["memories"]),
            [one["memory"]["key"] for one in sfm("neighbors", "key:a", *known)["neighbors"]],
            sfm("path", "key:a", "key:c", "--valid-at", BEFORE)["found"],
            sfm("stats", "-n", "default", *known)["namespaces"][0]["links"],
        ]

    assert await asyncio.to_thread(all_of_them) == [
        "Ada at the mill", ["b"], 2, ["b"], True, {"road": 2, "rail": 1},
    ]  # fmt: skip


async def test_a_time_of_validity_holds_in_memory_and_over_its_budget_alike(past: Past) -> None:
    cold = past.services.settings.model_copy(update={"hot_budget_bytes": 0})
    async with open_runtime(cold, maintenance=False) as over:
        for valid, wanted in ((BEFORE, {"a", "c", "d"}), (DAY, {"a", "d"})):
            for services, hot in ((past.services, True), (over, False)):
                as_of = AsOf(datetime.fromisoformat(valid).replace(tzinfo=UTC))
                async with services.views.open(as_of) as view:
                    recall = await services.recalls.recall(view, "default", RecallQuery("the mill", first=9))
                    named = RecallQuery("the mill", first=9, near=MemoryRef(key="a"))
                    near = await services.recalls.recall(view, "default", named)
                assert recall.hot is near.hot is hot
                assert {hit.memory.key for hit in recall.hits} == {hit.memory.key for hit in near.hits} == wanted


async def test_new_fields_on_every_face(past: Past, client: httpx.AsyncClient) -> None:
    one = (await client.get("/memories/key:a", params={"known_at": past.then.isoformat()})).json()
    assert (one["expires_at"], one["legal_hold"], one["agent"]) == (None, False, "tutor")
    given = {"key": "e", "content": "x", "expires_at": "2999-01-01", "agent": "t1"}
    stored = (await client.post("/store", json=given)).json()
    assert (stored["expires_at"], stored["agent"]) == ("2999-01-01T00:00:00+00:00", "t1")
    changed = await client.patch("/memories/key:e", json={"expires_at": None, "agent": "t2"})
    assert (changed.json()["expires_at"], changed.json()["agent"]) == (None, "t2")
    query = """mutation {
      updateMemory(input: {ref: {key: "e"}, expiresAt: "2998-01-01", agent: "t3"}) { memory {
        expiresAt legalHold agent } }
      link(input: {source: {key: "e"}, target: {key: "a"}, agent: "t4"}) { link { id agent } } }"""
    found = await past.graph.data(query)
    expected = {"expiresAt": "2998-01-01T00:00:00+00:00", "legalHold": False, "agent": "t3"}
    assert found["updateMemory"]["memory"] == expected
    made = found["link"]["link"]
    assert made["agent"] == "t4"
    query = 'mutation ($id: ID!) { updateLink(input: {id: $id, weight: 2, agent: "t5"}) { link { agent } } }'
    assert (await past.graph.data(query, id=made["id"]))["updateLink"]["link"] == {"agent": "t5"}
    linked = await client.post("/link", json={"from_coord": "key:e", "to_coord": "key:d", "agent": "t6"})
    assert linked.json()["agent"] == "t6"
    line = {"type": "memory", "key": "f", "content": "imported", "expires_at": "2999-01-01", "agent": "t7"}
    headers = {"Content-Type": "application/x-ndjson"}
    imported = await client.post("/import", content=json.dumps(line), headers=headers)
    assert imported.json()["memories"]["created"] == 1
    stored = (await client.get("/memories/key:f")).json()
    assert (stored["expires_at"], stored["agent"]) == ("2999-01-01T00:00:00+00:00", "t7")
    for wrong in ({"expires_at": "never"}, {"agent": ""}, {"agent": " x"}, {"agent": 7}):
        refused = await client.post("/store", json={"key": "g", "content": "x", **wrong})
        assert (refused.status_code, refused.json()["code"]) == (400, "invalid_input"), wrong
