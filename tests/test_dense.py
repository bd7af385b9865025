"""The dense search in SQL: right at every filter, with few indexes, which never get in a reader's way."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from sfm_graph.domain.joining import joined
from sfm_graph.domain.recall import Candidates
from sfm_graph.services import maintenance
from sfm_graph.services.access.audit_retention import AuditRetention
from sfm_graph.services.changes.retention import Retention
from sfm_graph.services.maintenance import Maintenance
from sfm_graph.services.registry import Services
from sfm_graph.services.windows import Windows
from sfm_graph.store import dense, vector_indexes
from sfm_graph.store.database import Database
from sfm_graph.store.vector_indexes import Range
from sfm_graph.store.vector_types import half_vectors, id_array, register_vector_types

DIMENSION = 24
Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass
class Vectors:
    """A namespace whose vectors are stored without memories around them: the search looks at nothing else."""

    dsn: str
    database: Database
    services: Services
    namespace_id: int
    model_id: int

    async def add(self, ids: Ints, vectors: Floats, part: int = 0) -> None:
        async with await psycopg.AsyncConnection.connect(self.dsn, autocommit=True) as connection:
            await register_vector_types(connection)
            await connection.execute(
                "insert into embeddings (namespace_id, model_id, memory_id, part, embedding) "
                "select %s, %s, i, %s, v "
                "from unnest(%s::bigint[], %b::halfvec[]) with ordinality as u (i, v, n) order by n",
                (self.namespace_id, self.model_id, part, id_array(ids), half_vectors(vectors)),
            )

    async def run(self, statement: str, *parameters: Any) -> list[Any]:
        async with await psycopg.AsyncConnection.connect(self.dsn, autocommit=True) as connection:
            cursor = await connection.execute(statement, parameters)  # type: ignore[arg-type]
            return await cursor.fetchall() if cursor.description else []

    async def search(
        self, vector: Floats, count: int, allowed: Ints | None = None, *, windows: bool = False
    ) -> Candidates:
        async with self.database.read() as session:
            model = (self.model_id, DIMENSION)
            return await dense.dense(session, self.namespace_id, model, vector, count, allowed, windows=windows)

    async def index(self, replaced: list[Range] | None = None) -> None:
        """Index the tail, joined with the ranges to be replaced."""
        (span,) = await vector_indexes.tails(self.database)
        if replaced:
            span = type(span)(span.namespace_id, span.model_id, span.identity, replaced[0].span.after, span.last_id)
        assert await vector_indexes.build(self.database, span, replaced or ())

    async def index_names(self) -> set[str]:
        return {row[0] for row in await self.run("select indexname from pg_indexes where indexname like 'hnsw%%'")}


@pytest.fixture
async def vectors(services: Services, database_dsn: str) -> AsyncIterator[Vectors]:
    namespace = await services.namespaces.put("ns", settings=None, model={"name": "given", "dimension": DIMENSION})
    assert namespace.model is not None
    database = Database(database_dsn, role="sfm_service", max_size=4)
    await database.open()
    try:
        yield Vectors(database_dsn, database, services, namespace.id, namespace.model.id)
    finally:
        await database.close()


def _unit(count: int, seed: int = 0) -> Floats:
    """Half floats, so that the database computes with the same numbers. Clustered, as texts' vectors are."""
    chosen = np.random.default_rng(seed)
    centres = chosen.standard_normal((20, DIMENSION))
    raw = centres[chosen.integers(0, 20, count)] + chosen.standard_normal((count, DIMENSION))
    return (raw / np.linalg.norm(raw, axis=1)[:, None]).astype(np.float16).astype(np.float32)


def _ids(count: int, first: int = 1) -> Ints:
    return np.arange(first, first + count, dtype=np.int64)


def _shares(stored: Floats, asked: Floats, found: list[Candidates], allowed: Ints, count: int) -> float:
    """Mean share of the exact nearest memories (ids from 1) that were found."""
    shares = []
    for vector, one in zip(asked, found, strict=True):
        exact = allowed[np.argsort(-(stored[allowed - 1] @ vector), kind="stable")[:count]]
        assert len(one.ids) == min(count, len(allowed))
        assert set(one.ids.tolist()) <= set(allowed.tolist())
        assert one.scores == pytest.approx(stored[one.ids - 1] @ vector, abs=2e-3)
        assert one.scores.tolist() == sorted(one.scores.tolist(), reverse=True)
        shares.append(len(set(exact.tolist()) & set(one.ids.tolist())) / len(exact))
    return float(np.mean(shares))


@pytest.mark.parametrize("exact_below", [0, dense.EXACT_FILTERED])
@pytest.mark.parametrize("kept", ["all", "tenth", "hundredth", "topic", "five"])
async def test_the_nearest_are_found_whatever_a_filter_keeps(
    vectors: Vectors, monkeypatch: pytest.MonkeyPatch, kept: str, exact_below: int
) -> None:
    monkeypatch.setattr(dense, "EXACT_FILTERED", exact_below)
    stored, asked = _unit(3_000), _unit(25, seed=9)
    await vectors.add(_ids(2_000), stored[:2_000])
    await vectors.index()
    await vectors.add(_ids(700, 2_001), stored[2_000:2_700])
    await vectors.index()
    await vectors.add(_ids(300, 2_701), stored[2_700:])
    topic = np.argsort(-(stored @ stored[0]))[:300] + 1
    allowed = {
        "all": None, "tenth": _ids(3_000)[3::10], "hundredth": _ids(3_000)[7::100], "topic": np.sort(topic),
        "five": np.array([5, 900, 2_100, 2_800, 2_999]),
    }[kept]  # fmt: skip
    found = [await vectors.search(vector, 10, allowed) for vector in asked]
    assert _shares(stored, asked, found, _ids(3_000) if allowed is None else allowed, 10) >= 0.99


async def test_memories_of_many_parts_do_not_crowd_out_others(vectors: Vectors) -> None:
    stored = _unit(40 * 60).reshape(40, 60, DIMENSION)
    # All parts of the first ten memories are nearer to the query than any other memory's.
    stored[:10] = _unit(1, seed=4)
    for part in range(60):
        await vectors.add(_ids(40), stored[:, part], part)
    await vectors.index()
    found = await vectors.search(_unit(1, seed=4)[0], 30)
    assert len(set(found.ids.tolist())) == len(found.ids) == 30
    assert set(found.ids[:10].tolist()) == set(range(1, 11))


@pytest.mark.parametrize("indexed", [False, True])
async def test_windows_are_a_list_of_their_own(vectors: Vectors, indexed: bool) -> None:
    own, windows = _unit(400, seed=1), _unit(400, seed=2)
    await vectors.add(_ids(400), own)
    await vectors.add(_ids(300), windows[:300], part=-1)
    if indexed:
        await vectors.index()
    await vectors.add(_ids(100, 301), windows[300:], part=-1)
    asked = _unit(10, seed=3)
    for stored, flag in ((own, False), (windows, True)):
        found = [await vectors.search(vector, 10, windows=flag) for vector in asked]
        assert _shares(stored, asked, found, _ids(400), 10) >= 0.99


async def test_similarities_of_memories_and_their_windows(vectors: Vectors) -> None:
    own, windows = _unit(4, seed=1), _unit(4, seed=2)
    await vectors.add(_ids(3), own[:3])
    await vectors.add(np.array([1]), own[3:], part=1)
    await vectors.add(np.array([2, 4]), windows[:2], part=-1)
    vector = _unit(1, seed=5)[0]
    async with vectors.database.read() as session:
        ids = np.array([4, 2, 9, 1])
        mine, around = await dense.similarities(session, vectors.namespace_id, vectors.model_id, vector, ids)
        assert [len(one) for one in await dense.similarities(
            session, vectors.namespace_id, vectors.model_id, vector, ids[:0])] == [0, 0]  # fmt: skip
    nan = float("nan")
    best = max(own[0] @ vector, own[3] @ vector)
    assert mine == pytest.approx([nan, own[1] @ vector, nan, best], abs=2e-3, nan_ok=True)
    assert around == pytest.approx([windows[1] @ vector, windows[0] @ vector, nan, nan], abs=2e-3, nan_ok=True)


async def test_what_is_not_valid_now_does_not_cost_places(services: Services, vectors: Vectors) -> None:
    stored = _unit(300)
    items = [
        {"content": "x", "embedding": one.tolist(), **({"valid_to": "2020-01-01"} if i < 250 else {})}
        for i, one in enumerate(stored)
    ]
    done = await services.memory_writes.store_many("ns", items)
    await vectors.index()
    found = await vectors.search(stored[0], 40)
    assert len(found.ids) == 40
    assert set(found.ids.tolist()) <= {item.memory.id for item in done.stored[250:]}


async def test_equal_vectors_come_by_id(vectors: Vectors) -> None:
    await vectors.add(_ids(60), np.repeat(_unit(1), 60, axis=0))
    assert (await vectors.search(_unit(1)[0], 7)).ids.tolist() == list(range(1, 8))
    await vectors.index()
    assert (await vectors.search(_unit(1)[0], 60)).ids.tolist() == list(range(1, 61))


async def test_a_reader_of_old_ranges_is_served_by_the_index_that_replaced_theirs(vectors: Vectors) -> None:
    stored, asked = _unit(900), _unit(10, seed=8)
    for number in range(3):
        await vectors.add(_ids(300, 1 + 300 * number), stored[300 * number : 300 * (number + 1)])
        await vectors.index()
    before = await vector_indexes.ranges(vectors.database)
    assert [one.built for one in before] == [300, 300, 300]
    await vectors.add(_ids(1, 901), _unit(1, seed=77))
    await vectors.index(before)
    await vector_indexes.drop_unfinished(vectors.database)
    (after,) = await vector_indexes.ranges(vectors.database)
    assert await vectors.index_names() == {after.name, f"{after.name}_windows"}
    old = [(one.span.after + 1, one.span.last_id) for one in before]
    async with vectors.database.read() as session:
        for vector in asked:
            scope = dense._Scope(vectors.namespace_id, (vectors.model_id, DIMENSION), vector, None, windows=False)
            query = scope.indexed(old, 100, 10)
            await session.dynamic("select set_config('enable_seqscan', 'off', true)")
            plan = "\n".join(
                row[0] for row in await session.dynamic("explain " + query.as_string(), scope.parameters)
            )
            assert plan.count(after.name) == 3, plan
            rows = await session.dynamic(query, scope.parameters)
            assert len(rows) == 10
            assert all(score == pytest.approx(stored[one - 1] @ vector, abs=2e-3) for one, score in rows if one < 901)


async def test_a_search_goes_on_while_ranges_are_joined(vectors: Vectors) -> None:
    """The build waits for a reader's snapshot, not the other way round."""
    stored = _unit(400)
    await vectors.add(_ids(400), stored)
    await vectors.index()
    await vectors.add(_ids(10, 401), _unit(10, seed=3))
    async with vectors.database.read() as session:
        model = (vectors.model_id, DIMENSION)
        building = asyncio.create_task(vectors.index(await vector_indexes.ranges(vectors.database)))
        for _ in range(20):
            found = await dense.dense(session, vectors.namespace_id, model, stored[0], 10, None)
            assert found.ids[0] == 1
            await asyncio.sleep(0.01)
        assert not building.done()
    await building
    assert len(await vector_indexes.ranges(vectors.database)) == 1


async def test_what_a_crash_leaves_behind_is_dropped(vectors: Vectors) -> None:
    await vectors.add(_ids(300), _unit(300))
    await vectors.index()
    (serving,) = await vector_indexes.ranges(vectors.database)
    kept = {serving.name, f"{serving.name}_windows"}
    # Cut off before the switch: an index that nobody knows, perhaps an invalid one.
    condition = f"namespace_id = {vectors.namespace_id} and id <= 100"
    for name in ("hnsw_orphan", "hnsw_invalid"):
        await vectors.run(
            f"create index {name} on embeddings using hnsw ((embedding::halfvec({DIMENSION})) halfvec_ip_ops) "
            f"where {condition}"
        )
    await vectors.run("update pg_index set indisvalid = false where indexrelid = 'hnsw_invalid'::regclass")
    assert await vectors.index_names() > kept
    await vector_indexes.drop_unfinished(vectors.database)
    assert await vectors.index_names() == kept
    assert len((await vectors.search(_unit(1)[0], 10)).ids) == 10


async def test_one_builder_at_a_time(vectors: Vectors) -> None:
    await vectors.add(_ids(300), _unit(300))
    await vectors.run("create table other (x int)")
    (tail,) = await vector_indexes.tails(vectors.database)
    async with await psycopg.AsyncConnection.connect(vectors.dsn, autocommit=True) as other:
        await other.execute("select pg_advisory_lock(%s)", (vector_indexes.INDEXER_LOCK,))
        assert not await vector_indexes.build(vectors.database, tail)
        await vectors.run(
            f"create index hnsw_theirs on embeddings using hnsw ((embedding::halfvec({DIMENSION})) halfvec_ip_ops) "
            f"where namespace_id = {vectors.namespace_id}"
        )
        await vector_indexes.drop_unfinished(vectors.database)
        assert await vectors.index_names() == {"hnsw_theirs"}
        await other.execute("select pg_advisory_unlock(%s)", (vector_indexes.INDEXER_LOCK,))
    assert await vector_indexes.build(vectors.database, tail)


async def test_a_deleted_namespace_takes_its_indexes_along(services: Services, vectors: Vectors) -> None:
    await vectors.add(_ids(300), _unit(300))
    (tail,) = await vector_indexes.tails(vectors.database)
    await vectors.index()
    await services.namespaces.delete("ns", confirm="ns")
    # A build that ends after the deletion must not announce its index.
    assert not await vector_indexes.build(vectors.database, tail)
    await vector_indexes.drop_unfinished(vectors.database)
    assert await vectors.index_names() == set()
    assert await vectors.run("select * from vector_indexes") == []


class _NothingExact:
    """Indexing rules under which every namespace is large enough for an index."""

    def exact_scan_limit(self, identity: object) -> int:
        return 0


def _maintenance(database: Database, tail: int) -> Maintenance:
    indexing: Any = _NothingExact()
    return Maintenance(
        database, indexing, Windows(database, indexing), Retention(database, days=1),
        audit_retention=AuditRetention(database, days=365), tail=tail, interval_ms=1,
    )  # fmt: skip


async def test_a_slowly_growing_namespace_keeps_few_ranges(vectors: Vectors) -> None:
    background = _maintenance(vectors.database, 50)
    stored = _unit(50 * 24)
    most = 0
    for step in range(24):
        await vectors.add(_ids(50, 1 + 50 * step), stored[50 * step : 50 * (step + 1)])
        for _ in range(2):
            await background.round()
        most = max(most, len(await vector_indexes.ranges(vectors.database)))
    # 24 tails; each range is at least twice as large as the next.
    assert 2 <= most <= 5
    found = await vector_indexes.ranges(vectors.database)
    sizes = [one.built for one in found]
    assert sum(sizes) == 1_200
    assert all(older >= 2 * newer for older, newer in pairwise(sizes))
    assert [one.span.after for one in found[1:]] == [one.span.last_id for one in found[:-1]]
    asked = _unit(10, seed=6)
    answers = [await vectors.search(vector, 10) for vector in asked]
    assert _shares(stored, asked, answers, _ids(1_200), 10) >= 0.99


async def test_quiet_namespaces_are_joined_further(vectors: Vectors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maintenance, "QUIET", 6)
    background = _maintenance(vectors.database, 80)
    for count, first in ((400, 1), (80, 401), (12, 481)):
        await vectors.add(_ids(count, first), _unit(count, seed=first))
        for _ in range(3):
            await background.round()
    assert [one.built for one in await vector_indexes.ranges(vectors.database)] == [400, 80]
    for _ in range(8):
        await background.round()
    assert [one.built for one in await vector_indexes.ranges(vectors.database)] == [492]


async def test_a_tail_larger_than_a_build_may_be_is_indexed_in_pieces(
    vectors: Vectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vector_indexes, "MAX_ROWS", 100)
    background = _maintenance(vectors.database, 30)
    await vectors.add(_ids(250), _unit(250))
    for _ in range(8):
        await background.round()
    assert [one.built for one in await vector_indexes.ranges(vectors.database)] == [100, 100, 50]


async def test_ranges_whose_rows_are_gone_are_built_anew_or_dropped(vectors: Vectors) -> None:
    background = _maintenance(vectors.database, 40)
    await vectors.add(_ids(400), _unit(400))
    await _rounds(background, 3)
    (before,) = await vector_indexes.ranges(vectors.database)
    await vectors.run("delete from embeddings where memory_id between 20 and 399")
    await _until_deleted(vectors, 380)
    await _rounds(background, 3)
    (after,) = await vector_indexes.ranges(vectors.database)
    assert (after.span, after.built) == (before.span, 20)
    assert after.name != before.name
    await vectors.run("delete from embeddings")
    await _until_deleted(vectors, 400)
    await _rounds(background, 3)
    assert await vector_indexes.ranges(vectors.database) == []
    assert await vectors.index_names() == set()


async def _rounds(background: Maintenance, count: int) -> None:
    for _ in range(count):
        await background.round()


async def _until_deleted(vectors: Vectors, count: int) -> None:
    """The server tells of deletions about a second later."""
    for _ in range(200):
        ((deleted,),) = await vectors.run("select pg_stat_get_tuples_deleted('embeddings'::regclass)")
        if deleted >= count:
            return
        await asyncio.sleep(0.05)
    raise AssertionError("the deletions are not in the statistics")


@given(
    st.lists(st.tuples(st.integers(0, 1_000), st.booleans()), max_size=12),
    st.integers(0, 1_000),
    st.integers(2, 8),
    st.integers(1, 4_000),
)
def test_joining_ends_with_few_pieces(pieces: list[tuple[int, bool]], tail: int, factor: int, capacity: int) -> None:
    sizes = [size for size, _ in pieces]
    hollow = [flag for _, flag in pieces]
    rows = sum(sizes) + tail
    for _ in range(40):
        chosen = joined([*sizes, tail], hollow, factor=factor, capacity=capacity)
        if chosen is None:
            break
        first, end = chosen
        taken = [*sizes, tail][first:end]
        assert len(taken) == 1 or sum(taken) <= capacity
        if end == len(sizes) + 1:
            tail = 0
        sizes[first:end], hollow[first:end] = [sum(taken)], [False]
    assert chosen is None
    assert sum(sizes) + tail == rows
    assert tail == 0
    for older, newer in pairwise(sizes):
        assert older >= factor * newer or older + newer > capacity
