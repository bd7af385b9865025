"""Storing, updating, forgetting and erasing: the meanings that two people would build differently."""

import asyncio
from typing import Any

import psycopg
import pytest

from sfm_graph.domain.identity import LinkId, MemoryRef
from sfm_graph.domain.inputs import memory_patch
from sfm_graph.domain.memory import Memory, WriteOperation
from sfm_graph.domain.recall import RecallQuery
from sfm_graph.domain.where import parse_where
from sfm_graph.errors import (
    CoordinateImmutable,
    IdempotencyConflict,
    InvalidCoordinate,
    InvalidInput,
    KeyTaken,
    MemoryNotFound,
    ModelMismatch,
    TooLarge,
    VersionConflict,
)
from sfm_graph.services.idempotency import idempotency_key
from sfm_graph.services.registry import Services

NS = "demo"


async def _get(services: Services, ref: MemoryRef, namespace: str = NS) -> Memory:
    async with services.views.open() as view:
        return await services.memory_reads.get(view, namespace, ref)


async def _count(dsn: str, table: str) -> int:
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        row = await (await connection.execute(f"select count(*) from {table}")).fetchone()  # type: ignore[arg-type]
        assert row
        return int(row[0])


async def test_storing_at_a_coordinate_again_updates_it(services: Services) -> None:
    first = await services.memory_writes.store(NS, {"coordinate": [1, 2, 3], "payload": {"task": "a"}})
    again = await services.memory_writes.store(NS, {"coordinate": [1, 2, 3], "payload": {"task": "b"}})
    assert (first.operation, again.operation) == (WriteOperation.CREATED, WriteOperation.UPDATED)
    assert again.memory.id == first.memory.id
    assert again.memory.version == 2
    stored = await _get(services, MemoryRef(coordinate=(1.0, 2.0, 3.0)))
    assert (stored.payload, stored.content, stored.version) == ({"task": "b"}, "b", 2)


async def test_a_key_and_a_coordinate_name_one_memory(services: Services) -> None:
    first = (await services.memory_writes.store(NS, {"coordinate": [1], "content": "x"})).memory
    named = (await services.memory_writes.store(NS, {"coordinate": [1], "key": "k", "content": "y"})).memory
    assert (named.id, named.key) == (first.id, "k")
    by_key = (await services.memory_writes.store(NS, {"key": "k", "content": "z"})).memory
    assert (by_key.id, by_key.coordinate, by_key.version) == (first.id, (1.0,), 3)


async def test_a_coordinate_never_moves(services: Services) -> None:
    await services.memory_writes.store(NS, {"coordinate": [1], "key": "k", "content": "x"})
    with pytest.raises(CoordinateImmutable):
        await services.memory_writes.store(NS, {"coordinate": [2], "key": "k", "content": "x"})


async def test_key_and_coordinate_of_two_memories_are_refused(services: Services) -> None:
    await services.memory_writes.store(NS, {"coordinate": [1], "key": "a", "content": "x"})
    await services.memory_writes.store(NS, {"coordinate": [2], "key": "b", "content": "x"})
    with pytest.raises(KeyTaken):
        await services.memory_writes.store(NS, {"coordinate": [2], "key": "a", "content": "x"})
    with pytest.raises(KeyTaken):
        await services.memory_writes.store(NS, {"coordinate": [1], "key": "new", "content": "x"})


async def test_negative_zero_is_zero(services: Services) -> None:
    first = (await services.memory_writes.store(NS, {"coordinate": [-0.0, 1], "content": "x"})).memory
    again = (await services.memory_writes.store(NS, {"coordinate": [0.0, 1], "content": "y"})).memory
    assert again.id == first.id
    assert str(first.coordinate[0]) == "0.0"


@pytest.mark.parametrize("bad", [[], [float("nan")], [float("inf")], [0.0] * 65, "1,2", [True], ["1"], [10**400]])
async def test_bad_coordinates_store_nothing(services: Services, database_dsn: str, bad: Any) -> None:
    with pytest.raises(InvalidCoordinate):
        await services.memory_writes.store(NS, {"coordinate": bad, "content": "x"})
    assert await _count(database_dsn, "memories") == 0
    assert await _count(database_dsn, "namespaces") == 0


async def test_the_same_content_twice_is_two_memories_without_a_key(services: Services) -> None:
    first = (await services.memory_writes.store(NS, {"content": "same"})).memory
    second = (await services.memory_writes.store(NS, {"content": "same"})).memory
    assert first.id != second.id
    assert len(first.coordinate) == len(second.coordinate) == 3
    assert first.coordinate != second.coordinate


async def test_expected_version_makes_a_change_conditional(services: Services) -> None:
    stored = (await services.memory_writes.store(NS, {"key": "k", "content": "x"})).memory
    with pytest.raises(VersionConflict):
        await services.memory_writes.update(NS, MemoryRef(key="k"), {"content": "y", "expected_version": 7})
    updated = await services.memory_writes.update(NS, MemoryRef(key="k"), {"content": "y", "expected_version": 1})
    assert (updated.version, updated.id) == (2, stored.id)
    with pytest.raises(VersionConflict):
        await services.memory_writes.store(NS, {"key": "k", "content": "z", "expected_version": 1})
    with pytest.raises(VersionConflict):
        await services.memory_writes.store(NS, {"key": "new", "content": "z", "expected_version": 1})
    with pytest.raises(VersionConflict):
        await services.memory_writes.forget_many(NS, [MemoryRef(key="k")], expected_version=1)


async def test_a_patch_replaces_only_what_it_names(services: Services) -> None:
    await services.memory_writes.store(NS, {"key": "k", "title": "T", "content": "x", "importance": 3})
    updated = await services.memory_writes.update(NS, MemoryRef(key="k"), {"payload": {"a": 1}, "title": None})
    assert (updated.content, updated.importance, updated.title, updated.payload) == ("x", 3.0, None, {"a": 1})
    assert await _get(services, MemoryRef(key="k")) == updated
    with pytest.raises(MemoryNotFound):
        await services.memory_writes.update(NS, MemoryRef(key="nobody"), {"content": "y"})
    for wrong in ({}, {"key": "z"}, {"coordinate": [1]}, {"content": None}):
        with pytest.raises(InvalidInput):
            await services.memory_writes.update(NS, MemoryRef(key="k"), wrong)


async def test_concurrent_patches_are_all_applied(services: Services) -> None:
    await services.memory_writes.store(NS, {"key": "k", "content": "x"})
    patches = [{"importance": 5}, {"title": "T"}, {"payload": {"p": 1}}, {"content": "new"}]
    await asyncio.gather(*(services.memory_writes.update(NS, MemoryRef(key="k"), one) for one in patches))
    stored = await _get(services, MemoryRef(key="k"))
    assert (stored.importance, stored.title, stored.payload, stored.content) == (5.0, "T", {"p": 1}, "new")
    assert stored.version == 5


async def test_concurrent_stores_at_one_key_make_one_memory(services: Services) -> None:
    results = await asyncio.gather(
        *(services.memory_writes.store(NS, {"key": "k", "content": f"x{i}"}) for i in range(8))
    )
    assert len({one.memory.id for one in results}) == 1
    assert sorted(one.memory.version for one in results) == list(range(1, 9))


async def test_forgetting_takes_links_vectors_and_words_along(services: Services, database_dsn: str) -> None:
    for key in ("a", "b"):
        await services.memory_writes.store(NS, {"key": key, "content": f"remember {key} well"})
    await services.links.link(NS, {"key": "a"}, {"key": "b"}, {})
    ids = await services.memory_writes.forget_many(NS, [MemoryRef(key="a"), MemoryRef(key="nobody")])
    assert len(ids) == 1
    for table, left in (("memories", 1), ("links", 0), ("embeddings", 1), ("words", 1)):
        assert await _count(database_dsn, table) == left, table
    async with services.views.open() as view:
        recalled = await services.recalls.recall(view, NS, RecallQuery("remember a well"))
        assert [hit.memory.key for hit in recalled.hits] == ["b"]
    with pytest.raises(MemoryNotFound):
        await _get(services, MemoryRef(key="a"))


async def test_erase_purges_the_log_too(services: Services, database_dsn: str) -> None:
    stored = (await services.memory_writes.store(NS, {"key": "a", "content": "a secret"})).memory
    await services.memory_writes.store(NS, {"key": "b", "content": "open"})
    await services.links.link(NS, {"key": "a"}, {"key": "b"}, {"properties": {"why": "a secret"}})
    await services.memory_writes.forget_many(NS, [MemoryRef(key="a")])
    assert await _count(database_dsn, "changes where concat(before, after) like '%secret%'") > 0
    erased = await services.memory_writes.erase_many(NS, [MemoryRef(id=stored.id)])
    assert erased == [stored.id]
    assert await _count(database_dsn, "changes where concat(before, after) like '%secret%'") == 0
    assert await _count(database_dsn, "changes where operation = 'erase'") == 1
    assert (await _get(services, MemoryRef(key="b"))).content == "open"


async def test_every_mutation_writes_its_change_rows(services: Services, database_dsn: str) -> None:
    await services.memory_writes.store(NS, {"key": "a", "content": "one"})
    await services.memory_writes.store(NS, {"key": "b", "content": "two"})
    await services.memory_writes.update(NS, MemoryRef(key="a"), {"content": "three"})
    await services.links.link(NS, {"key": "a"}, {"key": "b"}, {"type": "t"})
    await services.memory_writes.forget_many(NS, [MemoryRef(key="a")])
    async with await psycopg.AsyncConnection.connect(database_dsn) as connection:
        cursor = await connection.execute(
            "select entity, operation, before ->> 'content', after ->> 'content' from changes order by id"
        )
        rows = await cursor.fetchall()
    assert rows == [
        ("memory", "create", None, "one"),
        ("memory", "create", None, "two"),
        ("memory", "update", "one", "three"),
        ("link", "create", None, None),
        ("link", "forget", None, None),
        ("memory", "forget", "three", None),
    ]


async def test_an_idempotency_key_gives_the_first_answer_again(services: Services, database_dsn: str) -> None:
    body = {"content": "once"}
    key = idempotency_key("local", "k1", body)
    first = await services.memory_writes.store(NS, body, key=key)
    again = await services.memory_writes.store(NS, body, key=key)
    assert again == first
    assert await _count(database_dsn, "memories") == 1
    with pytest.raises(IdempotencyConflict):
        await services.memory_writes.store(
            NS, {"content": "other"}, key=idempotency_key("local", "k1", {"content": "other"})
        )
    other_principal = idempotency_key("somebody", "k1", body)
    assert (await services.memory_writes.store(NS, body, key=other_principal)).memory.id != first.memory.id
    other_namespace = await services.memory_writes.store("elsewhere", body, key=key)
    assert other_namespace.memory.namespace == "elsewhere"


async def test_concurrent_requests_with_one_key_act_once(services: Services, database_dsn: str) -> None:
    body = {"content": "once"}
    key = idempotency_key("local", "k", body)
    answers = await asyncio.gather(*(services.memory_writes.store(NS, body, key=key) for _ in range(6)))
    assert len({one.memory.id for one in answers}) == 1
    assert await _count(database_dsn, "memories") == 1


async def test_bulk_is_all_or_nothing_unless_partial(services: Services, database_dsn: str) -> None:
    items: list[dict[str, Any]] = [{"content": "ok"}, {"coordinate": [float("nan")]}, {"content": "fine"}]
    with pytest.raises(InvalidCoordinate) as caught:
        await services.memory_writes.store_many(NS, items)
    assert caught.value.details["index"] == 1
    assert await _count(database_dsn, "memories") == 0
    result = await services.memory_writes.store_many(NS, items, partial=True)
    assert [one.memory.content for one in result.stored] == ["ok", "fine"]
    assert [(one.index, one.code) for one in result.failed] == [(1, "invalid_coordinate")]
    with pytest.raises(TooLarge):
        await services.memory_writes.store_many(NS, [{"content": "x"}] * 10_001)


async def test_a_batch_acts_as_if_one_by_one(services: Services) -> None:
    items = [
        {"key": "a", "content": "1"},
        {"coordinate": [5], "content": "2"},
        {"key": "a", "content": "3"},
        {"coordinate": [5], "key": "b", "content": "4"},
        {"key": "b", "content": "5"},
    ]
    result = await services.memory_writes.store_many(NS, items)
    assert [one.memory.version for one in result.stored] == [1, 1, 2, 2, 3]
    assert (await _get(services, MemoryRef(key="a"))).content == "3"
    assert (await _get(services, MemoryRef(coordinate=(5.0,)))).content == "5"


async def test_unchanged_items_can_be_skipped(services: Services, database_dsn: str) -> None:
    items = [{"key": "a", "content": "1", "payload": {"x": 1}}, {"key": "b", "content": "2"}]
    await services.memory_writes.store_many(NS, items)
    items[1] = {"key": "b", "content": "changed"}
    result = await services.memory_writes.store_many(NS, items, skip_unchanged=True)
    assert [one.operation for one in result.stored] == [WriteOperation.UNCHANGED, WriteOperation.UPDATED]
    assert await _count(database_dsn, "changes") == 3


async def test_updating_many_is_one_transaction(services: Services) -> None:
    await services.memory_writes.store_many(NS, [{"key": key, "content": key} for key in "abc"])
    patches = [memory_patch(MemoryRef(key=key), {"importance": 9}) for key in "abc"]
    updated = await services.memory_writes.update_many(NS, patches)
    assert [one.importance for one in updated] == [9.0] * 3
    with pytest.raises(MemoryNotFound):
        await services.memory_writes.update_many(
            NS, [memory_patch(MemoryRef(key=key), {"importance": 1}) for key in ("a", "nobody")]
        )
    assert (await _get(services, MemoryRef(key="a"))).importance == 9.0


async def test_forgetting_by_filter(services: Services) -> None:
    await services.memory_writes.store_many(NS, [{"key": f"k{i}", "content": "x", "importance": i} for i in range(6)])
    gone = await services.memory_writes.forget_where(NS, parse_where({"importance": {"gte": 4}}))
    assert len(gone) == 2
    with pytest.raises(MemoryNotFound):
        await _get(services, MemoryRef(key="k5"))


async def test_vectors_of_another_model_are_never_mixed_in(services: Services) -> None:
    model = {"name": "given", "revision": "1", "dimension": 3}
    await services.namespaces.put(NS, settings=None, model=model)
    with pytest.raises(ModelMismatch):
        await services.memory_writes.store(NS, {"content": "no vector"})
    with pytest.raises(ModelMismatch):
        await services.memory_writes.store(NS, {"content": "x", "embedding": [1.0, 2.0]})
    await services.memory_writes.store(NS, {"key": "k", "content": "x", "embedding": [1.0, 2.0, 2.0]})
    updated = await services.memory_writes.update(NS, MemoryRef(key="k"), {"importance": 2})
    assert updated.importance == 2.0
    with pytest.raises(ModelMismatch):
        await services.memory_writes.update(NS, MemoryRef(key="k"), {"content": "needs a vector"})
    with pytest.raises(ModelMismatch):
        await services.namespaces.put(NS, settings=None, model={**model, "dimension": 4})


async def test_content_comes_from_the_payload_and_importance_too(services: Services) -> None:
    payload = {"task": "document SFM", "importance": 5, "deep": {"list": ["a", {"b": "c"}]}}
    memory = (await services.memory_writes.store(NS, {"payload": payload})).memory
    assert memory.content == "document SFM a c"
    assert memory.importance == 5.0
    with pytest.raises(InvalidInput):
        await services.memory_writes.store(NS, {})


@pytest.mark.parametrize(
    "fields",
    [
        {"content": "nul \x00 inside"},
        {"content": "lone \ud800 surrogate"},
        {"content": "x", "payload": {"a\x00": 1}},
        {"content": "x", "payload": {"n": 2**70}},
        {"content": "x", "payload": {"n": float("inf")}},
        {"content": "x", "payload": ["not an object"]},
        {"content": "x", "kind": "unknown"},
        {"content": "x", "importance": -1},
        {"content": "x", "importance": float("nan")},
        {"content": "x", "valid_from": "10000-01-01"},
        {"content": "x", "valid_from": "2020-01-02", "valid_to": "2020-01-01"},
        {"content": "x", "key": ""},
        {"content": "x", "key": " padded "},
        {"content": "x", "embedding": [0.0] * 256},
        {"content": "x", "embedding": [[1.0]]},
        {"content": "x", "misspelt": 1},
    ],
)
async def test_bad_fields_store_nothing(services: Services, database_dsn: str, fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        await services.memory_writes.store(NS, fields)
    assert await _count(database_dsn, "namespaces") == 0


async def test_deep_and_large_payloads_are_refused(services: Services) -> None:
    deep: Any = {}
    for _ in range(100):
        deep = {"d": deep}
    with pytest.raises(InvalidInput):
        await services.memory_writes.store(NS, {"content": "x", "payload": deep})
    with pytest.raises(TooLarge):
        await services.memory_writes.store(NS, {"content": "x", "payload": {"big": "x" * 1_500_000}})
    with pytest.raises(TooLarge):
        await services.memory_writes.store(NS, {"content": "ä" * 600_000})
    largest = await services.memory_writes.store(NS, {"content": " ".join(f"w{i:x}" for i in range(140_000))})
    assert largest.memory.version == 1


async def test_taking_something_out_of_nowhere_makes_no_namespace(services: Services, database_dsn: str) -> None:
    nobody = MemoryRef(key="nobody")
    assert await services.memory_writes.forget_many("void", [nobody]) == []
    assert await services.memory_writes.erase_many("void", [nobody]) == []
    assert await services.memory_writes.forget_where("void", parse_where({"key": "nobody"})) == []
    assert await services.links.unlink_many("void", [LinkId(1)]) == []
    with pytest.raises(MemoryNotFound):
        await services.links.unlink_between("void", nobody, nobody, None)
    assert await _count(database_dsn, "namespaces") == 0


async def test_concurrent_requests_with_one_key_act_once_in_a_used_namespace(
    services: Services, database_dsn: str
) -> None:
    await services.memory_writes.store(NS, {"content": "before"})
    body = {"content": "once"}
    key = idempotency_key("local", "k", body)
    answers = await asyncio.gather(*(services.memory_writes.store(NS, body, key=key) for _ in range(6)))
    assert len({one.memory.id for one in answers}) == 1
    assert await _count(database_dsn, "memories") == 2


async def test_one_batch_may_name_a_memory_by_key_and_by_coordinate(services: Services) -> None:
    await services.memory_writes.store(NS, {"coordinate": [1, 2, 3], "key": "k", "content": "0"})
    items = [
        {"coordinate": [1, 2, 3], "content": "1"},
        {"key": "k", "content": "2"},
        {"coordinate": [1, 2, 3], "content": "3"},
        {"key": "k", "content": "4"},
    ]
    result = await services.memory_writes.store_many(NS, items)
    assert [one.memory.version for one in result.stored] == [2, 3, 4, 5]
    assert (await _get(services, MemoryRef(key="k"))).content == "4"


async def test_an_erased_text_is_in_no_kept_answer(services: Services, database_dsn: str) -> None:
    body = {"key": "a", "content": "a secret"}
    key = idempotency_key("local", "k", body)
    stored = (await services.memory_writes.store(NS, body, key=key)).memory
    await services.memory_writes.erase_many(NS, [MemoryRef(id=stored.id)])
    assert await _count(database_dsn, "idempotency_keys where answer::text like '%secret%'") == 0


async def test_an_update_repeated_after_its_memory_was_forgotten_gives_the_first_answer(services: Services) -> None:
    await services.memory_writes.store(NS, {"key": "a", "content": "x"})
    body = {"importance": 7}
    key = idempotency_key("local", "k", body)
    first = await services.memory_writes.update(NS, MemoryRef(key="a"), body, key=key)
    await services.memory_writes.forget_many(NS, [MemoryRef(key="a")])
    assert await services.memory_writes.update(NS, MemoryRef(key="a"), body, key=key) == first


async def test_forgetting_by_an_undeclared_order_is_refused(services: Services) -> None:
    await services.memory_writes.store(NS, {"content": "x", "payload": {"n": 1}})
    with pytest.raises(InvalidInput, match="declared"):
        await services.memory_writes.forget_where(NS, parse_where({"payload": [{"path": "n", "gt": 0}]}))
