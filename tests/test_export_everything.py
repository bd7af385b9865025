"""Exports of everything, and imports that restore them exactly."""

import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_transfer import chunked

from sfm_graph.domain.as_of import AsOf
from sfm_graph.domain.change_filter import ChangeFilter
from sfm_graph.domain.identity import MemoryRef
from sfm_graph.domain.recall import RecallQuery
from sfm_graph.errors import Conflict, InvalidInput, LegalHold, ModelMismatch, NamespaceNotFound, NotFound, SfmError
from sfm_graph.services.everything import reading
from sfm_graph.services.import_report import ImportReport
from sfm_graph.services.links import LinkRequest
from sfm_graph.services.registry import Services
from sfm_graph.store import everything as pages
from sfm_graph.store import transfer
from sfm_graph.store.accesses import Access, AccessKey
from sfm_graph.store.accesses import add as add_accesses
from sfm_graph.store.database import Database

Fields = dict[str, Any]
SETTINGS = {
    "language": "german", "payload_paths": ["n"], "linkers": {"sequence": True},
    "cues": {"author": ["who"]}, "functional_types": ["works_at"],
}  # fmt: skip


async def exported(services: Services, namespace: str = "n", *, vectors: bool = True) -> bytes:
    async with services.views.open() as view:
        return b"".join(
            [chunk async for chunk in services.transfer.export_everything(view, namespace, vectors=vectors)]
        )


async def imported(services: Services, data: bytes, namespace: str) -> ImportReport:
    return await services.transfer.import_everything(chunked(data, 10_000), namespace)


def records(data: bytes) -> list[Fields]:
    return [orjson.loads(line) for line in data.splitlines()]


def body(data: bytes) -> list[bytes]:
    """All but the header and the end, which say when and of what the export is."""
    return data.splitlines()[1:-1]


@asynccontextmanager
async def opened(dsn: str) -> AsyncIterator[Database]:
    database = Database(dsn)
    await database.open()
    try:
        yield database
    finally:
        await database.close()


def sealed(*found: Fields) -> bytes:
    """Lines with an end that fits them."""
    text = b"".join(orjson.dumps(one) + b"\n" for one in found)
    counts: dict[str, int] = {}
    for one in found[1:]:
        counts[one["type"]] = counts.get(one["type"], 0) + 1
    end = {"type": "end", "counts": counts, "sha256": hashlib.sha256(text).hexdigest()}
    return text + orjson.dumps(end) + b"\n"


async def filled(services: Services, namespace: str = "n") -> None:
    """A namespace with something of everything."""
    await services.namespaces.put(namespace, settings=SETTINGS, model=None)
    writes, links = services.memory_writes, services.links
    await writes.store_many(namespace, [
        {"key": "a", "title": "Alpha", "content": "der erste Satz", "payload": {"n": 1, "x": 1.0, "who": "Ada"},
         "importance": 3, "valid_from": "2024-01-01T00:00:00.5Z", "agent": "writer"},
        {"key": "b", "content": "", "payload": {"deep": [None, True, {"ü": "\x01\u2028"}]}, "kind": "semantic"},
        {"coordinate": [1, -2.5, 1e-300], "content": "no key", "valid_to": "2200-01-01"},
        {"key": "gone", "content": "forgotten later"},
    ])  # fmt: skip
    for number in range(3):
        await writes.store(namespace, {
            "key": f"turn{number}", "content": f"turn {number}", "payload": {"session": "s", "position": number},
        })  # fmt: skip
    await links.link_many(namespace, [
        LinkRequest({"key": "a"}, {"key": "b"}, {"type": "cites", "weight": 2.5, "properties": {"p": [1]}}),
        LinkRequest({"key": "a"}, {"key": "gone"}, {"type": "cites"}),
        LinkRequest({"key": "b"}, {"key": "a"}, {"type": "cites", "valid_from": "2024-01-01"}),
    ])  # fmt: skip
    await writes.update(namespace, MemoryRef(key="a"), {"content": "der zweite Satz"})
    await writes.forget_many(namespace, [MemoryRef(key="gone")])
    await writes.store(namespace, {"key": "late", "content": "after the one that is gone"})
    await services.holds.hold(namespace, MemoryRef(key="b"))


async def copied(services: Services, source: str = "n", target: str = "copy") -> None:
    await imported(services, await exported(services, source), target)


async def test_an_import_restores_an_export_exactly(services: Services) -> None:
    await filled(services)
    first = await exported(services)
    report = await imported(services, first, "copy")
    assert (report.memories.created, report.failed) == (7, 0)
    second = await exported(services, "copy")
    assert body(second) == body(first)
    assert {"memory", "gone", "link", "version"} <= {one["type"] for one in records(first)}
    assert any(one.get("maker") for one in records(first))
    await copied(services, "copy", "again")
    assert body(await exported(services, "again")) == body(first)
    for one in ("settings", "model"):
        assert records(second)[0][one] == records(first)[0][one]


NOT_POSSIBLE = (InvalidInput, NotFound, Conflict)
KEYS = st.sampled_from("abcd")
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=6,
)  # fmt: skip
TIMES = st.datetimes(timezones=st.just(UTC)).filter(lambda one: 1 < one.year < 9999)
STORES = st.fixed_dictionaries(
    {"key": KEYS, "content": TEXTS, "payload": st.dictionaries(TEXTS, VALUES, max_size=3)},
    optional={"importance": st.floats(0, 1e9), "valid_from": TIMES, "title": TEXTS, "agent": st.just("agent"),
              "kind": st.sampled_from(["episodic", "semantic", "entity"])},
)  # fmt: skip
LINKS = st.fixed_dictionaries(
    {"type": st.sampled_from(["works_at", "x"])},
    optional={
        "weight": st.floats(0, 1e9),
        "properties": st.dictionaries(TEXTS, VALUES, max_size=2),
        "valid_to": TIMES,
    },
)
STEPS = st.lists(
    st.tuples(st.just("store"), STORES) | st.tuples(st.just("link"), KEYS, KEYS, LINKS)
    | st.tuples(st.sampled_from(["forget", "erase", "restore"]), KEYS),
    min_size=1, max_size=10,
)  # fmt: skip


async def carry_out(services: Services, step: tuple[Any, ...]) -> None:
    """Do a step, if it can be done."""
    try:
        match step:
            case "store", fields:
                await services.memory_writes.store("random", fields)
            case "link", source, target, fields:
                await services.links.link("random", {"key": source}, {"key": target}, fields)
            case "forget", key:
                await services.memory_writes.forget_many("random", [MemoryRef(key=key)])
            case "erase", key:
                await services.memory_writes.erase_many("random", [MemoryRef(key=key)])
            case _, key:
                await services.restoring.restore("random", MemoryRef(key=key))
    except NOT_POSSIBLE:
        return


@given(steps=STEPS, later=STEPS)
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
async def test_any_history_survives_any_number_of_moves(
    services: Services, steps: list[tuple[Any, ...]], later: list[tuple[Any, ...]]
) -> None:
    async with services.views.open() as view:
        names = {one.name for one in (await services.namespaces.list(view, first=9, after=None)).items}
    for name in names & {"random", "second"}:
        await services.namespaces.delete(name, confirm=name)
    await services.namespaces.put("random", settings={"functional_types": ["works_at"]}, model=None)
    for step in steps:
        await carry_out(services, step)
    first = await exported(services, "random")
    await services.namespaces.delete("random", confirm="random")
    await imported(services, first, "random")
    assert body(await exported(services, "random")) == body(first)
    for step in later:
        await carry_out(services, step)
    second = await exported(services, "random")
    await imported(services, second, "second")
    assert body(await exported(services, "second")) == body(second)


async def test_what_was_imported_is_as_it_was(services: Services, database_dsn: str) -> None:
    await filled(services)
    (gone,) = [one["before"] for one in records(await exported(services)) if one.get("operation") == "forget"
               and one["entity"] == "memory"]  # fmt: skip
    assert gone["key"] == "gone"
    async with services.views.open() as view:
        before = {key: await services.memory_reads.get(view, "n", MemoryRef(key=key)) for key in ("a", "b", "turn1")}
        known = await pages.known(view.session)
        found = (await view.existing_namespace("n")).id
    async with opened(database_dsn) as database:
        await add_accesses(database, {
            AccessKey(found, before["a"].id, ""): Access(3, datetime(2026, 1, 1, tzinfo=UTC)),
            AccessKey(found, before["a"].id, "reader"): Access(2**40, datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)),
        })  # fmt: skip
    first = await exported(services)
    assert [one["count"] for one in records(first) if one["type"] == "access"] == [3, 2**40]
    await imported(services, first, "copy")
    assert body(await exported(services, "copy")) == body(first)
    async with services.views.open() as view:
        for key, was in before.items():
            now = await services.memory_reads.get(view, "copy", MemoryRef(key=key))
            assert (now.version, now.created_at, now.updated_at, now.legal_hold, now.payload, now.agent) == (
                was.version, was.created_at, was.updated_at, was.legal_hold, was.payload, was.agent,
            )  # fmt: skip
        hits = [
            [
                (hit.memory.key, round(hit.score, 6))
                for hit in (await services.recalls.recall(view, one, RecallQuery("zweite Satz"), counted=False)).hits
            ]
            for one in ("n", "copy")
        ]
        assert hits[0] == hits[1] != []
        history = await services.history.of_memory(view, "copy", MemoryRef(key="a"), first=1, after=None)
        older = await services.history.of_memory(view, "copy", MemoryRef(key="a"), first=9, after=history.cursors[0])
        assert [one.version for one in (*history.items, *older.items)] == [2, 1]
        assert older.items[0].state.content == "der erste Satz"
        assert known is not None
        assert (older.items[0].known_from or known) < known
        assert older.items[0].known_to == history.items[0].known_from
    # It was not known here before: nothing of the past is told but as history.
    async with services.views.open(AsOf(known=known)) as view:
        assert (await services.namespaces.statistics(view, "n")).counts.memories_by_kind
        assert await transfer.memories_page(view.session, (await view.existing_namespace("copy")).id, "copy", 0) == []


async def test_a_version_from_before_the_import_can_be_restored(services: Services) -> None:
    await filled(services)
    await copied(services)
    restored = await services.restoring.restore("copy", MemoryRef(key="gone"))
    assert (restored.memory.version, restored.memory.content, len(restored.links)) == (2, "forgotten later", 1)
    back = await services.restoring.restore("copy", MemoryRef(key="a"), version=1)
    assert (back.memory.version, back.memory.content) == (3, "der erste Satz")
    again = await exported(services, "copy")
    await imported(services, again, "third")
    assert body(await exported(services, "third")) == body(again)


async def test_readers_of_the_log_are_told_of_the_import_and_of_nothing_older(services: Services) -> None:
    await filled(services)
    data = await exported(services)
    await services.namespaces.put("copy", settings=None, model=None)
    async with services.views.open() as view:
        cursor = await services.changes.cursor(view, "copy")
    await imported(services, data, "copy")
    async with services.views.open() as view:
        page = await services.changes.page(view, "copy", cursor, ChangeFilter(), 100)
    told = [(one.change.entity.value, one.change.operation.value) for one in page.changes]
    counts = {one: sum(record["type"] == one for record in records(data)) for one in ("memory", "link")}
    assert sorted(told) == sorted([("memory", "create")] * counts["memory"] + [("link", "create")] * counts["link"])


async def test_erasing_purges_imported_versions_and_deleting_leaves_nothing(services: Services) -> None:
    await filled(services)
    await copied(services)
    await services.memory_writes.erase_many("copy", [MemoryRef(key="a")])
    left = await exported(services, "copy")
    assert b"Satz" not in left
    assert b'"cites"' not in left
    await services.holds.release("copy", MemoryRef(key="b"))
    await services.namespaces.delete("copy", confirm="copy")
    await copied(services)
    assert b"Satz" in await exported(services, "copy")


async def test_imported_versions_end_with_retention(services: Services, database_dsn: str) -> None:
    await filled(services)
    await copied(services)
    async with opened(database_dsn) as database:
        await pages.prune(database, datetime.now(UTC) - timedelta(days=1))
        assert any(one["type"] == "version" for one in records(await exported(services, "copy")))
        await pages.prune(database, datetime.now(UTC) + timedelta(days=1))
    assert not any(one["type"] == "version" for one in records(await exported(services, "copy")))


async def test_a_namespace_in_use_is_refused(services: Services) -> None:
    await filled(services)
    data = await exported(services)
    for name in ("n", "used"):
        await services.memory_writes.store(name, {"key": "x", "content": "x"})
        await services.memory_writes.forget_many(name, [MemoryRef(key="x")])
        with pytest.raises(Conflict, match="in use"):
            await imported(services, data, name)
    with pytest.raises(NamespaceNotFound):
        await exported(services, "nowhere")
    async with services.views.open(AsOf(valid=datetime.now(UTC))) as view:
        with pytest.raises(InvalidInput):
            await anext(services.transfer.export_everything(view, "n"))


async def test_an_import_that_was_cut_off_begins_anew(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    await filled(services)
    data = await exported(services)
    monkeypatch.setattr(reading, "BATCH_LINES", 2)
    monkeypatch.setattr(reading, "CHUNK_BYTES", 100)
    lines = data.splitlines(keepends=True)
    for count in (3, 5, len(lines) - 1):
        with pytest.raises(InvalidInput, match=r"cut off.*import again") as refused:
            await imported(services, b"".join(lines[:count]), "copy")
        assert refused.value.details["line"] == count
    with pytest.raises(LegalHold):
        await services.namespaces.delete("copy", confirm="copy")

    async def broken() -> AsyncIterator[bytes]:
        yield b"".join(lines[:6])
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await services.transfer.import_everything(broken(), "copy")
    seen: list[int] = []
    await services.transfer.import_everything(
        chunked(data, 100), "copy", lambda report: seen.append(report.memories.created)
    )
    assert seen == sorted(seen)
    assert (len(seen) > 5, seen[-1]) == (True, 7)
    assert body(await exported(services, "copy")) == body(data)
    with pytest.raises(Conflict):
        await imported(services, data, "copy")


async def test_two_imports_into_one_namespace_do_not_meet(services: Services) -> None:
    await filled(services)
    data = await exported(services)
    refused: list[SfmError] = []

    async def slowly() -> AsyncIterator[bytes]:
        yield data[:100]
        with pytest.raises(Conflict, match="at work") as other:
            await imported(services, data, "copy")
        refused.append(other.value)
        yield data[100:]

    await services.transfer.import_everything(slowly(), "copy")
    assert refused
    assert body(await exported(services, "copy")) == body(data)


async def test_pages_and_batches_do_not_show(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    await filled(services)
    whole = await exported(services)
    for module, name in ((pages, "PAGE_ROWS"), (transfer, "PAGE_ROWS"), (reading, "BATCH_LINES")):
        monkeypatch.setattr(module, name, 1)
    assert body(await exported(services)) == body(whole)
    await imported(services, whole, "copy")
    assert body(await exported(services, "copy")) == body(whole)


async def test_an_export_is_of_one_snapshot(services: Services) -> None:
    await filled(services)
    whole = await exported(services)
    async with services.views.open() as view:
        chunks = services.transfer.export_everything(view, "n")
        seen = await anext(chunks)
        await services.memory_writes.store("n", {"key": "new", "content": "new"})
        await services.memory_writes.erase_many("n", [MemoryRef(key="late")])
        seen += b"".join([chunk async for chunk in chunks])
    assert body(seen) == body(whole)


async def test_vectors_are_taken_as_they_are_or_made_anew(services: Services) -> None:
    model = {"name": "other", "revision": "1", "dimension": 3}
    await services.namespaces.put("own", settings=None, model=model)
    await services.memory_writes.store("own", {"key": "a", "content": "x", "embedding": [1, 2, 2]})
    data = await exported(services, "own")
    await imported(services, data, "copy")
    assert body(await exported(services, "copy")) == body(data)
    with pytest.raises(ModelMismatch):
        await imported(services, await exported(services, "own", vectors=False), "copy2")
    await filled(services)
    without = await exported(services, vectors=False)
    assert not any("vectors" in one for one in records(without)[1:])
    await imported(services, without, "anew")
    assert body(await exported(services, "anew")) == body(await exported(services))


AT = "2026-01-01T00:00:00+00:00"
STAMPS = {"version": 1, "created_at": AT, "updated_at": AT}
MEMORY = {"type": "memory", "number": 1, "coordinate": [1], "kind": "entity", "content": "x", "payload": {},
          "importance": 1, **STAMPS}  # fmt: skip
GONE = {"type": "gone", "entity": "memory", "number": 1}
LINK = {"type": "link", "number": 1, "source": 1, "target": 1, "link_type": "t", "weight": 1, **STAMPS}
HEAD = {"type": "namespace", "format": 2, "settings": {}, "vectors": True,
        "model": {"name": "m", "revision": "1", "dimension": 2}}  # fmt: skip
VERSION = {"type": "version", "entity": "memory", "number": 1, "operation": "create", "transaction": 1,
           "after": {key: value for key, value in MEMORY.items() if key not in ("type", "number")}}  # fmt: skip


# The line that is refused, and the lines.
HOSTILE: list[tuple[int, list[Fields]]] = [
    (1, [{**HEAD, "format": 1}]),
    (1, [{**HEAD, "settings": {"nonsense": 1}}]),
    (1, [{**HEAD, "model": {"name": "m", "dimension": 0}}]),
    (1, [MEMORY]),
    (2, [HEAD, HEAD]),
    (2, [HEAD, {"type": "document"}]),
    (2, [HEAD, {**MEMORY, "number": 2}]),
    (2, [HEAD, {**MEMORY, "number": 2**63}]),
    (2, [HEAD, {**MEMORY, "version": 0}]),
    (2, [HEAD, {**MEMORY, "version": 2**31 - 1}]),
    (2, [HEAD, {**MEMORY, "created_at": None}]),
    (2, [HEAD, {**MEMORY, "coordinate": None}]),
    (2, [HEAD, {**MEMORY, "content": "\x00"}]),
    (2, [HEAD, {**MEMORY, "legal_hold": 1}]),
    (2, [HEAD, {**MEMORY, "secret": 1}]),
    (2, [HEAD, {**MEMORY, "vectors": ["AAA"]}]),
    (2, [HEAD, {**MEMORY, "vectors": ["AAAAAA=="]}]),
    (2, [HEAD, {**MEMORY, "vectors": ["AHwAPA=="]}]),
    (2, [HEAD, {**MEMORY, "vectors": ["ADw="]}]),
    (2, [{**HEAD, "model": None}, MEMORY]),
    (3, [HEAD, MEMORY, {**MEMORY, "number": 2}]),
    (3, [HEAD, {**MEMORY, "key": "k"}, {**MEMORY, "number": 2, "coordinate": [2], "key": "k"}]),
    (3, [HEAD, MEMORY, {**LINK, "target": 2}]),
    (3, [HEAD, GONE, LINK]),
    (4, [HEAD, MEMORY, LINK, {**LINK, "number": 2}]),
    (3, [HEAD, MEMORY, {**LINK, "weight": -1}]),
    (3, [HEAD, MEMORY, {**LINK, "maker": ""}]),
    (4, [HEAD, MEMORY, LINK, {**MEMORY, "number": 2, "coordinate": [2]}]),
    (3, [HEAD, MEMORY, {**VERSION, "number": 2}]),
    (3, [HEAD, MEMORY, {**VERSION, "operation": "update"}]),
    (3, [HEAD, MEMORY, {**VERSION, "entity": "namespace"}]),
    (3, [HEAD, MEMORY, {**VERSION, "after": {"content": "x"}}]),
    (3, [HEAD, MEMORY, {**VERSION, "after": [1]}]),
    (3, [HEAD, MEMORY, {**VERSION, "at": "2999-01-01T00:00:00Z"}]),
    (4, [HEAD, {**MEMORY, "content": "y"}, VERSION]),
    (4, [HEAD, GONE, VERSION]),
    (5, [HEAD, MEMORY, VERSION, {**VERSION, "operation": "forget", "before": VERSION["after"], "after": None}]),
    (3, [HEAD, GONE, {"type": "access", "memory": 1, "count": 1, "last_at": AT}]),
    (4, [HEAD, MEMORY, *[{"type": "access", "memory": 1, "count": 1, "last_at": AT}] * 2]),
    (3, [HEAD, MEMORY, {"type": "access", "memory": 1, "count": 0, "last_at": AT}]),
]  # fmt: skip


async def test_hostile_lines_are_refused_by_their_number(services: Services) -> None:
    for place, (line, found) in enumerate(HOSTILE):
        with pytest.raises(SfmError) as refused:
            await imported(services, sealed(*found), f"n{place}")
        assert refused.value.http_status < 500, found
        assert refused.value.details["line"] == line, found


DAMAGE: list[Callable[[bytes], bytes]] = [
    lambda data: data.replace(b'"content":"x"', b'"content":"y"'),
    lambda data: data + data.splitlines()[-1] + b"\n",
    lambda data: data + b"\n",
    lambda data: data[:-20],
    lambda data: b"",
    lambda data: b"\xff\xfe" + data,
    lambda data: data.replace(b'"counts":{', b'"counts":{"link":1,'),
    lambda data: data.replace(b'"memory":1', b'"memory":2'),
]


async def test_damage_is_noticed(services: Services) -> None:
    for place, change in enumerate(DAMAGE):
        with pytest.raises(InvalidInput):
            await imported(services, change(sealed(HEAD, MEMORY)), f"n{place}")
        await imported(services, sealed(HEAD, MEMORY), f"n{place}")


async def test_a_line_that_never_ends_takes_no_memory(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_LINE_BYTES", 1_000)
    with pytest.raises(SfmError, match="longer") as refused:
        await imported(services, sealed(HEAD, {**MEMORY, "content": "x" * 2_000}), "n")
    assert refused.value.http_status == 413
