"""The vector search, one suite on Postgres and on Qdrant: its local mode, and a server when QDRANT_URL names one."""

import asyncio
import os
import random
import ssl
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import certifi
import httpx
import numpy as np
import psycopg
import pytest
from numpy.typing import NDArray
from pydantic import SecretStr
from qdrant_client import AsyncQdrantClient, models
from served import until

from sfm_graph import backends
from sfm_graph.adapters.qdrant import index as adapter
from sfm_graph.adapters.qdrant.index import QdrantIndex
from sfm_graph.adapters.qdrant.opening import client_arguments, open_client
from sfm_graph.app import app_for
from sfm_graph.domain.identity import MemoryRef
from sfm_graph.domain.namespace import StoredModel
from sfm_graph.domain.recall import Candidates
from sfm_graph.errors import SettingsError, VectorIndexUnavailable
from sfm_graph.ports.vector_index import Collection, Near, Points
from sfm_graph.runtime import open_runtime
from sfm_graph.services import index_guard, vector_indexing, vector_search
from sfm_graph.services.registry import Services
from sfm_graph.services.vector_indexing import VectorIndexing
from sfm_graph.services.vector_search import IndexSearch, PostgresSearch, VectorSearch, WriteSearch
from sfm_graph.settings import Settings, load_settings
from sfm_graph.store import dense, followers, vector_points
from sfm_graph.store.change_stream import Scope, log_of, read_slice
from sfm_graph.store.database import Database, Session
from sfm_graph.store.vector_types import half_vectors, id_array, register_vector_types

DIMENSION = 16
DEADLINE = 60.0
Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

pytestmark = [
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local Qdrant:UserWarning"),
    pytest.mark.filterwarnings("ignore:Local mode performs exact:UserWarning"),
]
SERVER = pytest.param(
    "server", marks=pytest.mark.skipif(not os.environ.get("QDRANT_URL"), reason="QDRANT_URL names no server")
)


@dataclass
class Rig:
    """A namespace of vectors without memories around them: the search looks at nothing else."""

    dsn: str
    services: Services
    database: Database
    client: AsyncQdrantClient | None
    search: VectorSearch
    model: StoredModel
    namespace_id: int
    indexing: VectorIndexing | None = None
    stored: dict[int, list[Floats]] = field(default_factory=dict)

    async def put(self, ids: Ints, vectors: Floats, part: int = 0, namespace_id: int | None = None) -> None:
        """Store vectors as a write does, with their change rows."""
        scope = namespace_id or self.namespace_id
        async with await psycopg.AsyncConnection.connect(self.dsn) as connection:
            await register_vector_types(connection)
            await connection.execute(
                "insert into embeddings (namespace_id, model_id, memory_id, part, embedding) "
                "select %s, %s, i, %s, v from unnest(%s::bigint[], %b::halfvec[]) as u (i, v)",
                (scope, self.model.id, part, id_array(ids), half_vectors(vectors)),
            )
            await connection.execute(
                "insert into changes (namespace_id, entity, entity_id, operation) "
                "select %s, 'memory', i, 'reindex' from unnest(%s::bigint[]) as u (i)",
                (scope, id_array(ids)),
            )
        if part >= 0 and scope == self.namespace_id:
            for one, vector in zip(ids.tolist(), vectors, strict=True):
                self.stored.setdefault(one, []).append(vector)

    async def run(self, statement: str, *parameters: Any) -> list[Any]:
        async with await psycopg.AsyncConnection.connect(self.dsn, autocommit=True) as connection:
            cursor = await connection.execute(statement, parameters)  # type: ignore[arg-type]
            return await cursor.fetchall() if cursor.description else []

    async def nearest(
        self, vector: Floats, count: int, allowed: Ints | None = None, *, windows: bool = False,
        namespace_id: int | None = None, model: StoredModel | None = None,
    ) -> Candidates:  # fmt: skip
        async with self.database.read() as session:
            return await self.search.nearest(
                session, namespace_id or self.namespace_id, model or self.model, vector, count, allowed,
                windows=windows,
            )  # fmt: skip

    async def indexed(self, *, batch: int = 40) -> None:
        """Bring the index to the end of the log, as the follower does."""
        if self.indexing is None:
            return
        key = followers.Key(vector_points.FOLLOWER, 1, 0)
        async with self.database.dedicated() as connection:
            session = Session(connection)
            async with self.database.read() as view:
                found = await log_of(view)
            position = await followers.position(session, key, found.epoch)
            if position is None:
                position = await self.indexing.load()
                await followers.begin(session, key, position, found.epoch)
            mark = followers.Mark(session, key, found.epoch, position)
            at_end = False
            while not at_end:
                async with self.database.read() as view:
                    part = await read_slice(view, Scope(reindex=True), mark.position, batch)
                # A delta that was left in the middle ends before what was written since.
                at_end = part.complete and mark.position.until is None
                await self.indexing.handle(found, part.changes)
                await mark.move(mark.position.after(part))

    def expected(self, vector: Floats, count: int, allowed: Ints | None = None) -> list[int]:
        kept = set(self.stored) if allowed is None else set(self.stored) & set(allowed.tolist())
        scores = {one: round(max(float(part @ vector) for part in self.stored[one]), 6) for one in kept}
        return sorted(kept, key=lambda one: (-scores[one], one))[:count]


class Counted:
    """An index that counts what it is asked, and fails on demand."""

    def __init__(self, index: QdrantIndex) -> None:
        self.index = index
        self.calls: list[str] = []
        self.fails: Callable[[str], bool] = lambda name: False
        self.before: Callable[[str], Any] | None = None
        self.points = 0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.index, name)

        async def called(*arguments: Any, **options: Any) -> Any:
            self.calls.append(name)
            if name == "put":
                self.points += len(arguments[1])
            if self.before is not None:
                await self.before(name)
            if self.fails(name):
                raise VectorIndexUnavailable("away")
            return await method(*arguments, **options)

        return called


@pytest.fixture(autouse=True)
def _small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything takes more than one page."""
    monkeypatch.setattr(vector_indexing, "PAGE", 50)
    monkeypatch.setattr(vector_indexing, "MEMORIES", 15)
    monkeypatch.setattr(vector_indexing, "UPLOADED", 9)
    monkeypatch.setattr(adapter, "SCROLLED", 7)
    monkeypatch.setattr(vector_search, "LEAST", 12)
    monkeypatch.setattr(index_guard, "REFUSING_SECONDS", 0.0)


@pytest.fixture
async def local() -> AsyncIterator[AsyncQdrantClient]:
    client = AsyncQdrantClient(":memory:")
    yield client
    await client.close()


@pytest.fixture(params=["postgres", "local", SERVER])
async def rig(
    request: pytest.FixtureRequest, services: Services, database_dsn: str, local: AsyncQdrantClient
) -> AsyncIterator[Rig]:
    async for made in _rig(request.param, services, database_dsn, local):
        yield made


@pytest.fixture(params=["local", SERVER])
async def indexed_rig(
    request: pytest.FixtureRequest, services: Services, database_dsn: str, local: AsyncQdrantClient
) -> AsyncIterator[Rig]:
    async for made in _rig(request.param, services, database_dsn, local):
        yield made


async def _rig(kind: str, services: Services, dsn: str, local: AsyncQdrantClient) -> AsyncIterator[Rig]:
    namespace = await services.namespaces.put("ns", settings=None, model={"name": "given", "dimension": DIMENSION})
    assert namespace.model is not None
    database = Database(dsn, role="sfm_service", max_size=6)
    await database.open()
    client = local if kind == "local" else open_client(load_settings()) if kind == "server" else None
    try:
        if client is None:
            yield Rig(dsn, services, database, None, PostgresSearch(), namespace.model, namespace.id)
        else:
            index = Counted(QdrantIndex(client))
            yield Rig(
                dsn, services, database, client, IndexSearch(index), namespace.model, namespace.id,
                VectorIndexing(database, index, poll_seconds=0.01),
            )  # fmt: skip
    finally:
        if kind == "server" and client is not None:
            async with database.read() as session:
                log = await log_of(session)
            for collection in await QdrantIndex(client).collections(log.id):
                await client.delete_collection(adapter._name(collection))
            await client.close()
        await database.close()


def _index(rig: Rig) -> Counted:
    assert rig.indexing is not None
    return rig.indexing._index  # type: ignore[return-value]


def _unit(count: int, seed: int = 0) -> Floats:
    """Half floats, so that numpy computes with the same numbers."""
    raw = np.random.default_rng(seed).standard_normal((count, DIMENSION))
    return (raw / np.linalg.norm(raw, axis=1)[:, None]).astype(np.float16).astype(np.float32)


def _ids(count: int, first: int = 1) -> Ints:
    return np.arange(first, first + count, dtype=np.int64)


def _item(key: str, vector: Floats, **fields: Any) -> dict[str, Any]:
    return {"key": key, "content": f"text {key}", "embedding": vector.tolist(), **fields}


async def _contents(rig: Rig) -> dict[Collection, dict[int, tuple[int, int, bool]]]:
    """All points by collection, those of empty collections left out."""
    found: dict[Collection, dict[int, tuple[int, int, bool]]] = {}
    index = _index(rig).index
    async with rig.database.read() as session:
        log = await log_of(session)
    for collection in await index.collections(log.id):
        points = await index.page(collection, 0, 100_000)
        rows = zip(*(column.tolist() for column in (
            points.ids, points.namespace_ids, points.memory_ids, points.windows)), strict=True)  # fmt: skip
        if contents := {row[0]: row[1:] for row in rows}:
            found[collection] = contents  # type: ignore[assignment]
    return found


async def _assert_equal(rig: Rig) -> None:
    """The index holds what the database holds, no more and no less."""
    async with rig.database.read() as session:
        log = await log_of(session)
    expected: dict[Collection, dict[int, tuple[int, int, bool]]] = {}
    for id_, model, dimension, *rest in await rig.run(
        "select e.id, m.id, m.dimension, e.namespace_id, e.memory_id, e.part < 0 from embeddings e "
        "join models m on m.id = e.model_id"
    ):
        expected.setdefault(Collection(log.id, model, dimension), {})[id_] = tuple(rest)
    assert await _contents(rig) == expected


async def test_the_nearest_are_exact(rig: Rig) -> None:
    await rig.put(_ids(400), _unit(400))
    await rig.indexed()
    for vector, count in zip(_unit(6, seed=9), [1, 10, 10, 130, 400, 1_000], strict=True):
        found = await rig.nearest(vector, count)
        assert found.ids.tolist() == rig.expected(vector, count)
        own = [float(rig.stored[one][0] @ vector) for one in found.ids.tolist()]
        assert found.scores == pytest.approx(own, abs=1e-5)


@pytest.mark.parametrize("exact_below", [0, 60, 20_000])
async def test_a_filter_costs_no_places(rig: Rig, monkeypatch: pytest.MonkeyPatch, exact_below: int) -> None:
    monkeypatch.setattr(dense, "EXACT_FILTERED", exact_below)
    await rig.put(_ids(400), _unit(400))
    await rig.indexed()
    for allowed in (_ids(0), _ids(1, 77), _ids(400)[::10], _ids(400)[::2], _ids(400), _ids(50, 380)):
        for vector in _unit(3, seed=8):
            found = await rig.nearest(vector, 25, allowed)
            assert found.ids.tolist() == rig.expected(vector, 25, allowed)


async def test_a_filter_that_keeps_only_what_is_far(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense, "EXACT_FILTERED", 0)
    monkeypatch.setattr(vector_search, "MAX_POINTS", 60)
    await rig.put(_ids(300), _unit(300))
    await rig.indexed()
    vector = _unit(1, seed=4)[0]
    far = np.sort(np.array(rig.expected(vector, 300)[-40:]))
    assert (await rig.nearest(vector, 20, far)).ids.tolist() == rig.expected(vector, 20, far)


async def test_windows_are_a_list_of_their_own(rig: Rig) -> None:
    own, windows = _unit(120, seed=1), _unit(120, seed=2)
    await rig.put(_ids(120), own)
    await rig.put(_ids(80), windows[:80], part=-1)
    await rig.indexed()
    await rig.put(_ids(40, 81), windows[80:], part=-1)
    for vector in _unit(4, seed=3):
        assert (await rig.nearest(vector, 10)).ids.tolist() == rig.expected(vector, 10)
        found = await rig.nearest(vector, 10, windows=True)
        assert found.ids.tolist() == (np.argsort(-(windows @ vector), kind="stable")[:10] + 1).tolist()


async def test_a_memory_counts_once_with_its_best_part(rig: Rig) -> None:
    vectors = _unit(20 * 30).reshape(20, 30, DIMENSION)
    # All parts of the first five are nearer to the query than any of the others.
    vectors[:5] = _unit(1, seed=4)
    for part in range(30):
        await rig.put(_ids(20), vectors[:, part], part)
    await rig.indexed()
    for vector in (_unit(1, seed=4)[0], _unit(1, seed=5)[0]):
        assert (await rig.nearest(vector, 12)).ids.tolist() == rig.expected(vector, 12)


async def test_equal_vectors_come_by_id(rig: Rig) -> None:
    await rig.put(_ids(60), np.repeat(_unit(1), 60, axis=0))
    await rig.indexed()
    assert (await rig.nearest(_unit(1)[0], 20)).ids.tolist() == list(range(1, 21))


async def test_two_namespaces_never_mix(rig: Rig) -> None:
    other = await rig.services.namespaces.put("other", settings=None, model={"name": "given", "dimension": DIMENSION})
    vectors = _unit(60)
    await rig.put(_ids(30), vectors[:30])
    await rig.put(_ids(30, 31), vectors[30:], namespace_id=other.id)
    await rig.indexed()
    vector = _unit(1, seed=2)[0]
    assert sorted((await rig.nearest(vector, 100)).ids.tolist()) == list(range(1, 31))
    assert sorted((await rig.nearest(vector, 100, namespace_id=other.id)).ids.tolist()) == list(range(31, 61))


@pytest.mark.parametrize("indexed", [False, True])
async def test_what_is_not_valid_now_costs_no_places(rig: Rig, indexed: bool) -> None:
    vectors = _unit(120)
    ends = {"valid_to": "2020-01-01"}
    items = [_item(f"k{i}", one, **(ends if i < 90 else {})) for i, one in enumerate(vectors)]
    done = await rig.services.memory_writes.store_many("ns", items)
    if indexed:
        await rig.indexed()
    found = await rig.nearest(vectors[0], 20)
    assert len(found.ids) == 20
    assert set(found.ids.tolist()) <= {one.memory.id for one in done.stored[90:]}


@pytest.mark.parametrize("indexed", [False, True])
async def test_every_write_is_seen_at_once(rig: Rig, indexed: bool) -> None:
    """`indexed` False: the index has read none of it."""
    await rig.put(_ids(100, 1_000_000), _unit(100, seed=7))
    await rig.indexed()
    writes = rig.services.memory_writes
    vector, away = _unit(1, seed=1)[0], -_unit(1, seed=1)[0]

    async def first() -> int | None:
        if indexed:
            await rig.indexed()
        found = await rig.nearest(vector, 1)
        return int(found.ids[0]) if found.scores[0] > 0.999 else None

    assert await first() is None
    (stored,) = (await writes.store_many("ns", [_item("a", vector)])).stored
    assert await first() == stored.memory.id
    await writes.store_many("ns", [_item("a", away, content="another")])
    assert await first() is None
    await writes.store_many("ns", [_item("a", vector, content="a third")])
    assert await first() == stored.memory.id
    await writes.forget_many("ns", [MemoryRef(key="a")])
    assert await first() is None
    (again,) = (await writes.store_many("ns", [_item("b", vector)])).stored
    assert await first() == again.memory.id
    await writes.erase_many("ns", [MemoryRef(key="b")])
    assert await first() is None
    await rig.indexed()
    if rig.indexing is not None:
        await _assert_equal(rig)


async def test_a_namespace_that_ended_leaves_nothing(rig: Rig) -> None:
    await rig.services.memory_writes.store_many("ns", [_item(f"k{i}", one) for i, one in enumerate(_unit(40))])
    await rig.indexed()
    await rig.services.namespaces.delete("ns", confirm="ns")
    assert len((await rig.nearest(_unit(1)[0], 10)).ids) == 0
    await rig.indexed()
    if rig.indexing is not None:
        assert await _contents(rig) == {}
    again = await rig.services.namespaces.put("ns", settings=None, model={"name": "given", "dimension": DIMENSION})
    assert len((await rig.nearest(_unit(1)[0], 10, namespace_id=again.id)).ids) == 0


async def test_re_embedding_moves_to_another_collection(rig: Rig) -> None:
    """Vectors change without their memories; each such change is in the log."""
    turns = [{"session": f"s{i // 5}", "position": i} for i in range(40)]
    items = [_item(f"k{i}", one, payload=turns[i]) for i, one in enumerate(_unit(40))]
    await rig.services.memory_writes.store_many("ns", items)
    await rig.indexed()
    await rig.services.reembed.run("ns")
    (row,) = await rig.run("select m.id, m.name, m.revision, m.dimension from models m join namespaces n "
                           "on n.model_id = m.id where n.name = 'ns'")  # fmt: skip
    assert row[0] != rig.model.id
    model = StoredModel(row[0], type(rig.model.identity)(*row[1:]))
    vector = np.zeros(row[3], np.float32)
    vector[:7] = 7**-0.5
    async with rig.database.read() as session:
        expected = await PostgresSearch().nearest(session, rig.namespace_id, model, vector, 9, None)
    assert len(expected.ids) == 9
    for windows in (False, True):
        before = await rig.nearest(vector, 9, model=model, windows=windows)
        await rig.indexed()
        after = await rig.nearest(vector, 9, model=model, windows=windows)
        assert before.ids.tolist() == after.ids.tolist()
    assert (await rig.nearest(vector, 9, model=model)).ids.tolist() == expected.ids.tolist()
    if rig.indexing is not None:
        await _assert_equal(rig)
        assert {one.model_id for one in await _contents(rig)} == {model.id}


async def test_both_agree_to_the_last_digit(indexed_rig: Rig) -> None:
    raw = np.random.default_rng(3).standard_normal((300, DIMENSION)).astype(np.float32)
    await indexed_rig.put(_ids(300), raw / np.linalg.norm(raw, axis=1)[:, None])
    await indexed_rig.indexed()
    for seed in range(5):
        vector = np.random.default_rng(seed).standard_normal(DIMENSION).astype(np.float32)
        vector /= np.linalg.norm(vector)
        found = await indexed_rig.nearest(vector, 40)
        async with indexed_rig.database.read() as session:
            expected = await PostgresSearch().nearest(
                session, indexed_rig.namespace_id, indexed_rig.model, vector, 40, None
            )
        assert found.ids.tolist() == expected.ids.tolist()
        assert found.scores.tolist() == expected.scores.tolist()
    assert "nearest" in _index(indexed_rig).calls


async def test_an_index_that_lags_is_not_asked(indexed_rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_search, "MAX_UNREAD", 10)
    monkeypatch.setattr(vector_indexing, "MAX_UNREAD", 10)
    rig, index = indexed_rig, _index(indexed_rig)
    vector = _unit(1, seed=3)[0]
    assert rig.indexing is not None
    await rig.put(_ids(30), _unit(30))
    assert (await rig.indexing.state())["status"] == "loading"
    assert (await rig.nearest(vector, 5)).ids.tolist() == rig.expected(vector, 5)
    assert "nearest" not in index.calls
    await rig.indexed()
    assert await rig.indexing.state() == {"status": "up", "changes": 0, "seconds": 0.0}
    await rig.put(_ids(10, 31), _unit(10, seed=5))
    assert (await rig.nearest(vector, 5)).ids.tolist() == rig.expected(vector, 5)
    assert index.calls.count("nearest") == 1
    await rig.put(_ids(1, 41), _unit(1, seed=6))
    assert (await rig.nearest(vector, 5)).ids.tolist() == rig.expected(vector, 5)
    assert index.calls.count("nearest") == 1
    state = await rig.indexing.state()
    assert (state["status"], state["changes"]) == ("lagging", 11)
    assert state["seconds"] >= 0


async def test_a_position_behind_what_the_log_keeps_is_worth_nothing(indexed_rig: Rig) -> None:
    rig, vector = indexed_rig, _unit(1, seed=3)[0]
    await rig.put(_ids(30), _unit(30))
    await rig.indexed()
    await rig.put(_ids(5, 31), np.repeat(vector[None], 5, axis=0))
    await rig.run("update change_log set pruned_xid = (select max(xid) from changes)")
    await rig.run("delete from changes")
    assert (await rig.nearest(vector, 5)).ids.tolist() == [31, 32, 33, 34, 35]
    assert "nearest" not in _index(rig).calls


async def test_an_index_that_lost_its_collections_is_filled_again(indexed_rig: Rig) -> None:
    rig, vector = indexed_rig, _unit(1, seed=3)[0]
    await rig.put(_ids(60), _unit(60))
    await rig.indexed()
    assert rig.client is not None
    for collection in await _contents(rig):
        await rig.client.delete_collection(adapter._name(collection))
    assert (await rig.nearest(vector, 5)).ids.tolist() == rig.expected(vector, 5)
    await rig.put(_ids(1, 61), _unit(1, seed=6))
    await rig.indexed()
    await _assert_equal(rig)
    assert (await rig.nearest(vector, 5)).ids.tolist() == rig.expected(vector, 5)


async def test_a_load_goes_on_where_it_was_ended(indexed_rig: Rig) -> None:
    rig, index = indexed_rig, _index(indexed_rig)
    await rig.put(_ids(200), _unit(200))
    await rig.put(_ids(50), _unit(50, seed=1), part=-1)
    index.fails = lambda name: name == "put" and index.points > 100
    with pytest.raises(VectorIndexUnavailable):
        await rig.indexed()
    index.fails = lambda name: False
    assert 0 < len(next(iter((await _contents(rig)).values()))) <= 100
    vector = _unit(1, seed=3)[0]
    assert (await rig.nearest(vector, 5)).ids.tolist() == rig.expected(vector, 5)
    (collection,) = await _contents(rig)
    strangers = Points(_ids(60, 9_000_000), np.ones(60, np.int64), _ids(60, 5_000_000), np.zeros(60, np.bool_))
    await index.index.put(collection, strangers, _unit(60))
    before = index.points
    await rig.indexed()
    assert index.points - before < 200
    await _assert_equal(rig)


async def test_what_is_erased_while_it_is_stored_does_not_stay(indexed_rig: Rig) -> None:
    """As of a process that was paused between the two, long enough for another to handle the end."""
    rig, index = indexed_rig, _index(indexed_rig)
    await rig.indexed()
    await rig.services.memory_writes.store_many("ns", [_item(f"k{i}", one) for i, one in enumerate(_unit(20))])

    async def erase(name: str) -> None:
        if name == "put":
            index.before = None
            refs = [MemoryRef(key=f"k{i}") for i in range(5)]
            await rig.services.memory_writes.erase_many("ns", refs)
            await rig.indexed()

    index.before = erase
    assert rig.indexing is not None
    async with rig.database.read() as view:
        found = await log_of(view)
        part = await read_slice(view, Scope(reindex=True), found.beginning, 1_000)
    await rig.indexing.handle(found, part.changes)
    await _assert_equal(rig)


@pytest.mark.parametrize("seed", range(3))
async def test_any_history_ends_equal(indexed_rig: Rig, seed: int) -> None:
    """Whatever is written, refused and repeated; also by two indexers that know nothing of each other."""
    rig, index, chosen = indexed_rig, _index(indexed_rig), random.Random(seed)
    index.fails = lambda name: name != "collections" and chosen.random() < 0.03
    assert rig.indexing is not None
    async with rig.database.read() as view:
        found = await log_of(view)
    for step in range(25):
        await _write_something(rig, chosen, step)
        if chosen.random() < 0.5:
            try:
                await rig.indexed(batch=chosen.choice([1, 7, 100]))
            except VectorIndexUnavailable:
                continue
        if chosen.random() < 0.3:
            async with rig.database.read() as view:
                part = await read_slice(view, Scope(reindex=True), found.beginning, 1_000)
            some = part.changes[chosen.randrange(len(part.changes) + 1) :]
            again = [rig.indexing.handle(found, some), rig.indexing.handle(found, part.changes)]
            for done in await asyncio.gather(*again, return_exceptions=True):
                assert done is None or isinstance(done, VectorIndexUnavailable), done
        vector = _unit(1, seed=step)[0]
        try:
            answer = await rig.nearest(vector, 8)
        except VectorIndexUnavailable:
            continue
        async with rig.database.read() as session:
            expected = await PostgresSearch().nearest(session, rig.namespace_id, rig.model, vector, 8, None)
        assert answer.ids.tolist() == expected.ids.tolist()
        assert answer.scores.tolist() == expected.scores.tolist()
    index.fails = lambda name: False
    await rig.indexed()
    await _assert_equal(rig)


async def _write_something(rig: Rig, chosen: random.Random, step: int) -> None:
    writes, keys = rig.services.memory_writes, [f"k{i}" for i in range(30)]
    namespace = chosen.choice(["ns", "ns", "passing"])
    match chosen.randrange(5):
        case 0 | 1 | 2:
            some = chosen.sample(keys, chosen.randrange(1, 12))
            await rig.services.namespaces.put(
                namespace, settings=None, model={"name": "given", "dimension": DIMENSION}
            )
            vectors = _unit(len(some), seed=chosen.randrange(10**6))
            await writes.store_many(namespace, [
                _item(key, vector, content=f"{key} {step}", payload={"session": "s", "position": int(key[1:])})
                for key, vector in zip(some, vectors, strict=True)
            ])  # fmt: skip
        case 3:
            refs = [MemoryRef(key=key) for key in chosen.sample(keys, 5)]
            if await rig.run("select from namespaces where name = %s", namespace):
                await chosen.choice([writes.forget_many, writes.erase_many])(namespace, refs)
        case _:
            if await rig.run("select from namespaces where name = 'passing'"):
                await rig.services.namespaces.delete("passing", confirm="passing")


async def test_an_index_that_is_away(indexed_rig: Rig) -> None:
    rig, index, vector = indexed_rig, _index(indexed_rig), _unit(1, seed=3)[0]
    await rig.put(_ids(30), _unit(30))
    await rig.indexed()
    index.fails = lambda name: True
    with pytest.raises(VectorIndexUnavailable):
        await rig.nearest(vector, 5)
    # A few memories that a filter keeps are compared in Postgres anyway.
    allowed = _ids(20)
    assert (await rig.nearest(vector, 5, allowed)).ids.tolist() == rig.expected(vector, 5, allowed)
    assert rig.indexing is not None
    assert (await rig.indexing.state())["status"] == "down"
    writing = WriteSearch(rig.search)
    for _ in range(3):
        async with rig.database.read() as session:
            found = await writing.nearest(session, rig.namespace_id, rig.model, vector, 5, None)
        assert found.ids.tolist() == rig.expected(vector, 5)
    assert index.calls.count("nearest") == 2


async def test_memories_that_a_graph_cannot_reach_are_found(indexed_rig: Rig) -> None:
    """A search by graph may bring fewer than there are: then every point is compared."""
    rig, index = indexed_rig, _index(indexed_rig)
    await rig.put(_ids(30), _unit(30))
    await rig.indexed()

    class Forgetful:
        async def nearest(self, *arguments: Any, exact: bool = False, **options: Any) -> Near | None:
            near = await index.index.nearest(*arguments, exact=exact, **options)
            assert near is not None
            return near if exact else Near(near.memory_ids[:4], near.scores[:4], True)

    rig.search = IndexSearch(Forgetful())  # type: ignore[arg-type]
    vector = _unit(1, seed=3)[0]
    assert (await rig.nearest(vector, 10)).ids.tolist() == rig.expected(vector, 10)


async def test_a_hanging_index_leaves_half_of_the_connections(
    indexed_rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_guard, "REFUSING_SECONDS", 60.0)
    monkeypatch.setattr(index_guard, "SEARCH_SECONDS", 5.0)
    monkeypatch.setattr(index_guard, "TURN_SECONDS", 0.05)
    rig, index = indexed_rig, _index(indexed_rig)
    await rig.put(_ids(30), _unit(30))
    await rig.indexed()
    rig.search = IndexSearch(index, at_once=3)  # type: ignore[arg-type]
    hanging = 0

    async def hang(name: str) -> None:
        nonlocal hanging
        hanging += 1
        await asyncio.sleep(DEADLINE)

    index.before = hang
    searches = [asyncio.create_task(rig.nearest(_unit(1)[0], 5)) for _ in range(30)]
    async with asyncio.timeout(DEADLINE):
        refused = list(islice(asyncio.as_completed(searches), 27))
        for one in refused:
            with pytest.raises(VectorIndexUnavailable, match="too many"):
                await one
        assert hanging == 3
        async with rig.database.read() as session:
            await session.one("change_log_state")
        ended = await asyncio.gather(*searches, return_exceptions=True)
    assert {type(one) for one in ended} == {VectorIndexUnavailable}
    # It is left alone for a while.
    with pytest.raises(VectorIndexUnavailable, match="no answer within"):
        await rig.nearest(_unit(1)[0], 5)
    assert hanging == 3


async def test_a_search_after_the_pause_asks_again(indexed_rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig, index, vector = indexed_rig, _index(indexed_rig), _unit(1, seed=3)[0]
    await rig.put(_ids(30), _unit(30))
    await rig.indexed()
    monkeypatch.setattr(index_guard, "REFUSING_SECONDS", 60.0)
    index.fails = lambda name: True
    for _ in range(3):
        with pytest.raises(VectorIndexUnavailable, match="away"):
            await rig.nearest(vector, 5)
    assert index.calls.count("nearest") == 1
    index.fails = lambda name: False
    now = time.monotonic()
    monkeypatch.setattr(index_guard.time, "monotonic", lambda: now + 61.0)
    assert (await rig.nearest(vector, 5)).ids.tolist() == rig.expected(vector, 5)


async def _emptied(rig: Rig) -> Collection:
    """The collection, with its alias, without a point."""
    async with rig.database.read() as session:
        log = await log_of(session)
    [collection] = await _index(rig).index.collections(log.id)
    assert rig.client is not None
    everything = models.FilterSelector(filter=models.Filter())
    await rig.client.delete(adapter._name(collection), everything, wait=True)
    return collection


async def test_a_collection_that_lost_its_points_hides_nothing(
    indexed_rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    rig, vector = indexed_rig, _unit(1, seed=3)[0]
    await rig.put(_ids(100), _unit(100))
    await rig.put(_ids(3), _unit(3, seed=8), part=-1)
    await rig.indexed()
    for windows in (False, True):
        # What was believed before the loss is not any more.
        assert len((await rig.nearest(vector, 200, windows=windows)).ids) == (3 if windows else 100)
    await _emptied(rig)
    for _ in range(2):
        assert (await rig.nearest(vector, 10)).ids.tolist() == rig.expected(vector, 10)
        assert len((await rig.nearest(vector, 10, windows=True)).ids) == 3
        assert (await rig.nearest(vector, 10, _ids(60))).ids.tolist() == rig.expected(vector, 10, _ids(60))
    assert len([one for one in caplog.records if "points were lost" in one.getMessage()]) == 1


async def test_few_memories_are_looked_for_in_postgres_once(
    indexed_rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig, index, vector = indexed_rig, _index(indexed_rig), _unit(1, seed=3)[0]
    await rig.put(_ids(30), _unit(30))
    await rig.put(_ids(2), _unit(2, seed=8), part=-1)
    await rig.indexed()
    scans = 0
    dense_of = dense.dense

    async def counted(*arguments: Any, **options: Any) -> Candidates:
        nonlocal scans
        scans += 1
        return await dense_of(*arguments, **options)

    monkeypatch.setattr(dense, "dense", counted)
    for _ in range(4):
        assert len((await rig.nearest(vector, 10, windows=True)).ids) == 2
    assert scans == 1
    assert index.calls.count("nearest") == 2 + 3


async def test_points_of_others_are_passed_over(indexed_rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig, vector = indexed_rig, _unit(1, seed=3)[0]
    await rig.put(_ids(100), _unit(100))
    await rig.indexed()
    async with rig.database.read() as session:
        log = await log_of(session)
    [collection] = await _index(rig).index.collections(log.id)
    tenant = {"tenant": str(rig.namespace_id)}
    payloads: list[dict[str, Any]] = [
        {**tenant}, {**tenant, "memory_id": "x"}, {**tenant, "memory_id": True}, {**tenant, "memory_id": 2**63},
        {**tenant, "memory_id": -1}, {}, {"tenant": "all", "memory_id": 3}, {"tenant": "9999999999", "memory_id": 3},
        {"tenant": 7, "memory_id": 3},
    ]  # fmt: skip
    # Between, behind and above the numbers of rows, and under names that are none.
    ids: list[Any] = [*range(500_000, 500_000 + len(payloads) - 2), 2**64 - 1, str(uuid.uuid4())]
    points = [
        models.PointStruct(id=one, vector=vector.tolist(), payload=payload)
        for one, payload in zip(ids, payloads, strict=True)
    ]
    assert rig.client is not None
    await rig.client.upsert(adapter._name(collection), points, wait=True)
    assert (await rig.nearest(vector, 10)).ids.tolist() == rig.expected(vector, 10)
    await rig.put(_ids(70, 1_000_000), _unit(70, seed=2))
    await rig.indexed()
    strangers = Points(_ids(60, 9_000_000), np.ones(60, np.int64), _ids(60, 5_000_000), np.zeros(60, np.bool_))
    await _index(rig).index.put(collection, strangers, _unit(60))
    assert rig.indexing is not None
    # A sweep comes to what is behind the foreign ones.
    await rig.indexing.load()
    await _assert_equal(rig)
    assert (await rig.nearest(vector, 10)).ids.tolist() == rig.expected(vector, 10)
    assert len([one for one in caplog.records if "did not make" in one.getMessage()]) == 1


async def test_recall_with_the_indexer_in_the_service(
    settings: Settings, local: AsyncQdrantClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "open_client", lambda settings: local)
    # No namespace fits into memory, so every vector is searched in Qdrant.
    chosen = settings.model_copy(update={"qdrant_url": "http://qdrant.test", "hot_budget_bytes": 0})
    async with open_runtime(chosen, maintenance=True) as services:
        app = app_for(services)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://localhost:9595") as client,
        ):
            texts = [f"text {i} of {one}" for i, one in enumerate(["tea", "cake", "programs"] * 20)]
            await client.post("/store_bulk", json={"items": [{"content": one} for one in texts]})
            health = await _until_indexed(client)
            assert health["parts"]["qdrant"] == {"status": "up", "changes": 0, "seconds": 0.0}
            query = {"query": texts[7]}
            answer = await client.post("/recall", json=query)
            assert answer.status_code == 200, answer.text
            assert answer.json()["matches"][0]["content"] == texts[7]

            async def away(*arguments: Any, **options: Any) -> Any:
                raise RuntimeError("closed")

            monkeypatch.setattr(local, "query_points", away)
            monkeypatch.setattr(local, "get_aliases", away)
            refused = await client.post("/recall", json=query)
            assert refused.status_code == 503
            assert refused.json()["code"] == "vector_index_unavailable"
            # A write does not need it.
            later = await client.post("/store_bulk", json={"items": [{"content": "later"}]})
            assert later.status_code == 200, later.text

            async def is_down() -> bool:
                return (await client.get("/health")).json()["parts"]["qdrant"]["status"] == "down"

            await until(is_down)


async def _until_indexed(client: httpx.AsyncClient) -> dict[str, Any]:
    async with asyncio.timeout(DEADLINE):
        while True:
            health: dict[str, Any] = (await client.get("/health")).json()
            qdrant = health["parts"]["qdrant"]
            if qdrant["status"] == "up" and not qdrant["changes"]:
                return health
            await asyncio.sleep(0.05)


def _settings(**values: Any) -> Settings:
    """Whatever server the environment names."""
    unset = {"qdrant_url": None, "qdrant_host": None, "qdrant_tls_cert": None, "qdrant_api_key": None}
    return load_settings(postgres_url=SecretStr("postgresql://x/y")).model_copy(update={**unset, **values})


def test_the_client_reaches_what_the_settings_name() -> None:
    plain = client_arguments(_settings(qdrant_host="db", qdrant_port=7000))
    assert plain["url"] == "http://db:7000"
    assert "verify" not in plain
    assert client_arguments(_settings(qdrant_host="::1"))["url"] == "http://[::1]:6333"
    assert client_arguments(_settings(qdrant_host="db", qdrant_tls=True))["url"] == "https://db:6333"
    at_path = client_arguments(_settings(qdrant_url="https://db/one", qdrant_port=443))
    assert (at_path["url"], at_path["port"]) == ("https://db/one", 443)


async def test_tls_settings_reach_the_client() -> None:
    chosen = _settings(
        qdrant_url="https://db:6333", qdrant_tls_cert=certifi.where(), qdrant_api_key=SecretStr("secret")
    )
    trust = client_arguments(chosen)["verify"]
    assert isinstance(trust, ssl.SSLContext)
    assert trust.verify_mode is ssl.CERT_REQUIRED
    assert trust.check_hostname
    assert trust.get_ca_certs()
    client = open_client(chosen)
    remote = client._client
    assert remote.rest_uri == "https://db:6333"  # type: ignore[attr-defined]
    assert remote._rest_args["verify"].get_ca_certs() == trust.get_ca_certs()  # type: ignore[attr-defined]
    assert remote._rest_args["headers"]["api-key"] == "secret"  # type: ignore[attr-defined]
    await client.close()


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"qdrant_url": "http://db", "qdrant_tls": True}, "QDRANT_URL"),
        ({"qdrant_url": "http://db", "qdrant_tls_cert": "/no/such/file"}, "QDRANT_TLS_CERT"),
        ({"qdrant_host": "db", "qdrant_tls": True, "qdrant_tls_cert": "/no/such/file"}, "QDRANT_TLS_CERT"),
        ({"qdrant_host": "db", "qdrant_tls": True, "qdrant_tls_cert": __file__}, "QDRANT_TLS_CERT"),
        ({}, "QDRANT_URL"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(values: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        client_arguments(_settings(**values))


def _over(answer: Callable[[httpx.Request], httpx.Response]) -> QdrantIndex:
    arguments = {**client_arguments(_settings(qdrant_url="http://db")), "transport": httpx.MockTransport(answer)}
    return QdrantIndex(AsyncQdrantClient(**arguments))


def _refuse(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("refused")


def _hang(request: httpx.Request) -> httpx.Response:
    raise httpx.ReadTimeout("too late")


@pytest.mark.parametrize(
    "answer",
    [
        lambda request: httpx.Response(500, text="broken"),
        lambda request: httpx.Response(401, json={"status": {"error": "who are you"}}),
        lambda request: httpx.Response(429, headers={"Retry-After": "1"}, json={"status": {"error": "slowly"}}),
        lambda request: httpx.Response(429, headers={"Retry-After": "soon"}, json={"status": {"error": "slowly"}}),
        lambda request: httpx.Response(200, text="<html>"),
        lambda request: httpx.Response(200, json={"result": 7}),
        lambda request: httpx.Response(200, json={"result": None}),
        lambda request: httpx.Response(200, json={}),
        lambda request: httpx.Response(200, json=[]),
        lambda request: httpx.Response(200, content=b"\xff\xfe"),
        lambda request: httpx.Response(204),
        _refuse,
        _hang,
    ],
)
async def test_whatever_goes_wrong_is_unavailable(answer: Callable[[httpx.Request], httpx.Response]) -> None:
    index, collection = _over(answer), Collection("ab", 1, DIMENSION)
    points = Points(_ids(2), _ids(2), _ids(2), np.zeros(2, np.bool_))
    for work in (
        lambda: index.nearest(collection, 1, _unit(1)[0], 5, windows=False),
        lambda: index.ping(),
        lambda: index.collections("ab"),
        lambda: index.create(collection),
        lambda: index.publish(collection),
        lambda: index.put(collection, points, _unit(2)),
        lambda: index.remove(collection, _ids(2)),
        lambda: index.remove_namespace(collection, 1),
        lambda: index.of_memories(collection, _ids(2)),
        lambda: index.page(collection, 0, 10),
    ):
        with pytest.raises(VectorIndexUnavailable):
            await work()
    await index.aclose()


async def test_a_collection_that_is_not_there() -> None:
    index, collection = _over(lambda request: httpx.Response(404, json={})), Collection("ab", 1, DIMENSION)
    assert await index.nearest(collection, 1, _unit(1)[0], 5, windows=False) is None
    with pytest.raises(VectorIndexUnavailable):
        await index.remove(collection, _ids(2))
    await index.aclose()
