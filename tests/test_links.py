"""Links: side by side, conditional, in bulk, and never to something that does not exist."""

from typing import Any

import pytest
from graphql import parse

from sfm_graph.api.gql.cost.plan import Measurement, plan_of
from sfm_graph.api.gql.cost.rules import WRITE
from sfm_graph.api.gql.schema import build_schema
from sfm_graph.domain import validate
from sfm_graph.domain.identity import MemoryRef
from sfm_graph.domain.inputs import link_patch
from sfm_graph.domain.link import Direction
from sfm_graph.domain.memory import WriteOperation
from sfm_graph.domain.walk import WalkFilter
from sfm_graph.errors import InvalidInput, InvalidWeight, LinkNotFound, MemoryNotFound, TooLarge, VersionConflict
from sfm_graph.services.links import LinkRequest
from sfm_graph.services.registry import Services

NS = "demo"
A, B = {"key": "a"}, {"key": "b"}


@pytest.fixture
async def pair(services: Services) -> Services:
    """Two memories, a and b."""
    await services.memory_writes.store_many(NS, [{"key": key, "content": key} for key in "ab"])
    return services


async def _types(services: Services) -> list[str]:
    async with services.views.open() as view:
        memory = await services.memory_reads.get(view, NS, MemoryRef(key="a"))
        pages = await services.links.pages_of(view, NS, [memory.id], WalkFilter(Direction.OUT), 100, None)
        return [link.type for link in pages[memory.id].items]


async def test_link_types_live_side_by_side(pair: Services) -> None:
    for type_ in ("knows", "likes", "knows"):
        stored = await pair.links.link(NS, A, B, {"type": type_})
    assert stored.operation is WriteOperation.UPDATED
    assert stored.link.version == 2
    assert await _types(pair) == ["knows", "likes"]


async def test_links_of_other_times_live_side_by_side(pair: Services) -> None:
    await pair.links.link(NS, A, B, {"type": "works_at", "valid_from": "2020-01-01", "valid_to": "2021-01-01"})
    await pair.links.link(NS, A, B, {"type": "works_at", "valid_from": "2023-01-01"})
    assert await _types(pair) == ["works_at", "works_at"]


@pytest.mark.parametrize("unknown", [{"key": "nobody"}, {"coordinate": [9, 9]}])
async def test_linking_an_unknown_memory_creates_nothing(pair: Services, unknown: dict[str, Any]) -> None:
    for source, target in ((A, unknown), (unknown, B)):
        with pytest.raises(MemoryNotFound):
            await pair.links.link(NS, source, target, {})
    with pytest.raises(MemoryNotFound):
        await pair.links.link_many(NS, [LinkRequest(A, B, {}), LinkRequest(A, unknown, {})])
    assert await _types(pair) == []
    async with pair.views.open() as view:
        assert (await pair.namespaces.statistics(view, NS)).counts.memories_by_kind == {"episodic": 2}


@pytest.mark.parametrize("weight", [-0.1, float("nan"), float("inf"), 1.1e15, "1", True])
async def test_weights_are_costs(pair: Services, weight: Any) -> None:
    with pytest.raises(InvalidWeight):
        await pair.links.link(NS, A, B, {"weight": weight})
    assert (await pair.links.link(NS, A, B, {"weight": -0.0})).link.weight == 0.0


async def test_updating_a_link(pair: Services) -> None:
    link = (await pair.links.link(NS, A, B, {"properties": {"x": 1}})).link
    (updated,) = await pair.links.update_many(NS, [link_patch(link.id, {"weight": 3, "expected_version": 1})])
    assert (updated.weight, updated.properties, updated.version) == (3.0, {"x": 1}, 2)
    with pytest.raises(VersionConflict):
        await pair.links.update_many(NS, [link_patch(link.id, {"weight": 4, "expected_version": 1})])
    with pytest.raises(VersionConflict):
        await pair.links.link(NS, A, B, {"weight": 4, "expected_version": 1})
    with pytest.raises(InvalidInput):
        link_patch(link.id, {"type": "other"})
    await pair.links.unlink_many(NS, [link.id])
    with pytest.raises(LinkNotFound):
        await pair.links.update_many(NS, [link_patch(link.id, {"weight": 4})])


async def test_unlinking_by_ends(pair: Services) -> None:
    for type_ in ("knows", "likes", "sees"):
        await pair.links.link(NS, A, B, {"type": type_})
    a, b = MemoryRef(key="a"), MemoryRef(key="b")
    assert len(await pair.links.unlink_between(NS, a, b, "likes")) == 1
    assert await pair.links.unlink_between(NS, b, a, None) == []
    assert len(await pair.links.unlink_between(NS, a, b, None)) == 2
    assert await _types(pair) == []
    with pytest.raises(MemoryNotFound):
        await pair.links.unlink_between(NS, a, MemoryRef(key="nobody"), None)


async def test_more_links_than_one_transaction_takes_are_not_removed_by_their_ends(pair: Services) -> None:
    most = validate.MAX_BULK_ITEMS
    await pair.links.link_many(NS, [LinkRequest(A, B, {"type": f"t{place}"}) for place in range(most)])
    await pair.links.link(NS, A, B, {"type": "last"})
    a, b = MemoryRef(key="a"), MemoryRef(key="b")
    with pytest.raises(TooLarge, match="name their type"):
        await pair.links.unlink_between(NS, a, b, None)
    assert len(await pair.links.unlink_between(NS, a, b, "last")) == 1
    assert len(await pair.links.unlink_between(NS, a, b, None)) == most
    assert await _types(pair) == []


@pytest.mark.parametrize(
    ("fields", "cost"),
    [
        ('id: "x"', WRITE),
        ('source: {key: "a"}, target: {key: "b"}', WRITE + validate.MAX_BULK_ITEMS),
        ('id: null, source: {key: "a"}', WRITE + validate.MAX_BULK_ITEMS),
    ],
)
def test_unlinking_by_ends_costs_as_many_links_as_it_may_remove(fields: str, cost: int) -> None:
    document = parse(f"mutation {{ unlink(input: {{{fields}}}) {{ count ids }} }}")
    plan = plan_of(build_schema()._schema, document, None)
    assert plan is not None
    assert Measurement(plan, {}).total == cost


async def test_bulk_links_act_as_if_one_by_one_and_report_failures(pair: Services) -> None:
    requests = [
        LinkRequest(A, B, {"weight": 1}),
        LinkRequest(A, {"key": "nobody"}, {}),
        LinkRequest(A, B, {"weight": 2}),
        LinkRequest(A, B, {"weight": -2}),
        LinkRequest(B, B, {}),
    ]
    result = await pair.links.link_many(NS, requests, partial=True)
    assert [(one.link.weight, one.operation) for one in result.stored] == [
        (1.0, WriteOperation.CREATED),
        (2.0, WriteOperation.UPDATED),
        (1.0, WriteOperation.CREATED),
    ]
    assert [(one.index, one.code) for one in result.failed] == [(1, "memory_not_found"), (3, "invalid_weight")]
    again = await pair.links.link_many(NS, [requests[2]], skip_unchanged=True)
    assert again.stored[0].operation is WriteOperation.UNCHANGED


async def test_links_of_a_memory_come_in_pages(pair: Services) -> None:
    for number in range(5):
        await pair.links.link(NS, A, B, {"type": f"t{number}"})
    await pair.links.link(NS, A, A, {"type": "self"})
    async with pair.views.open() as view:
        memory = await pair.memory_reads.get(view, NS, MemoryRef(key="a"))
        seen: list[str] = []
        after = None
        while True:
            page = (await pair.links.pages_of(view, NS, [memory.id], WalkFilter(), 2, after))[memory.id]
            seen += [link.type for link in page.items]
            after = page.end_cursor
            if not page.has_next:
                break
    assert seen == ["t0", "t1", "t2", "t3", "t4", "self"]
