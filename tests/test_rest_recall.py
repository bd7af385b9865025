"""REST: recall in its forms."""

from typing import Any

import httpx
import pytest

TEXTS = {"ada": "Ada Lovelace wrote the first program", "tea": "How to brew green tea", "cake": "A cake for Ada"}


@pytest.fixture
async def stocked(client: httpx.AsyncClient) -> httpx.AsyncClient:
    items = [
        {"key": key, "coordinate": [place, 0], "content": text, "payload": {"topic": key, "n": place}}
        for place, (key, text) in enumerate(TEXTS.items())
    ]
    items[1]["kind"] = "semantic"
    await client.post("/store_bulk", json={"items": items})
    return client


async def _keys(client: httpx.AsyncClient, path: str = "/recall", /, **body: Any) -> list[str]:
    answer = await client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return [one["key"] for one in answer.json()["matches"]]


@pytest.mark.parametrize("path", ["/recall", "/memories/search"])
async def test_the_best_comes_first(stocked: httpx.AsyncClient, path: str) -> None:
    assert (await _keys(stocked, path, query="who wrote a program?"))[0] == "ada"
    assert await _keys(stocked, path, query="green tea", top_k=1) == ["tea"]
    assert len(await _keys(stocked, path, query="unrelated", top_k=3)) == 3


async def test_filters_narrow_the_search(stocked: httpx.AsyncClient) -> None:
    assert await _keys(stocked, query="ada", kind="semantic") == ["tea"]
    assert len(await _keys(stocked, query="ada", kind=["semantic", "episodic"])) == 3
    assert await _keys(stocked, query="ada", filters={"key": "tea"}) == ["tea"]
    assert await _keys(stocked, query="tea", filters={"topic": "cake"}) == ["cake"]
    assert await _keys(stocked, query="tea", filters={"topic": {"in": ["cake", "x"]}, "n": 2}) == ["cake"]
    assert await _keys(stocked, query="tea", filters={"topic": {"eq": "cake"}, "kind": "semantic"}) == []
    assert await _keys(stocked, query="tea", filters={"topic": {"other": 1}}) == []
    assert await _keys(stocked, query="tea", filters={"_not": {"kind": "episodic"}}) == ["tea"]


async def test_scores_are_the_sum_of_their_legs(stocked: httpx.AsyncClient) -> None:
    results = (await stocked.post("/recall_with_scores", json={"query": "ada program"})).json()["results"]
    assert results[0]["memory"]["key"] == "ada"
    for one in results:
        assert one["score"] == pytest.approx(sum(leg["contribution"] for leg in one["legs"]))
        assert {leg["leg"] for leg in one["legs"]} == {"dense", "lexical", "importance"}
    dense = (await stocked.post("/recall_with_scores", json={"query": "ada", "hybrid": False})).json()["results"]
    assert {leg["leg"] for one in dense for leg in one["legs"]} == {"dense"}


async def test_a_context_shifts_the_order(stocked: httpx.AsyncClient) -> None:
    async def ranked(context: dict[str, Any]) -> list[dict[str, Any]]:
        body = {"query": "Ada", "context": context}
        results: list[dict[str, Any]] = (await stocked.post("/recall_with_context", json=body)).json()["results"]
        return results

    plain = await ranked({})
    assert plain[0]["context"] == {"query": plain[0]["score"], "text": None, "near": None, "recent": None}
    cakes = await ranked({"text": "baking a cake", "coordinates": [[2, 0]], "time": "2026-01-01"})
    assert cakes[0]["memory"]["key"] == "cake"
    parts = cakes[0]["context"]
    assert parts["near"] == 1.0
    total = 0.7 * parts["query"] + 0.3 * parts["text"] + 0.1 * parts["near"] + 0.1 * parts["recent"]
    assert cakes[0]["score"] == pytest.approx(total)


async def test_a_batch_answers_each_query(stocked: httpx.AsyncClient) -> None:
    queries = ["green tea", {"query": "ada program", "top_k": 2}, {"query": "x", "filters": {"topic": "none"}}]
    answer = await stocked.post("/recall_batch", json={"queries": queries, "top_k": 1})
    batches = [[one["key"] for one in batch] for batch in answer.json()["batches"]]
    assert (batches[0], batches[1][0], len(batches[1]), batches[2]) == (["tea"], "ada", 2, [])
    assert (await stocked.post("/recall_batch", json={"queries": []})).json() == {"batches": []}


async def test_vectors_may_be_given(client: httpx.AsyncClient) -> None:
    model = {"name": "mine", "dimension": 3}
    assert (await client.put("/namespaces/vectors", json={"model": model})).status_code == 200
    for key, vector in (("x", [1, 0, 0]), ("y", [0, 1, 0])):
        body = {"key": key, "content": key, "embedding": vector, "namespace": "vectors"}
        assert (await client.post("/remember", json=body)).status_code == 201
    asked = {"query": "", "embedding": [0.1, 0.9, 0], "namespace": "vectors"}
    assert await _keys(client, **asked) == ["y", "x"]
    wrong = await client.post("/recall", json={**asked, "embedding": [1, 0]})
    assert (wrong.status_code, wrong.json()["code"]) == (409, "model_mismatch")


async def test_an_unknown_namespace_holds_nothing(client: httpx.AsyncClient) -> None:
    assert await _keys(client, query="x", namespace="nowhere") == []
    assert (await client.get("/namespaces")).json()["namespaces"] == []


async def test_a_batch_asks_for_so_many_memories_in_all(client: httpx.AsyncClient) -> None:
    body = {"queries": ["plan"] * 11, "top_k": 1_000}
    answer = await client.post("/recall_batch", json=body)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_input")
