"""Windows of sequences: whatever happened before, they are as if everything had just been imported."""

import asyncio
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import numpy as np
import psycopg
import pytest
from numpy.typing import NDArray

from sfm_graph.adapters.embedders.hashing import HashingEmbedder
from sfm_graph.domain.identity import MemoryRef
from sfm_graph.domain.namespace import ModelIdentity
from sfm_graph.domain.recall import Leg, Recall, RecallQuery, RecallWeights
from sfm_graph.errors import EmbedderUnavailable
from sfm_graph.runtime import compose
from sfm_graph.services.embedders import Embedders
from sfm_graph.services.indexing import Indexing
from sfm_graph.services.registry import Services
from sfm_graph.services.whole_graph import WholeGraph
from sfm_graph.services.windows import Windows
from sfm_graph.settings import Settings
from sfm_graph.store.database import Database
from sfm_graph.store.linking import NAMES_LOCK

NS = "demo"
Fields = dict[str, Any]

ROWS = """
    select m.key, w.window_length, w.window_terms::text, w.window_due is null, w.sequence, w.position,
           (select array_agg(e.embedding::text order by e.id) from embeddings e
            where e.namespace_id = w.namespace_id and e.memory_id = w.memory_id and e.part < 0)
    from words w join memories m on m.namespace_id = w.namespace_id and m.id = w.memory_id
    join namespaces n on n.id = w.namespace_id where n.name = %s order by m.key
"""


async def _windows(dsn: str, namespace: str) -> dict[str, tuple[Any, ...]]:
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        rows = await (await connection.execute(ROWS, (namespace,))).fetchall()
    return {row[0]: row[1:] for row in rows}


async def _memories(dsn: str, namespace: str) -> list[Fields]:
    """What is stored, in the order of ids: a fresh import of it breaks ties of positions alike."""
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        rows = await (
            await connection.execute(
                "select m.key, m.title, m.content, m.payload from memories m "
                "join namespaces n on n.id = m.namespace_id where n.name = %s order by m.id",
                (namespace,),
            )
        ).fetchall()
    return [dict(zip(("key", "title", "content", "payload"), row, strict=True)) for row in rows]


async def _assert_as_fresh(services: Services, dsn: str, namespace: str = NS) -> dict[str, tuple[Any, ...]]:
    """Windows equal those of the same memories stored at once into a new namespace."""
    fresh = f"fresh/{random.getrandbits(60)}"
    if given := await _memories(dsn, namespace):
        await services.memory_writes.store_many(fresh, given)
    found = await _windows(dsn, namespace)
    assert found == await _windows(dsn, fresh)
    assert all(made for _, _, made, *_ in found.values())
    return found


def _turn(key: str, content: str, position: float, session: str = "s", **payload: Any) -> Fields:
    return {"key": key, "content": content, "payload": {"session": session, "position": position, **payload}}


async def _stocked(services: Services, count: int = 8) -> None:
    texts = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa"]
    await services.memory_writes.store_many(NS, [_turn(f"k{i}", f"{texts[i]} word{i}", i * 10) for i in range(count)])


async def _recall(services: Services, text: str, namespace: str = NS, **options: Any) -> Recall:
    async with services.views.open() as view:
        return await services.recalls.recall(view, namespace, RecallQuery(text, 50, **options))


def _sparse(text: str) -> dict[int, float]:
    body = text.split("}", maxsplit=1)[0].lstrip("{")
    return {int(term): float(count) for term, count in (pair.split(":") for pair in body.split(",") if pair)}


async def test_a_window_holds_two_before_and_one_after(services: Services, database_dsn: str) -> None:
    await _stocked(services)
    found = await _assert_as_fresh(services, database_dsn)
    assert [found[f"k{i}"][0] for i in range(8)] == [4, 6, 8, 8, 8, 8, 8, 6]
    recall = await _recall(services, "word3", weights=RecallWeights(dense=0, lexical=1, window=1))
    assert {hit.memory.key for hit in recall.hits} == {"k2", "k3", "k4", "k5"}
    assert {leg.leg for leg in recall.hits[0].legs} >= {Leg.LEXICAL, Leg.LEXICAL_WINDOW}


async def test_a_window_counts_its_members_words(services: Services, database_dsn: str) -> None:
    await services.memory_writes.store_many(
        NS, [_turn("a", "red red", 1), {**_turn("b", "red", 2), "title": "Red"}, _turn("c", "blue", 3)]
    )
    found = await _windows(database_dsn, NS)
    counts = {key: sorted(_sparse(row[1]).values()) for key, row in found.items()}
    assert counts == {"a": [5.0], "b": [1.0, 5.0], "c": [1.0, 5.0]}
    assert {key: row[0] for key, row in found.items()} == {"a": 5, "b": 6, "c": 6}


async def test_one_alone_in_a_sequence_is_its_own_window(services: Services, database_dsn: str) -> None:
    await services.memory_writes.store(NS, _turn("a", "alone", 1))
    assert (await _windows(database_dsn, NS))["a"][:3] == (None, None, True)
    await services.memory_writes.store(NS, _turn("b", "not alone", 2))
    assert (await _windows(database_dsn, NS))["a"][0] == 3
    await services.memory_writes.forget_many(NS, [MemoryRef(key="b")])
    assert (await _windows(database_dsn, NS))["a"] == (None, None, True, "s", 1.0, None)


@pytest.mark.parametrize("position", [-5, 0, 25, 30, 75, 999])
async def test_storing_in_the_middle(services: Services, database_dsn: str, position: float) -> None:
    await _stocked(services)
    await services.memory_writes.store(NS, _turn("new", "lambda", position))
    await _assert_as_fresh(services, database_dsn)


@pytest.mark.parametrize("erase", [False, True])
@pytest.mark.parametrize("gone", [[0], [3], [7], [2, 3], [1, 4, 6], [0, 1, 2, 3, 4, 5, 6], list(range(8))])
async def test_removing(services: Services, database_dsn: str, gone: list[int], erase: bool) -> None:
    await _stocked(services)
    refs = [MemoryRef(key=f"k{i}") for i in gone]
    await (services.memory_writes.erase_many if erase else services.memory_writes.forget_many)(NS, refs)
    found = await _assert_as_fresh(services, database_dsn)
    assert len(found) == 8 - len(gone)


@pytest.mark.parametrize(
    "patch",
    [
        {"payload": {"session": "s", "position": 55}},
        {"payload": {"session": "s", "position": -1}},
        {"payload": {"session": "s", "position": 30.0, "other": True}},
        {"payload": {"session": "t", "position": 30}},
        {"payload": {"position": 30}},
        {"payload": {}},
        {"payload": {"session": 7}},
        {"content": "entirely new words"},
        {"title": "A title"},
        {"content": "moved and new", "payload": {"session": "s", "position": 65}},
        {"importance": 3},
    ],
    ids=str,
)
async def test_updating(services: Services, database_dsn: str, patch: Fields) -> None:
    await _stocked(services)
    await services.memory_writes.update(NS, MemoryRef(key="k3"), patch)
    await _assert_as_fresh(services, database_dsn)


async def test_replacing_by_key_and_many_at_once(services: Services, database_dsn: str) -> None:
    await _stocked(services)
    await services.memory_writes.store_many(
        NS,
        [
            _turn("k3", "replaced", 71),
            _turn("k3", "replaced again", 12),
            _turn("k0", "the last now", 500),
            {"key": "k5", "content": "left the sequence"},
            _turn("x", "new", 13),
            _turn("k6", "to another", 1, "t"),
            _turn("y", "the other's second", 2, "t"),
        ],
    )
    found = await _assert_as_fresh(services, database_dsn)
    assert (found["k5"][0], found["k6"][3]) == (None, "t")


async def test_equal_positions_go_by_age(services: Services, database_dsn: str) -> None:
    await services.memory_writes.store_many(NS, [{"key": f"k{i}", "content": f"w{i}", "payload": {"session": "s"}}
                                                 for i in range(6)])  # fmt: skip
    await services.memory_writes.forget_many(NS, [MemoryRef(key="k2")])
    await services.memory_writes.store(NS, {"key": "k9", "content": "w9", "payload": {"session": "s"}})
    await _assert_as_fresh(services, database_dsn)


async def test_random_histories_leave_what_an_import_makes(services: Services, database_dsn: str) -> None:
    chosen = random.Random(11)
    words = ["one", "two", "three", "four", "five"]
    for step in range(40):
        key = MemoryRef(key=f"k{chosen.randrange(12)}")
        match chosen.randrange(6):
            case 0:
                refs = [MemoryRef(key=f"k{chosen.randrange(12)}") for _ in range(chosen.randint(1, 4))]
                await services.memory_writes.forget_many(NS, refs)
            case 1:
                payload = {"session": chosen.choice(["s", "t", None]), "turn": chosen.randrange(6)}
                await _patched(services, key, {"payload": payload})
            case 2:
                await _patched(services, key, {"content": f"{chosen.choice(words)} {step}"})
            case _:
                items = [
                    _turn(f"k{chosen.randrange(12)}", " ".join(chosen.choices(words, k=3)), chosen.randrange(6),
                          chosen.choice("st"))
                    for _ in range(chosen.randint(1, 5))
                ]  # fmt: skip
                await services.memory_writes.store_many(NS, items)
        if step % 4 == 3:
            await _assert_as_fresh(services, database_dsn)


async def _patched(services: Services, ref: MemoryRef, patch: Mapping[str, Any]) -> None:
    async with services.views.open() as view:
        namespace = await view.namespace(NS)
    if namespace is not None and (await _keys(services)).issuperset({ref.key}):
        await services.memory_writes.update(NS, ref, patch)


async def _keys(services: Services) -> set[str | None]:
    recall = await _recall(services, "one two three four five")
    return {hit.memory.key for hit in recall.hits}


async def test_tasks_that_append_at_once(services: Services, database_dsn: str) -> None:
    async def append(task: int) -> None:
        for number in range(6):
            await services.memory_writes.store(
                NS, _turn(f"{task}-{number}", f"task{task} said{number}", number * 8 + task)
            )

    await asyncio.gather(*map(append, range(8)))
    found = await _assert_as_fresh(services, database_dsn)
    assert len(found) == 48


async def test_tasks_that_append_move_and_forget_at_once(services: Services, database_dsn: str) -> None:
    await _stocked(services)

    async def work(task: int) -> None:
        chosen = random.Random(task)
        for number in range(5):
            key = f"{task}-{number}"
            await services.memory_writes.store(NS, _turn(key, f"task{task} n{number}", chosen.randrange(80)))
            if chosen.random() < 0.5:
                payload = {"session": "s", "position": chosen.randrange(80)}
                await services.memory_writes.update(NS, MemoryRef(key=key), {"payload": payload})
            if chosen.random() < 0.4:
                await services.memory_writes.forget_many(NS, [MemoryRef(key=key)])

    await asyncio.gather(*map(work, range(8)))
    await _assert_as_fresh(services, database_dsn)


async def test_forgetting_the_untitled_waits_for_nobody_who_looks_names_up(
    services: Services, database_dsn: str
) -> None:
    await services.memory_writes.store_many(NS, [_turn("a", "one", 1), {**_turn("b", "two", 2), "title": "Two"}])
    async with await psycopg.AsyncConnection.connect(database_dsn) as other:
        await other.execute("select pg_advisory_xact_lock_shared(id, %s) from namespaces", (NAMES_LOCK,))
        await asyncio.wait_for(services.memory_writes.forget_many(NS, [MemoryRef(key="a")]), 5)
        titled = asyncio.create_task(services.memory_writes.forget_many(NS, [MemoryRef(key="b")]))
        assert not (await asyncio.wait({titled}, timeout=0.3))[0]
        await other.rollback()
        assert len(await titled) == 1


async def test_writers_of_the_same_memories_and_sequences_never_deadlock(
    services: Services, database_dsn: str
) -> None:
    async def work(task: int) -> None:
        chosen = random.Random(task)
        for number in range(12):
            some = [
                {
                    **_turn(key, f"t{task} n{number}", chosen.randrange(9), chosen.choice("stuv")),
                    "title": f"Name {key}",
                }
                for key in chosen.sample("abcd", 2)
            ]
            if number % 3 == 2:
                await services.memory_writes.forget_many(NS, [MemoryRef(key=one["key"]) for one in some])
            else:
                await services.memory_writes.store_many(NS, [*some, _turn(f"{task}-{number}", "new", task, "s")])

    await asyncio.gather(*map(work, range(8)))
    async with await psycopg.AsyncConnection.connect(database_dsn, autocommit=True) as connection:
        await connection.execute("select pg_stat_force_next_flush()")
        row = await (
            await connection.execute("select deadlocks from pg_stat_database where datname = current_database()")
        ).fetchone()
    # A memory may change its sequence between look-up and lock.
    assert row is not None
    assert row[0] <= 2
    await _assert_as_fresh(services, database_dsn)


class _Failing:
    """The hashing embedder until it is told to fail."""

    def __init__(self) -> None:
        self._inner = HashingEmbedder()
        self.down = False
        self.texts: list[str] = []

    @property
    def identity(self) -> ModelIdentity:
        return self._inner.identity

    @property
    def dense_share(self) -> float:
        return self._inner.dense_share

    @property
    def exact_scan_limit(self) -> int:
        return self._inner.exact_scan_limit

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        # Windows are the texts of several lines here.
        if self.down and any("\n" in text for text in texts):
            raise EmbedderUnavailable("down")
        self.texts += texts
        return await self._inner.embed(texts)

    async def aclose(self) -> None:
        await self._inner.aclose()


@pytest.fixture
async def failing(settings: Settings, database_dsn: str) -> AsyncIterator[tuple[Services, Windows, _Failing]]:
    embedder = _Failing()
    database = Database(database_dsn, role="sfm_service")
    await database.open()
    embedders = Embedders(embedder)
    services = compose(settings, database, embedders, WholeGraph())
    yield services, Windows(database, Indexing(embedders)), embedder
    await database.close()


async def test_what_an_embedder_missed_is_made_later(
    failing: tuple[Services, Windows, _Failing], database_dsn: str
) -> None:
    services, windows, embedder = failing
    await _stocked(services, 3)
    embedder.down = True
    await services.memory_writes.store(NS, _turn("late", "while it was down", 5))
    due = await _windows(database_dsn, NS)
    assert {key: (row[2], row[5]) for key, row in due.items()} == dict.fromkeys(due, (False, None))
    # Found by its words, and by its own vector until the window's is there.
    recall = await _recall(services, "word1", weights=RecallWeights(dense=0.5, lexical=0.5, window=1.0))
    assert "late" in {hit.memory.key for hit in recall.hits}
    with pytest.raises(EmbedderUnavailable):
        await windows.fill_all()
    embedder.down = False
    await windows.fill_all()
    await _assert_as_fresh(services, database_dsn)
    embedder.texts.clear()
    await windows.fill_all()
    assert embedder.texts == []


async def test_a_writer_makes_only_its_own_windows(
    failing: tuple[Services, Windows, _Failing], database_dsn: str
) -> None:
    services, _, embedder = failing
    await _stocked(services, 3)
    embedder.down = True
    await services.memory_writes.store(NS, _turn("far", "far", 5))
    embedder.down = False
    embedder.texts.clear()
    await services.memory_writes.store_many(NS, [_turn("a", "one", 1, "t"), _turn("b", "two", 2, "t")])
    assert [text for text in embedder.texts if "\n" in text] == ["one\ntwo", "one\ntwo"]
    assert not any(
        made for key, (_, _, made, *_) in (await _windows(database_dsn, NS)).items() if key in ("far", "k1")
    )


async def test_another_models_namespace_has_windows_of_words_only(services: Services, database_dsn: str) -> None:
    await services.namespaces.put(NS, settings=None, model={"name": "given", "dimension": 3})
    items = [{**_turn(f"k{i}", f"word{i}", i), "embedding": [1, i, 0]} for i in range(3)]
    await services.memory_writes.store_many(NS, items)
    found = await _windows(database_dsn, NS)
    assert [(row[0], row[2], row[5]) for row in found.values()] == [(2, True, None), (3, True, None), (3, True, None)]


async def _searchable(dsn: str, namespace: str) -> dict[str, list[Any]]:
    """All search rows of a namespace, without what differs between equal namespaces."""
    queries = {
        "words": "select length, terms::text, array_remove(tsvector_to_array(lexemes), '@' || t.namespace_id), "
        "author, date, sequence, position, proper_names, window_length, window_terms::text, "
        "window_due is null from words t",
        "names": "select t.name, t.head, t.name_id from names t",
        "embeddings": "select t.part, t.embedding::text from embeddings t",
    }
    found = {}
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        for table, query in queries.items():
            query += f" join namespaces n on n.id = t.namespace_id where n.name = '{namespace}' order by t.memory_id"
            query += ", t.part" if table == "embeddings" else ", t.name" if table == "names" else ""
            found[table] = await (await connection.execute(query)).fetchall()  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize("hot", [True, False])
async def test_a_forgotten_turn_leaves_no_trace(
    services: Services, settings: Settings, database_dsn: str, hot: bool
) -> None:
    """A namespace that had a turn more answers, and is stored, as one that never had."""
    turns = [
        _turn(f"k{i}", f"word{i} met Grace Hopper in Windhoek", i, speaker="Bob", date=f"2023-05-0{i + 1}")
        for i in range(5)
    ]
    secret = {
        **_turn("secret", "Zanzibar treaty signed by Grace Hopper with Quentin Tarantulo", 2.5, speaker="Mallory",
                date="1999-12-31", aliases=["Operation Word1", "hushhush"]),
        "title": "The Zanzibar Treaty",
    }  # fmt: skip
    for namespace in ("had", "never"):
        await services.memory_writes.store_many(namespace, turns)
    await _recall(services, "Zanzibar", "had")
    await services.memory_writes.store("had", secret)
    assert (await _recall(services, "Zanzibar", "had")).hits[0].memory.key == "secret"
    await services.memory_writes.forget_many("had", [MemoryRef(key="secret")])
    assert await _searchable(database_dsn, "had") == await _searchable(database_dsn, "never")

    database = Database(database_dsn, role="sfm_service")
    await database.open()
    none_hot = settings.model_copy(update={"hot_budget_bytes": 0})
    cold = compose(none_hot, database, Embedders(HashingEmbedder()), WholeGraph())
    try:
        asked = services if hot else cold
        for query in (
            "Zanzibar treaty", "the Zanzibar Treaty", "Operation Word1", "word1 in 1999", "hushhush Mallory",
            "Grace Hopper Windhoek", "Quentin Tarantulo", "Bob on 3 May 2023",
        ):  # fmt: skip
            had, never = await _recall(asked, query, "had"), await _recall(asked, query, "never")
            assert _explained(had) == _explained(never), query
            assert had.hot is hot
    finally:
        await database.close()


def _explained(recall: Recall) -> list[Any]:
    """Hits with all that explains them; floats as far as a merged segment adds them up alike."""
    return [
        (
            hit.memory.key,
            round(hit.score, 9),
            [(leg.leg, leg.rank, round(leg.raw_score, 5), round(leg.contribution, 5)) for leg in hit.legs],
            hit.carrier and (hit.carrier.seed.key, hit.carrier.name, hit.carrier.link is None),
        )
        for hit in recall.hits
    ]


async def test_forgetting_all_turns_ends_the_windows_legs(services: Services) -> None:
    await services.memory_writes.store(NS, {"key": "plain", "content": "word1 alone"})
    await _stocked(services, 4)
    assert Leg.LEXICAL_WINDOW in {leg.leg for leg in (await _recall(services, "word1")).hits[0].legs}
    await services.memory_writes.forget_many(NS, [MemoryRef(key=f"k{i}") for i in range(4)])
    recall = await _recall(services, "word1")
    assert [hit.memory.key for hit in recall.hits] == ["plain"]
    assert {leg.leg for leg in recall.hits[0].legs} == {Leg.DENSE, Leg.LEXICAL, Leg.IMPORTANCE}


async def test_a_forgotten_longer_name_hides_no_shorter_one(services: Services) -> None:
    """The query says "New York City": once nobody is called so, it says "New York"."""
    await services.memory_writes.store_many(
        NS,
        [
            {"key": "ny", "title": "New York", "content": "a state"},
            *({"key": f"f{i}", "content": f"filler {i}"} for i in range(40)),
        ],
    )
    await _recall(services, "warm")
    await services.memory_writes.store(NS, {"key": "nyc", "title": "New York City", "content": "big"})
    before = await _recall(services, "in New York City")
    assert Leg.NAME in {leg.leg for leg in before.hits[0].legs}
    assert before.hits[0].memory.key == "nyc"
    await services.memory_writes.forget_many(NS, [MemoryRef(key="nyc")])
    (best, *_) = (await _recall(services, "in New York City")).hits
    assert best.memory.key == "ny"
    assert Leg.NAME in {leg.leg for leg in best.legs}
