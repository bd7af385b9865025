"""Moving a namespace to another model, and making words and links anew, while others read and write."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import numpy as np
import psycopg
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from sfm_graph.adapters.embedders.hashing import HashingEmbedder
from sfm_graph.cli import app
from sfm_graph.domain.as_of import AsOf
from sfm_graph.domain.identity import MemoryRef
from sfm_graph.domain.namespace import ModelIdentity, Namespace
from sfm_graph.domain.recall import Leg, RecallQuery, RecallWeights
from sfm_graph.errors import Conflict, EmbedderUnavailable, NamespaceNotFound
from sfm_graph.ports.embedder import Embedder
from sfm_graph.runtime import compose
from sfm_graph.services import reembed as service
from sfm_graph.services import reembed_vectors
from sfm_graph.services.embedders import Embedders
from sfm_graph.services.registry import Services
from sfm_graph.services.whole_graph import WholeGraph
from sfm_graph.settings import Settings
from sfm_graph.store import namespaces
from sfm_graph.store.database import Database

NS = "demo"
DIMENSION = 48
WORDS = ["owl", "moon", "river", "stone", "lamp", "field", "tower", "bread", "winter", "garden", "letter", "music"]


class Other:
    """Another model: hashing of another size, which can be slow, go away, or be watched."""

    def __init__(self) -> None:
        self._hashing = HashingEmbedder(DIMENSION)
        self.identity = ModelIdentity("other", "1", DIMENSION)
        self.exact_scan_limit = 100_000
        self.dense_share = 0.5
        self.before: Callable[[Sequence[str]], Any] | None = None
        self.texts = 0

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        if self.before is not None:
            await self.before(texts)
        self.texts += len(texts)
        return await self._hashing.embed(texts)

    async def aclose(self) -> None:
        pass


@asynccontextmanager
async def opened(settings: Settings, default: Embedder, *others: Embedder) -> AsyncIterator[Services]:
    """Services that embed new namespaces by `default`, as a process with other settings does."""
    assert settings.postgres_url is not None
    database = Database(settings.postgres_url.get_secret_value(), max_size=8)
    embedders, whole_graph = Embedders(default, others), WholeGraph()
    await database.open()
    try:
        yield compose(settings, database, embedders, whole_graph)
    finally:
        await whole_graph.aclose()
        await embedders.aclose()
        await database.close()


@pytest.fixture
def other() -> Other:
    return Other()


@pytest.fixture
async def moving(settings: Settings, other: Other) -> AsyncIterator[Services]:
    """A process on the same database that is set to the other model and still runs the old one."""
    async with opened(settings, other, HashingEmbedder()) as found:
        yield found


def item(chosen: random.Random, number: int) -> dict[str, Any]:
    """A memory with the key k<number>; every fourth may stand in the same sequences."""
    payload: dict[str, Any] = {"note": chosen.randrange(9)}
    if chosen.random() < 0.6:
        payload |= {"session": f"{chosen.choice('st')}{number % 4}", "position": chosen.randrange(50)}
    if chosen.random() < 0.2:
        payload["aliases"] = [f"The {chosen.choice(WORDS).title()} {number}"]
    words = chosen.choices([*WORDS, f"The Owl {number - 1}"], k=chosen.choice([0, 5, 9, 9, 9, 9, 12, 12, 12, 500]))
    title = chosen.choice([None, None, f"Tower {number}"])
    return {"key": f"k{number}", "content": " ".join(words), "payload": payload, "title": title}


async def fill(services: Services, count: int) -> None:
    chosen = random.Random(1)
    await services.memory_writes.store_many(NS, [item(chosen, number) for number in range(count)])


async def rows(settings: Settings, query: str, *parameters: Any) -> list[Any]:
    assert settings.postgres_url is not None
    dsn = settings.postgres_url.get_secret_value()
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        cursor = await connection.execute(query, parameters)  # type: ignore[arg-type]
        return await cursor.fetchall() if cursor.description else []


async def model_of(settings: Settings) -> str:
    ((name,),) = await rows(settings, "select m.name from namespaces n join models m on m.id = n.model_id")
    return str(name)


async def vectors_of(settings: Settings, namespace: str = NS) -> dict[tuple[str, int], tuple[str, list[float]]]:
    """All vectors: key and part -> model and values."""
    found = await rows(
        settings,
        "select m.key, e.part, o.name, e.embedding::real[] from embeddings e "
        "join namespaces n on n.id = e.namespace_id and n.name = %s join models o on o.id = e.model_id "
        "left join memories m on m.namespace_id = e.namespace_id and m.id = e.memory_id",
        namespace,
    )
    assert len({row[:3] for row in found}) == len(found)
    assert all(row[0] is not None for row in found), "a vector of a memory that is gone"
    return {(f"{model}:{key}", part): (model, values) for key, part, model, values in found}


async def copied(services: Services, settings: Settings) -> None:
    """The namespace stored anew in one go, in the order of ids, into the namespace `copy`."""
    found = await rows(
        settings,
        "select m.key, m.kind, m.title, m.content, m.payload from memories m "
        "join namespaces n on n.id = m.namespace_id and n.name = %s order by m.id",
        NS,
    )
    fields = ("key", "kind", "title", "content", "payload")
    await services.memory_writes.store_many("copy", [dict(zip(fields, row, strict=True)) for row in found])


async def assert_as_fresh(services: Services, settings: Settings) -> None:
    """Every vector is of the service's model, and what a fresh import would have made."""
    await copied(services, settings)
    moved, fresh = await vectors_of(settings), await vectors_of(settings, "copy")
    assert {model for model, _ in moved.values()} == {str(services.recalls.model.name)}
    assert moved.keys() == fresh.keys()
    assert any(part == -1 for _, part in moved)
    for place, (_, values) in moved.items():
        np.testing.assert_allclose(values, fresh[place][1], atol=2e-3, err_msg=str(place))


async def recall(services: Services, text: str) -> list[str | None]:
    async with services.views.open() as view:
        found = await services.recalls.recall(view, NS, RecallQuery(text, first=5))
    return [hit.memory.key for hit in found.hits]


async def test_a_namespace_moves_and_nothing_of_the_old_model_stays(
    services: Services, moving: Services, settings: Settings
) -> None:
    await fill(services, 700)
    given = [1.0, *[0.0] * 255]
    await services.memory_writes.store(NS, {"key": "given", "content": "stone tower", "embedding": given})
    steps: list[tuple[int, int]] = []
    done = await moving.reembed.run(NS, progress=lambda *step: steps.append(step))
    assert done.before is not None
    assert (done.before.name, done.after.name) == ("hashing", "other")
    assert (done.memories, done.windows) == await _with_vectors(settings)
    assert steps[0][0] == 0
    assert steps[-1][0] == steps[-1][1] > 700
    assert await model_of(settings) == "other"
    await assert_as_fresh(moving, settings)
    again = await moving.reembed.run(NS)
    assert (again.memories, again.windows, again.before) == (0, 0, again.after)
    assert "given" in await recall(moving, "stone tower")


async def test_what_was_known_then_is_found_by_the_new_model(services: Services, moving: Services) -> None:
    """By meaning wherever the text is still the same; what was replaced before, by its words."""
    for key, content in (("owl", "an owl by night"), ("stone", "a river of stone"), ("lamp", "a lamp in a tower")):
        await services.memory_writes.store(NS, {"key": key, "content": content})
    known, both = datetime.now(UTC), ["owl", "stone"]
    await services.memory_writes.store(NS, {"key": "lamp", "content": "bread and music"})
    await services.memory_writes.store(NS, {"key": "later", "content": "an owl by night again"})
    assert (await moving.reembed.run(NS)).memories == 4
    # Changed and forgotten by the new model: as far as they stood when the namespace moved, they are found by it.
    await moving.memory_writes.store(NS, {"key": "owl", "content": "winter"})
    await moving.memory_writes.forget_many(NS, [MemoryRef(key="stone")])
    for text, dense, lexical in (("owl night", both, ["owl"]), ("lamp tower", both, ["lamp"])):
        for leg, expected in ((Leg.DENSE, dense), (Leg.LEXICAL, lexical)):
            weights = RecallWeights(dense=leg is Leg.DENSE, lexical=leg is Leg.LEXICAL)
            async with moving.views.open(AsOf(known=known)) as view:
                found = await moving.recalls.recall(view, NS, RecallQuery(text, first=5, weights=weights))
            hits = [hit for hit in found.hits if any(one.leg is leg and one.contribution for one in hit.legs)]
            assert sorted(str(hit.memory.key) for hit in hits) == expected


async def _with_vectors(settings: Settings) -> tuple[int, int]:
    ((memories, windows),) = await rows(
        settings,
        "select count(distinct memory_id) filter (where part >= 0), count(*) filter (where part < 0) from embeddings",
    )
    return memories, windows


async def test_reads_and_writes_go_on_while_a_namespace_moves(
    services: Services, moving: Services, settings: Settings, other: Other, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reembed_vectors, "BATCH_TEXTS", 32)
    monkeypatch.setattr(reembed_vectors, "BATCH_WINDOWS", 16)
    await fill(services, 600)
    over = asyncio.Event()
    counts = dict.fromkeys(("store", "update", "forget", "recall"), 0)

    async def slowly(texts: Sequence[str]) -> None:
        await asyncio.sleep(0.002)

    other.before = slowly

    async def work(seed: int) -> None:
        chosen, writes = random.Random(seed), moving.memory_writes
        # Each its own memories and sequences: two that change one memory at a time would refuse each other.
        numbers = range(seed, 650, 4)
        while not over.is_set():
            number, action = chosen.choice(numbers), chosen.choice(["store", "store", "update", "forget", "recall"])
            if action == "store":
                await writes.store_many(NS, [item(chosen, one) for one in chosen.sample(numbers, 3)])
            elif action == "update":
                await writes.store(NS, item(chosen, number))
                changes = {"content": " ".join(chosen.choices(WORDS, k=9)), "importance": chosen.randrange(9)}
                await writes.update(NS, MemoryRef(key=f"k{number}"), changes)
            elif action == "forget":
                await writes.forget_many(NS, [MemoryRef(key=f"k{number}")])
            else:
                assert await recall(moving, " ".join(chosen.choices(WORDS, k=3)))
            counts[action] += 1

    workers = [asyncio.create_task(work(seed)) for seed in range(4)]
    try:
        await asyncio.wait_for(moving.reembed.run(NS), 60)
        await asyncio.sleep(0.3)
    finally:
        over.set()
        await asyncio.gather(*workers)
    assert min(counts.values()) > 3, counts
    await moving.reembed.run(NS)
    assert await model_of(settings) == "other"
    await assert_as_fresh(moving, settings)


async def test_a_write_that_waits_for_the_switch_is_stored_by_the_new_model(
    services: Services, moving: Services, settings: Settings, other: Other, monkeypatch: pytest.MonkeyPatch
) -> None:
    await services.namespaces.put(NS, settings={"linkers": {"similarity": True}}, model=None)
    await fill(services, 30)
    writes: list[asyncio.Task[Any]] = []

    async def switch_slowly(*args: Any) -> None:
        writes.append(
            asyncio.create_task(
                moving.memory_writes.store_many(
                    NS, [{"key": "late", "content": "ink"}, {"key": "later", "content": "ink"}]
                )
            )
        )
        await asyncio.sleep(0.3)
        assert not writes[0].done()
        await original(*args)

    original = service.store.switch
    monkeypatch.setattr(service.store, "switch", switch_slowly)
    await moving.reembed.run(NS)
    await writes[0]
    made = await rows(
        settings,
        "select count(*) from links where type = 'similar' and maker is not null and source_id "
        "in (select id from memories where key in ('late', 'later'))",
    )
    assert made[0][0] >= 2
    await assert_as_fresh(moving, settings)


async def test_a_writer_that_waited_for_the_switch_sees_the_new_model(
    services: Services, moving: Services, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(services, 10)
    assert settings.postgres_url is not None
    database = Database(settings.postgres_url.get_secret_value(), max_size=2)
    await database.open()
    waiting: list[asyncio.Task[Namespace | None]] = []

    async def switch_slowly(*args: Any) -> None:
        await original(*args)
        writer = database.write(lambda session: namespaces.lock_existing(session, NS))
        waiting.append(asyncio.create_task(writer))
        await asyncio.sleep(0.3)
        assert not waiting[0].done()

    original = service.store.switch
    monkeypatch.setattr(service.store, "switch", switch_slowly)
    try:
        await moving.reembed.run(NS)
        found = await waiting[0]
    finally:
        await database.close()
    assert found is not None
    assert found.model is not None
    assert found.model.identity.name == "other"


async def test_no_vector_of_an_old_text_is_kept(
    services: Services, moving: Services, settings: Settings, other: Other
) -> None:
    line = [
        {"key": f"k{one}", "content": f"owl {WORDS[one]}", "payload": {"session": "s", "position": one}}
        for one in range(8)
    ]
    await services.memory_writes.store_many(NS, line)
    changed: list[str] = []

    async def change(texts: Sequence[str]) -> None:
        """While its text, and later while its window is embedded, a memory is changed, and all follows from that."""
        kind = "window" if any("\n" in text for text in texts) else "text"
        if kind not in changed:
            changed.append(kind)
            await services.memory_writes.update(
                NS, MemoryRef(key="k3" if kind == "text" else "k6"), {"content": f"harbour {kind}"}
            )

    other.before = change
    await moving.reembed.run(NS)
    assert changed == ["text", "window"]
    await assert_as_fresh(moving, settings)


async def test_it_goes_on_where_it_was_ended(
    services: Services, moving: Services, settings: Settings, other: Other, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reembed_vectors, "BATCH_TEXTS", 50)
    await fill(services, 400)
    half = asyncio.Event()

    async def until_half(texts: Sequence[str]) -> None:
        if other.texts > 200:
            half.set()
            await asyncio.sleep(3600)

    other.before = until_half
    running = asyncio.create_task(moving.reembed.run(NS))
    await asyncio.wait_for(half.wait(), 30)
    with pytest.raises(Conflict):
        await moving.reembed.run(NS)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert await model_of(settings) == "hashing"
    assert await recall(services, "owl moon")
    embedded, other.before, other.texts = other.texts, None, 0
    done = await moving.reembed.run(NS)
    assert done.memories < 400 - 100
    assert other.texts > 0
    assert embedded > 200
    await assert_as_fresh(moving, settings)


async def test_killed_after_the_switch_the_next_run_cleans_up(
    services: Services, moving: Services, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(services, 100)
    cleaning = moving.reembed._clean_up

    async def killed(*args: Any) -> None:
        raise asyncio.CancelledError

    monkeypatch.setattr(moving.reembed, "_clean_up", killed)
    with pytest.raises(asyncio.CancelledError):
        await moving.reembed.run(NS)
    assert await model_of(settings) == "other"
    assert {model for model, _ in (await vectors_of(settings)).values()} == {"hashing", "other"}
    assert await recall(moving, "owl moon")
    monkeypatch.setattr(moving.reembed, "_clean_up", cleaning)
    await moving.reembed.run(NS)
    await assert_as_fresh(moving, settings)


async def test_an_embedder_that_is_away_leaves_all_as_it_is(
    services: Services, moving: Services, settings: Settings, other: Other
) -> None:
    await fill(services, 50)

    async def away(texts: Sequence[str]) -> None:
        raise EmbedderUnavailable("nobody there")

    other.before = away
    with pytest.raises(EmbedderUnavailable):
        await moving.reembed.run(NS)
    assert await model_of(settings) == "hashing"
    assert await recall(services, "owl moon")
    await services.memory_writes.store(NS, {"key": "new", "content": "winter bread"})
    other.before = None
    await moving.reembed.run(NS)
    await assert_as_fresh(moving, settings)


async def test_a_model_that_nobody_runs_can_be_left(moving: Services, settings: Settings, other: Other) -> None:
    gone = Other()
    gone.identity = ModelIdentity("gone", "1", DIMENSION)
    async with opened(settings, gone) as before:
        await fill(before, 120)
    await moving.reembed.run(NS)
    await assert_as_fresh(moving, settings)


async def test_busy_writers_do_not_keep_the_switch_out(
    services: Services, moving: Services, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(services, 20)
    monkeypatch.setattr(service, "PATIENCE_MS", 700)
    over = asyncio.Event()

    async def hold(delay: float) -> None:
        """A writer without a pause: before one ends, the next has begun."""
        assert settings.postgres_url is not None
        dsn = settings.postgres_url.get_secret_value()
        async with await psycopg.AsyncConnection.connect(dsn) as connection:
            await asyncio.sleep(delay)
            while not over.is_set():
                await connection.execute("select from namespaces where name = %s for key share", (NS,))
                await asyncio.sleep(0.5)
                await connection.commit()

    holders = [asyncio.create_task(hold(number * 0.06)) for number in range(8)]
    await asyncio.sleep(0.6)
    try:
        await asyncio.wait_for(moving.reembed.run(NS), 10)
    finally:
        over.set()
        await asyncio.gather(*holders)
    assert await model_of(settings) == "other"


async def test_a_large_namespace_is_indexed_before_the_switch(
    services: Services, moving: Services, settings: Settings, other: Other, monkeypatch: pytest.MonkeyPatch
) -> None:
    other.exact_scan_limit = 100
    monkeypatch.setattr(moving.reembed, "_tail", 100)
    await fill(services, 300)
    indexed: list[int] = []

    async def switch(session: Any, namespace_id: int, model: Any) -> None:
        indexed.extend(
            row[0]
            for row in await rows(
                settings, "select last_id from vector_indexes where ready and model_id = %s", model.id
            )
        )
        await original(session, namespace_id, model)

    original = service.store.switch
    monkeypatch.setattr(service.store, "switch", switch)
    await moving.reembed.run(NS)
    assert indexed
    assert await recall(moving, "owl moon")
    monkeypatch.undo()
    # And back: the indexes of what is left serve no more.
    async with opened(settings, HashingEmbedder(), other) as back:
        await back.reembed.run(NS)
        assert await rows(settings, "select from vector_indexes where ready") == []
        await back.maintenance.round()
    assert await rows(settings, "select from pg_indexes where indexname like 'hnsw%%'") == []


async def test_words_and_links_are_made_as_by_a_fresh_import(services: Services, settings: Settings) -> None:
    off = {"linkers": dict.fromkeys(["mention", "sequence", "entities"], False)}
    await services.namespaces.put(NS, settings={**off, "cues": {"sequence": ["gone"], "aliases": []}}, model=None)
    await fill(services, 350)
    # As data of an older release: nothing but words.
    await rows(settings, "delete from names")
    await rows(settings, "update words set terms = '{}/1000000000', length = 7, date = 5")
    await services.namespaces.put(NS, settings={"linkers": {}, "cues": {}}, model=None)
    assert await recall(services, "The Owl") is not None
    steps: list[tuple[int, int]] = []
    done = await services.reembed.run(NS, words=True, progress=lambda *step: steps.append(step))
    assert (done.reworded, done.memories, steps[-1]) == (350, 0, (700, 700))
    await copied(services, settings)
    await assert_same_columns(settings)
    assert await recall(services, "owl moon winter") == await _recalled_in_copy(services, "owl moon winter")
    # Linkers and sequences that are switched off leave nothing.
    await services.namespaces.put(NS, settings={**off, "cues": {"sequence": ["gone"]}}, model=None)
    await services.reembed.run(NS, words=True)
    ((links,),) = await rows(
        settings, "select count(*) from links l join namespaces n on n.id = l.namespace_id where n.name = %s", NS
    )
    ((windows,),) = await rows(
        settings,
        "select count(*) from embeddings e join namespaces n "
        "on n.id = e.namespace_id where n.name = %s and e.part < 0",
        NS,
    )
    assert (links, windows) == (0, 0)


COLUMNS = {
    "words": "select m.key, w.length, w.terms::text, replace(w.lexemes::text, '@' || n.id, '@'), w.author, w.date, "
    "w.sequence, w.position, w.proper_names, w.window_length, w.window_terms::text, w.window_due from words w "
    "join memories m on m.namespace_id = w.namespace_id and m.id = w.memory_id",
    "names": "select m.key, w.name, w.head, w.name_id from names w "
    "join memories m on m.namespace_id = w.namespace_id and m.id = w.memory_id",
    "links": "select m.key, t.key, w.type, w.weight, w.maker, w.properties::text from links w "
    "join memories m on m.namespace_id = w.namespace_id and m.id = w.source_id "
    "join memories t on t.namespace_id = w.namespace_id and t.id = w.target_id",
}


async def assert_same_columns(settings: Settings) -> None:
    for what, query in COLUMNS.items():
        scoped = f"{query} join namespaces n on n.id = w.namespace_id and n.name = %s"
        mine, fresh = [sorted(map(repr, await rows(settings, scoped, name))) for name in (NS, "copy")]
        assert mine == fresh, what
        assert mine, what


async def _recalled_in_copy(services: Services, text: str) -> list[str | None]:
    async with services.views.open() as view:
        found = await services.recalls.recall(view, "copy", RecallQuery(text, first=5))
    return [hit.memory.key for hit in found.hits]


async def test_words_are_made_anew_beside_writers(services: Services, settings: Settings) -> None:
    await fill(services, 300)
    await rows(settings, "update words set terms = '{}/1000000000', length = 7")
    over = asyncio.Event()

    async def write(seed: int) -> int:
        chosen, count = random.Random(seed), 0
        while not over.is_set():
            numbers = chosen.sample(range(seed, 330, 4), 3)
            await services.memory_writes.store_many(NS, [item(chosen, number) for number in numbers])
            assert await recall(services, "owl moon") is not None
            count += 1
        return count

    writers = [asyncio.create_task(write(seed)) for seed in range(3)]
    try:
        await asyncio.wait_for(services.reembed.run(NS, words=True), 60)
    finally:
        over.set()
        counts = await asyncio.gather(*writers)
    assert min(counts) > 0
    await copied(services, settings)
    await assert_same_columns(settings)


async def test_a_namespace_that_nobody_made(services: Services) -> None:
    with pytest.raises(NamespaceNotFound):
        await services.reembed.run(NS)
    await services.namespaces.put(NS, settings={}, model=None)
    done = await services.reembed.run(NS, words=True)
    assert (done.before, done.memories, done.reworded) == (None, 0, 0)


def test_the_command(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.postgres_url is not None
    monkeypatch.setenv("POSTGRES_URL", settings.postgres_url.get_secret_value())
    runner = CliRunner()

    def sfm(*arguments: str, exit_code: int = 0) -> Any:
        result = runner.invoke(app, arguments)
        assert result.exit_code == exit_code, result.output
        return json.loads(result.stdout or result.stderr)

    assert sfm("reembed", exit_code=1)["code"] == "namespace_not_found"
    assert sfm("reembed", "--all-namespaces") == {"namespaces": []}
    for name in ("a", "b"):
        sfm("remember", "owl", "--namespace", name)
    found = sfm("reembed", "--all-namespaces", "--words")["namespaces"]
    assert [(one["namespace"], one["from"], one["memories"], one["words"]) for one in found] == [
        (name, {"name": "hashing", "revision": "1", "dimension": 256}, 0, 1) for name in ("a", "b")
    ]
    assert found[0]["to"] == found[0]["from"]
    assert "reembed a" in runner.invoke(app, ["reembed", "-n", "a", "--progress"]).stderr
    assert runner.invoke(app, ["reembed", "-n", "a", "--all-namespaces"]).exit_code == 2
    # A model's server that is away: nothing is switched.
    monkeypatch.setenv("SFM_EMBEDDER", "openai")
    monkeypatch.setenv("SFM_EMBEDDING_URL", "http://127.0.0.1:1/v1")
    monkeypatch.setenv("SFM_EMBEDDING_MODEL", "m")
    monkeypatch.setenv("SFM_EMBEDDING_DIMENSION", "8")
    monkeypatch.setenv("SFM_EMBEDDING_TIMEOUT_MS", "50")
    assert sfm("reembed", "-n", "a", exit_code=1)["code"] == "embedder_unavailable"
    monkeypatch.delenv("SFM_EMBEDDER")
    assert sfm("reembed", "-n", "a")["namespaces"][0]["from"]["name"] == "hashing"
