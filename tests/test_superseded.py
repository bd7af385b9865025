"""What a link says to be replaced loses score in recall, and nothing else."""

import random
from datetime import UTC, datetime
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from sfm_graph.domain.as_of import AsOf
from sfm_graph.domain.fusion import superseded
from sfm_graph.domain.identity import MemoryRef
from sfm_graph.domain.recall import Hit, Leg, Recall, RecallQuery, RecallWeights
from sfm_graph.domain.recall_outline import outlined, read_outline
from sfm_graph.domain.where import parse_where
from sfm_graph.runtime import open_runtime
from sfm_graph.services.recall.hits import _reranked
from sfm_graph.services.registry import Services
from sfm_graph.settings import Settings

PAST = "2001-01-01T00:00:00Z"
FUTURE = "2990-01-01T00:00:00Z"


@given(
    ids=st.lists(st.integers(1, 20), min_size=1, max_size=12, unique=True),
    links=st.lists(st.tuples(st.integers(1, 25), st.integers(1, 25)), max_size=20),
    share=st.floats(0, 1),
)
def test_each_target_loses_its_share_once(ids: list[int], links: list[tuple[int, int]], share: float) -> None:
    """Against a naive loop."""
    ends = np.array(links, np.int64).reshape(-1, 2)
    found = superseded(np.array(ids), ends[:, 0], ends[:, 1], share)
    scores = np.linspace(0.1, 1, len(ids))
    left = found.left(scores)
    for row, one in enumerate(ids):
        by = [source for target, source in links if target == one != source]
        assert found.by[row] == max(by, default=-1)
        assert left[row] == pytest.approx(scores[row] * (1 - share) if by else scores[row])


@pytest.fixture(params=[True, False], ids=["hot", "sql"])
async def both(request: pytest.FixtureRequest, settings: Settings, database_dsn: str) -> Any:
    """Services that hold namespaces in memory, and such that never do."""
    budget = settings.hot_budget_bytes if request.param else 0
    chosen = settings.model_copy(update={"hot_budget_bytes": budget, "postgres_url": SecretStr(database_dsn)})
    async with open_runtime(chosen, maintenance=False) as services:
        yield services


async def _store(services: Services, **fields: Any) -> int:
    return (await services.memory_writes.store("demo", {"content": "the office is in Leeds", **fields})).memory.id


async def _supersede(services: Services, new: str, old: str, **fields: Any) -> None:
    given_fields = {"type": "supersedes", **fields}
    await services.links.link("demo", {"key": new}, {"key": old}, given_fields)


async def _recall(services: Services, query: RecallQuery | None = None, **weights: Any) -> Recall:
    asked = query or RecallQuery("the office in Leeds", 10, weights=RecallWeights(**weights))
    async with services.views.open() as view:
        return await services.recalls.recall(view, "demo", asked)


def _hit(recall: Recall, key: str) -> Hit:
    return next(hit for hit in recall.hits if hit.memory.key == key)


def _lost(recall: Recall, key: str) -> float:
    return sum(leg.contribution for leg in _hit(recall, key).legs if leg.leg is Leg.SUPERSEDED)


async def test_what_is_superseded_loses_half_of_its_score_and_says_so(both: Services) -> None:
    await _store(both, key="old")
    new = await _store(both, key="new", content="the office moved to York, no longer in Leeds")
    before = await _recall(both)
    assert [hit.memory.key for hit in before.hits] == ["old", "new"]
    await _supersede(both, "new", "old")
    after = await _recall(both)
    assert [hit.memory.key for hit in after.hits] == ["new", "old"]
    old = _hit(after, "old")
    assert (old.superseded_by, _hit(after, "new").superseded_by) == (new, None)
    assert old.score == pytest.approx(_hit(before, "old").score / 2)
    assert _hit(after, "new").score == pytest.approx(_hit(before, "new").score)
    assert sum(leg.contribution for leg in old.legs) == pytest.approx(old.score)
    assert _lost(after, "old") == pytest.approx(-old.score)
    for share in (0.0, 0.2, 1.0):
        found = await _recall(both, superseded=share)
        assert len(found.hits) == 2
        assert _hit(found, "old").score == pytest.approx((1 - share) * _hit(before, "old").score)
        assert (_hit(found, "old").superseded_by == new) is (share > 0)


@pytest.mark.parametrize(
    ("memory", "link"),
    [({"valid_to": PAST}, {}), ({"valid_from": FUTURE}, {}), ({}, {"valid_to": PAST}), ({}, {"valid_from": FUTURE})],
    ids=["memory ended", "memory to come", "link ended", "link to come"],
)
async def test_only_what_is_valid_supersedes(both: Services, memory: dict[str, str], link: dict[str, str]) -> None:
    await _store(both, key="old")
    await _store(both, key="new", **memory)
    await _supersede(both, "new", "old", **link)
    assert _lost(await _recall(both), "old") == 0


async def test_a_forgotten_or_unlinked_memory_supersedes_nothing(both: Services) -> None:
    await _store(both, key="old")
    await _store(both, key="new")
    await _supersede(both, "new", "old")
    assert _lost(await _recall(both), "old") < 0
    await both.memory_writes.forget_many("demo", [MemoryRef(key="new")])
    assert _lost(await _recall(both), "old") == 0


async def test_other_links_and_other_directions_cost_nothing(both: Services) -> None:
    await _store(both, key="old")
    await _store(both, key="new")
    await _store(both, key="other")
    await both.links.link("demo", {"key": "new"}, {"key": "other"}, {"type": "contradicts"})
    await _supersede(both, "new", "old")
    await _supersede(both, "new", "new")
    found = await _recall(both)
    assert [_lost(found, key) < 0 for key in ("old", "new", "other")] == [True, False, False]


async def test_what_supersedes_need_not_pass_the_filter(both: Services) -> None:
    await _store(both, key="old", payload={"year": 2020})
    await _store(both, key="new", payload={"year": 2024})
    await _supersede(both, "new", "old")
    where = parse_where({"payload": [{"path": ["year"], "eq": 2020}]})
    found = await _recall(both, RecallQuery("the office in Leeds", 5, where=where))
    assert [hit.memory.key for hit in found.hits] == ["old"]
    assert _lost(found, "old") < 0


@pytest.mark.parametrize("first", [1, 3, 9, 12])
async def test_there_are_as_many_hits_as_without(both: Services, first: int) -> None:
    """Random links, chains and circles among them; the same memories, as many as asked for."""
    chosen = random.Random(first)
    for place in range(12):
        await _store(both, key=f"k{place}", content=f"the office is in Leeds, floor {place}")
    for _ in range(10):
        new, old = chosen.sample(range(12), 2)
        await _supersede(both, f"k{new}", f"k{old}")
    found = await _recall(both, RecallQuery("the office in Leeds", first))
    assert len(found.hits) == first
    scores = [hit.score for hit in found.hits]
    assert scores == sorted(scores, reverse=True)
    assert min(scores) >= 0


async def test_what_is_superseded_does_not_gain_by_what_replaces_it(services: Services) -> None:
    await _store(services, key="old", content="a plain text of other things")
    await _store(services, key="new", content="the office in Leeds")
    await _supersede(services, "new", "old")
    found = await _recall(services)
    assert not any(leg.leg is Leg.GRAPH for leg in _hit(found, "old").legs)


async def test_the_past_does_not_know_it_yet(services: Services) -> None:
    await _store(services, key="old")
    await _store(services, key="new")
    known = datetime.now(UTC)
    await _supersede(services, "new", "old")
    async with services.views.open(AsOf(known=known)) as view:
        found = await services.recalls.recall(view, "demo", RecallQuery("the office in Leeds", 5))
    assert len(found.hits) == 2
    assert _lost(found, "old") == 0


async def test_a_reranker_does_not_raise_it_again(services: Services) -> None:
    await _store(services, key="old")
    await _store(services, key="new")
    await _supersede(services, "new", "old")
    found = await _recall(services)
    hits = _reranked(found.hits, np.array([1.0, 1.0]))
    old = next(hit for hit in hits if hit.memory.key == "old")
    new = next(hit for hit in hits if hit.memory.key == "new")
    assert old.score == pytest.approx(new.score / 2)
    assert sum(leg.contribution for leg in old.legs) == pytest.approx(old.score)


async def test_an_outline_keeps_what_supersedes(services: Services) -> None:
    await _store(services, key="old")
    new = await _store(services, key="new")
    await _supersede(services, "new", "old")
    found = await _recall(services)
    text = outlined(found)
    assert text is not None
    filled = read_outline(text).filled({hit.memory.id: hit.memory for hit in found.hits})
    assert filled.hits == found.hits
    assert _hit(filled, "old").superseded_by == new


async def test_faces_show_what_supersedes(services: Services, client: httpx.AsyncClient) -> None:
    await _store(services, key="old")
    await _store(services, key="new")
    await _supersede(services, "new", "old")
    body = {"query": "the office in Leeds", "namespace": "demo"}
    rest = (await client.post("/recall_with_scores", json=body)).json()["results"]
    ids = {one["memory"]["key"]: one["memory"]["id"] for one in rest}
    assert {one["memory"]["key"]: one["superseded_by"] for one in rest} == {"old": ids["new"], "new": None}
    query = """{ recall(namespace: "demo", query: "the office in Leeds", weights: {superseded: 0.25, product: 0.5}) {
        edges { node { key } supersededBy explanation { legs { leg weight contribution } } } } }"""
    edges = (await client.post("/graphql", json={"query": query})).json()["data"]["recall"]["edges"]
    assert {one["node"]["key"]: one["supersededBy"] for one in edges} == {"old": ids["new"], "new": None}
    (old,) = [one for one in edges if one["node"]["key"] == "old"]
    (leg,) = [one for one in old["explanation"]["legs"] if one["leg"] == "SUPERSEDED"]
    assert leg["weight"] == 0.25
    assert leg["contribution"] < 0
    assert any(one["leg"] == "PRODUCT" for one in old["explanation"]["legs"])
    body["hybrid"] = False  # type: ignore[assignment]
    plain = (await client.post("/recall_with_scores", json=body)).json()["results"]
    assert not any(one["superseded_by"] for one in plain)
