"""REST: storing, showing, changing, removing and listing memories."""

import httpx
import pytest

from sfm_graph.api.rest.components import COMPONENTS


def _code(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["Content-Type"] == "application/problem+json"
    return answer.status_code, answer.json()["code"]


@pytest.mark.parametrize("path", ["/store", "/memories"])
async def test_store_makes_then_updates(client: httpx.AsyncClient, path: str) -> None:
    body = {"coordinate": [1, 2, 3], "payload": {"task": "write"}, "kind": "semantic", "importance": 2}
    made = await client.post(path, json=body)
    assert (made.status_code, made.headers["ETag"]) == (201, '"1"')
    memory = made.json()
    assert memory.keys() == COMPONENTS["Memory"]["properties"].keys()
    expected = {"namespace": "default", "coordinate": [1.0, 2.0, 3.0], "kind": "semantic", "content": "write",
                "payload": {"task": "write"}, "importance": 2.0, "version": 1, "key": None}  # fmt: skip
    assert {name: memory[name] for name in expected} == expected
    assert (await client.get(made.headers["Location"])).json() == memory
    again = await client.post(path, json={"coordinate": [1, 2, 3], "payload": {"task": "read"}})
    assert (again.status_code, again.headers["ETag"]) == (200, '"2"')
    assert (again.json()["id"], again.json()["content"]) == (memory["id"], "read")


async def test_store_needs_a_place_and_remember_chooses_one(client: httpx.AsyncClient) -> None:
    assert _code(await client.post("/store", json={"payload": {"a": "b"}})) == (400, "invalid_coordinate")
    made = await client.post("/remember", json={"payload": {"a": "b"}})
    assert (made.status_code, len(made.json()["coordinate"])) == (201, 3)


async def test_the_namespace_stands_in_the_query_or_in_the_body(client: httpx.AsyncClient) -> None:
    await client.post("/remember", json={"key": "a", "content": "x", "namespace": "team/one"})
    await client.post("/remember?namespace=two", json={"key": "a", "content": "y"})
    assert (await client.get("/memories/key:a?namespace=team/one")).json()["content"] == "x"
    assert (await client.get("/memories/key:a?namespace=two")).json()["content"] == "y"
    both = await client.post("/remember?namespace=two", json={"content": "x", "namespace": "one"})
    assert _code(both) == (400, "invalid_input")
    assert (
        await client.post("/remember?namespace=two", json={"content": "x", "namespace": "two"})
    ).status_code == 201


@pytest.mark.parametrize(
    "path", ["/memories/0.5,-1", "/memories/key:a%2Fb", "/memories/key:a/b", "/memories/id:{id}"]
)
async def test_a_memory_is_named_by_coordinate_key_or_id(client: httpx.AsyncClient, path: str) -> None:
    memory = (await client.post("/store", json={"coordinate": [0.5, -1], "key": "a/b", "content": "x"})).json()
    found = await client.get(path.replace("{id}", memory["id"]))
    assert (found.json(), found.headers["ETag"]) == (memory, '"1"')


async def test_an_unknown_memory_is_404(client: httpx.AsyncClient) -> None:
    assert _code(await client.get("/memories/9,9,9")) == (404, "memory_not_found")
    assert _code(await client.get("/memories/key:nobody?namespace=nowhere")) == (404, "memory_not_found")
    assert _code(await client.patch("/memories/9", json={"title": "x"})) == (404, "memory_not_found")
    assert (await client.get("/namespaces")).json()["namespaces"] == []


async def test_patch_changes_what_it_names(client: httpx.AsyncClient) -> None:
    body = {"coordinate": [1], "title": "old", "content": "words", "valid_to": "2030-01-01"}
    await client.post("/store", json=body)
    changed = await client.patch("/memories/1", json={"importance": 5, "title": None})
    assert (changed.status_code, changed.headers["ETag"]) == (200, '"2"')
    memory = changed.json()
    assert (memory["title"], memory["importance"], memory["content"]) == (None, 5.0, "words")
    assert memory["valid_to"] == "2030-01-01T00:00:00+00:00"
    assert _code(await client.patch("/memories/1", json={"key": "new"})) == (400, "invalid_input")
    assert _code(await client.patch("/memories/1", json={})) == (400, "invalid_input")
    assert _code(await client.patch("/memories/1", json={"importance": None})) == (400, "invalid_input")


@pytest.mark.parametrize("version", ['"1"', "1", 'W/"1"'])
async def test_if_match_makes_every_change_conditional(client: httpx.AsyncClient, version: str) -> None:
    await client.post("/store", json={"coordinate": [1], "content": "x"})
    old, stale = {"If-Match": version}, (409, "version_conflict")
    patched = await client.patch("/memories/1", json={"title": "t"}, headers=old)
    assert patched.headers["ETag"] == '"2"'
    assert _code(await client.patch("/memories/1", json={"title": "u"}, headers=old)) == stale
    assert _code(await client.post("/store", json={"coordinate": [1], "content": "y"}, headers=old)) == stale
    assert _code(await client.delete("/memories/1", headers=old)) == stale
    by_body = await client.post("/store", json={"coordinate": [1], "content": "y", "expected_version": 1})
    assert _code(by_body) == stale
    conflict = (await client.delete("/memories/1", headers=old)).json()
    assert (conflict["expected"], conflict["actual"]) == (1, 2)
    assert (await client.patch("/memories/1", json={"title": "u"}, headers={"If-Match": "*"})).status_code == 200
    assert (await client.delete("/memories/1", headers={"If-Match": '"3"'})).json() == {"deleted": True}


async def test_an_idempotency_key_gives_the_first_answer_again(client: httpx.AsyncClient) -> None:
    key = {"Idempotency-Key": "once"}
    first = await client.post("/remember", json={"content": "x", "title": "t"}, headers=key)
    again = await client.post("/remember", json={"title": "t", "content": "x"}, headers=key)
    assert (again.status_code, again.json()) == (201, first.json())
    other = await client.post("/remember", json={"content": "y"}, headers=key)
    assert _code(other) == (409, "idempotency_conflict")
    assert (await client.post("/remember?namespace=two", json={"content": "y"}, headers=key)).status_code == 201
    row = f"/memories/id:{first.json()['id']}"
    assert (await client.patch(row, json={"title": "u"}, headers=key)).json()["version"] == 2
    assert (await client.patch(row, json={"title": "u"}, headers=key)).json()["version"] == 2
    assert (await client.delete(row, headers=key)).json() == {"deleted": True}
    assert (await client.delete(row, headers=key)).json() == {"deleted": True}


async def test_forget_and_erase(client: httpx.AsyncClient) -> None:
    memory = (await client.post("/store", json={"coordinate": [1], "content": "x"})).json()
    assert (await client.delete("/memories/1")).json() == {"deleted": True}
    assert (await client.delete("/memories/1")).json() == {"deleted": False}
    assert _code(await client.get("/memories/1")) == (404, "memory_not_found")
    assert (await client.delete(f"/memories/id:{memory['id']}?erase=true")).json() == {"deleted": True}


async def test_bulk_is_all_or_nothing_unless_partial(client: httpx.AsyncClient) -> None:
    items = [{"content": "x"}, {"coordinate": []}, {"key": "k", "content": "y"}]
    refused = await client.post("/store_bulk", json={"items": items})
    assert _code(refused) == (400, "invalid_coordinate")
    assert refused.json()["index"] == 1
    assert (await client.get("/memories")).json() == {"memories": [], "next": None}
    done = (await client.post("/store_bulk", json={"items": items, "partial": True})).json()
    assert (done["stored"], [one["content"] for one in done["memories"]]) == (2, ["x", "y"])
    assert [(one["index"], one["code"]) for one in done["failed"]] == [(1, "invalid_coordinate")]


async def test_delete_many(client: httpx.AsyncClient) -> None:
    items = [{"coordinate": [number], "content": "x", "importance": number} for number in range(5)]
    await client.post("/store_bulk", json={"items": items})
    gone = await client.post("/delete_many", json={"coords": [[0], "1", [1], [9]]})
    assert gone.json() == {"deleted": 2, "missing": 1}
    gone = await client.post("/delete_many", json={"where": {"importance": {"gte": 4}}})
    assert gone.json() == {"deleted": 1, "missing": 0}
    left = (await client.get("/memories")).json()["memories"]
    assert [one["coordinate"] for one in left] == [[2.0], [3.0]]
    for body in ({}, {"coords": [[1]], "where": {"importance": {"gte": 0}}}, {"where": {}}):
        assert _code(await client.post("/delete_many", json=body)) == (400, "invalid_input"), body


async def test_payloads_come_in_the_order_asked_for(client: httpx.AsyncClient) -> None:
    for number in range(3):
        await client.post("/store", json={"coordinate": [number], "payload": {"n": number}})
    answer = await client.post("/payloads_by_coords", json={"coords": [[2], [9], "0", [2.0]]})
    assert answer.json() == {"payloads": [{"n": 2}, None, {"n": 0}, {"n": 2}]}


async def _pages(client: httpx.AsyncClient, path: str, name: str, **query: str) -> list[list[float]]:
    found: list[list[float]] = []
    while True:
        page = (await client.get(path, params={**query, "limit": "2"})).json()
        assert len(page[name]) <= 2
        found += [one["coordinate"] for one in page[name]]
        if page["next"] is None:
            return found
        query["after"] = page["next"]


async def test_listings_go_on_where_the_page_before_ended(client: httpx.AsyncClient) -> None:
    items = [{"coordinate": [n, 0], "content": "x", "kind": "entity" if n % 2 else "semantic"} for n in range(5)]
    await client.post("/store_bulk", json={"items": items})
    assert await _pages(client, "/memories", "memories") == [[n, 0.0] for n in range(5)]
    assert await _pages(client, "/memories", "memories", kind="entity") == [[1.0, 0.0], [3.0, 0.0]]
    order = await _pages(client, "/memories", "memories", order_by="-coordinate")
    assert order == [[n, 0.0] for n in reversed(range(5))]
    where = '{"coordinate": {"min": [1, 0], "max": [3, 0]}}'
    assert await _pages(client, "/memories", "memories", where=where) == [[n, 0.0] for n in (1, 2, 3)]
    assert await _pages(client, "/range", "memories", min="1,0", max="9,0") == [[n, 0.0] for n in (1, 2, 3, 4)]
    assert await _pages(client, "/range", "memories", min="1,0", max="9,0", kind="entity") == [[1.0, 0.0], [3.0, 0.0]]


async def test_keyword_search(client: httpx.AsyncClient) -> None:
    for key, content in (("a", "Graph databases"), ("b", "a graphic novel"), ("c", "nothing")):
        await client.post("/remember", json={"key": key, "content": content})

    async def keys(**body: object) -> list[str]:
        return [one["key"] for one in (await client.post("/keyword_search", json=body)).json()["results"]]

    assert await keys(term="graph") == ["a", "b"]
    assert await keys(term="graph", exact=True) == ["a"]
    assert await keys(term="Graph", case_sensitive=True) == ["a"]
    assert await keys(term="graph nov") == ["b"]
    first = (await client.post("/keyword_search", json={"term": "graph", "first": 1})).json()
    assert await keys(term="graph", first=1, after=first["next"]) == ["b"]
