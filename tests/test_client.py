"""The Python face, async and blocking."""

import asyncio
import inspect
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path

import pytest
from pydantic import SecretStr

import sfm_graph
from sfm_graph import AsyncMemorySystem, MemoryMode, MemorySystem, MemoryType, create_memory_system
from sfm_graph.adapters.buses.in_process import InProcessBus
from sfm_graph.domain.event import Event
from sfm_graph.errors import (
    InvalidInput,
    MemoryNotFound,
    SettingsError,
    TooLarge,
    Unavailable,
    VersionConflict,
)

QUICK_START = '''
from sfm_graph import create_memory_system, MemoryMode, MemoryType
memory = create_memory_system(MemoryMode.DEVELOPMENT, "demo")
memory.store_memory((1.0, 2.0, 3.0), {"task": "document SFM", "importance": 5}, MemoryType.EPISODIC)
print(memory.recall("document"))                  # a list of memories as dicts, best first
'''  # fmt: skip


@pytest.fixture
async def memory(database_dsn: str) -> AsyncIterator[AsyncMemorySystem]:
    async with AsyncMemorySystem(MemoryMode.TEST, "demo", postgres_url=SecretStr(database_dsn)) as opened:
        yield opened


@pytest.fixture
def blocking(database_dsn: str) -> Iterator[MemorySystem]:
    with create_memory_system(MemoryMode.TEST, "demo", postgres_url=SecretStr(database_dsn)) as opened:
        yield opened


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """Not tmp_path: the database server of a root user runs as another user, who cannot enter that."""
    folder = Path(tempfile.mkdtemp(prefix="sfm-test-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def run(program: str, data_dir: Path, **environment: str) -> str:
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("SFM_", "POSTGRES_"))}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=data_dir, capture_output=True, text=True, check=True, timeout=120,
        env={**outside, "PYTHONPATH": str(Path(__file__).parent.parent), **environment},
    )  # fmt: skip
    return done.stdout


def test_the_quick_start_runs_as_written(data_dir: Path) -> None:
    database = data_dir / "database"
    printed = run(QUICK_START, data_dir, SFM_DATA_DIR=str(database))
    (found,) = eval(printed)  # what print shows of plain values is Python
    assert found["payload"] == {"task": "document SFM", "importance": 5}
    assert found["coordinate"] == [1.0, 2.0, 3.0]
    assert (found["kind"], found["importance"], found["version"]) == ("episodic", 5.0, 1)
    # A program that just ends stops the database that it started.
    assert not (database / "postgres" / "postmaster.pid").exists()


def test_the_test_mode_leaves_nothing_behind(data_dir: Path) -> None:
    program = """
from sfm_graph import MemoryMode, create_memory_system
with create_memory_system(MemoryMode.TEST, "demo") as memory:
    memory.remember(content="x")
    print(memory.stats()["memories"])
"""
    assert run(program, data_dir, TMPDIR=str(data_dir)).strip() == "{'episodic': 1}"
    assert list(data_dir.iterdir()) == []


async def test_memories(memory: AsyncMemorySystem) -> None:
    stored = await memory.store_memory((1, 2, -0.0), {"task": "write"}, title="Task", importance=2, key="t")
    assert (stored["coordinate"], stored["title"], stored["key"]) == ([1.0, 2.0, 0.0], "Task", "t")
    assert (await memory.get("1,2,0"))["id"] == stored["id"]
    assert (await memory.get(stored["coordinate"]))["id"] == stored["id"]
    assert await memory.retrieve({"key": "nowhere"}) is None
    with pytest.raises(MemoryNotFound):
        await memory.get("key:nowhere")
    changed = await memory.update("key:t", title=None, payload={"task": "read"}, expected_version=1)
    assert (changed["title"], changed["payload"], changed["version"]) == (None, {"task": "read"}, 2)
    with pytest.raises(VersionConflict):
        await memory.forget("key:t", expected_version=1)
    assert await memory.forget("key:t") is True
    assert await memory.delete("key:t") is False
    assert await memory.erase({"id": stored["id"]}) is True


async def test_remembering_and_recalling(memory: AsyncMemorySystem) -> None:
    owl = await memory.remember(content="the owl sleeps by day", memory_type=MemoryType.SEMANTIC)
    fox = await memory.remember({"text": "a fox sleeps at night", "legs": 4})
    await memory.remember({"text": "unrelated"}, key="u")
    assert [one["id"] for one in await memory.recall("owl", 1)] == [owl["id"]]
    assert [one["id"] for one in await memory.recall("sleeps", kind="episodic", top_k=1)] == [fox["id"]]
    assert [one["id"] for one in await memory.recall("sleeps", filters={"legs": 4})] == [fox["id"]]
    (hit,) = await memory.recall_with_scores("owl", 1, hybrid=False)
    assert [leg["leg"] for leg in hit["legs"]] == ["dense"]
    assert hit["score"] == pytest.approx(sum(leg["contribution"] for leg in hit["legs"]))
    found = await memory.keyword_search("slee", first=1)
    assert [one["id"] for one in found["results"]] == [owl["id"]]
    following = await memory.keyword_search("slee", first=1, after=found["next"])
    assert [one["id"] for one in following["results"]] == [fox["id"]]
    for wrong in (0, 1_001, True):
        with pytest.raises(InvalidInput):
            await memory.recall("owl", wrong)


async def test_bulk_and_boxes(memory: AsyncMemorySystem) -> None:
    items = [{"coordinate": [number, 0], "content": f"memory {number}"} for number in range(4)]
    assert (await memory.store_many(items))["stored"] == 4
    partial = await memory.store_many([{"content": "good"}, {"weight": 1}], partial=True)
    assert [(one["index"], one["code"]) for one in partial["failed"]] == [(1, "invalid_input")]
    box = await memory.range((1, 0), (2, 0))
    assert [one["coordinate"] for one in box["memories"]] == [[1.0, 0.0], [2.0, 0.0]]
    assert (await memory.range((0, 0), (9, 9), kind="entity"))["memories"] == []
    with pytest.raises(TooLarge):
        await memory.store_many([{"content": "x"}] * 10_001)


async def test_links_and_walks(memory: AsyncMemorySystem) -> None:
    await memory.store_many([{"key": key, "content": key} for key in "abc"])
    made = await memory.link_memories("key:a", "key:b", "cites", 2.0, {"page": 3})
    assert (made["type"], made["weight"], made["properties"]) == ("cites", 2.0, {"page": 3})
    both = [
        {"source": "key:b", "target": {"key": "c"}, "type": "cites"},
        {"source": "key:a", "target": "key:c", "weight": 9},
    ]
    assert [one["type"] for one in await memory.link_many(both)] == ["cites", "related"]
    around = await memory.neighbors("key:a", hops=2, types="cites", direction="out")
    assert [(one["memory"]["key"], one["hops"]) for one in around] == [("b", 1), ("c", 2)]
    short = await memory.shortest_path("key:a", "key:c")
    cheap = await memory.shortest_path("key:a", "key:c", weighted=True)
    assert short is not None
    assert cheap is not None
    assert [one["key"] for one in short["path"]] == ["a", "c"]
    assert ([one["key"] for one in cheap["path"]], cheap["cost"]) == (["a", "b", "c"], 3.0)
    ways = await memory.paths("key:a", "key:c", k=5, where={"weight": {"lt": 9}})
    assert [([one["key"] for one in way["path"]], way["cost"]) for way in ways] == [(["a", "b", "c"], 2.0)]
    assert await memory.paths("key:a", "key:c", mode="all_shortest", direction="in") == []
    assert await memory.neighbors("key:a", where={"type": "other"}) == []
    drawn = await memory.traverse("key:a", "key:b", depth=0)
    assert (drawn["nodes"]["key"], drawn["links"]["weight"], drawn["hot"]) == (["a", "b"], [2.0], True)
    best = await memory.rank(by="degree", types=["cites"], limit=1)
    assert ([one["memory"]["key"] for one in best["results"]], best["truncated"]) == (["b"], True)
    similar = await memory.rank("key:a", by="jaccard")
    assert {one["memory"]["key"] for one in similar["results"]} == {"b", "c"}
    for wrong in (
        memory.paths("key:a", "key:c", k=0), memory.rank(by="jaccard"), memory.traverse(),
        memory.neighbors("key:a", valid_at="never"), memory.neighbors("key:a", where={"kind": "x"}),
    ):  # fmt: skip
        with pytest.raises(InvalidInput):
            await wrong
    assert await memory.unlink("key:a", "key:c") == 1
    assert await memory.shortest_path("key:c", "key:a", direction="out") is None
    assert (await memory.stats())["links"] == {"cites": 2}


async def test_a_namespace_is_moved_by_a_file(memory: AsyncMemorySystem, tmp_path: Path) -> None:
    await memory.remember(content="x", key="a")
    await memory.link_memories("key:a", "key:a")
    file = tmp_path / "demo.ndjson"
    assert await memory.export(file) == file.stat().st_size
    report = await memory.import_(file)
    assert (report["memories"]["unchanged"], report["links"]["unchanged"], report["failed"]) == (1, 1, 0)


async def test_nothing_works_outside_of_its_context() -> None:
    closed = AsyncMemorySystem(MemoryMode.TEST, "demo")
    with pytest.raises(Unavailable):
        await closed.recall("x")


def test_the_blocking_system_has_the_same_methods() -> None:
    def public(owner: type) -> dict[str, inspect.Signature]:
        found = inspect.getmembers(owner, inspect.isfunction)
        return {name: inspect.signature(one) for name, one in found if not name.startswith("_")}

    assert public(MemorySystem) == public(AsyncMemorySystem) | {"close": public(MemorySystem)["close"]}


def test_blocking_calls_from_several_threads(blocking: MemorySystem) -> None:
    threads = [threading.Thread(target=blocking.remember, args=({"n": number},)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert blocking.stats()["memories"] == {"episodic": 8}
    with pytest.raises(MemoryNotFound):
        blocking.get("key:nowhere")
    blocking.close()
    blocking.close()
    with pytest.raises(Unavailable):
        blocking.stats()


async def test_changes(memory: AsyncMemorySystem) -> None:
    await memory.remember(key="a", content="apple")
    start = await memory.changes("now")
    await memory.remember(key="b", content="pear")
    page = await memory.changes(start["cursor"], entities=["memory"])
    assert [one["after"]["key"] for one in page["changes"]] == ["b"]
    assert not page["more"]
    async with aclosing(memory.follow(start["cursor"])) as stream:
        assert (await anext(stream))["after"]["key"] == "b"
        await memory.link_memories("key:a", "key:b", "goes with")
        assert (await anext(stream))["entity"] == "link"
    with pytest.raises(InvalidInput):
        await memory.changes(operations=["shout"])
    with pytest.raises(InvalidInput, match="entites"):
        await memory.changes(entites=["link"])  # type: ignore[call-arg]


async def test_handlers_in_this_process_get_what_they_failed_at(database_dsn: str) -> None:
    seen: list[str | None] = []
    done = asyncio.Event()

    async def handle(event: Event) -> None:
        seen.append(event.key)
        if len(seen) == 1:
            raise ValueError("the first time")
        done.set()

    bus = InProcessBus()
    bus.subscribe("mine", handle)
    url = SecretStr(database_dsn)
    async with AsyncMemorySystem(MemoryMode.TEST, "demo", postgres_url=url, bus=bus) as memory:
        await memory.remember(key="a", content="apple")
        async with asyncio.timeout(20):
            await done.wait()
    assert seen == [seen[0]] * 2


def test_following_without_async(blocking: MemorySystem) -> None:
    blocking.remember(key="a", content="apple")
    for number, change in enumerate(blocking.follow("beginning")):
        assert change["operation"] == ("update" if number else "create")
        if number == 2:
            break
        blocking.remember(key="a", content=f"apple {number}")


def test_a_deployment_mode_needs_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POSTGRES_URL", raising=False)
    with pytest.raises(SettingsError, match="POSTGRES_URL"):
        create_memory_system(MemoryMode.EVENTED_ENTERPRISE, "demo")


def test_every_public_name_is_there() -> None:
    assert all(hasattr(sfm_graph, name) for name in sfm_graph.__all__)
    homes = {name for names in sfm_graph._HOMES.values() for name in names}
    assert homes | {"__version__"} == set(sfm_graph.__all__)
    with pytest.raises(AttributeError):
        sfm_graph.nothing  # noqa: B018
