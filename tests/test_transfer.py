"""Import and export of whole namespaces."""

import asyncio
import random
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import orjson
import pytest

from sfm_graph.adapters.readers import LinkRecord, MemoryRecord
from sfm_graph.domain.identity import MemoryRef
from sfm_graph.domain.link import Direction
from sfm_graph.domain.recall import RecallQuery
from sfm_graph.domain.walk import WalkFilter
from sfm_graph.errors import InvalidInput, NamespaceNotFound
from sfm_graph.services import import_run
from sfm_graph.services.import_report import ImportReport
from sfm_graph.services.registry import Services
from sfm_graph.store import transfer as pages

Fields = dict[str, Any]


def memory(key: str, content: str = "", **fields: Any) -> Fields:
    return {"type": "memory", "key": key, "content": content or key, **fields}


def link(source: str, target: str, **fields: Any) -> Fields:
    return {
        "type": "link", "source": {"key": source}, "target": {"key": target},
        "link_type": "next", **fields,
    }  # fmt: skip


def lines(*records: Fields) -> bytes:
    return b"".join(orjson.dumps(record) + b"\n" for record in records)


async def chunked(data: bytes, size: int = 1000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def imported(services: Services, *records: Fields, namespace: str = "n") -> ImportReport:
    return await services.transfer.import_ndjson(chunked(lines(*records)), namespace)


async def exported(services: Services, namespace: str = "n") -> list[Fields]:
    async with services.views.open() as view:
        text = b"".join([chunk async for chunk in services.transfer.export(view, namespace)])
    return [orjson.loads(line) for line in text.splitlines()]


async def content(services: Services, key: str, namespace: str = "n") -> str:
    async with services.views.open() as view:
        return (await services.memory_reads.get(view, namespace, MemoryRef(key=key))).content


async def test_export_and_import_are_a_round_trip(services: Services) -> None:
    given = lines(
        memory("a", "alpha", title="A", payload={"n": 1, "x": 1.0, "deep": {"list": [None, True, "ü"]}}),
        {"type": "memory", "coordinate": [1, 2.5, -0.0], "kind": "entity", "payload": {"t": "bee"}, "importance": 3},
        {"type": "memory", "content": "no name", "valid_from": "2024-01-01T00:00:00Z", "valid_to": "2025-01-01"},
        {"type": "link", "source": {"key": "a"}, "target": {"coordinate": [1, 2.5, 0]}, "link_type": "cites",
         "weight": 2, "properties": {"p": [1]}, "valid_from": "2024-05-01T00:00:00Z"},
    )  # fmt: skip
    report = await services.transfer.import_ndjson(chunked(given, 7), "one")
    assert report.as_json() == {
        "memories": {"created": 3, "updated": 0, "unchanged": 0},
        "links": {"created": 1, "updated": 0, "unchanged": 0},
        "failed": 0,
        "failures": [],
    }
    first = await exported(services, "one")
    assert first[0] == {
        "type": "memory", "key": "a", "coordinate": first[0]["coordinate"], "kind": "episodic", "title": "A",
        "content": "alpha", "payload": {"n": 1, "x": 1.0, "deep": {"list": [None, True, "ü"]}}, "importance": 1.0,
    }  # fmt: skip
    again = await imported(services, *first, namespace="one")
    assert (again.memories.unchanged, again.links.unchanged, again.records) == (3, 1, 4)
    copied = await imported(services, *first, namespace="two")
    assert (copied.memories.created, copied.links.created) == (3, 1)
    assert await exported(services, "two") == first


async def test_export_pages_by_rows_and_by_bytes(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [chr(97 + number) * (3_000 if number % 3 else 10) for number in range(20)]
    records = [memory(f"k{number}", text) for number, text in enumerate(texts)]
    links = [link(f"k{number}", f"k{number + 1}") for number in range(19)]
    await imported(services, *records, *links)
    whole = await exported(services)
    monkeypatch.setattr(pages, "PAGE_ROWS", 7)
    monkeypatch.setattr(pages, "PAGE_BYTES", 2_000)
    async with services.views.open() as view:
        chunks = [chunk async for chunk in services.transfer.export(view, "n")]
    assert [orjson.loads(line) for line in b"".join(chunks).splitlines()] == whole
    assert len(whole) == 39
    # A page holds its first row whatever its size, and no further one once the bytes are used up.
    assert max(map(len, chunks)) < 2_000 + 3_500


async def test_export_of_an_unknown_namespace_is_refused(services: Services) -> None:
    with pytest.raises(NamespaceNotFound):
        await exported(services, "nowhere")


async def test_export_sees_one_snapshot(services: Services) -> None:
    await imported(services, memory("a"), memory("b"), link("a", "b"))
    async with services.views.open() as view:
        chunks = services.transfer.export(view, "n")
        seen = await anext(chunks)
        await services.memory_writes.forget_many("n", [MemoryRef(key="a")])
        seen += b"".join([chunk async for chunk in chunks])
    assert [orjson.loads(line)["type"] for line in seen.splitlines()] == ["memory", "memory", "link"]


async def test_refused_lines_are_reported_and_the_rest_is_stored(services: Services) -> None:
    data = b"\n".join(
        [
            lines(memory("a"))[:-1],
            b"not json",
            b"",
            lines({"type": "memory", "key": "b", "weight": 1})[:-1],
            lines({"type": "memory", "key": "c"})[:-1],
            lines({"type": "link", "source": {"key": "a"}, "target": {"key": "zz"}, "link_type": "x"})[:-1],
            lines(link("a", "a", weight=-1))[:-1],
            lines(memory("d", namespace=""))[:-1],
            lines(memory("e"), link("e", "a"))[:-1],
        ]
    )
    report = await services.transfer.import_ndjson(chunked(data, 10), "n")
    assert (report.memories.created, report.links.created, report.failed) == (2, 1, 6)
    assert sorted((one.line, one.code) for one in report.failures) == [
        (2, "invalid_json"), (4, "invalid_input"), (5, "invalid_input"), (6, "memory_not_found"),
        (7, "invalid_weight"), (8, "invalid_input"),
    ]  # fmt: skip


async def test_an_export_of_everything_is_refused_at_its_first_line(services: Services) -> None:
    await services.memory_writes.store("n", {"key": "a", "content": "a"})
    async with services.views.open() as view:
        everything = b"".join([chunk async for chunk in services.transfer.export_everything(view, "n")])
    with pytest.raises(InvalidInput, match="--everything"):
        await services.transfer.import_ndjson(chunked(everything), "other")
    async with services.views.open() as view:
        assert await view.namespace("other") is None


async def test_links_may_come_before_their_memories(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_run, "BATCH_RECORDS", 3)
    names = [f"k{number}" for number in range(10)]
    links = [link(a, b) for a, b in pairwise(names)]
    report = await imported(services, *links, *map(memory, names))
    assert (report.memories.created, report.links.created, report.failed) == (10, 9, 0)


async def test_more_early_links_than_are_kept_are_refused(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_run, "BATCH_RECORDS", 2)
    monkeypatch.setattr(import_run, "MAX_WAITING_LINKS", 3)
    links = [link("a", "b", valid_from=f"20{year}-01-01") for year in range(10, 18)]
    report = await imported(services, *links, memory("a"), memory("b"))
    assert report.links.created == 3
    assert {one.code for one in report.failures} == {"memory_not_found"}
    assert [one.line for one in report.failures] == [4, 5, 6, 7, 8]


async def test_any_interleaving_equals_one_by_one(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_run, "BATCH_RECORDS", 5)
    chance = random.Random(7)
    records: list[Fields] = []
    latest: dict[str, str] = {}
    for number in range(200):
        key = f"k{chance.randrange(30)}"
        latest[key] = chance.choice(["one", "two", f"number {number}"])
        records.append(memory(key, latest[key]))
        if number % 2:
            records.append(link(key, chance.choice(list(latest))))
    report = await imported(services, *records)
    assert report.failed == 0
    assert report.records == len(records)
    assert {key: await content(services, key) for key in latest} == latest
    expected = {(one["source"]["key"], one["target"]["key"]) for one in records if one["type"] == "link"}
    stored = [one for one in await exported(services) if one["type"] == "link"]
    assert {(one["source"]["key"], one["target"]["key"]) for one in stored} == expected
    assert len(stored) == len(expected)


async def test_a_line_names_its_own_namespace(services: Services) -> None:
    document = {"id": "d", "text": "Paris is a city", "metadata": {"title": "Paris", "page": 3}}
    report = await imported(
        services, {**document, "namespace": "team/docs"}, memory("a"), {**link("d", "d"), "namespace": "team/docs"}
    )
    assert (report.memories.created, report.links.created) == (2, 1)
    async with services.views.open() as view:
        found = await services.memory_reads.get(view, "team/docs", MemoryRef(key="d"))
    assert (found.title, found.content, found.payload) == ("Paris", "Paris is a city", document["metadata"])
    with pytest.raises(InvalidInput):
        await imported(services, memory("a"), namespace=" ")


async def test_importing_again_skips_and_updates(services: Services) -> None:
    nameless = {"type": "memory", "content": "without a name", "payload": {"n": 1}}
    records = [memory("a", "one"), nameless, nameless, link("a", "a")]
    first = await imported(services, *records)
    assert (first.memories.created, first.memories.unchanged) == (2, 1)
    second = await imported(services, *records)
    assert (second.memories.unchanged, second.links.unchanged, second.records) == (3, 1, 4)
    third = await imported(services, memory("a", "two"), nameless, link("a", "a", weight=2))
    assert (third.memories.updated, third.memories.unchanged, third.links.updated) == (1, 1, 1)
    keys = [one["key"] for one in await exported(services) if one["type"] == "memory"]
    assert keys[0] == "a"
    assert keys[1].startswith("content:")
    assert len(keys) == 2


async def test_unchanged_memories_are_not_embedded_again(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    await imported(services, memory("a"), memory("b"))
    embedder = services.memory_writes._indexing._embedders.default
    embedded: list[str] = []
    original = embedder.embed

    async def recording(texts: list[str]) -> Any:
        embedded.extend(texts)
        return await original(texts)

    monkeypatch.setattr(type(embedder), "embed", lambda self, texts: recording(texts))
    await imported(services, memory("a"), memory("b", "changed"))
    assert embedded == ["changed"]


async def test_a_key_given_later_is_stored(services: Services) -> None:
    await imported(services, {"type": "memory", "coordinate": [1.0], "content": "x"})
    report = await imported(services, {"type": "memory", "coordinate": [1.0], "key": "k", "content": "x"})
    assert report.memories.updated == 1
    assert await content(services, "k") == "x"


async def test_vectors_of_another_model_refuse_only_their_memories(services: Services) -> None:
    report = await imported(services, memory("a"), memory("b", embedding=[1.0, 0.0]), memory("c"))
    assert report.memories.created == 2
    assert [(one.line, one.code) for one in report.failures] == [(2, "model_mismatch")]


async def test_imported_memories_are_found_at_once(services: Services) -> None:
    await imported(services, memory("a", "the owl sleeps"), memory("b", "a fox"), link("a", "b"))
    async with services.views.open() as view:
        hits = (await services.recalls.recall(view, "n", RecallQuery("where does the owl sleep?", first=1))).hits
        assert [hit.memory.key for hit in hits] == ["a"]
        around = await services.traversal.neighbours(
            view, "n", MemoryRef(key="a"), WalkFilter(Direction.OUT), hops=1, limit=5
        )
    assert [one.memory.key for one in around.neighbours] == ["b"]


async def test_records_of_a_reader_with_progress(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_run, "BATCH_RECORDS", 4)
    records = [MemoryRecord(line, {"key": f"k{line}", "content": "x"}) for line in range(1, 11)]
    ends = {"source": {"key": "k1"}, "target": {"key": "k2"}, "link_type": "next"}
    seen: list[int] = []
    report = await services.transfer.import_records(
        [*records, LinkRecord(11, ends)], "n", lambda so_far: seen.append(so_far.records)
    )
    assert report.records == seen[-1] == 11
    assert len(seen) >= 3
    assert seen == sorted(seen)


async def test_large_records_do_not_wait_for_a_full_batch(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_run, "MAX_WAITING_BYTES", 10_000)
    monkeypatch.setattr("sfm_graph.services.transfer.CHUNK_BYTES", 1_000)
    seen: list[int] = []
    data = lines(*(memory(f"k{number}", f"w{number} " * 500) for number in range(20)))
    await services.transfer.import_ndjson(chunked(data), "n", lambda so_far: seen.append(so_far.records))
    assert len(seen) > 3


async def test_a_cancelled_import_leaves_whole_batches(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_run, "BATCH_RECORDS", 10)
    monkeypatch.setattr("sfm_graph.services.transfer.CHUNK_BYTES", 100)
    endless = asyncio.Event()
    written = asyncio.Event()

    async def stalling() -> AsyncIterator[bytes]:
        yield lines(*(memory(f"k{number}") for number in range(25)))
        await endless.wait()

    task = asyncio.create_task(services.transfer.import_ndjson(stalling(), "n", lambda so_far: written.set()))
    await written.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(await exported(services)) in (10, 20)
    report = await imported(services, *(memory(f"k{number}") for number in range(25)))
    assert report.memories.created + report.memories.unchanged == 25


async def test_the_first_thousand_failures_are_kept_and_all_are_counted() -> None:
    report = ImportReport()
    for line in range(1, 1_201):
        report.fail(line, "invalid_json", "not JSON")
    assert (report.failed, len(report.failures), report.failures[-1].line) == (1_200, 1_000, 1_000)
