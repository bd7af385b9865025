"""GraphML of a namespace, as other tools read it."""

import io
from datetime import UTC, datetime
from typing import Any
from xml.etree import ElementTree

import httpx
import networkx as nx
import orjson
import pytest

from sfm_graph.domain.as_of import AsOf
from sfm_graph.domain.identity import MemoryRef
from sfm_graph.errors import NamespaceNotFound
from sfm_graph.services.links import LinkRequest
from sfm_graph.services.registry import Services
from sfm_graph.store import everything, transfer

HOSTILE = "a<b>&\"'\r\n\t\x01\x0b\ufffe]]> \U0001f600"
READABLE = HOSTILE.replace("\x01", "\ufffd").replace("\x0b", "\ufffd").replace("\ufffe", "\ufffd")


async def exported(services: Services, namespace: str = "n", as_of: AsOf | None = None) -> bytes:
    async with services.views.open(as_of or AsOf()) as view:
        return b"".join([chunk async for chunk in services.transfer.export_graphml(view, namespace)])


def read(data: bytes) -> "nx.MultiDiGraph[str]":
    graph = nx.read_graphml(io.BytesIO(data), force_multigraph=True)
    assert isinstance(graph, nx.MultiDiGraph)
    return graph


async def filled(services: Services, namespace: str = "n") -> None:
    await services.memory_writes.store_many(namespace, [
        {"key": "a", "title": HOSTILE, "content": HOSTILE, "payload": {"p": HOSTILE}, "importance": 2.5},
        {"coordinate": [1, -2.5], "content": "no key", "kind": "entity", "agent": "w", "valid_from": "2024-01-01"},
        {"key": "turn0", "content": "x", "payload": {"session": "s", "position": 0}},
        {"key": "turn1", "content": "y", "payload": {"session": "s", "position": 1}},
    ])  # fmt: skip
    await services.links.link_many(namespace, [
        LinkRequest({"key": "a"}, {"coordinate": [1, -2.5]},
                    {"type": "<t>", "weight": 1.25, "properties": {"k": [1]}}),
        LinkRequest({"key": "a"}, {"coordinate": [1, -2.5]}, {"type": "other", "valid_to": "2030-01-01"}),
        LinkRequest({"key": "a"}, {"key": "a"}, {"type": "self"}),
    ])  # fmt: skip


async def test_networkx_reads_all_memories_and_links_with_their_types(services: Services) -> None:
    name = "team/<&>"
    await filled(services, name)
    graph = read(await exported(services, name))
    nodes = {attributes.get("key", "none"): (node, attributes) for node, attributes in graph.nodes(data=True)}
    async with services.views.open() as view:
        found = await services.memory_reads.get(view, name, MemoryRef(key="a"))
    node, attributes = nodes["a"]
    assert node == found.global_id
    assert attributes == {
        "key": "a", "kind": "episodic", "title": READABLE, "content": READABLE,
        "payload": orjson.dumps({"p": HOSTILE}).decode().replace("\ufffe", "\ufffd"), "importance": 2.5,
        "coordinate": ",".join(map(repr, found.coordinate)), "version": 1,
        "created_at": found.created_at.isoformat(), "updated_at": found.updated_at.isoformat(),
    }  # fmt: skip
    other = nodes["none"][1]
    assert (other["coordinate"], other["kind"], other["agent"]) == ("1.0,-2.5", "entity", "w")
    assert other["valid_from"] == "2024-01-01T00:00:00+00:00"
    edges = {
        attributes["type"]: (source, target, attributes) for source, target, attributes in graph.edges(data=True)
    }
    assert graph.number_of_nodes() == 4
    assert edges["<t>"][:2] == (node, nodes["none"][0])
    assert (edges["<t>"][2]["weight"], edges["<t>"][2]["properties"]) == (1.25, '{"k":[1]}')
    assert edges["other"][2]["valid_to"] == "2030-01-01T00:00:00+00:00"
    assert edges["self"][:2] == (node, node)
    made = [attributes for _, _, attributes in edges.values() if attributes.get("maker")]
    assert [one["maker"] for one in made] == ["sequence"]
    assert graph.graph["namespace"] == name


async def test_every_attribute_is_declared_once_and_pages_join(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    await filled(services)
    whole = await exported(services)
    monkeypatch.setattr(transfer, "PAGE_ROWS", 1)
    assert await exported(services) == whole
    root = ElementTree.fromstring(whole)
    space = "{http://graphml.graphdrawing.org/xmlns}"
    declared = [one.attrib["id"] for one in root.iter(f"{space}key")]
    assert len(declared) == len(set(declared))
    assert {one.attrib["key"] for one in root.iter(f"{space}data")} <= set(declared)
    assert everything.PAGE_ROWS > 1


async def test_a_graph_as_of_a_moment_has_no_loose_ends(services: Services) -> None:
    writes = services.memory_writes
    await writes.store_many("n", [
        {"key": "always", "content": "x"}, {"key": "then", "content": "y", "valid_to": "2020-01-01"},
        {"key": "later", "content": "z", "valid_from": "2022-01-01"},
    ])  # fmt: skip
    await services.links.link_many("n", [
        LinkRequest({"key": "always"}, {"key": "then"}, {"type": "then"}),
        LinkRequest({"key": "always"}, {"key": "later"}, {"type": "later"}),
        LinkRequest({"key": "always"}, {"key": "always"}, {"type": "ended", "valid_to": "2019-01-01"}),
    ])  # fmt: skip
    async with services.views.open() as view:
        known = await everything.known(view.session)
    await writes.forget_many("n", [MemoryRef(key="always")])

    def shown(data: bytes) -> tuple[set[Any], set[Any]]:
        graph = read(data)
        return (
            {attributes["key"] for _, attributes in graph.nodes(data=True)},
            {attributes["type"] for _, _, attributes in graph.edges(data=True)},
        )

    assert shown(await exported(services)) == ({"then", "later"}, set())
    assert shown(await exported(services, as_of=AsOf(known=known)))[1] == {"then", "later", "ended"}
    past = AsOf(valid=_moment("2019-06-01"), known=known)
    assert shown(await exported(services, as_of=past)) == ({"always", "then"}, {"then"})


async def test_the_route_and_an_empty_namespace(services: Services, client: httpx.AsyncClient) -> None:
    await services.namespaces.put("empty", settings=None, model=None)
    answer = await client.get("/export", params={"namespace": "empty", "format": "graphml"})
    assert answer.headers["content-type"] == "application/graphml+xml"
    assert read(answer.content).number_of_nodes() == 0
    await filled(services)
    answer = await client.get("/export", params={"namespace": "n", "format": "graphml"})
    assert read(answer.content).number_of_edges() == 4
    assert answer.headers["x-changes-cursor"]
    for query in ({"format": "dot"}, {"format": "graphml", "everything": "true"}, {"valid_at": "x"}):
        refused = await client.get("/export", params={"namespace": "n", **query})
        assert (refused.status_code, refused.json()["code"]) == (400, "invalid_input")
    with pytest.raises(NamespaceNotFound):
        await exported(services, "nowhere")


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)
