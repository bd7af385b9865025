"""Agents: who wrote, who recalled, on every face."""

from typing import Any

import httpx
import pytest

from sfm_graph.client.opening import OpenNamespace
from sfm_graph.domain.access import EVERYTHING, Principal
from sfm_graph.domain.identity import MemoryRef
from sfm_graph.domain.inputs import link_patch
from sfm_graph.domain.memory import Memory
from sfm_graph.domain.page import OrderBy
from sfm_graph.domain.recall import RecallQuery
from sfm_graph.domain.walk import WalkFilter
from sfm_graph.domain.where import parse_link_where, parse_where
from sfm_graph.errors import InvalidInput, TooLarge
from sfm_graph.services.access.agents import acting_for, current_agent
from sfm_graph.services.access.guard import Caller, acting
from sfm_graph.services.access.policy import ScopesByNamespace
from sfm_graph.services.registry import Services

NS = "demo"


async def _one(services: Services, key: str) -> Memory:
    async with services.views.open() as view:
        return await services.memory_reads.get(view, NS, MemoryRef(key=key))


def test_an_agent_is_who_was_named_else_the_principal_else_nobody() -> None:
    assert current_agent() is None
    with acting(Caller(Principal("key:7", EVERYTHING), ScopesByNamespace())):
        assert current_agent() == "key:7"
        with acting_for("scout"):
            assert current_agent() == "scout"
        assert current_agent() == "key:7"
    for wrong in ("", " a", "a\n", 5):
        with pytest.raises(InvalidInput), acting_for(wrong):
            pass
    with pytest.raises(TooLarge), acting_for("x" * 201):
        pass


async def test_writes_are_signed(services: Services) -> None:
    with acting_for("scout"):
        await services.memory_writes.store_many(
            NS, [{"key": "a", "content": "a"}, {"key": "b", "content": "b", "agent": "other"}]
        )
        made = await services.links.link(NS, {"key": "a"}, {"key": "b"}, {"type": "x"})
    assert ((await _one(services, "a")).agent, (await _one(services, "b")).agent) == ("scout", "other")
    assert made.link.agent == "scout"
    with acting_for("editor"):
        changed = await services.memory_writes.update(NS, MemoryRef(key="b"), {"importance": 2})
        (link,) = await services.links.update_many(NS, [link_patch(made.link.id, {"weight": 2})])
    assert (changed.agent, link.agent) == ("editor", "editor")
    # Whoever does not say is nobody.
    assert (await services.memory_writes.update(NS, MemoryRef(key="b"), {"importance": 3})).agent is None
    # Who wrote is no part of what is said.
    with acting_for("again"):
        bulk = await services.memory_writes.store_many(NS, [{"key": "a", "content": "a"}], skip_unchanged=True)
    assert [one.operation.value for one in bulk.stored] == ["unchanged"]


async def test_filters_compare_agents(services: Services) -> None:
    for agent in ("one", "two", "three"):
        with acting_for(agent):
            await services.memory_writes.store(NS, {"key": agent, "content": agent})
            await services.links.link(NS, {"key": agent}, {"key": "one"}, {"type": agent})

    async def listed(where: Any) -> list[str | None]:
        async with services.views.open() as view:
            page = await services.memory_reads.list(
                view, NS, where=parse_where(where), order=OrderBy(), first=10, after=None
            )
        return [one.key for one in page.items]

    assert await listed({"agent": {"eq": "two"}}) == ["two"]
    assert await listed({"agent": {"in": ["one", "three"]}}) == ["one", "three"]
    assert await listed({"_not": {"agent": {"eq": "two"}}}) == ["one", "three"]
    one = await _one(services, "one")
    where = parse_link_where({"agent": {"in": ["two", "one"]}})
    async with services.views.open() as view:
        pages = await services.links.pages_of(view, NS, [one.id], WalkFilter(), 10, None, where)
        walk = WalkFilter(where=parse_link_where({"agent": {"eq": "two"}}))
        found = await services.traversal.neighbours(view, NS, MemoryRef(key="one"), walk, hops=1, limit=10)
    assert sorted(link.type for link in pages[one.id].items) == ["one", "two"]
    assert [each.memory.key for each in found.neighbours] == ["two"]


async def test_the_header_says_who_and_a_field_says_it_better(client: httpx.AsyncClient) -> None:
    sent = {"headers": {"X-SFM-Agent": "scout"}, "params": {"namespace": NS}}
    plain = await client.post("/remember", json={"content": "a", "key": "a"}, **sent)  # type: ignore[arg-type]
    named = await client.post("/remember", json={"content": "b", "agent": "other"}, **sent)  # type: ignore[arg-type]
    nobody = await client.post("/remember", json={"content": "c"}, params={"namespace": NS})
    assert [one.json()["agent"] for one in (plain, named, nobody)] == ["scout", "other", None]
    accented = {"X-SFM-Agent": "späher".encode()}
    told = await client.post("/remember", json={"content": "d"}, headers=accented)
    assert told.json()["agent"] == "späher"
    for wrong, code in (("x" * 201, "too_large"), (b"\xff\xfe", "invalid_input")):
        refused = await client.post("/remember", json={"content": "e"}, headers={"X-SFM-Agent": wrong})  # type: ignore[dict-item]
        assert refused.json()["code"] == code
    document = 'mutation { remember(input: {namespace: "demo", content: "x"}) { memory { agent } } }'
    answer = (await client.post("/graphql", json={"query": document}, headers={"X-SFM-Agent": "scout"})).json()
    assert answer["data"]["remember"]["memory"]["agent"] == "scout"


async def test_who_recalled_is_counted_by_agent(client: httpx.AsyncClient, services: Services) -> None:
    await services.memory_writes.store(NS, {"key": "a", "content": "apple"})
    for agent, times in (("scout", 2), ("other", 1), (None, 1)):
        for _ in range(times):
            with acting_for(agent):
                async with services.views.open() as view:
                    await services.recalls.recall(view, NS, RecallQuery("apple"))
    await services.accesses.flush()
    answer = (await client.get("/memories/key:a/accesses", params={"namespace": NS})).json()
    assert [(one["agent"], one["count"]) for one in answer["accesses"]] == [("scout", 2), (None, 1), ("other", 1)]
    document = '{ memory(namespace: "demo", ref: {key: "a"}) { accesses { agent count lastAt } } }'
    graphql = (await client.post("/graphql", json={"query": document})).json()
    assert [one["count"] for one in graphql["data"]["memory"]["accesses"]] == [2, 1, 1]
    gone = await client.get("/memories/key:nobody/accesses", params={"namespace": NS})
    assert (gone.status_code, gone.json()["code"]) == (404, "memory_not_found")


def test_a_client_works_for_an_agent() -> None:
    class Opened(OpenNamespace):
        def opened(self, services: Any) -> None:
            self._opened = services
            assert self._services is services

    for agent in ("scout", None):
        with acting_for("before"):
            Opened("test", NS, agent=agent).opened(object())  # type: ignore[arg-type]
            assert current_agent() == agent
    with pytest.raises(InvalidInput):
        OpenNamespace("test", NS, agent="")  # type: ignore[arg-type]
