"""REST: links and walks over them."""

import httpx
import pytest

from sfm_graph.api.rest.components import COMPONENTS


@pytest.fixture
async def chain(client: httpx.AsyncClient) -> httpx.AsyncClient:
    """a -> b -> c -> d by `next` of weight 1, and a -> d by `skip` of weight 9."""
    items = [{"key": key, "coordinate": [place], "content": key} for place, key in enumerate("abcd")]
    await client.post("/store_bulk", json={"items": items})
    for source, target in ("ab", "bc", "cd"):
        await _link(client, source, target, type="next")
    await _link(client, "a", "d", type="skip", weight=9)
    return client


async def _link(client: httpx.AsyncClient, source: str, target: str, **fields: object) -> httpx.Response:
    body = {"from_coord": {"key": source}, "to_coord": f"key:{target}", **fields}
    return await client.post("/link", json=body)


@pytest.mark.parametrize("path", ["/link", "/graph/link"])
async def test_a_link_is_made_then_updated(client: httpx.AsyncClient, path: str) -> None:
    a = (await client.post("/store", json={"coordinate": [1, 2], "content": "a"})).json()
    b = (await client.post("/store", json={"coordinate": [3, 4], "key": "b", "content": "b"})).json()
    made = await client.post(path, json={"from_coord": [1, 2], "to_coord": "3,4"})
    assert (made.status_code, made.headers["ETag"]) == (201, '"1"')
    link = made.json()
    assert link.keys() == COMPONENTS["Link"]["properties"].keys()
    assert (link["source"], link["target"]) == ({"id": a["id"]}, {"id": b["id"]})
    assert (link["type"], link["weight"], link["properties"]) == ("related", 1.0, {})
    body = {"from_coord": link["source"], "to_coord": {"key": "b"}, "weight": 0.5, "properties": {"x": 1}}
    again = await client.post(path, json=body)
    assert (again.status_code, again.json()["id"], again.json()["version"]) == (200, link["id"], 2)
    other = await client.post(path, json={**body, "type": "cites"})
    assert (other.status_code, other.json()["id"] == link["id"]) == (201, False)


async def test_linking_an_unknown_memory_makes_nothing(client: httpx.AsyncClient) -> None:
    await client.post("/store", json={"coordinate": [1], "content": "a"})
    answer = await client.post("/link", json={"from_coord": [1], "to_coord": [2]})
    assert (answer.status_code, answer.json()["code"]) == (404, "memory_not_found")
    assert (await client.get("/stats?namespace=default")).json()["namespaces"][0]["links"] == {}


async def test_unlink_by_ends_by_type_and_by_id(chain: httpx.AsyncClient) -> None:
    await _link(chain, "a", "b", type="likes")
    await _link(chain, "a", "b", type="knows")
    ends = {"from_coord": "key:a", "to_coord": "1"}
    assert (await chain.delete("/link", params={**ends, "type": "none"})).json() == {"deleted": False, "count": 0}
    assert (await chain.delete("/link", params={**ends, "type": "likes"})).json() == {"deleted": True, "count": 1}
    assert (await chain.request("DELETE", "/link", json=ends)).json() == {"deleted": True, "count": 2}
    link = (await _link(chain, "a", "b")).json()
    assert (await chain.delete("/link", params={"id": link["id"]})).json() == {"deleted": True, "count": 1}
    assert (await chain.delete("/link", params={"id": link["id"]})).json() == {"deleted": False, "count": 0}
    unknown = await chain.delete("/link", params={**ends, "to_coord": "key:nobody"})
    assert (unknown.status_code, unknown.json()["code"]) == (404, "memory_not_found")
    assert (await chain.delete("/link")).json()["code"] == "invalid_coordinate"


@pytest.mark.parametrize("path", ["/neighbors", "/graph/neighbors"])
async def test_neighbours_in_order_of_hops(chain: httpx.AsyncClient, path: str) -> None:
    async def reached(**query: str | list[str]) -> list[tuple[str, int, str]]:
        answer = (await chain.get(path, params={"coord": "key:a", **query})).json()
        return [(one["memory"]["key"], one["hops"], one["link"]["type"]) for one in answer["neighbors"]]

    assert await reached() == [("b", 1, "next"), ("d", 1, "skip")]
    assert await reached(type="next", hops="3") == [("b", 1, "next"), ("c", 2, "next"), ("d", 3, "next")]
    assert await reached(type=["next", "skip"]) == [("b", 1, "next"), ("d", 1, "skip")]
    assert await reached(direction="in") == []
    assert await reached(coord="1", direction="in") == [("a", 1, "next")]
    assert await reached(where='{"weight": {"gt": 1}}') == [("d", 1, "skip")]
    cut = (await chain.get(path, params={"coord": "0", "limit": "1"})).json()
    assert (len(cut["neighbors"]), cut["truncated"], cut["hot"]) == (1, True, True)
    rest = (await chain.get(path, params={"coord": "0", "limit": "1", "after": cut["next"]})).json()
    assert ([one["memory"]["key"] for one in rest["neighbors"]], rest["next"], rest["truncated"]) == (
        ["d"], None, False,
    )  # fmt: skip
    for other in ({"hops": "2"}, {"valid_at": "2020-01-01"}, {"where": '{"weight": 1}'}, {"coord": "key:a"}):
        refused = await chain.get(path, params={"coord": "0", "after": cut["next"], **other})
        assert (refused.status_code, refused.json()["code"]) == (400, "invalid_cursor"), other
    unknown = await chain.get(path, params={"coord": "9"})
    assert (unknown.status_code, unknown.json()["code"]) == (404, "memory_not_found")


@pytest.mark.parametrize("path", ["/shortest_path", "/graph/path"])
async def test_paths_by_links_or_by_weight(chain: httpx.AsyncClient, path: str) -> None:
    async def found(**query: str) -> tuple[str, float | None]:
        answer = (await chain.get(path, params={"frm": "key:a", "to": "key:d", **query})).json()
        assert answer["found"] is (answer["cost"] is not None)
        assert len(answer["links"]) == max(len(answer["path"]) - 1, 0)
        return "".join(one["key"] for one in answer["path"]), answer["cost"]

    assert await found() == ("ad", 1.0)
    assert await found(weighted="true") == ("abcd", 3.0)
    assert await found(type="next") == ("abcd", 3.0)
    assert await found(type="next", max_hops="2") == ("", None)
    assert await found(direction="in") == ("", None)
    assert await found(to="key:a") == ("a", 0.0)
    unknown = await chain.get(path, params={"frm": "key:a", "to": "key:nobody"})
    assert (unknown.status_code, unknown.json()["code"]) == (404, "memory_not_found")


async def test_several_paths(chain: httpx.AsyncClient) -> None:
    async def found(**query: str) -> list[tuple[str, float]]:
        answer = (await chain.get("/shortest_path", params={"frm": "key:a", "to": "key:d", **query})).json()
        assert answer["found"] is bool(answer["paths"])
        first = {name: answer[name] for name in ("path", "links", "cost")}
        none = {"path": [], "links": [], "cost": None}
        assert first == (answer["paths"][0] if answer["paths"] else none)
        return [("".join(one["key"] for one in way["path"]), way["cost"]) for way in answer["paths"]]

    assert await found(k="3") == [("ad", 1.0), ("abcd", 3.0)]
    assert await found(k="1") == [("ad", 1.0)]
    assert await found(k="3", weighted="true") == [("abcd", 3.0), ("ad", 9.0)]
    assert await found(mode="all_shortest") == [("ad", 1.0)]
    assert await found(mode="simple", max_hops="2", type="next") == []
    assert await found(mode="SHORTEST_K", where='{"type": "next"}') == [("abcd", 3.0)]
    one = (await chain.get("/shortest_path", params={"frm": "key:a", "to": "key:d"})).json()
    assert one.keys() == {"found", "path", "links", "cost", "hot"}
    none = (await chain.get("/shortest_path", params={"frm": "key:d", "to": "key:a", "direction": "out"})).json()
    assert none == {"found": False, "path": [], "links": [], "cost": None}


async def test_walks_at_a_time(chain: httpx.AsyncClient) -> None:
    await _link(chain, "b", "d", valid_from="2001-01-01", valid_to="2002-01-01T00:00:00+01:00")
    query = {"frm": "key:b", "to": "key:d"}
    assert (await chain.get("/shortest_path", params=query)).json()["cost"] == 2.0
    for time, cost in (("2001-12-31T22:59:59Z", 1.0), ("2001-12-31T23:00:00Z", 2.0), ("2001-06-01", 1.0)):
        assert (await chain.get("/shortest_path", params={**query, "valid_at": time})).json()["cost"] == cost, time


async def test_traverse_answers_columns(chain: httpx.AsyncClient) -> None:
    asked = {"start": ["key:b", "3"], "depth": "1", "type": "next"}
    found = (await chain.get("/traverse", params=asked)).json()
    assert found["nodes"]["key"] == ["a", "b", "c", "d"]
    assert (found["nodes"]["kind"], found["nodes"]["title"]) == (["episodic"] * 4, [None] * 4)
    ends = list(zip(found["links"]["source"], found["links"]["target"], found["links"]["type"], strict=True))
    assert ends == [(0, 1, "next"), (1, 2, "next"), (2, 3, "next")]
    assert (found["links"]["weight"], found["truncated"], found["hot"]) == ([1.0] * 3, False, True)
    b = (await chain.get(f"/memories/id:{found['nodes']['id'][1]}")).json()
    assert b["key"] == "b"
    cut = (await chain.get("/traverse", params={"start": "key:a", "limit": "2"})).json()
    assert (cut["nodes"]["key"], cut["truncated"]) == (["a", "b"], True)
    only = (await chain.get("/traverse", params={"start": "key:a", "depth": "0"})).json()
    assert (only["nodes"]["key"], only["links"]["id"]) == (["a"], [])
    unknown = await chain.get("/traverse", params={"start": ["key:a", "key:nobody"]})
    assert (unknown.status_code, unknown.json()["code"]) == (404, "memory_not_found")


async def test_rankings(chain: httpx.AsyncClient) -> None:
    async def ranked(**query: str | list[str]) -> list[tuple[str, int | None]]:
        answer = (await chain.get("/rank", params=query)).json()
        assert 0 <= answer["estimated"] < 1
        scores = [one["score"] for one in answer["results"]]
        assert scores == sorted(scores, reverse=True)
        return [(one["memory"]["key"], one["group"]) for one in answer["results"]]

    await chain.post("/store", json={"key": "alone", "content": "x"})
    assert await ranked(by="degree") == [(key, None) for key in "abcd"]
    assert await ranked(by="degree", direction="in", limit="3") == [("d", None), ("b", None), ("c", None)]
    assert await ranked(by="weak_components", where='{"weight": {"gt": 1}}') == [("a", 0), ("d", 0)]
    assert await ranked(by="jaccard", seed="key:a") == [("c", None)]
    assert {key for key, _ in await ranked(seed=["key:a", "1"])} == {*"abcd"}
    assert {key for key, _ in await ranked()} == {*"abcd"}
