"""Hooks: asked before and told after, whatever a plug-in does."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import httpx
import pytest
from prometheus_client import generate_latest

from sfm_graph.app import app_for
from sfm_graph.domain.identity import MemoryRef
from sfm_graph.domain.inputs import link_patch
from sfm_graph.domain.recall import RecallQuery
from sfm_graph.domain.where import parse_where
from sfm_graph.errors import HookRefused, InvalidInput, SettingsError
from sfm_graph.ports.hook import POINTS, HookView, Refusal, plain
from sfm_graph.runtime import open_runtime
from sfm_graph.services import hooks
from sfm_graph.services.registry import Services
from sfm_graph.settings import Settings
from sfm_graph.telemetry.registry import PROCESS

NS = "demo"


class Recorder:
    """Notes what it is asked and told; refuses, changes, raises or waits as it is told itself."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, HookView]] = []
        self.refused: str | None = None
        self.failing: str | None = None
        self.waiting: str | None = None
        self.changes: Any = None

    def __getattr__(self, name: str) -> Any:
        if name not in POINTS:
            raise AttributeError(name)

        async def called(view: HookView) -> Any:
            self.seen.append((name, view))
            if name == self.refused:
                raise Refusal("because " + "x" * 1_000)
            if name == self.failing:
                raise ValueError("postgres://user:password@host")
            if name == self.waiting:
                await asyncio.sleep(600)
            return self.changes(view) if name == "before_store" and self.changes else None

        return called

    def points(self) -> list[tuple[str, str]]:
        return [(name, view.operation) for name, view in self.seen]


class _Point:
    """An entry point of an installed package."""

    def __init__(self, name: str, plugged: object) -> None:
        self.name = name
        self._plugged = plugged

    def load(self) -> object:
        return self._plugged


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    made = Recorder()
    monkeypatch.setattr(hooks, "entry_points", lambda *, group: [_Point("recorder", made), _Point("plain", _Plain)])
    return made


@pytest.fixture
async def hooked(settings: Settings, recorder: Recorder) -> AsyncIterator[Services]:
    chosen = settings.model_copy(update={"hooks": "recorder", "hook_timeout_ms": 2_000})
    async with open_runtime(chosen, maintenance=False) as opened:
        yield opened


class _Plain:
    """A hook without coroutine functions."""

    stuck = threading.Event()
    threads: ClassVar[list[str]] = []

    def before_store(self, view: HookView) -> Any:
        self.threads.append(threading.current_thread().name)
        return [{"payload": {**plain(view.items[0]["payload"]), "seen": True}}, *[None] * (len(view.items) - 1)]

    def before_forget(self, view: HookView) -> None:
        self.stuck.wait(60)


async def test_each_operation_is_asked_and_told_once(hooked: Services, recorder: Recorder) -> None:
    writes, links = hooked.memory_writes, hooked.links
    await writes.store_many(NS, [{"key": one, "content": f"memory {one}", "payload": {"x": [1]}} for one in "abc"])
    await writes.update(NS, MemoryRef(key="a"), {"importance": 3})
    made = await links.link(NS, {"key": "a"}, {"key": "b"}, {"type": "near"})
    await links.update_many(NS, [link_patch(made.link.id, {"weight": 2})])
    await links.unlink_many(NS, [made.link.id])
    await links.link(NS, {"key": "a"}, {"key": "b"}, {})
    await links.unlink_between(NS, MemoryRef(key="a"), MemoryRef(key="b"), None)
    async with hooked.views.open() as view:
        await hooked.recalls.recall(view, NS, RecallQuery("memory", first=2))
    await writes.forget_many(NS, [MemoryRef(key="a")])
    await writes.erase_many(NS, [MemoryRef(key="b")])
    await writes.forget_where(NS, parse_where({"key": {"eq": "c"}}))
    expected = [
        ("store", "store"), ("store", "update"), ("link", "link"), ("link", "update"), ("link", "unlink"),
        ("link", "link"), ("link", "unlink"), ("recall", "recall"), ("forget", "forget"), ("forget", "erase"),
        ("forget", "forget_where"),
    ]  # fmt: skip
    assert recorder.points() == [
        (f"{when}_{subject}", what) for subject, what in expected for when in ("before", "after")
    ]
    views = [view for _, view in recorder.seen]
    assert {(view.namespace, view.principal, view.agent) for view in views} == {(NS, "local", None)}
    assert [item["key"] for item in views[0].items] == ["a", "b", "c"]
    assert [(item["key"], item["operation"]) for item in views[1].done] == [
        ("a", "created"), ("b", "created"), ("c", "created")
    ]  # fmt: skip
    assert views[2].items == ({"key": "a", "importance": 3.0, "agent": None},)
    assert views[5].done[0]["type"] == "near"
    assert [item["query"] for item in views[14].items] == ["memory"]
    assert len(views[15].done) == 2
    assert {"id", "score"} <= views[15].done[0].keys()
    assert all("id" in item for view in views[17::2] for item in view.done)
    with pytest.raises(TypeError):
        views[0].items[0]["payload"]["x"] = 2  # type: ignore[index]


async def _done(opened: Services, subject: str) -> None:
    if subject == "store":
        await opened.memory_writes.store(NS, {"key": "c", "content": "c"})
    elif subject == "forget":
        await opened.memory_writes.forget_many(NS, [MemoryRef(key="a")])
    elif subject == "link":
        await opened.links.link(NS, {"key": "a"}, {"key": "b"}, {})
    else:
        async with opened.views.open() as view:
            await opened.recalls.recall(view, NS, RecallQuery("a"))


@pytest.mark.parametrize("how", ["refused", "failing", "waiting"])
@pytest.mark.parametrize("subject", ["store", "recall", "forget", "link"])
async def test_a_before_that_does_not_agree_refuses(
    settings: Settings, recorder: Recorder, subject: str, how: str
) -> None:
    timeout = 50 if how == "waiting" else 10_000
    async with open_runtime(
        settings.model_copy(update={"hooks": "recorder", "hook_timeout_ms": timeout}), maintenance=False
    ) as opened:
        if how == "waiting":
            recorder.seen.clear()
        await opened.memory_writes.store_many(NS, [{"key": one, "content": one} for one in "ab"])
        setattr(recorder, how, f"before_{subject}")
        with pytest.raises(HookRefused) as refused:
            await _done(opened, subject)
        assert refused.value.details["hook"] == "recorder"
        assert refused.value.details["point"] == f"before_{subject}"
        assert len(refused.value.details["reason"]) <= 500
        # What a plug-in's error says may be anything.
        assert "password" not in str(refused.value)
        assert recorder.points()[-1][0] == f"before_{subject}"
        async with opened.views.open() as view:
            stats = await opened.namespaces.statistics(view, NS)
        assert stats.counts.memories_by_kind == {"episodic": 2}
        assert not stats.counts.links_by_type
        parts = (await opened.health.report()).parts
        assert parts["hooks"]["status"] == ("up" if how == "refused" else "degraded")


async def test_a_hook_changes_what_is_stored_and_the_change_is_validated(
    hooked: Services, recorder: Recorder
) -> None:
    def upper(view: HookView) -> list[Mapping[str, Any] | None]:
        return [{"content": item["content"].upper()} if "content" in item else None for item in view.items]

    recorder.changes = upper
    stored = await hooked.memory_writes.store(NS, {"key": "a", "content": "abc", "embedding": [1.0] + [0.0] * 255})
    assert stored.memory.content == "ABC"
    changed = await hooked.memory_writes.update(NS, MemoryRef(key="a"), {"content": "def"})
    assert changed.content == "DEF"
    async with hooked.views.open() as view:
        hits = (await hooked.recalls.recall(view, NS, RecallQuery("DEF"))).hits
    assert [hit.memory.content for hit in hits] == ["DEF"]
    for wrong in ({"content": 5}, {"nonsense": 1}, {"valid_from": "2024-01-02", "valid_to": "2024-01-01"}):
        recorder.changes = lambda view, wrong=wrong: [wrong]
        with pytest.raises(InvalidInput):
            await hooked.memory_writes.store(NS, {"key": "b", "content": "b"})
    for answer in ("text", [None, None], [5]):
        recorder.changes = lambda view, answer=answer: answer
        with pytest.raises(HookRefused):
            await hooked.memory_writes.store(NS, {"key": "b", "content": "b"})


async def test_one_item_of_a_partial_batch_is_refused(hooked: Services, recorder: Recorder) -> None:
    recorder.changes = lambda view: [Refusal("no b") if item["key"] == "b" else None for item in view.items]
    items = [{"key": one, "content": one} for one in "abc"]
    with pytest.raises(HookRefused) as refused:
        await hooked.memory_writes.store_many(NS, items)
    assert refused.value.details["index"] == 1
    bulk = await hooked.memory_writes.store_many(NS, items, partial=True)
    assert [one.memory.key for one in bulk.stored] == ["a", "c"]
    assert [(one.index, one.code) for one in bulk.failed] == [(1, "hook_refused")]


async def test_an_import_goes_on_where_a_hook_refuses(hooked: Services, recorder: Recorder) -> None:
    recorder.refused = "before_store"

    async def lines() -> AsyncIterator[bytes]:
        yield b'{"type": "memory", "key": "a", "content": "a"}\n'

    report = (await hooked.transfer.import_ndjson(lines(), NS)).as_json()
    assert [one["code"] for one in report["failures"]] == ["hook_refused"]
    recorder.refused = None
    again = (await hooked.transfer.import_ndjson(lines(), NS)).as_json()
    assert again["memories"]["created"] == 1
    assert recorder.points()[-2:] == [("before_store", "store"), ("after_store", "store")]


@pytest.mark.parametrize("how", ["failing", "waiting", "refused"])
async def test_a_failing_after_is_reported_and_changes_nothing(
    settings: Settings, recorder: Recorder, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    def failures() -> float:
        found = PROCESS.get_sample_value("sfm_hook_failures_total", {"hook": "recorder", "point": "after_store"})
        return found or 0.0

    setattr(recorder, how, "after_store")
    chosen = settings.model_copy(update={"hooks": "recorder", "hook_timeout_ms": 50})
    async with open_runtime(chosen, maintenance=False) as opened:
        counted = failures()
        stored = await opened.memory_writes.store(NS, {"key": "a", "content": "a"})
        assert stored.memory.version == 1
        assert failures() == counted + 1
        assert "recorder" in caplog.text
        part = (await opened.health.report()).parts["hooks"]
        assert part["status"] == "degraded"
        assert part["failures"]["recorder"]["point"] == "after_store"
        assert (await opened.health.report()).ready
    assert b'sfm_hook_failures_total{hook="recorder",point="after_store"}' in generate_latest(PROCESS)


async def test_a_plain_method_runs_in_a_thread_and_cannot_stop_the_loop(
    settings: Settings, recorder: Recorder
) -> None:
    chosen = settings.model_copy(update={"hooks": "plain", "hook_timeout_ms": 300})
    try:
        async with open_runtime(chosen, maintenance=False) as opened:
            stored = await opened.memory_writes.store(NS, {"key": "a", "content": "a", "payload": {"x": {"y": 1}}})
            assert stored.memory.payload == {"x": {"y": 1}, "seen": True}
            assert _Plain.threads[-1] == "hook"
            # A thread that hangs is left behind; when too many are, calls are late at once.
            for _ in range(20):
                with pytest.raises(HookRefused):
                    await opened.memory_writes.forget_many(NS, [MemoryRef(key="nobody")])
            with pytest.raises(HookRefused):
                await opened.memory_writes.store(NS, {"key": "b", "content": "b"})
    finally:
        _Plain.stuck.set()


class _Wrapped:
    """A coroutine function behind a plain one, and refusals that are returned."""

    def before_store(self, view: HookView) -> Any:
        return self._store(view)

    async def _store(self, view: HookView) -> Any:
        await asyncio.sleep(0)
        raise Refusal("wrapped")

    def before_forget(self, view: HookView) -> Any:
        return Refusal("returned")

    async def before_link(self, view: HookView) -> Any:
        return Refusal("returned") if view.operation == "link" else "no answer"

    def after_store(self, view: HookView) -> Any:
        return Refusal("too late")


async def test_what_a_method_returns_is_heeded() -> None:
    asked = hooks.Hooks([hooks.hook_of("wrapped", _Wrapped())], timeout_ms=10_000)
    with pytest.raises(HookRefused, match="wrapped"):
        await asked.before_store(NS, "store", lambda: [{}])
    for point, operation, said in (
        ("before_forget", "forget", "returned"), ("before_link", "link", "returned"),
        ("before_link", "update", "only"),
    ):  # fmt: skip
        with pytest.raises(HookRefused, match=said):
            await asked.before(point, NS, operation, lambda: [{}])
    await asked.after("after_store", NS, "store", lambda: [], lambda: [])
    assert "after_store" in (await asked.state())["failures"]["wrapped"]["point"]
    slow = hooks.hook_of("slow", type("Slow", (), {"before_recall": staticmethod(lambda view: asyncio.sleep(600))})())
    go_on = threading.Event()
    hangs = hooks.hook_of("hangs", type("Hangs", (), {"before_recall": lambda self, view: go_on.wait(60)})())
    for late in (slow, hangs):
        with pytest.raises(HookRefused, match="longer than 50 ms"):
            await hooks.Hooks([late], timeout_ms=50).before("before_recall", NS, "recall", lambda: [{}])
    go_on.set()


def test_a_misspelt_point_is_refused() -> None:
    methods = dict.fromkeys(("before_recall", "before_typo"), lambda self, view: None)
    misspelt = type("Misspelt", (), methods)
    with pytest.raises(SettingsError, match="before_typo"):
        hooks.hook_of("misspelt", misspelt())


async def _whether(opened: Services, key: str) -> bool:
    async with opened.views.open() as view:
        return (await opened.memory_reads.find_many(view, NS, [MemoryRef(key=key)]))[0] is not None


async def test_a_merge_is_asked_and_told(hooked: Services, recorder: Recorder) -> None:
    await hooked.memory_writes.store_many(NS, [{"key": one, "content": one} for one in "abc"])
    await hooked.links.link(NS, {"key": "b"}, {"key": "c"}, {"type": "near"})
    into, others = MemoryRef(key="a"), [MemoryRef(key="b")]
    for subject in ("store", "forget", "link"):
        recorder.refused = f"before_{subject}"
        with pytest.raises(HookRefused):
            await hooked.merging.merge(NS, into, others)
    assert await _whether(hooked, "b")
    recorder.refused = None
    recorder.seen.clear()
    recorder.changes = lambda view: [{"content": "both", "key": "other"}] if view.operation == "merge" else None
    done = await hooked.merging.merge(NS, into, others)
    assert (done.memory.key, done.memory.content, done.moved) == ("a", "both", 1)
    assert recorder.points() == [
        (f"{when}_{subject}", "merge") for when in ("before", "after") for subject in ("store", "forget", "link")
    ]
    assert recorder.seen[-1][1].done[0]["source_id"] == done.memory.global_id


async def test_a_restore_is_asked_and_told(hooked: Services, recorder: Recorder) -> None:
    await hooked.memory_writes.store_many(NS, [{"key": one, "content": one} for one in "ab"])
    link = (await hooked.links.link(NS, {"key": "a"}, {"key": "b"}, {"type": "near"})).link
    await hooked.memory_writes.forget_many(NS, [MemoryRef(key="a")])
    for subject in ("store", "link"):
        recorder.refused = f"before_{subject}"
        with pytest.raises(HookRefused):
            await hooked.restoring.restore(NS, MemoryRef(key="a"))
    recorder.refused = None
    recorder.seen.clear()
    recorder.changes = lambda view: [{"content": "again"}] if view.operation == "restore" else None
    restored = await hooked.restoring.restore(NS, MemoryRef(key="a"))
    assert (restored.memory.content, [one.id for one in restored.links]) == ("again", [link.id])
    expected = [("before_store", "restore"), ("before_link", "restore")]
    assert recorder.points() == [*expected, ("after_store", "restore"), ("after_link", "restore")]
    await hooked.links.unlink_many(NS, [link.id])
    recorder.refused = "before_link"
    with pytest.raises(HookRefused):
        await hooked.restoring.restore_link(NS, link.id)
    recorder.refused = None
    assert (await hooked.restoring.restore_link(NS, link.id)).link.id == link.id
    assert recorder.points()[-2:] == [("before_link", "restore"), ("after_link", "restore")]


async def test_a_hook_keeps_memories_that_expire_or_are_too_many(hooked: Services, recorder: Recorder) -> None:
    await hooked.memory_writes.store_many(NS, [{"key": one, "content": one} for one in "abc"])
    soon = (datetime.now(UTC) + timedelta(milliseconds=200)).isoformat()
    await hooked.memory_writes.update(NS, MemoryRef(key="c"), {"expires_at": soon})
    await hooked.namespaces.put(NS, settings={"max_memories": 2}, model=None)
    recorder.refused = "before_forget"
    with pytest.raises(HookRefused):
        await hooked.fading.decay(NS)
    with pytest.raises(HookRefused):
        await hooked.memory_writes.store(NS, {"key": "d", "content": "d"})
    async with asyncio.timeout(60):
        while ("before_forget", "expire") not in recorder.points():
            with contextlib.suppress(HookRefused):
                await hooked.fading.decay(NS)
    assert [await _whether(hooked, one) for one in "abcd"] == [True, True, True, False]
    asked = recorder.points().count(("before_forget", "expire"))
    recorder.refused = None
    await hooked.fading.decay(NS)
    # What expired is not asked about again so soon, but one is too many.
    assert recorder.points().count(("before_forget", "expire")) == asked
    assert recorder.points()[-2:] == [("before_forget", "make_room"), ("after_forget", "make_room")]
    assert sum([await _whether(hooked, one) for one in "abcd"]) == 2


async def test_a_consolidation_is_asked_and_told(hooked: Services, recorder: Recorder) -> None:
    await hooked.namespaces.put(NS, settings={"consolidation": {"similarity": 0.3}}, model=None)
    told = [{"key": f"e{n}", "content": f"Ada walked to the harbour with Bob and saw ship {n}"} for n in range(3)]
    await hooked.memory_writes.store_many(NS, told)
    recorder.refused = "before_link"
    report = await hooked.consolidation.run(NS)
    assert (report.created, report.put_off) == (0, 1)
    recorder.refused = None
    await hooked.memory_writes.update(NS, MemoryRef(key="e0"), {"content": "Ada walked to the harbour with Bob"})
    recorder.seen.clear()
    recorder.changes = lambda view: [{"title": "harbour"}] if view.operation == "consolidate" else None
    report = await hooked.consolidation.run(NS)
    assert report.groups[0].memory is not None
    assert (report.created, report.groups[0].memory.title) == (1, "harbour")
    assert recorder.points() == [
        (f"{when}_{subject}", "consolidate") for when in ("before", "after") for subject in ("store", "link")
    ]
    assert len(recorder.seen[-1][1].done) == 3


async def test_refusals_reach_callers_of_every_face(hooked: Services, recorder: Recorder) -> None:
    recorder.refused = "before_store"
    app = app_for(hooked)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost:9595") as client,
    ):
        rest = await client.post("/remember", json={"content": "a"}, headers={"X-SFM-Agent": "scout"})
        document = 'mutation { remember(input: {namespace: "demo", content: "a"}) { memory { id } } }'
        graphql = (await client.post("/graphql", json={"query": document})).json()
    assert (rest.status_code, rest.json()["code"]) == (422, "hook_refused")
    assert graphql["errors"][0]["extensions"]["code"] == "hook_refused"
    assert recorder.seen[0][1].agent == "scout"


async def test_without_hooks_nothing_is_made_ready_for_them(services: Services) -> None:
    def never() -> list[dict[str, Any]]:
        raise AssertionError("made ready")

    none = hooks.NO_HOOKS
    for point in POINTS:
        await none.before(point, NS, "x", never)
        await none.after(point, NS, "x", never, never)
    assert await none.before_store(NS, "x", never) == []
    assert "hooks" not in (await services.health.report()).parts


@pytest.mark.parametrize("names", ["missing", "recorder, recorder", "empty", ",".join(f"h{n}" for n in range(20))])
async def test_a_wrong_setting_stops_the_start(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, names: str
) -> None:
    monkeypatch.setattr(
        hooks, "entry_points", lambda *, group: [_Point("recorder", Recorder()), _Point("empty", object())]
    )
    with pytest.raises(SettingsError, match="SFM_HOOKS"):
        async with open_runtime(settings.model_copy(update={"hooks": names}), maintenance=False):
            pass


def test_a_view_cannot_be_changed() -> None:
    view = HookView(NS, "local", None, "store", ())
    with pytest.raises(AttributeError):
        view.namespace = "other"  # type: ignore[misc]
    assert replace(view, agent="a").agent == "a"
