"""Input that is malformed, out of bounds or hostile: a 4xx problem with a code, and nothing stored."""

import json
import re
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

import httpx
import orjson
import psycopg
import pytest
from rest_examples import EXAMPLES, Example, Json, fill

from sfm_graph.domain import validate
from sfm_graph.errors import InvalidInput
from sfm_graph.services.registry import Services

NS = "default"
WITH_BODY = [one for one in EXAMPLES if one.body is not None]

# What no route takes as its whole body.
BROKEN = {
    "nothing": b"",
    "half": b'{"content": "x"',
    "list": b"[]",
    "text": b'"x"',
    "null": b"null",
    "number": b"1",
    "two values": b"{} {}",
    "single quotes": b"{'content': 'x'}",
    "latin-1": b'{"content": "\xe9"}',
    "mark": b"\xef\xbb\xbf{}",
    "deep list": b"[" * 200_000,
    "deep object": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "unknown field": b'{"nonsense": 1}',
    "NUL in a name": b'{"\\u0000": 1}',
}
# JSON texts that no field takes, whatever it is for.
NEVER = {
    "NaN": b"NaN",
    "infinity": b"-Infinity",
    "1e400": b"1e400",
    "2 ** 64": b"18446744073709551616",
    "-2 ** 63 - 1": b"-9223372036854775809",
    "many digits": b"1" * 5_000,
    "lone surrogate": b'"\\ud800"',
    "half a pair": b'"\\udc00 x"',
    "NUL": b'"a\\u0000b"',
    "NUL inside": b'{"a": ["\\u0000"]}',
    "deep": b'{"a":' * 500 + b"1" + b"}" * 500,
}
# A field, and what it must refuse; where the route has it.
WRONG: dict[str, list[Any]] = {
    "coordinate": [[], [1] * 10_000, ["1"], [True], [None], [[1]], "1,2", {}, 1, [10**30]],
    "from_coord": [[], "", "1,x", "nan", "inf,1", {}, {"key": "a", "coordinate": [0]}, {"row": 1}, {"id": "x"}, 7],
    "coords": [{}, "1", [[]], [{"id": "bToxOmRlZmF1bHQ"[:-3]}], [None], [[1]] * 10_001],
    "key": ["", " a", "a ", "a\nb", "x" * 513, 1, [], {}],
    "agent": ["", " a", "a\nb", "x" * 201, 1, [], {}],
    "kind": ["unknown", "", 1, {}],
    "title": ["x" * 1_001, 1, []],
    "content": [1, [], {}, "x" * 1_000_001],
    "payload": [[], "x", 1, {"a": "x" * 1_000_001}, {"x" * 1_001: 1}],
    "importance": [-1, "1", True, [], 10**30 * -1],
    "valid_from": ["10000-01-01", "0000-01-01", "yesterday", 1, [], "2026-13-01", "9999-12-31T23:59:59-01:00"],
    "embedding": [[], [0.0], [1] * 4_001, ["a"], [[1.0]], "x", [None], 1],
    "expected_version": [0, -1, 2**31, 1.5, "1", True],
    "weight": [-1, -0.5, "1", True, []],
    "type": ["", " x", "x" * 129, 1, {}, "a\tb"],
    "properties": [[], "x", 1],
    "query": [1, [], {}, "x" * 100_001],
    "top_k": [-1, 0, 10**9, 1.5, "5", True, []],
    "filters": [
        [],
        "x",
        1,
        {"kind": "unknown"},
        {"importance": {"gte": "x"}},
        {"_or": {}},
        {"payload": {"path": []}},
    ],
    "where": [{}, [], "x", {"nonsense": 1}, {"_and": [{}] * 3}, {"importance": {"in": [1]}}],
    "hybrid": [1, "true", []],
    "context": [[], "x", {"nonsense": 1}, {"coordinates": [[]]}, {"time": "x"}, {"text": 1}],
    "queries": [{}, "x", [1], [[]], ["x"] * 101, [{"query": "x", "nonsense": 1}], [{"query": "x", "top_k": 0}]],
    "term": ["", "!!", 1, "x" * 1_001],
    "exact": ["true", 1],
    "first": [0, 101, -1, "x", 1.5],
    "after": ["x", 1, "bm90aGluZw", "W10"],
    "items": [{}, "x", [1], [[]], [{}], [{"content": "x"}] * 10_001, [{"content": "x"}, {"key": ""}]],
    "partial": ["true", 1],
    "settings": [
        [],
        "x",
        {"nonsense": 1},
        {"payload_paths": ["a..b"]},
        {"payload_paths": ["a"] * 17},
        {"language": "x"},
        {"language": ["german"]},
        {"cues": []},
        {"cues": {"x": ["a"]}},
        {"cues": {"author": [1]}},
        {"linkers": []},
        {"linkers": {"mention": 1}},
    ],
    "weights": [
        [],
        "x",
        False,
        {"nonsense": 1},
        {"name": -1},
        {"name": 101},
        {"window": 1.1},
        {"name": True},
        {"dense": 0, "lexical": 0},
        {"link_types": []},
        {"link_types": {"a": -1}},
        {"link_types": {"": 1}},
    ],
    "near": ["", 7, [], {}, {"key": "a", "id": "b"}, {"key": ""}, True],
    "expand": ["", -1, 21, 1.5, False, []],
    "diversity": ["", -0.1, 1.1, False, []],
    "fold": ["yes", 1],
    "rerank": ["no", 0],
    "model": [[], {"name": "x"}, {"name": "x", "dimension": 0}, {"name": "x", "dimension": 4_001, "revision": "1"}],
    "namespace": ["", " a", "a\nb", "x" * 129, 1, [], {}],
    "id": ["", "x", 1, [], {}, "x" * 1_000],
    "depth": [-1, 11, 1.5, "1", True, []],
    "direction": ["up", "", 1, []],
    "types": ["x", [""], [1], {}, ["x"] * 101, ["x" * 129]],
    "outcome": ["", " ", 1, [], {}, "x" * 10_001],
    "value": [-0.1, 1.1, "1", True, []],
    "since": ["", "x", "1y", "-1d", 1, [], {}, "10000-01-01"],
}
WRONG |= {
    field: WRONG[alike]
    for field, alike in (
        ("to_coord", "from_coord"), ("valid_to", "valid_from"), ("limit", "first"), ("erase", "partial"),
        ("case_sensitive", "exact"), ("expires_at", "valid_from"), ("valid_at", "valid_from"),
        ("known_at", "valid_from"), ("around", "from_coord"), ("coord", "from_coord"), ("prediction", "from_coord"),
        ("into", "from_coord"), ("from", "coords"), ("start", "coords"), ("version", "expected_version"),
        ("source", "namespace"), ("links", "partial"), ("follow", "partial"), ("dry_run", "partial"),
        ("correct", "partial"),
    )
}  # fmt: skip
# Where a route's field of that name takes something else.
WRONG_ON: dict[tuple[str, str], list[Any]] = {
    ("/predict", "context"): [1, [], {}, "x" * 1_000_001],
    ("/copies", "limit"): [0, 10**9, -1, "x", 1.5],
    ("/decay", "limit"): [0, 10**9, -1, "x", 1.5],
}
QUERIES = {
    "/memories": [
        {"first": "0"}, {"first": "-1"}, {"first": "1000000000"}, {"first": "x"}, {"after": "x"}, {"kind": "unknown"},
        {"where": "{"}, {"where": '{"kind": {"eq": "x"}}'}, {"where": "[" * 5_000}, {"order_by": "nonsense"},
        {"where": '{"created_at": {"gt": "10000-01-01"}}'}, {"where": '{"importance": {"gt": 1e400}}'},
        {"nonsense": "1"}, {"where": '{"payload": {"path": "a", "gt": 1}}'}, {"after": "\x00"},
    ],
    "/range": [
        {}, {"min": "1"}, {"min": "", "max": "1"}, {"min": "nan", "max": "1"}, {"min": "0", "max": "inf"},
        {"min": "1", "max": "0"}, {"min": "0,0", "max": "1"}, {"min": ",".join("1" * 10_000), "max": "1"},
    ],
    "/neighbors": [
        {}, {"coord": ""}, {"coord": "nan"}, {"coord": "1,2", "hops": "0"}, {"coord": "1,2", "hops": "11"},
        {"coord": "1", "limit": "-1"}, {"coord": "1", "limit": "1000000000"}, {"coord": "1", "direction": "up"},
        {"coord": "1", "type": "\x00"}, {"coord": "key:"}, {"coord": "key:\x00"}, {"coord": "id:x"}, {"coord": "id:"},
        {"coord": "1", "hops": "9" * 30}, {"coord": "1", "hops": "१"}, {"coord": "1", "hops": "-1"},
        {"coord": "0,0,0", "valid_at": "yesterday"}, {"coord": "0,0,0", "valid_at": ""},
        {"coord": "0,0,0", "where": ""}, {"coord": "0,0,0", "known_at": "9999-01-01"},
        {"coord": "0,0,0", "valid_at": "10000-01-01"}, {"coord": "0,0,0", "valid_at": "\x00"},
        {"coord": "0,0,0", "where": "{"}, {"coord": "0,0,0", "where": "[]"}, {"coord": "0,0,0", "where": "7"},
        {"coord": "0,0,0", "where": '{"kind": "episodic"}'}, {"coord": "0,0,0", "where": '{"weight": "x"}'},
        {"coord": "0,0,0", "where": "[" * 5_000}, {"coord": "0,0,0", "after": "x"}, {"coord": "0,0,0", "after": ""},
        {"coord": "0,0,0", "valid_at": ["2020-01-01", "2021-01-01"]},
    ],
    "/shortest_path": [
        {}, {"frm": "1"}, {"frm": "1", "to": "x"}, {"frm": "1", "to": "1", "weighted": "maybe"},
        {"frm": "1", "to": "1", "max_hops": "0"}, {"frm": "1", "to": "1", "max_hops": "65"},
        {"frm": "0,0,0", "to": "1,0,0", "k": "0"}, {"frm": "0,0,0", "to": "1,0,0", "k": "101"},
        {"frm": "0,0,0", "to": "1,0,0", "k": "-1"}, {"frm": "0,0,0", "to": "1,0,0", "k": "x"},
        {"frm": "0,0,0", "to": "1,0,0", "mode": "all"}, {"frm": "0,0,0", "to": "1,0,0", "mode": ""},
        {"frm": "0,0,0", "to": "1,0,0", "mode": "simple", "weighted": "true"},
        {"frm": "0,0,0", "to": "1,0,0", "where": '{"properties": [{"path": []}]}'},
        {"frm": "0,0,0", "to": "1,0,0", "valid_at": "9999-12-31T23:59:59-01:00"},
    ],
    "/traverse": [
        {}, {"start": ""}, {"start": "nan"}, {"start": ["0,0,0"] * 101}, {"start": "0,0,0", "depth": "-1"},
        {"start": "0,0,0", "depth": "11"}, {"start": "0,0,0", "limit": "0"}, {"start": "0,0,0", "limit": "10001"},
        {"start": "0,0,0", "where": "x"}, {"start": "0,0,0", "direction": "up"}, {"start": ["0,0,0", "key:nobody"]},
    ],
    "/rank": [
        {"by": "best"}, {"by": ""}, {"by": "jaccard"}, {"by": "adamic_adar"}, {"limit": "0"}, {"limit": "1001"},
        {"by": "degree", "seed": "0,0,0"}, {"unlinked": "true"}, {"unlinked": "1"}, {"seed": "nan"}, {"seed": ""},
        {"seed": ["0,0,0"] * 101}, {"seed": "key:nobody"}, {"valid_at": "x"},
        {"where": "{"}, {"namespace": "nowhere"},
    ],
    "/memories/": [{}],
    "/memories/nan": [{}],
    "/memories/1,,2": [{}],
    "/memories/" + ",".join("1" * 10_000): [{}],
    "/memories/key:%00": [{}],
    "/memories/id:%FF": [{}],
    "/namespaces": [{"first": "0"}, {"after": "x"}],
    "/export": [{"namespace": " a"}, {"namespace": ""}, {"namespace": "\x00"}, {"nonsense": "1"}],
    "/stats": [{"namespace": "x" * 129}],
}  # fmt: skip


@pytest.fixture
async def filled(services: Services) -> None:
    await fill(services, NS, "word")


@pytest.fixture
async def unchanged(database_dsn: str, filled: None) -> AsyncIterator[None]:
    """Holds a test to leaving the database as it was."""
    before = await _state(database_dsn)
    yield
    assert await _state(database_dsn) == before


async def _state(dsn: str) -> list[Any]:
    tables = ("memories", "links", "embeddings", "words", "changes", "namespaces", "idempotency_keys")
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        query = " union all ".join(
            f"select '{one}', md5(string_agg(t::text, '' order by t::text)) from {one} t" for one in tables
        )
        return await (await connection.execute(query)).fetchall()  # type: ignore[arg-type]


def _refused(answer: httpx.Response, what: object) -> None:
    assert 400 <= answer.status_code < 500, (what, answer.status_code, answer.text[:200])
    assert answer.headers["Content-Type"] == "application/problem+json", what
    assert re.fullmatch("[a-z_]+", answer.json()["code"]), what
    assert answer.json()["status"] == answer.status_code, what


def _wrong_bodies(path: str, body: Json, known: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """The example's body with one wrong value for one of the fields that its route knows."""
    for field in known:
        for value in WRONG_ON.get((path, field)) or WRONG[field]:
            yield field, json.dumps({**body, field: value}).encode()
    for name, text in NEVER.items():
        for field in body:
            yield name, orjson.dumps({**body, field: "@"}).replace(b'"@"', text)


async def _fields(client: httpx.AsyncClient, example: Example) -> Iterable[str]:
    document = (await client.get("/openapi.json")).json()
    body = document["paths"][example.path][example.method.lower()]["requestBody"]
    fields: Json = body["content"]["application/json"]["schema"]["properties"]
    return fields


@pytest.mark.parametrize("example", WITH_BODY, ids=lambda one: one.route)
async def test_bodies_that_are_no_json_object_are_refused(
    client: httpx.AsyncClient, unchanged: None, example: Example
) -> None:
    for name, content in BROKEN.items():
        _refused(await _send(client, example, content), name)


@pytest.mark.parametrize("example", WITH_BODY, ids=lambda one: one.route)
async def test_values_out_of_bounds_are_refused(client: httpx.AsyncClient, unchanged: None, example: Example) -> None:
    assert example.body is not None
    for name, content in _wrong_bodies(example.path, example.body, await _fields(client, example)):
        _refused(await _send(client, example, content), (name, content[:200]))


@pytest.mark.parametrize("example", WITH_BODY, ids=lambda one: one.route)
async def test_deep_bodies_with_an_idempotency_key_are_refused(
    client: httpx.AsyncClient, unchanged: None, example: Example
) -> None:
    assert example.body is not None
    for field in example.body:
        content = orjson.dumps({**example.body, field: "@"}).replace(b'"@"', NEVER["deep"])
        _refused(await _send(client, example, content, {"Idempotency-Key": "k"}), field)


async def test_queries_out_of_bounds_are_refused(client: httpx.AsyncClient, unchanged: None) -> None:
    for path, queries in QUERIES.items():
        for query in queries:
            _refused(await client.get(path, params=query), (path, query))


@pytest.mark.parametrize("header", ['"x"', "1.5", "-1", '"99999999999"', '"1", "2"'])
async def test_a_version_that_is_none_is_refused(client: httpx.AsyncClient, unchanged: None, header: str) -> None:
    for method, body in (("PATCH", {"json": {"title": "x"}}), ("DELETE", {})):
        answer = await client.request(method, "/memories/key:a", headers={"If-Match": header}, **body)  # type: ignore[arg-type]
        _refused(answer, method)


@pytest.mark.parametrize("key", ["", " ", "x" * 257, "a\tb"])
async def test_an_idempotency_key_that_is_none_is_refused(
    client: httpx.AsyncClient, unchanged: None, key: str
) -> None:
    answer = await client.post("/remember", json={"content": "x"}, headers={"Idempotency-Key": key})
    _refused(answer, key)


async def test_an_import_reports_what_it_refuses(client: httpx.AsyncClient, unchanged: None) -> None:
    lines = [text for text in BROKEN.values() if text and b"\n" not in text]
    lines += [b'{"type": "memory", "key": "new", "content": ' + text + b"}" for text in NEVER.values()]
    lines += [b'{"type": "memory", "coordinate": []}', b'{"type": "memory", "content": "x", "namespace": " a"}']
    lines += [b'{"type": "link", "source": {"key": "a"}, "target": {"key": "nobody"}, "link_type": "x"}']
    answer = await client.post("/import", content=b"\n".join(lines), headers={"Content-Type": "application/x-ndjson"})
    assert answer.status_code == 200
    assert {one["line"] for one in answer.json()["failures"]} == set(range(1, len(lines) + 1))
    assert all(re.fullmatch("[a-z_]+", one["code"]) for one in answer.json()["failures"])


async def test_what_has_a_meaning_is_taken(client: httpx.AsyncClient) -> None:
    zero = await client.post("/store", content=b'{"coordinate": [-0.0, 1], "payload": {"n": 18446744073709551615}}',
                             headers={"Content-Type": "application/json"})  # fmt: skip
    assert zero.json()["coordinate"] == [0.0, 1.0]
    assert b'"n":18446744073709551615' in zero.content
    twice = await client.post(
        "/remember",
        content=b'{"content": "first", "content": "last"}',
        headers={"Content-Type": "application/json; charset=utf-8"},
    )
    assert twice.json()["content"] == "last"
    digits = "12345678901234567890123"
    text = await client.post("/remember", json={"content": digits, "payload": {"pi": 3.14159265358979323846}})
    assert (text.status_code, text.json()["content"]) == (201, digits)
    nothing = await client.post("/remember", json={"content": "x", "title": None, "key": None, "kind": None})
    assert (nothing.status_code, nothing.json()["kind"]) == (201, "episodic")


async def _send(
    client: httpx.AsyncClient, example: Example, content: bytes, headers: dict[str, str] | None = None
) -> httpx.Response:
    headers = {"Content-Type": "application/json", **(headers or {})}
    url = example.url or example.path.replace("{name}", "made")
    return await client.request(example.method, url, content=content, headers=headers)


def test_a_plus_that_a_query_string_lost_is_taken_back() -> None:
    for offset in ("00:00", "05:30", "0200", "02"):
        for time in ("2026-03-01T12:00:00", "2026-03-01T12:00:00.123456", "2026-03-01T12:00"):
            assert validate.moment(f"{time} {offset}", "at") == validate.moment(f"{time}+{offset}", "at")
    for wrong in ("2012", "2012-05", "2026-03-01T12:00:00  00:00", "2026-03-01 00:00 00:00", "2026-03-01T 00:00"):
        with pytest.raises(InvalidInput, match="such as 2026-03-01, "):
            validate.moment(wrong, "at")
