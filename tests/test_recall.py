"""Recall: hot and SQL legs agree, filters never cost rows, every write is seen at once, every score is explained."""

import asyncio
import random
from typing import Any

import numpy as np
import pytest

from sfm_graph.adapters.embedders.hashing import HashingEmbedder
from sfm_graph.domain.identity import MemoryRef
from sfm_graph.domain.memory import MemoryKind
from sfm_graph.domain.recall import Leg, Recall, RecallQuery, RecallWeights
from sfm_graph.domain.recall_inputs import recall_weights
from sfm_graph.domain.where import parse_where
from sfm_graph.errors import InvalidInput, ModelMismatch
from sfm_graph.runtime import compose
from sfm_graph.services.embedders import Embedders
from sfm_graph.services.registry import Services
from sfm_graph.services.whole_graph import WholeGraph
from sfm_graph.settings import Settings
from sfm_graph.store import vector_indexes
from sfm_graph.store.database import Database

NS = "demo"
_VECTORS = recall_weights({"dense": 1, "lexical": 0, "importance": 0})
_TEXT = recall_weights({"dense": 0, "lexical": 1, "importance": 0})
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
    "river",
    "mountain",
]


def _texts(count: int, seed: int = 0) -> list[str]:
    chosen = random.Random(seed)
    return [" ".join(chosen.choices(WORDS, k=chosen.randint(3, 12))) for _ in range(count)]


async def _recall(services: Services, query: RecallQuery, namespace: str = NS) -> Recall:
    async with services.views.open() as view:
        return await services.recalls.recall(view, namespace, query)


def _answer(recall: Recall) -> list[tuple[int, float]]:
    return [(hit.memory.id, round(hit.score, 3)) for hit in recall.hits]


@pytest.fixture
async def cold_services(settings: Settings, database_dsn: str) -> Any:
    """Services without memory for hot namespaces: everything is searched in SQL."""
    database = Database(database_dsn, role="sfm_service")
    await database.open()
    yield compose(
        settings.model_copy(update={"hot_budget_bytes": 0}),
        database,
        Embedders(HashingEmbedder()),
        WholeGraph(),
    )
    await database.close()


async def test_hits_are_explained_by_leg(services: Services) -> None:
    await services.memory_writes.store_many(NS, [{"content": text} for text in _texts(50)])
    recall = await _recall(services, RecallQuery("a cat in the garden", 10))
    assert recall.hot
    assert len(recall.hits) == 10
    scores = [hit.score for hit in recall.hits]
    assert scores == sorted(scores, reverse=True)
    for hit in recall.hits:
        assert 0 <= hit.score <= 1 + 1e-9
        assert [leg.leg for leg in hit.legs] == [Leg.DENSE, Leg.LEXICAL, Leg.IMPORTANCE]
        assert hit.score == pytest.approx(sum(leg.contribution for leg in hit.legs))
        assert sum(leg.weight for leg in hit.legs) == pytest.approx(1)
    assert recall.hits[0].legs[1].rank is not None


async def test_hot_and_sql_answers_agree(services: Services, cold_services: Services) -> None:
    items = [
        {"content": text, "kind": random.Random(i).choice(list(MemoryKind))} for i, text in enumerate(_texts(300))
    ]
    await services.memory_writes.store_many(NS, items)
    await services.memory_writes.store_many(NS, [{"content": "red cat", "valid_to": "2020-01-01"}])
    for text in ("red cat", "a bird sleeps slowly", "mountain", "unheard of words"):
        for query in (
            RecallQuery(text, 8),
            RecallQuery(text, 8, kinds=(MemoryKind.ENTITY,)),
            RecallQuery(text, 8, weights=_VECTORS),
            RecallQuery(text, 8, weights=_TEXT),
        ):
            hot, cold = await _recall(services, query), await _recall(cold_services, query)
            assert (hot.hot, cold.hot) == (True, False)
            # Half precision in SQL: equal scores may change places, scores may differ in the third digit.
            assert [s for _, s in _answer(hot)] == pytest.approx([s for _, s in _answer(cold)], abs=2e-3)


async def test_bm25_equals_its_definition(services: Services) -> None:
    texts = _texts(60, seed=3)
    stored = await services.memory_writes.store_many(NS, [{"content": text} for text in texts])
    recall = await _recall(services, RecallQuery("cat river", 60, weights=_TEXT))
    average = sum(len(text.split()) for text in texts) / len(texts)
    expected = {}
    for item, text in zip(stored.stored, texts, strict=True):
        score = 0.0
        for term in ("cat", "river"):
            frequency = sum(term in other.split() for other in texts)
            idf = np.log(1 + (len(texts) - frequency + 0.5) / (frequency + 0.5))
            count = text.split().count(term)
            score += idf * count * 2.2 / (count + 1.2 * (0.25 + 0.75 * len(text.split()) / average))
        if score:
            expected[item.memory.id] = score
    assert {hit.memory.id: hit.legs[0].raw_score for hit in recall.hits} == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("keep", [1, 3, 40])
async def test_a_filter_never_costs_rows(services: Services, cold_services: Services, keep: int) -> None:
    items = [{"content": text, "payload": {"kept": i < keep}} for i, text in enumerate(_texts(400))]
    await services.memory_writes.store_many(NS, items)
    where = parse_where({"payload": [{"path": ["kept"], "eq": True}]})
    for opened in (services, cold_services):
        recall = await _recall(opened, RecallQuery("nothing alike zzz", 10, where=where))
        assert len(recall.hits) == min(keep, 10)
        assert all(hit.memory.payload["kept"] for hit in recall.hits)


async def test_every_write_is_seen_at_once(services: Services) -> None:
    chosen = random.Random(7)
    alive: dict[str, str] = {}
    for step in range(60):
        key = f"k{chosen.randrange(15)}"
        if key in alive and chosen.random() < 0.4:
            await services.memory_writes.forget_many(NS, [MemoryRef(key=key)])
            del alive[key]
        else:
            alive[key] = f"unique{step} {_texts(1, step)[0]}"
            await services.memory_writes.store(NS, {"key": key, "content": alive[key]})
        recall = await _recall(services, RecallQuery("cat dog bird", 100))
        assert {hit.memory.key for hit in recall.hits} == set(alive)
        for word in [f"unique{step}"] if key in alive else []:
            found = await _recall(services, RecallQuery(word, 1, weights=_TEXT))
            assert [hit.memory.key for hit in found.hits] == [key]


async def test_readers_and_writers_side_by_side_see_whole_transactions(services: Services) -> None:
    """Writers keep pairs of memories equal; a recall must never see half of a pair."""
    await services.memory_writes.store_many(NS, [{"key": key, "content": "pair zero"} for key in ("a", "b")])

    async def write() -> None:
        for number in range(15):
            content = f"pair version{number}"
            await services.memory_writes.store_many(NS, [{"key": key, "content": content} for key in ("a", "b")])

    async def read() -> None:
        for _ in range(25):
            recall = await _recall(services, RecallQuery("pair", 10))
            assert len(recall.hits) == 2
            assert len({hit.memory.content for hit in recall.hits}) == 1
            assert len({round(hit.legs[1].raw_score, 6) for hit in recall.hits}) == 1

    await asyncio.gather(write(), read(), read(), read())


async def test_one_view_sees_one_snapshot(services: Services) -> None:
    await services.memory_writes.store(NS, {"content": "the first cat"})
    async with services.views.open() as view:
        before = await services.recalls.recall(view, NS, RecallQuery("cat", 10))
        await services.memory_writes.store(NS, {"content": "the second cat"})
        await _recall(services, RecallQuery("cat", 10))
        again = await services.recalls.recall(view, NS, RecallQuery("cat", 10))
    assert _answer(before) == _answer(again)
    assert len((await _recall(services, RecallQuery("cat", 10))).hits) == 2


@pytest.mark.parametrize("count", [5, 13, 20])
async def test_ties_and_repeats_are_deterministic(services: Services, count: int) -> None:
    stored = await services.memory_writes.store_many(NS, [{"content": "the very same old text of a song"}] * count)
    ids = [item.memory.id for item in stored.stored]
    for query in ("same text", "an old song", "verses", "songs of old"):
        for weights in (RecallWeights(), RecallWeights(dense=1.0, lexical=0.0)):
            recall = await _recall(services, RecallQuery(query, 5, weights=weights))
            assert [hit.memory.id for hit in recall.hits] in (ids[:5], [])


async def test_an_enormous_importance_is_a_score_like_any_other(services: Services) -> None:
    await services.memory_writes.store(NS, {"key": "a", "content": "red cat", "importance": 1e300})
    await services.memory_writes.store(NS, {"key": "b", "content": "red dog"})
    recall = await _recall(services, RecallQuery("red cat", 2))
    assert [hit.memory.key for hit in recall.hits] == ["a", "b"]
    assert all(0 <= hit.score <= 1 for hit in recall.hits)


async def test_a_title_that_begins_a_word_of_the_content_leaves_it_whole(services: Services) -> None:
    await services.memory_writes.store(NS, {"key": "art", "title": "Art", "content": "Artificial hearts beat"})
    recall = await _recall(services, RecallQuery("artificial", 1, weights=RecallWeights(dense=0.0)))
    assert [hit.memory.key for hit in recall.hits] == ["art"]


async def test_only_what_is_valid_now_is_recalled(services: Services) -> None:
    for key, fields in (("past", {"valid_to": "2020-01-01"}), ("future", {"valid_from": "9998-01-01"}), ("now", {})):
        await services.memory_writes.store(NS, {"key": key, "content": "valid text", **fields})
    for query in (RecallQuery("valid text", 10), RecallQuery("valid text", 10, kinds=(MemoryKind.EPISODIC,))):
        assert [hit.memory.key for hit in (await _recall(services, query)).hits] == ["now"]


@pytest.mark.parametrize(
    "text", ["", "   ", "the of and", "猫在花园里", "🙂", "x" * 100_000, "a' | b & !c:*", "%s %(x)s"]
)
async def test_odd_queries_are_answered(services: Services, cold_services: Services, text: str) -> None:
    await services.memory_writes.store_many(
        NS, [{"content": "the cat"}, {"content": "猫在睡觉"}, {"content": "🙂 smile"}]
    )
    for opened in (services, cold_services):
        recall = await _recall(opened, RecallQuery(text, 5))
        assert len(recall.hits) <= 3
        if text in ("猫在花园里", "🙂"):
            assert recall.hits[0].memory.content[0] == text[0]


async def test_a_never_written_namespace_answers_nothing(services: Services) -> None:
    assert (await _recall(services, RecallQuery("x", 5), "void")).hits == ()


async def test_long_texts_are_found_by_any_part(services: Services) -> None:
    filler = " ".join(_texts(150, seed=1))
    await services.memory_writes.store_many(
        NS, [{"key": "long", "content": f"{filler}. The zebra crossed the savannah. {filler}"}, {"content": filler}]
    )
    recall = await _recall(services, RecallQuery("zebra savannah", 2, weights=_VECTORS))
    assert recall.hits[0].memory.key == "long"


async def test_ordered_payload_filters_need_a_declaration(services: Services) -> None:
    await services.memory_writes.store_many(NS, [{"content": "x", "payload": {"n": n}} for n in range(5)])
    query = RecallQuery("x", 10, where=parse_where({"payload": [{"path": "n", "gte": 3}]}))
    with pytest.raises(InvalidInput, match="declared"):
        await _recall(services, query)
    await services.namespaces.put(NS, settings={"payload_paths": ["n"]}, model=None)
    assert len((await _recall(services, query)).hits) == 2


async def test_given_vectors_are_searched_exactly_and_by_index_alike(services: Services, database_dsn: str) -> None:
    chosen = np.random.default_rng(5)
    vectors = chosen.standard_normal((1_200, 16))
    await services.namespaces.put(NS, settings=None, model={"name": "given", "dimension": 16})
    items = [{"content": f"t{i}", "embedding": vector.tolist()} for i, vector in enumerate(vectors)]
    stored = await services.memory_writes.store_many(NS, items)
    ids = [item.memory.id for item in stored.stored]
    unit = vectors / np.linalg.norm(vectors, axis=1)[:, None]
    with pytest.raises(ModelMismatch):
        await _recall(services, RecallQuery("no vector", 5))
    with pytest.raises(ModelMismatch):
        await _recall(services, RecallQuery("x", 5, embedding=np.ones(3, np.float32)))

    database = Database(database_dsn, role="sfm_service")
    await database.open()
    try:
        (tail,) = await vector_indexes.tails(database)
        assert await vector_indexes.length(database, tail) == 1_200
        assert await vector_indexes.build(database, tail)
        assert await vector_indexes.tails(database) == []
        later = await services.memory_writes.store(NS, {"content": "late", "embedding": unit[0].tolist()})
        over = compose(
            services.settings.model_copy(update={"hot_budget_bytes": 0}),
            database,
            Embedders(HashingEmbedder()),
            WholeGraph(),
        )
        hits = 0
        for number in range(20):
            query = RecallQuery("", 10, embedding=unit[number].astype(np.float32))
            exact = [ids[i] for i in np.argsort(-(unit @ unit[number]))[:10]]
            assert [one for one, _ in _answer(await _recall(services, query)) if one != later.memory.id][:9] == exact[
                :9
            ]
            indexed = [one for one, _ in _answer(await _recall(over, query))]
            assert len(indexed) == 10
            hits += len(set(indexed) & set(exact))
            if number == 0:
                assert later.memory.id in indexed
        assert hits >= 190
    finally:
        await database.close()
