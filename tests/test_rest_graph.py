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
    cut = (await chain.get(path, params={"coord": "0", "limit": "1"})).json()
    assert (len(cut["neighbors"]), cut["truncated"]) == (1, True)
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
