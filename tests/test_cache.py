"""Kept answers are what would be answered without them, whatever happens to Redis and whoever writes to it."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import SecretStr
from redis import Redis

from sfm_graph.adapters.caches import redis as caches
from sfm_graph.adapters.caches.redis import RedisCache
from sfm_graph.adapters.embedders.hashing import HashingEmbedder
from sfm_graph.domain.access import ANONYMOUS
from sfm_graph.domain.identity import LinkId, MemoryId, MemoryRef
from sfm_graph.domain.memory import Memory, MemoryKind
from sfm_graph.domain.recall import Carrier, Hit, Leg, LegScore, Recall, RecallQuery, RecallWeights
from sfm_graph.domain.recall_outline import MAX_BYTES, outlined, read_outline
from sfm_graph.domain.where import EVERYTHING, AnyOf, parse_where
from sfm_graph.errors import Forbidden, RerankerUnavailable
from sfm_graph.runtime import compose, open_runtime
from sfm_graph.services.access.guard import Caller, acting
from sfm_graph.services.access.policy import ScopesByNamespace
from sfm_graph.services.embedders import Embedders
from sfm_graph.services.recall.answers import _Place
from sfm_graph.services.registry import Services
from sfm_graph.services.shared_vectors import SharedVectors
from sfm_graph.services.whole_graph import WholeGraph
from sfm_graph.settings import CacheKind, Settings
from sfm_graph.store.database import Database
from tests.redis_server import RedisServer, redis_server

NS = "demo"
DEADLINE_SECONDS = 30
WORDS = [
    "red",
    "green",
    "blue",
    "cat",
    "dog",
    "bird",
    "runs",
    "sleeps",
    "eats",
    "quickly",
    "slowly",
    "house",
    "garden",
]


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine even a Redis that is well takes its time."""
    monkeypatch.setattr(caches, "TIMEOUT_SECONDS", 5.0)


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path, appendfsync="no") as server:
        yield server


@pytest.fixture
def with_cache(settings: Settings, redis: RedisServer) -> Settings:
    return settings.model_copy(update={"cache": CacheKind.REDIS, "redis_url": SecretStr(redis.url)})


@pytest.fixture
async def cached(with_cache: Settings) -> AsyncIterator[Services]:
    async with open_runtime(with_cache, maintenance=False) as opened:
        yield opened


async def _recall(services: Services, query: RecallQuery, namespace: str = NS) -> Recall:
    async with services.views.open() as view:
        return await services.recalls.recall(view, namespace, query)


def _counted(services: Services) -> dict[str, int]:
    assert services.cache is not None
    return dict(services.cache.counters["recall"])


def _ids(recall: Recall) -> list[int]:
    return [hit.memory.id for hit in recall.hits]


async def _hit(services: Services, query: RecallQuery, namespace: str = NS) -> Recall:
    """An answer that was kept."""
    before = _counted(services)
    recall = await _recall(services, query, namespace)
    assert _counted(services) == {**before, "hits": before["hits"] + 1}
    return recall


async def _settled(services: Services, namespace: str = NS) -> None:
    """No transaction on this server, of whichever test, is as old as the latest change of a namespace."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        async with services.views.open() as view:
            found = await view.existing_namespace(namespace)
            if view.snapshot.covers(await view.newest_change(found)):
                return
        assert time.monotonic() < deadline, "a transaction does not end"
        await asyncio.sleep(0.02)


def _texts(count: int, seed: int = 0) -> list[str]:
    chosen = random.Random(seed)
    return [" ".join(chosen.choices(WORDS, k=chosen.randint(3, 12))) for _ in range(count)]


async def _store(services: Services, count: int = 30) -> None:
    items: list[dict[str, Any]] = [{"key": f"m{at}", "content": text} for at, text in enumerate(_texts(count))]
    items[0] |= {"title": "Hansel Gretel", "content": "a red cat met Ada Lovelace Byron in the garden"}
    items[1] |= {"content": "the river, as Ada Lovelace Byron said, sleeps"}
    await services.memory_writes.store_many(NS, items)
    await services.links.link(NS, {"key": "m0"}, {"key": "m2"}, {"type": "near", "weight": 0.5})
    await _settled(services)


class Held:
    """A transaction beside the service's: it gives a memory another importance, and is ended when it is told to."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._connection: psycopg.Connection | None = None

    @property
    def is_open(self) -> bool:
        return self._connection is not None

    def begin(self, key: str, importance: float) -> None:
        self._connection = psycopg.connect(self._dsn)
        self._connection.execute(
            "with one as (update memories m set importance = %s, version = m.version + 1 from namespaces n"
            " where n.id = m.namespace_id and n.name = %s and m.key = %s returning m.namespace_id, m.id)"
            " insert into changes (namespace_id, entity, entity_id, operation)"
            " select namespace_id, 'memory', id, 'reindex' from one",
            (importance, NS, key),
        )

    def end(self, *, commit: bool) -> None:
        assert self._connection is not None
        (self._connection.commit if commit else self._connection.rollback)()
        self._connection.close()
        self._connection = None


@pytest.fixture
def held(database_dsn: str) -> Iterator[Held]:
    one = Held(database_dsn)
    yield one
    if one.is_open:
        one.end(commit=False)


async def test_a_kept_answer_is_the_same_with_explanation_and_memories(cached: Services) -> None:
    await _store(cached)
    for query in (
        RecallQuery("hansel gretel", 30),
        RecallQuery("Ada Lovelace Byron", 10, expand=5),
        RecallQuery("red cat", 5, kinds=(MemoryKind.EPISODIC,), diversity=0.3, fold=True),
        RecallQuery("river", 5, near=MemoryRef(key="m1"), where=parse_where({"importance": {"gte": 0.5}})),
        RecallQuery("garden", 5, embedding=(await HashingEmbedder().embed(["a cat"]))[0]),
        RecallQuery("nothing of the kind", 5, kinds=(MemoryKind.ENTITY,)),
    ):
        first = await _recall(cached, query)
        assert await _hit(cached, query) == first
    carriers = [hit.carrier for hit in (await _hit(cached, RecallQuery("hansel gretel", 30))).hits]
    assert any(one is not None and one.link is not None for one in carriers)
    assert any(one is not None and one.name is not None for one in carriers)


async def test_queries_that_differ_have_answers_of_their_own(cached: Services) -> None:
    await _store(cached)
    vectors = await HashingEmbedder().embed(["a cat", "a dog"])
    base = RecallQuery("red cat", 5)
    queries = [
        base,
        replace(base, text="red cat "),
        replace(base, first=6),
        replace(base, where=AnyOf(())),
        replace(base, where=parse_where({"payload": [{"path": ["a"], "eq": 1}]})),
        replace(base, where=parse_where({"payload": [{"path": ["a"], "eq": True}]})),
        replace(base, where=parse_where({"payload": [{"path": ["a"], "eq": "1"}]})),
        replace(base, kinds=(MemoryKind.ENTITY,)),
        replace(base, weights=RecallWeights(name=0.6)),
        replace(base, weights=RecallWeights(link_types={"near": 0.5})),
        replace(base, near=MemoryRef(key="m1")),
        replace(base, near=MemoryRef(key="m2")),
        *(replace(base, embedding=vector) for vector in vectors),
        *(replace(base, **{name: value}) for name, value in [("expand", 1), ("diversity", 0.5), ("fold", True)]),
        replace(base, rerank=False),
    ]
    assert base.where == EVERYTHING
    answers = [await _recall(cached, query) for query in queries]
    assert _counted(cached)["hits"] == 0
    for query, answer in zip(queries, answers, strict=True):
        assert await _hit(cached, query) == answer
    assert answers[3].hits == ()
    await cached.namespaces.put(NS, settings={"payload_paths": ["a"]}, model=None)
    await _recall(cached, base)
    assert _counted(cached)["hits"] == len(queries)


async def test_an_older_transaction_that_ends_later_is_never_missed(cached: Services, held: Held) -> None:
    await _store(cached)
    query = RecallQuery("red cat", 30, weights=RecallWeights(importance=50.0))
    await _recall(cached, query)
    held.begin("m7", 1_000.0)
    await cached.memory_writes.store(NS, {"key": "new", "content": "a red cat"})
    before, counted = await _recall(cached, query), _counted(cached)
    # The newest change is `new`; what the held transaction does is not to be seen yet, and is older.
    assert _counted(cached)["refused"] == 1
    held.end(commit=True)
    await _settled(cached)
    after = await _recall(cached, query)
    assert after.hits[0].memory.key == "m7"
    assert after != before
    assert _counted(cached) == {**counted, "misses": counted["misses"] + 1}
    assert await _hit(cached, query) == after


async def test_a_reader_of_an_older_snapshot_is_not_given_what_it_cannot_see(cached: Services, held: Held) -> None:
    await _store(cached)
    query = RecallQuery("red cat", 30, weights=RecallWeights(importance=50.0))
    held.begin("m7", 1_000.0)
    await cached.memory_writes.store(NS, {"key": "new", "content": "a red cat"})
    async with cached.views.open() as old:
        held.end(commit=True)
        await _settled(cached)
        await _recall(cached, query)
        assert (await _hit(cached, query)).hits[0].memory.key == "m7"
        assert (await cached.recalls.recall(old, NS, query)).hits[0].memory.key != "m7"


@pytest.mark.parametrize("seed", range(3))
async def test_histories_with_and_without_cache_are_answered_alike(
    settings: Settings, cached: Services, held: Held, seed: int
) -> None:
    chosen = random.Random(seed)
    await _store(cached)
    await cached.memory_writes.store_many(NS, [{"key": f"held{at}", "content": "red bird"} for at in range(3)])
    queries = [
        RecallQuery("red cat", 8),
        RecallQuery("a bird sleeps slowly in the garden", 5, expand=3, weights=RecallWeights(importance=2.0)),
        RecallQuery("Ada Lovelace Byron", 8, where=parse_where({"importance": {"gte": 1}})),
        RecallQuery("river mountain", 5, near=MemoryRef(key="m3"), fold=True),
    ]
    async with open_runtime(settings, maintenance=False) as plain:
        for _ in range(150):
            if chosen.random() < 0.4:
                await _changed(cached, held, chosen)
                if not held.is_open:
                    await _settled(cached)
            query = chosen.choice(queries)
            async with cached.views.open() as view, plain.views.open() as other:
                # By one clock, since the end of a validity may lie between two.
                other.now = view.now
                found = await cached.recalls.recall(view, NS, query)
                assert found == await plain.recalls.recall(other, NS, query)
    assert all(_counted(cached)[name] > 5 for name in ("hits", "misses", "refused"))
    assert _counted(cached)["damaged"] == 0


async def _changed(services: Services, held: Held, chosen: random.Random) -> None:
    key = f"m{chosen.randrange(4, 30)}"
    match chosen.randrange(7):
        case 0:
            soon = datetime.now(UTC) + timedelta(milliseconds=chosen.randrange(-100, 300))
            end = chosen.choice(["valid_from", "valid_to"])
            await services.memory_writes.store(NS, {"key": key, "content": _text(chosen), end: soon.isoformat()})
        case 1 | 2:
            await services.memory_writes.store(NS, {"key": key, "content": _text(chosen)})
        case 3:
            await services.memory_writes.forget_many(NS, [MemoryRef(key=key)])
        case 4:
            soon = datetime.now(UTC) + timedelta(milliseconds=chosen.randrange(-100, 300))
            source, target = ({"key": f"m{one}"} for one in chosen.sample(range(4), 2))
            fields = {"type": chosen.choice("ab"), "weight": chosen.random(), "valid_from": soon.isoformat()}
            await services.links.link(NS, source, target, fields)
        case _ if held.is_open:
            held.end(commit=chosen.random() < 0.7)
        case _:
            held.begin(f"held{chosen.randrange(3)}", chosen.uniform(0.5, 5.0))


def _text(chosen: random.Random) -> str:
    return " ".join(chosen.choices(WORDS, k=6))


async def test_an_answer_ends_with_the_validity_of_a_memory_or_a_link(cached: Services) -> None:
    await _store(cached)
    plain = RecallWeights(importance=0.0, name=0.0, shared_name=0.0)
    by_memory, by_link = RecallQuery("quagga", 3, weights=plain), RecallQuery("zeppelin", 3, weights=plain)
    await cached.memory_writes.store(NS, {"key": "z", "content": "zeppelin"})
    soon = datetime.now(UTC) + timedelta(seconds=2)
    await cached.memory_writes.store(NS, {"key": "q", "content": "quagga", "valid_to": soon.isoformat()})
    await cached.links.link(NS, {"key": "z"}, {"key": "m5"}, {"type": "x", "valid_from": soon.isoformat()})
    await _settled(cached)
    for query in (by_memory, by_link):
        first = await _recall(cached, query)
        if datetime.now(UTC) < soon:
            assert await _recall(cached, query) == first
    deadline = time.monotonic() + DEADLINE_SECONDS
    while datetime.now(UTC) < soon:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    assert "q" not in [hit.memory.key for hit in (await _recall(cached, by_memory)).hits]
    carried = {hit.memory.key: hit.carrier for hit in (await _recall(cached, by_link)).hits}
    assert carried["m5"] is not None
    before = _counted(cached)["hits"]
    await _recall(cached, by_memory)
    assert _counted(cached)["hits"] == before + 1


async def test_while_the_clocks_disagree_about_what_is_valid_nothing_is_kept(cached: Services) -> None:
    await _store(cached)
    soon = datetime.now(UTC) + timedelta(minutes=1)
    await cached.memory_writes.store(NS, {"key": "q", "content": "quagga", "valid_to": soon.isoformat()})
    await _settled(cached)
    query = RecallQuery("quagga", 3)
    assert "q" in [hit.memory.key for hit in (await _recall(cached, query)).hits]
    async with cached.views.open() as view:
        # This process's clock is ahead of the database's, which the SQL of some searches goes by.
        view.now += timedelta(minutes=2)
        found = await cached.recalls.recall(view, NS, query)
    assert "q" not in [hit.memory.key for hit in found.hits]
    assert _counted(cached)["refused"] == 1
    assert "q" in [hit.memory.key for hit in (await _hit(cached, query)).hits]


async def test_what_time_or_a_missing_reranker_decides_is_not_kept(
    with_cache: Settings, cached: Services, database_dsn: str
) -> None:
    await _store(cached)
    recent = RecallQuery("red cat", 5, weights=RecallWeights(recency=0.1))
    for _ in range(2):
        await _recall(cached, recent)
    assert _counted(cached) == {"hits": 0, "misses": 0, "refused": 2, "damaged": 0}
    reranker = Reranker()
    async with _composed(with_cache, database_dsn, reranker) as services:
        for expected in (False, True, True):
            assert (await _recall(services, RecallQuery("red cat", 5))).reranked is expected
            reranker.away = False
        assert _counted(services)["hits"] == 1
        assert reranker.asked == 2
        # Without the reranker it is another question.
        assert not (await _recall(services, RecallQuery("red cat", 5, rerank=False))).reranked
    async with _composed(with_cache.model_copy(update={"hot_budget_bytes": 0}), database_dsn) as services:
        for _ in range(2):
            assert not (await _recall(services, RecallQuery("blue dog", 5))).hot
        assert _counted(services)["hits"] == 0


class Reranker:
    """Away at first."""

    name = "alphabet"

    def __init__(self) -> None:
        self.away = True
        self.asked = 0

    async def scores(self, query: str, texts: Sequence[str]) -> NDArray[np.float64]:
        self.asked += 1
        if self.away:
            raise RerankerUnavailable("away")
        return np.linspace(0, 1, len(texts))

    async def aclose(self) -> None: ...


@asynccontextmanager
async def _composed(settings: Settings, dsn: str, reranker: Reranker | None = None) -> AsyncIterator[Services]:
    database = Database(dsn, role="sfm_service")
    await database.open()
    cache = RedisCache.open(settings)
    yield compose(settings, database, Embedders(HashingEmbedder()), WholeGraph(), reranker=reranker, cache=cache)
    await cache.aclose()
    await database.close()


async def test_the_guard_stands_before_kept_answers(cached: Services) -> None:
    await _store(cached)
    query = RecallQuery("red cat", 5)
    await _recall(cached, query)
    await _hit(cached, query)
    with acting(Caller(ANONYMOUS, ScopesByNamespace())), pytest.raises(Forbidden):
        await _recall(cached, query)


async def test_namespaces_of_equal_memories_have_answers_of_their_own(cached: Services) -> None:
    for name in ("one", "two"):
        await cached.memory_writes.store_many(name, [{"key": "a", "content": "red cat"}])
        await _settled(cached, name)
    query = RecallQuery("red cat", 5)
    first, second = await _recall(cached, query, "one"), await _recall(cached, query, "two")
    assert set(_ids(first)).isdisjoint(_ids(second))
    for name, answer in (("one", first), ("two", second)):
        assert await _hit(cached, query, name) == answer
    await cached.namespaces.delete("one", confirm="one")
    await cached.memory_writes.store_many("one", [{"key": "a", "content": "blue dog"}])
    assert [hit.memory.content for hit in (await _recall(cached, query, "one")).hits] == ["blue dog"]


async def test_another_change_log_has_answers_of_its_own(cached: Services, database_dsn: str) -> None:
    await _store(cached)
    query = RecallQuery("red cat", 5)
    answer = await _recall(cached, query)
    await _hit(cached, query)
    with psycopg.connect(database_dsn) as connection:
        connection.execute("update change_log set epoch = gen_random_uuid()")
    before = _counted(cached)["misses"]
    assert await _recall(cached, query) == answer
    assert _counted(cached)["misses"] == before + 1


async def test_no_text_reaches_redis_and_what_is_erased_is_not_shown(
    cached: Services, redis: RedisServer, tmp_path: Path
) -> None:
    await _store(cached)
    secret = {"key": "s", "title": "Quetzal Nimbus", "content": "the vermilion submarine of Quetzal Nimbus"}
    await cached.memory_writes.store_many(NS, [secret, {"content": "a harbour for Quetzal Nimbus"}])
    await _settled(cached)
    query = RecallQuery("vermilion submarine", 10, expand=3)
    recall = await _recall(cached, query)
    assert any(hit.carrier is not None and hit.carrier.name == "quetzal nimbus" for hit in recall.hits)
    assert await _hit(cached, query) == recall
    with Redis.from_url(redis.url) as client:
        keys = client.keys()
        assert keys
        assert all(0 < client.ttl(key) <= 300 for key in keys)
    # Redis writes down every command before it answers.
    written = _all_of(tmp_path).lower()
    assert keys[0] in written
    for word in (b"vermilion", b"submarine", b"quetzal", b"nimbus", NS.encode(), b"harbour", b"garden"):
        assert word not in written
    await cached.memory_writes.erase_many(NS, [MemoryRef(key="s")])
    assert not any("vermilion" in hit.memory.content for hit in (await _recall(cached, query)).hits)


def _all_of(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in directory.rglob("*") if path.is_file())


async def test_whatever_redis_holds_the_answer_is_right(
    cached: Services, redis: RedisServer, database_dsn: str
) -> None:
    await _store(cached)
    await cached.memory_writes.store("other", {"content": "red cat"})
    await _settled(cached, "other")
    foreign = _ids(await _recall(cached, RecallQuery("red cat"), "other"))[0]
    with Redis.from_url(redis.url) as client:
        client.flushall()
        query, other = RecallQuery("red cat", 5), RecallQuery("blue dog", 5)
        answer = await _recall(cached, query)
        (key,) = client.keys()
        good = client.get(key)
        await _recall(cached, other)
        elsewhere = client.get(({*client.keys()} - {key}).pop())
        with psycopg.connect(database_dsn) as connection:
            (secret,) = connection.execute("select cursor_key from change_log").fetchone() or (b"",)
        place = _Place(key.decode(), bytes(secret))
        assert place.sealed(good[16:]) == good
        outline = orjson.loads(good[16:])
        swapped = [outline[0], outline[1], [[foreign, *outline[2][0][1:]], *outline[2][1:]]]
        unnamed = [outline[0], outline[1], [[*outline[2][0][:4], [outline[2][0][0], 0.5, None, 10**6], []]]]
        damaged = [
            b"x", good[:-1], good[:20], b"\0" + good[1:], elsewhere, good + b" ", bytes(len(good)),
            place.sealed(b""), place.sealed(b"[" * 60_000), place.sealed(orjson.dumps(swapped)),
            place.sealed(orjson.dumps(unnamed)),
        ]  # fmt: skip
        for value in damaged:
            client.set(key, value)
            before = _counted(cached)["damaged"]
            assert await _recall(cached, query) == answer
            assert _counted(cached)["damaged"] == before + 1, value[:50]
            # It was replaced by a good one.
            assert await _hit(cached, query) == answer
        client.set(key, bytes(1_000_000))
        assert await _recall(cached, query) == answer
        client.delete(key)
        client.rpush(key, "a", "b")
        assert await _recall(cached, query) == answer


async def test_recalls_go_on_when_redis_dies_hangs_and_returns(
    with_cache: Settings, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caches, "TIMEOUT_SECONDS", 1.0)
    async with open_runtime(with_cache, maintenance=False) as cached:
        await _disturbed(cached, redis, monkeypatch)


async def _disturbed(cached: Services, redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    await _store(cached)
    assert cached.cache is not None
    query = RecallQuery("red cat", 5)
    compute: Callable[..., Any] = cached.recalls._computed

    def between(act: Callable[[], None]) -> None:
        """Do something between the look-up and the keeping of the next recall."""

        async def computed(*arguments: Any) -> Any:
            monkeypatch.undo()
            act()
            return await compute(*arguments)

        monkeypatch.setattr(type(cached.recalls), "_computed", lambda _, *arguments: computed(*arguments))

    between(redis.kill)
    answer = await _recall(cached, query)
    assert len(answer.hits) == 5
    assert (await cached.cache.state())["status"] == "degraded"
    # It is left alone.
    skipped = cached.cache.counters["cache"]["skipped"]
    assert await _recall(cached, query) == answer
    assert cached.cache.counters["cache"]["skipped"] > skipped
    redis.start()
    await _until_kept(cached, query)
    assert (await cached.cache.state()) == {"status": "up"}
    assert await _hit(cached, query) == answer

    other = RecallQuery("blue dog", 5)
    between(redis.pause)
    expected = await _recall(cached, other)
    failed = cached.cache.counters["cache"]["failed"]
    answers = await asyncio.gather(*(_recall(cached, other) for _ in range(6)))
    assert all(one == expected for one in answers)
    # None of them waited for it.
    assert cached.cache.counters["cache"]["failed"] <= failed + 1
    redis.resume()
    await _until_kept(cached, other)
    assert await _hit(cached, other) == expected
    assert await _hit(cached, query) == answer


async def _until_kept(services: Services, query: RecallQuery) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    before = _counted(services)["hits"]
    while _counted(services)["hits"] == before:
        assert time.monotonic() < deadline, "nothing is kept any more"
        await _recall(services, query)
        await asyncio.sleep(0.05)


async def test_connecting_may_take_longer_than_a_command(
    with_cache: Settings, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caches, "TIMEOUT_SECONDS", 0.1)
    monkeypatch.setattr(caches, "CONNECT_SECONDS", 10.0)
    monkeypatch.setattr(caches, "COOL_DOWN_SECONDS", 0.2)
    with Redis.from_url(redis.url) as client:
        client.config_set("requirepass", "secret")
    async with _far_away(redis, seconds=0.02) as port:
        url = SecretStr(f"redis://:secret@127.0.0.1:{port}/1")
        cache = RedisCache.open(with_cache.model_copy(update={"redis_url": url}))
        deadline = time.monotonic() + DEADLINE_SECONDS
        while await cache.get("key", most_bytes=10) != b"value" or await cache.state() != {"status": "up"}:
            assert time.monotonic() < deadline, dict(cache.counters)
            await cache.put("key", b"value")
            await asyncio.sleep(0.01)
        await cache.aclose()


async def test_a_caller_that_goes_takes_no_answer_of_another(with_cache: Settings) -> None:
    cache = RedisCache.open(with_cache)
    for place in range(20):
        await cache.put(str(place), str(place).encode())
    going = [asyncio.create_task(cache.get(str(place), most_bytes=10)) for place in range(20)]
    await asyncio.sleep(0)
    for task in going[::2]:
        task.cancel()
    await asyncio.wait(going)
    assert all(task.cancelled() for task in going[::2])
    found = await asyncio.gather(*(cache.get(str(place), most_bytes=10) for place in range(20)))
    assert found == [str(place).encode() for place in range(20)]
    assert [task.result() for task in going[1::2]] == found[1::2]
    assert cache.counters == {"failed": 0, "skipped": 0}
    assert await cache.state() == {"status": "up"}
    await cache.aclose()
    assert await cache.get("1", most_bytes=10) is None


async def test_connections_that_redis_closed_are_made_anew(with_cache: Settings, redis: RedisServer) -> None:
    cache = RedisCache.open(with_cache)
    await cache.put("key", b"value")
    with Redis.from_url(redis.url) as client:
        client.client_kill_filter(_type="normal", skipme=True)
    deadline = time.monotonic() + DEADLINE_SECONDS
    while await cache.get("key", most_bytes=10) != b"value":
        assert time.monotonic() < deadline
        await cache.state()
        await asyncio.sleep(0.01)
    await cache.aclose()


@asynccontextmanager
async def _far_away(redis: RedisServer, *, seconds: float) -> AsyncIterator[int]:
    """The port of a proxy that delivers what is sent, either way, so much later."""
    writers: list[asyncio.StreamWriter] = []

    async def delayed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        while data := await reader.read(65536):
            loop.call_later(seconds, writer.write, data)
        loop.call_later(seconds, writer.close)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        other_reader, other_writer = await asyncio.open_connection(redis.host, redis.port)
        writers.extend((writer, other_writer))
        ways = (delayed(reader, other_writer), delayed(other_reader, writer))
        await asyncio.gather(*ways, return_exceptions=True)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    # The client has gone: let both ways end.
    await asyncio.sleep(3 * seconds)
    for writer in writers:
        writer.close()
    await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)


async def test_a_full_redis_still_gives_what_it_has(cached: Services, redis: RedisServer) -> None:
    await _store(cached)
    assert cached.cache is not None
    query = RecallQuery("red cat", 5)
    answer = await _recall(cached, query)
    with Redis.from_url(redis.url) as client:
        client.config_set("maxmemory", "1")
        for _ in range(3):
            await _recall(cached, RecallQuery("blue dog", 5))
            assert await _hit(cached, query) == answer
        state = await cached.cache.state()
        assert state["status"] == "degraded"
        assert "OOM" in state["reason"] or "OutOfMemory" in state["reason"]
        client.config_set("maxmemory", "0")
        await _recall(cached, RecallQuery("blue dog", 5))
        assert (await cached.cache.state())["status"] == "up"


class Model(HashingEmbedder):
    """Counts what it embeds, under a name of its own."""

    def __init__(self, dimension: int = 64, revision: str = "1") -> None:
        super().__init__(dimension)
        self.asked: list[str] = []
        self._own = replace(super().identity, name="model", revision=revision)

    @property
    def identity(self) -> Any:
        return self._own

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.asked += texts
        return await super().embed(texts)


async def test_processes_share_the_vectors_of_queries(with_cache: Settings, redis: RedisServer) -> None:
    async def asked(model: Model, text: str, cache: RedisCache, **options: Any) -> NDArray[np.float32]:
        embedders = Embedders(model, shared=SharedVectors(cache, **options))
        vector = await embedders.query_vector(model.identity, text)
        await embedders.aclose()
        return vector

    cache = RedisCache.open(with_cache)
    model = Model()
    first = await asked(model, "a red cat", cache)
    for text in ("a red cat", "a blue dog", "…", "…"):
        vector = await asked(model, text, cache)
        assert np.array_equal(vector, (await HashingEmbedder(64).embed([text]))[0])
        assert vector.dtype == np.float32
        assert not vector.flags.writeable
    assert model.asked == ["a red cat", "a blue dog", "…"]
    for stranger in (Model(revision="2"), Model(32)):
        await asked(stranger, "a red cat", cache)
        assert stranger.asked == ["a red cat"]
    await asked(model, "a red cat", cache, without=[model.identity])
    assert model.asked.count("a red cat") == 2

    with Redis.from_url(redis.url) as client:
        keys = client.keys()
        good = {key: client.get(key) for key in keys}
        for key, value in good.items():
            others = [one for other, one in good.items() if other != key and len(one) == len(value)]
            client.set(key, others[0] if others else value[:-1])
        fresh = Model()
        assert np.array_equal(await asked(fresh, "a red cat", cache), first)
        assert fresh.asked == ["a red cat"]
    await cache.aclose()


_finite = st.floats(allow_nan=False, allow_infinity=False)
_id = st.integers(1, 2**63 - 1)
_NOW = datetime(2026, 1, 1, tzinfo=UTC)


def _memory(id_: int) -> Memory:
    return Memory(
        MemoryId(id_), NS, None, (1.0,), MemoryKind.EPISODIC, None, "met Ada Lovelace and Alan Turing", {}, 1.0, 1,
        _NOW, _NOW, None, None,
    )  # fmt: skip


_legs = st.builds(LegScore, st.sampled_from(Leg), st.none() | st.integers(1, 10**6), _finite, _finite, _finite)
_carriers = st.builds(
    Carrier,
    _id.map(_memory),
    _finite,
    st.none() | _id.map(LinkId),
    st.sampled_from([None, "ada lovelace", "alan turing"]),
)
_hits = st.builds(
    Hit, _id.map(_memory), _finite, st.lists(_legs, max_size=6).map(tuple), st.none() | _carriers,
    st.lists(_id.map(MemoryId), max_size=5).map(tuple), st.booleans(),
)  # fmt: skip


@given(st.lists(_hits, max_size=10, unique_by=lambda hit: hit.memory.id), st.booleans())
def test_an_outline_says_all_but_the_memories(hits: list[Hit], reranked: bool) -> None:
    recall = Recall(tuple(hits), hot=True, reranked=reranked)
    text = outlined(recall)
    assert text is not None
    assert b"lovelace" not in text.lower()
    outline = read_outline(text)
    assert outline.filled({one: _memory(one) for one in outline.ids}) == recall


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2**70) | _finite | st.sampled_from(["dense", "x", ""]),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=20,
)


@given(st.binary(max_size=200) | _json.map(lambda value: repr([1, False, [value]]).encode()))
def test_what_is_no_outline_is_refused_by_one_error(text: bytes) -> None:
    try:
        outline = read_outline(text)
    except ValueError:
        return
    assert outline.hits == ()


@given(st.data())
def test_an_outline_with_one_part_replaced_is_another_outline_or_none(data: st.DataObject) -> None:
    leg = LegScore(Leg.DENSE, 1, 0.5, 0.5, 0.25)
    hit = Hit(_memory(1), 0.25, (leg,), Carrier(_memory(2), 0.5, LinkId(3), "ada lovelace"), (MemoryId(4),))
    tree = orjson.loads(outlined(Recall((hit,))) or b"")
    place: Any = tree
    while True:
        at = data.draw(st.integers(0, len(place) - 1))
        if not isinstance(place[at], list) or not place[at] or data.draw(st.booleans()):
            break
        place = place[at]
    place[at] = data.draw(st.sampled_from([None, True, -1, 0, 1, 2**64 - 1, 0.5, "dense", "x", [], {}, [1], [[1]]]))
    try:
        outline = read_outline(orjson.dumps(tree))
    except ValueError:
        return
    known = {one: _memory(one) for one in outline.ids}
    try:
        recall = outline.filled(known)
    except LookupError:
        return
    text = outlined(recall)
    assert text is not None
    assert read_outline(text) == outline


def test_an_answer_that_is_too_long_is_not_kept() -> None:
    leg = LegScore(Leg.DENSE, 1, 1 / 3, 1 / 3, 1 / 3)
    hits = tuple(Hit(_memory(one), 1 / 3, (leg,) * 5) for one in range(1, 1_001))
    assert outlined(Recall(hits)) is None
    with pytest.raises(ValueError, match="shorter"):
        read_outline(b" " * (MAX_BYTES + 1))
