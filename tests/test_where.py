"""Filters against a naive evaluator of their JSON form, and what bounds them."""

import random
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from naive_where import ORDERS, entry_matches

from sfm_graph.domain.memory import Memory, MemoryKind
from sfm_graph.domain.page import OrderBy
from sfm_graph.domain.where import MAX_CONDITIONS, MAX_LIST_VALUES, MAX_VALUES, parse_where
from sfm_graph.errors import InvalidInput
from sfm_graph.services.registry import Services
from sfm_graph.store.where import listing

NS = "filtered"
COUNT = 40
PATHS = [["a"], ["a", "b"], ["n"], ["tags"], ["a", "b", "c"], ["absent"]]
DECLARED = [["n"], ["a", "b"]]
LEAVES: list[Any] = [None, True, False, 0, 1, 1.0, 2, 2.5, -3, "", "x", "y", "1"]
VALUES = [
    *LEAVES,
    [],
    [1, 2],
    [1, "x", None],
    [[1]],
    [{"b": 1}],
    {},
    {"b": 1},
    {"b": "x", "c": 2},
    {"b": {"c": None}},
]
DATES = ["2020-01-01", "2021-06-01T12:00:00Z", "2022-01-01", "2030-01-01"]
BEFORE, AFTER = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)
TIMES = ("created_at", "updated_at", "valid_from", "valid_to")


@pytest.fixture
async def stored(services: Services) -> list[Memory]:
    """Memories that differ in every field, many of them absent or null."""
    chance = random.Random(7)
    await services.namespaces.put(NS, settings={"payload_paths": ["n", "a.b"]}, model=None)
    for start in range(0, COUNT, 10):
        await services.memory_writes.store_many(NS, [_item(chance, number) for number in range(start, start + 10)])
    async with services.views.open() as view:
        page = await services.memory_reads.list(
            view, NS, where=parse_where(None), order=OrderBy(), first=100, after=None
        )
    assert len(page.items) == COUNT
    return list(page.items)


def _item(chance: random.Random, number: int) -> dict[str, Any]:
    payload = {name: chance.choice(VALUES) for name in ("a", "n", "tags") if chance.random() < 0.8}
    item = {
        "content": f"memory {number}",
        "coordinate": [number % 5, number // 5, 1.5][: 2 + number % 2],
        "kind": chance.choice(list(MemoryKind)).value,
        "importance": chance.choice([0, 0.5, 1, 2]),
        "payload": payload,
    }
    optional = {
        "key": f"k{number}",
        "title": chance.choice(["x", "y"]),
        "valid_from": chance.choice(DATES[:2]),
        "valid_to": chance.choice(DATES[2:]),
    }
    return item | {name: value for name, value in optional.items() if chance.random() < 0.7}


def _matches(where: Mapping[str, Any], memory: Memory) -> bool:
    return all(_member(field, given, memory) for field, given in where.items() if given is not None)


def _member(field: str, given: Any, memory: Memory) -> bool:
    match field:
        case "_and":
            return all(_matches(item, memory) for item in given)
        case "_or":
            return any(_matches(item, memory) for item in given)
        case "_not":
            return not _matches(given, memory)
        case "coordinate":
            low, high = given["min"], given["max"]
            axes = memory.coordinate
            return len(axes) == len(low) and all(a <= x <= b for a, x, b in zip(low, axes, high, strict=True))
        case "payload":
            return all(entry_matches(entry, memory.payload) for entry in given)
    value = getattr(memory, field)
    if field in TIMES:
        # Open ends of the period of validity lie before and after every time.
        value = value or (BEFORE if field == "valid_from" else AFTER)
    return all(_compare(name, value, operand, field) for name, operand in given.items() if operand is not None)


def _compare(name: str, value: Any, operand: Any, field: str) -> bool:
    if name == "in":
        return value in operand
    if field in TIMES:
        operand = datetime.fromisoformat(operand)
        operand = operand if operand.tzinfo else operand.replace(tzinfo=UTC)
    return bool(value == operand) if name == "eq" else bool(ORDERS[name](value, operand))


def _operators(exact: st.SearchStrategy[Any] | None, ordered: st.SearchStrategy[Any] | None) -> Any:
    known: dict[str, st.SearchStrategy[Any]] = {}
    if exact is not None:
        known["eq"] = exact
    if ordered is not None:
        known |= dict.fromkeys(("eq", *ORDERS), ordered)
    elif exact is not None:
        known["in"] = st.lists(exact, max_size=4)
    return st.fixed_dictionaries({}, optional=known)


json_values = st.sampled_from(VALUES)
payload_entries = st.one_of(
    st.fixed_dictionaries(
        {"path": st.sampled_from(PATHS)},
        optional={
            "eq": json_values,
            "in": st.lists(json_values, max_size=5),
            "contains": json_values,
            "exists": st.booleans(),
        },
    ),
    st.fixed_dictionaries(
        {"path": st.sampled_from(DECLARED)},
        optional=dict.fromkeys(ORDERS, st.sampled_from([0, 1, 2.5, "", "x"])),
    ),
)
boxes = st.integers(2, 3).map(lambda axes: {"min": [1, 1, 1][:axes], "max": [3, 6, 2][:axes]})
leaves = st.fixed_dictionaries(
    {},
    optional={
        "kind": _operators(st.sampled_from([kind.value for kind in MemoryKind]), None),
        "key": _operators(st.sampled_from(["k1", "k2", "k3", "k30", "none"]), None),
        "title": _operators(st.sampled_from(["x", "y", "z"]), None),
        "importance": _operators(None, st.sampled_from([0, 0.5, 1, 3])),
        **{field: _operators(None, st.sampled_from(DATES)) for field in TIMES},
        "coordinate": boxes,
        "payload": st.lists(payload_entries, max_size=2),
    },
)
# Few members at once, or nothing is left that matches.
small = st.lists(st.sampled_from(["kind", "key", "title", "importance", *TIMES, "coordinate", "payload"]), max_size=2)
few = st.builds(lambda leaf, names: {name: leaf[name] for name in names if name in leaf}, leaves, small)
wheres = st.recursive(
    st.one_of(few, st.builds(lambda entry: {"payload": [entry]}, payload_entries)),
    lambda inner: st.fixed_dictionaries(
        {}, optional={"_and": st.lists(inner, max_size=3), "_or": st.lists(inner, max_size=3), "_not": inner}
    ),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=wheres)
async def test_filters_keep_what_a_naive_evaluator_keeps(
    services: Services, stored: Sequence[Memory], where: dict[str, Any]
) -> None:
    async with services.views.open() as view:
        page = await services.memory_reads.list(
            view, NS, where=parse_where(where), order=OrderBy(), first=100, after=None
        )
    assert [one.id for one in page.items] == [one.id for one in stored if _matches(where, one)]


async def test_moments_of_writing_are_compared_to_the_microsecond(
    services: Services, stored: Sequence[Memory]
) -> None:
    moment = stored[COUNT // 2].created_at
    for name in ("eq", *ORDERS):
        where = {"created_at": {name: moment.isoformat()}}
        async with services.views.open() as view:
            page = await services.memory_reads.list(
                view, NS, where=parse_where(where), order=OrderBy(), first=100, after=None
            )
        kept = [one.id for one in stored if _matches(where, one)]
        assert 0 < len(kept) < COUNT
        assert [one.id for one in page.items] == kept


@pytest.mark.parametrize(
    "condition",
    [
        {"path": ["n"], "eq": 17},
        {"path": ["n"], "in": [17, 18, 2_999]},
        {"path": ["n"], "in": list(range(1_000, 1_100))},
    ],
)
async def test_payload_values_are_found_by_index(
    services: Services, database_dsn: str, condition: dict[str, Any]
) -> None:
    payloads = [{"n": number} for number in range(5_000)]
    await services.memory_writes.store_many(NS, [{"content": "a", "payload": payload} for payload in payloads])
    async with await psycopg.AsyncConnection.connect(database_dsn, autocommit=True) as connection:
        await connection.execute("vacuum analyze memories")
        cursor = await connection.execute("select id from namespaces where name = %s", [NS])
        [namespace_id] = await cursor.fetchone() or [0]
        where = parse_where({"payload": [condition]})
        query, parameters = listing(namespace_id, where, OrderBy(), None, 2_000)
        cursor = await connection.execute("explain " + query, parameters)  # type: ignore[arg-type]
        plan = "\n".join(row[0] for row in await cursor.fetchall())
    assert "memories_payload" in plan, plan


def _many(count: int) -> dict[str, Any]:
    return {"path": ["n"], "in": list(range(count))}


@pytest.mark.parametrize(
    ("most", "too_much"),
    [
        ({"payload": [_many(MAX_LIST_VALUES)]}, {"payload": [_many(MAX_LIST_VALUES + 1)]}),
        (
            {"payload": [_many(1_000)] * (MAX_VALUES // 1_000)},
            {"payload": [_many(1_000)] * (MAX_VALUES // 1_000), "_not": {"key": {"in": ["one more"]}}},
        ),
        ({"_or": [{}] * MAX_CONDITIONS}, {"_or": [{}] * (MAX_CONDITIONS + 1)}),
        ({"_and": [{"_or": []}] * MAX_CONDITIONS}, {"_and": [{"_or": []}] * (MAX_CONDITIONS + 1)}),
        (
            {"payload": [{"path": ["a"]}] * (MAX_CONDITIONS - 1)},
            {"payload": [{"path": ["a"]}] * (MAX_CONDITIONS + 1)},
        ),
        ({"_or": [{"key": "a"}] * MAX_CONDITIONS}, {"_or": [{"key": "a"}] * (MAX_CONDITIONS + 1)}),
    ],
    ids=["values of a list", "values in all", "empty items", "empty lists", "empty entries", "conditions"],
)
def test_the_size_of_a_filter_is_bounded(most: dict[str, Any], too_much: dict[str, Any]) -> None:
    parse_where(most)
    with pytest.raises(InvalidInput):
        parse_where(too_much)
