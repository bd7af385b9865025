"""One GraphQL request that recalls, walks and ranks sees one snapshot, whatever is written meanwhile."""

from typing import Any

import httpx
import pytest

from sfm_graph.domain.identity import MemoryRef
from sfm_graph.services.links import LinkRequest
from sfm_graph.services.recall.recalls import Recalls
from sfm_graph.services.registry import Services

QUERY = """
{ recall(query: "bridge", first: 10) { edges { node { key neighbors { edges { node { key } } } } } }
  neighbors(ref: {key: "a"}, hops: 2) { edges { node { key } } }
  traverse(start: [{key: "a"}], depth: 2) { nodes { key } links { type weight } compact }
  shortestPath(from: {key: "a"}, to: {key: "c"}) { nodes { key } links { type } }
  paths(from: {key: "a"}, to: {key: "c"}, k: 5) { cost }
  rank(by: DEGREE) { edges { node { key } score } }
  stats { counts { links } } }
"""


async def _ask(client: httpx.AsyncClient) -> dict[str, Any]:
    answer = (await client.post("/graphql", json={"query": QUERY})).json()
    assert "errors" not in answer, answer
    return answer["data"]


async def _build(services: Services) -> None:
    items = [{"key": key, "content": f"bridge {key}"} for key in "abcd"]
    await services.memory_writes.store_many("default", items)
    for source, target in ("ab", "bc"):
        await services.links.link_many("default", [LinkRequest({"key": source}, {"key": target}, {"type": "next"})])


async def _change(services: Services) -> None:
    """What would show in every part of the answer."""
    await services.links.link_many("default", [LinkRequest({"key": "a"}, {"key": "c"}, {"type": "short"})])
    await services.memory_writes.forget_many("default", [MemoryRef(key="b")])
    await services.memory_writes.store_many("default", [{"key": "e", "content": "bridge e"}])


async def test_a_request_sees_one_snapshot_throughout(
    services: Services, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _build(services)
    before = await _ask(client)
    recalled = Recalls.recall
    written = []

    async def recall_and_write(self: Recalls, *arguments: Any, **options: Any) -> Any:
        # The snapshot is taken; whatever part of the request comes later reads after this commit.
        if not written:
            await _change(services)
            written.append(True)
        return await recalled(self, *arguments, **options)

    monkeypatch.setattr(Recalls, "recall", recall_and_write)
    during = await _ask(client)
    assert written
    assert during == before
    after = await _ask(client)
    for part in before:
        assert after[part] != before[part], part
