"""Filters on links: SQL against columns in memory and a naive evaluator, pages through GraphQL, hostile input."""

import random
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from graphql_client import Graph, open_graph
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from naive_where import ORDERS, entry_matches, same
from numpy.typing import NDArray

from sfm_graph.domain.identity import MemoryRef
from sfm_graph.domain.link import Direction, Link
from sfm_graph.domain.link_columns import ALWAYS_FROM, ALWAYS_TO
from sfm_graph.domain.link_filter import FilterColumns, admitted, microseconds, needs_rows
from sfm_graph.domain.walk import WalkFilter
from sfm_graph.domain.where import MAX_CONDITIONS, MAX_DEPTH, MAX_LIST_VALUES, Where, parse_link_where
from sfm_graph.errors import InvalidCursor, InvalidInput, SfmError
from sfm_graph.services.links import LinkRequest
from sfm_graph.services.registry import Services
from sfm_graph.store import search

NS, OTHER = "filtered", "other"
COUNT = 120
TYPES = ["knows", "likes", "é", "KNOWS"]
WEIGHTS = [0.0, 0.5, 1.0, 2.0, 1e15]
# Two that differ by a microsecond, and the ends of what can be said.
DATES = [
    "0001-01-01T00:00:00+00:00", "1999-12-31T23:59:59.999999+00:00", "2000-01-01T00:00:00+00:00",
    "2021-06-01T12:00:00.000001+00:00", "2021-06-01T12:00:00.000002+00:00", "9999-12-31T23:59:59.999999+00:00",
]  # fmt: skip
VALUES: list[Any] = [
    None, True, False, 0, 1, 2.5, -3, "", "x", "y", [], [1, 2], [1, "x", None], [[1]], {}, {"b": 1},
    {"b": "x", "c": 2}, {"b": {"c": None}},
]  # fmt: skip
PATHS = [["a"], ["a", "b"], ["a", "b", "c"], ["n"], ["absent"]]
TIMES = ("created_at", "updated_at", "valid_from", "valid_to")


@pytest.fixture
async def stored(services: Services) -> list[Link]:
    """Links among ten memories that differ in every field, by id; and as many in another namespace."""
    for namespace in (OTHER, NS):
        chance = random.Random(3)
        await services.memory_writes.store_many(namespace, [{"key": f"k{i}", "content": "a"} for i in range(10)])
        for start in range(0, COUNT, 40):
            requests = [_request(chance, start + number) for number in range(40)]
            made = await services.links.link_many(namespace, requests)
            assert len(made.stored) == 40
    return sorted(await _all_links(services), key=lambda link: link.id)


def _request(chance: random.Random, number: int) -> LinkRequest:
    fields: dict[str, Any] = {
        "type": TYPES[number % 4],
        "weight": chance.choice(WEIGHTS),
        "properties": {name: chance.choice(VALUES) for name in ("a", "n") if chance.random() < 0.7},
    }
    if number >= 40:
        fields["valid_from"] = chance.choice(DATES[:3])
    if chance.random() < 0.6:
        fields["valid_to"] = chance.choice(DATES[3:])
    # Ends that no two links share: what is the same would be an update.
    return LinkRequest({"key": f"k{number // 4 % 10}"}, {"key": f"k{number * 7 // 40 % 10}"}, fields)


async def _all_links(services: Services) -> list[Link]:
    async with services.views.open() as view:
        found = await view.existing_namespace(NS)
        ids = await search.matching_link_ids(view.session, found.id, parse_link_where(None))
        return list((await services.links.by_ids(view, NS, ids.tolist())).values())


async def _kept(
    services: Services, where: Mapping[str, Any] | None, among: NDArray[np.int64] | None = None
) -> list[int]:
    async with services.views.open() as view:
        found = await view.existing_namespace(NS)
        kept = await search.matching_link_ids(view.session, found.id, parse_link_where(where), among)
        assert kept.dtype == np.int64
        return list(map(int, kept))


def _columns(links: Sequence[Link], *, bounded: bool = True) -> FilterColumns:
    codes = {name: 3 * at + 1 for at, name in enumerate(dict.fromkeys(link.type for link in links))}
    return FilterColumns(
        np.array([codes[link.type] for link in links], np.uint16),
        codes,
        np.array([link.weight for link in links]),
        np.array([_micros(link.valid_from, ALWAYS_FROM) for link in links], np.int64) if bounded else None,
        np.array([_micros(link.valid_to, ALWAYS_TO) for link in links], np.int64) if bounded else None,
    )


def _micros(moment: datetime | None, end: int) -> int:
    return end if moment is None else microseconds(moment)


def _operators(values: Sequence[Any], *names: str) -> Any:
    one = st.sampled_from(values)
    known = {name: one for name in names if name != "in"}
    if "in" in names:
        known["in"] = st.lists(one, max_size=3)
    return st.dictionaries(st.sampled_from(sorted(known)), st.none(), min_size=1, max_size=2).flatmap(
        lambda chosen: st.fixed_dictionaries({name: known[name] for name in chosen})
    )


def _member(name: str, operators: Any) -> Any:
    return operators.map(lambda chosen: {name: chosen})


def _trees(leaves: Any) -> Any:
    return st.recursive(
        leaves,
        lambda inner: st.fixed_dictionaries(
            {}, optional={"_and": st.lists(inner, max_size=3), "_or": st.lists(inner, max_size=3), "_not": inner}
        ),
        max_leaves=6,
    )


hot_leaves = st.one_of(
    _member("type", _operators([*TYPES, "none"], "eq", "in")),
    _member("weight", _operators([*WEIGHTS, -1, 1], "eq", *ORDERS)),
    _member("valid_from", _operators(DATES, "eq", *ORDERS)),
    _member("valid_to", _operators(DATES, "eq", *ORDERS)),
)
entries = st.one_of(
    st.tuples(st.sampled_from(PATHS), _operators(VALUES, "eq", "in", "contains")),
    st.tuples(st.sampled_from(PATHS), st.booleans().map(lambda flag: {"exists": flag})),
    st.tuples(st.sampled_from(PATHS), _operators([0, 1, 2.5, "", "x"], *ORDERS)),
).map(lambda pair: {"path": pair[0], **pair[1]})
row_leaves = st.one_of(
    st.lists(entries, min_size=1, max_size=2).map(lambda chosen: {"properties": chosen}),
    _member("created_at", _operators(DATES, *ORDERS)),
    hot_leaves,
)
_bounded = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@_bounded
@given(where=_trees(hot_leaves))
async def test_columns_in_memory_answer_as_sql_does(
    services: Services, stored: Sequence[Link], where: dict[str, Any]
) -> None:
    tree = parse_link_where(where)
    assert not needs_rows(tree)
    kept = admitted(tree, _columns(stored))
    assert kept.shape == (COUNT,)
    expected = await _kept(services, where)
    assert [link.id for link, here in zip(stored, kept.tolist(), strict=True) if here] == expected
    assert [link.id for link in stored if _matches(where, link)] == expected


@_bounded
@given(where=_trees(row_leaves), among=st.sets(st.integers(0, COUNT - 1)))
async def test_sql_answers_as_a_naive_evaluator_does(
    services: Services, stored: Sequence[Link], where: dict[str, Any], among: set[int]
) -> None:
    expected = [link.id for link in stored if _matches(where, link)]
    assert await _kept(services, where) == expected
    chosen = np.array([stored[place].id for place in sorted(among, reverse=True)], np.int64)
    assert await _kept(services, where, chosen) == [one for one in expected if one in set(chosen.tolist())]


def _matches(where: Mapping[str, Any], link: Link) -> bool:
    return all(_member_matches(name, given, link) for name, given in where.items())


def _member_matches(name: str, given: Any, link: Link) -> bool:
    match name:
        case "_and":
            return all(_matches(item, link) for item in given)
        case "_or":
            return any(_matches(item, link) for item in given)
        case "_not":
            return not _matches(given, link)
        case "properties":
            return all(entry_matches(entry, link.properties) for entry in given)
    value = getattr(link, name)
    if name in TIMES:
        given = {operator: datetime.fromisoformat(operand) for operator, operand in given.items()}
        if value is None:  # An open end lies before, or after, every time.
            below = name == "valid_from"
            return all(operator in (("lt", "lte") if below else ("gt", "gte")) for operator in given)
    return all(_compares(operator, value, operand) for operator, operand in given.items())


def _compares(operator: str, value: Any, operand: Any) -> bool:
    if operator == "in":
        return value in operand
    return bool(value == operand) if operator == "eq" else bool(ORDERS[operator](value, operand))


def test_links_without_bounds_are_open_at_both_ends(stored_columns: FilterColumns) -> None:
    for date in DATES:
        assert admitted(parse_link_where({"valid_from": {"lt": date}}), stored_columns).all()
        assert admitted(parse_link_where({"valid_to": {"gt": date}}), stored_columns).all()
        assert not admitted(parse_link_where({"valid_from": {"eq": date}}), stored_columns).any()


@pytest.fixture
def stored_columns() -> FilterColumns:
    return FilterColumns(np.zeros(3, np.uint16), {"knows": 0}, np.array([0.0, 1.0, 2.0]))


def test_an_answer_is_the_callers_to_change(stored_columns: FilterColumns) -> None:
    for where in (None, {"weight": 1}, {"type": "none"}, {"valid_from": {"lt": DATES[0]}}, {"_not": {"weight": 1}}):
        kept = admitted(parse_link_where(where), stored_columns)
        kept &= False
        assert stored_columns.weights.tolist() == [0.0, 1.0, 2.0]


@pytest.mark.parametrize(
    "where",
    [
        {"created_at": {"gt": DATES[0]}},
        {"updated_at": {"gt": DATES[0]}},
        {"properties": [{"path": ["a"], "exists": True}]},
        {"_or": [{"weight": 1}, {"_not": {"_and": [{"properties": {"path": "a", "eq": 1}}]}}]},
    ],
)
def test_what_is_only_in_rows_needs_rows(stored_columns: FilterColumns, where: dict[str, Any]) -> None:
    tree = parse_link_where(where)
    assert needs_rows(tree)
    with pytest.raises(ValueError, match="rows"):
        admitted(tree, stored_columns)


async def test_moments_of_writing_are_compared_to_the_microsecond(services: Services, stored: Sequence[Link]) -> None:
    moment = stored[60].created_at
    for operator in ("eq", *ORDERS):
        where = {"created_at": {operator: moment.isoformat()}}
        kept = [link.id for link in stored if _matches(where, link)]
        assert 0 < len(kept) < COUNT
        assert await _kept(services, where) == kept


async def test_ids_of_elsewhere_are_no_way_in(services: Services, stored: Sequence[Link]) -> None:
    async with services.views.open() as view:
        other = await view.existing_namespace(OTHER)
        among = np.array([link.id for link in stored])
        assert len(await search.matching_link_ids(view.session, other.id, parse_link_where(None))) == COUNT
        assert not len(await search.matching_link_ids(view.session, other.id, parse_link_where(None), among))


async def test_no_ids_are_not_all_ids(services: Services, stored: Sequence[Link]) -> None:
    assert len(stored) == COUNT
    assert await _kept(services, None, np.empty(0, np.int64)) == []


HOSTILE: list[Any] = [
    [], "x", 1, {"kind": {"eq": "episodic"}}, {"coordinate": {"min": [0], "max": [1]}}, {"payload": []},
    {"id": 1}, {"type": {"gt": "a"}}, {"type": {"eq": 1}}, {"type": "a\x00"}, {"type": {"in": "knows"}},
    {"type": "\ud800"}, {"type": "x" * 2_000}, {"weight": {"in": [1]}}, {"weight": "1"}, {"weight": True},
    {"weight": {"lt": float("nan")}}, {"weight": {"lt": float("inf")}}, {"weight": 10**400},
    {"valid_from": {"eq": "yesterday"}}, {"valid_to": {"lt": "10000-01-01"}}, {"created_at": {"in": []}},
    {"valid_from": {"lt": "0001-01-01T00:00:00+14:00"}}, {"properties": {"eq": 1}}, {"properties": ["a"]},
    {"properties": {"path": [], "eq": 1}}, {"properties": {"path": ["a"] * 17, "eq": 1}},
    {"properties": {"path": [1], "eq": 1}}, {"properties": {"path": ["a\x00"], "eq": 1}},
    {"properties": {"path": ["a"], "gt": True}}, {"properties": {"path": ["a"], "gt": [1]}},
    {"properties": {"path": ["a"], "exists": 1}}, {"properties": {"path": ["a"], "eq": 10**30}},
    {"properties": {"path": ["a"], "like": "x"}}, {"_and": {}}, {"_or": "x"}, {"_not": [{}]},
    {"type": {"in": ["x"] * (MAX_LIST_VALUES + 1)}}, {"_or": [{"weight": 1}] * (MAX_CONDITIONS + 1)},
]  # fmt: skip


@pytest.mark.parametrize("where", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_filters_are_refused(where: Any) -> None:
    with pytest.raises(SfmError) as caught:
        parse_link_where(where)
    assert caught.value.code in ("invalid_input", "too_large")


def test_depth_is_bounded() -> None:
    where: dict[str, Any] = {"weight": 1}
    for _ in range(MAX_DEPTH):
        where = {"_not": where}
    parse_link_where(where)
    with pytest.raises(InvalidInput):
        parse_link_where({"_not": where})


async def test_texts_of_a_filter_are_values_never_sql(services: Services, stored: Sequence[Link]) -> None:
    assert stored
    for text in ("'; drop table links; --", "%(ids)s", "%s", "{1,2}", '"', "\\", ":param_1"):
        assert await _kept(services, {"type": text}) == []
        for name in ("eq", "contains", "gt"):
            assert await _kept(services, {"properties": {"path": [text], name: text}}) == []


@pytest.mark.parametrize("direction", list(Direction))
@pytest.mark.parametrize("types", [(), ("knows", "é")])
async def test_pages_hold_what_the_filter_keeps(
    services: Services, stored: Sequence[Link], direction: Direction, types: tuple[str, ...]
) -> None:
    where = {"weight": {"lte": 1}, "_not": {"properties": [{"path": ["a"], "exists": False}]}}
    walk = WalkFilter(direction, types)
    async with services.views.open() as view:
        owners = await services.memory_reads.find_many(view, NS, [MemoryRef(key=f"k{i}") for i in range(10)])
        ids = [owner.id for owner in owners if owner]
        for one in ids:
            found: list[Link] = []
            after = None
            while True:
                pages = await services.links.pages_of(view, NS, ids, walk, 2, after, parse_link_where(where))
                found += pages[one].items
                if not pages[one].has_next:
                    break
                after = pages[one].end_cursor
            kept = [link for link in stored if _touches(link, one, direction) and _matches(where, link)]
            assert found == [link for link in kept if not types or link.type in types]
        assert any(link.source_id == link.target_id for link in stored)


def _touches(link: Link, memory: int, direction: Direction) -> bool:
    ends = {Direction.OUT: [link.source_id], Direction.IN: [link.target_id]}
    return memory in ends.get(direction, [link.source_id, link.target_id])


async def test_a_cursor_belongs_to_its_filter(services: Services, stored: Sequence[Link]) -> None:
    one = stored[0].source_id
    async with services.views.open() as view:

        async def cursor(where: object, after: str | None = None) -> str | None:
            pages = await services.links.pages_of(view, NS, [one], WalkFilter(), 1, after, parse_link_where(where))
            return pages[one].end_cursor

        filters: list[Any] = [None, {"weight": {"gte": 0}}, {"weight": {"gte": 0.5}}, {"type": "knows"}]
        cursors = [await cursor(where) for where in filters]
        assert all(cursors)
        for made, after in enumerate(cursors):
            for given, where in enumerate(filters):
                if made == given:
                    await cursor(where, after)
                else:
                    with pytest.raises(InvalidCursor):
                        await cursor(where, after)


@pytest.fixture
async def graph(services: Services, stored: Sequence[Link]) -> AsyncIterator[Graph]:
    assert stored
    async with open_graph(services) as opened:
        yield opened


QUERY = """query ($where: LinkWhere, $other: LinkWhere, $after: String) {
    memories(namespace: "filtered", first: 100) { edges { node {
        links(where: $where, first: 2, after: $after) {
            edges { node { id type weight properties } } pageInfo { hasNextPage endCursor } }
        other: links(where: $other, first: 100) { edges { node { id weight properties validFrom } } }
    } } } }"""


def _nodes(answer: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    owners = [edge["node"] for edge in answer["memories"]["edges"]]
    return [edge["node"] for owner in owners for edge in owner[name]["edges"]]


async def test_links_of_many_memories_are_filtered_together(graph: Graph, stored: Sequence[Link]) -> None:
    where = {"type": {"eq": "knows"}, "_not": {"weight": {"gt": 1}}, "properties": [{"path": ["a"], "exists": True}]}
    other = {"validFrom": {"gte": "2000-01-01"}, "createdAt": {"gt": "2020-01-01"}}
    answer = await graph.data(QUERY, where=where, other=other)
    assert _nodes(answer, "links")
    assert all(
        one["type"] == "knows" and one["weight"] <= 1 and "a" in one["properties"] for one in _nodes(answer, "links")
    )
    since = datetime(2000, 1, 1, tzinfo=UTC)
    expected = {link.global_id for link in stored if link.valid_from and link.valid_from >= since}
    assert {one["id"] for one in _nodes(answer, "other")} == expected
    assert len(expected) < COUNT


async def test_filters_that_python_takes_for_equal_are_told_apart(graph: Graph) -> None:
    query = """query($one: LinkWhere, $true: LinkWhere) { memories(namespace: "filtered", first: 99) { edges { node {
        one: links(where: $one, first: 100) { edges { node { properties } } }
        true: links(where: $true, first: 100) { edges { node { properties } } } } } } }"""
    filters = {name: {"properties": [{"path": ["n"], "eq": value}]} for name, value in (("one", 1), ("true", True))}
    answer = await graph.data(query, **filters)
    for name, value in (("one", 1), ("true", True)):
        found = _nodes(answer, name)
        assert found
        assert all(same(one["properties"]["n"], value) for one in found)


async def test_filtered_pages_go_on_where_they_ended(graph: Graph) -> None:
    query = """query ($where: LinkWhere, $after: String) { memory(namespace: "filtered", ref: {key: "k0"}) {
        links(where: $where, first: 2, after: $after) {
            edges { node { id weight } } pageInfo { hasNextPage endCursor } } } }"""
    where, after, seen = {"weight": {"lt": 2}}, None, []
    while True:
        page = (await graph.data(query, where=where, after=after))["memory"]["links"]
        seen += [edge["node"]["id"] for edge in page["edges"]]
        after = page["pageInfo"]["endCursor"]
        if not page["pageInfo"]["hasNextPage"]:
            break
        assert await graph.codes(query, where={"weight": {"lt": 3}}, after=after) == ["invalid_cursor"]
        assert await graph.codes(query, after=after) == ["invalid_cursor"]
    assert len(seen) == len(set(seen)) > 2


@pytest.mark.parametrize(
    "where",
    [
        {"properties": [{"path": [], "eq": 1}]},
        {"properties": [{"path": ["a"], "gt": [1]}]},
        {"type": {"eq": "a\x00"}},
        {"type": {"in": ["x"] * (MAX_LIST_VALUES + 1)}},
        {"_or": [{}] * (MAX_CONDITIONS + 1)},
    ],
)
async def test_a_refused_filter_is_refused_for_every_memory(graph: Graph, where: dict[str, Any]) -> None:
    assert set(await graph.codes(QUERY, where=where)) == {"invalid_input"}


async def test_a_filter_is_checked_once_for_all_memories(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[object] = []

    def parse(value: object) -> Where:
        checked.append(value)
        return parse_link_where(value)

    monkeypatch.setattr("sfm_graph.api.gql.where.parse_link_where", parse)
    for where, count in (({"weight": {"eq": 1}}, 2), ({"type": {"eq": "a\x00"}}, 2)):
        checked.clear()
        await graph.send(QUERY, where=where)
        assert len(checked) == count


def test_microseconds_are_exact() -> None:
    epoch = datetime(2000, 1, 1, tzinfo=UTC)
    for count in (0, 1, -1, 10**17 + 1, -6 * 10**16 - 1):
        assert microseconds(epoch + timedelta(microseconds=count)) == count
