"""Fading, expiry, holds and limits: the formula, the passes, and what they leave alone."""

import asyncio
import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfm_graph.domain.fading import (
    DEFAULT_RULES,
    Act,
    FadingRules,
    Reason,
    Vitals,
    due_at,
    fading_rules,
    half_life,
    normalised,
    retention,
)
from sfm_graph.domain.fading_steps import SHORT_CHARS, Faded, Step, summarised, verdict
from sfm_graph.domain.identity import MemoryId, MemoryRef
from sfm_graph.domain.memory import Memory, MemoryKind
from sfm_graph.domain.namespace import namespace_settings
from sfm_graph.domain.page import OrderBy
from sfm_graph.domain.recall import RecallQuery
from sfm_graph.domain.where import EVERYTHING, parse_where
from sfm_graph.errors import InvalidInput, LegalHold, SfmError, TooLarge, Unavailable
from sfm_graph.services.fading.fading_pass import FadingPass
from sfm_graph.services.fading.pace import AT_ONCE, IN_BACKGROUND, MOST_REST_SECONDS
from sfm_graph.services.registry import Services

NS = "fading"
START = datetime(2026, 1, 1, tzinfo=UTC)
LONG = " ".join(f"The {word} was seen near the old harbour in the morning." for word in map(str, range(60)))
DAY = timedelta(days=1)
FAST = {"half_life_days": {"episodic": 1}, "threshold": 0.5, "grace_days": 1}

_rules = st.builds(
    FadingRules,
    episodic_days=st.floats(0.001, 36_500), threshold=st.floats(1e-6, 0.999), access_weight=st.floats(0, 10),
    importance_weight=st.floats(0, 10), link_weight=st.floats(0, 10),
)  # fmt: skip
_vitals = st.builds(
    Vitals, kind=st.just(MemoryKind.EPISODIC), importance=st.floats(0, 1e9), touched=st.just(START),
    accesses=st.integers(0, 10**9), degree=st.integers(0, 2_000),
)  # fmt: skip
_ages = st.timedeltas(timedelta(0), timedelta(days=100_000))


# The formula


@given(_rules, _vitals, _ages, _ages)
def test_retention_is_in_0_to_1_and_falls_as_time_passes(
    rules: FadingRules, vitals: Vitals, one: timedelta, other: timedelta
) -> None:
    early, late = sorted((one, other))
    before, after = (retention(rules, vitals, START + age) for age in (early, late))
    assert 0 < after <= before <= 1
    assert retention(rules, vitals, START - early) == 1


@given(_rules, _vitals)
def test_retention_is_a_half_at_its_half_life(rules: FadingRules, vitals: Vitals) -> None:
    assert retention(rules, vitals, START + half_life(rules, vitals)) == pytest.approx(0.5, abs=1e-6)


@given(_rules, _vitals, _ages, st.integers(0, 10**6), st.integers(0, 500), st.floats(0, 1e6))
def test_access_importance_and_links_only_slow_fading(
    rules: FadingRules, vitals: Vitals, age: timedelta, accesses: int, links: int, importance: float
) -> None:
    at = START + age
    plain = retention(rules, vitals, at)
    for more in (
        replace(vitals, accesses=vitals.accesses + accesses),
        replace(vitals, degree=vitals.degree + links),
        replace(vitals, importance=vitals.importance + importance),
        replace(vitals, touched=min(at, START + DAY)),
    ):
        assert retention(rules, more, at) >= plain
        assert due_at(rules, more) >= due_at(rules, vitals)


@given(_rules, _vitals)
def test_it_is_due_where_retention_falls_below_the_threshold(rules: FadingRules, vitals: Vitals) -> None:
    at = due_at(rules, vitals)
    if at - START < timedelta(days=364_000):
        slack = max(timedelta(milliseconds=1), half_life(rules, vitals) / 10**6)
        assert retention(rules, vitals, at + slack) < rules.threshold
        assert at - slack <= START or retention(rules, vitals, at - slack) > rules.threshold


def test_each_input_counts() -> None:
    plain = Vitals(MemoryKind.EPISODIC, 0.0, START)
    assert half_life(DEFAULT_RULES, plain) == 30 * DAY
    more = Vitals(MemoryKind.EPISODIC, 1.0, START, accesses=9, degree=4)
    factor = (1 + 0.5 * math.log(10)) * 1.5 * (1 + 0.25 * math.log(5))
    assert half_life(DEFAULT_RULES, more) / (30 * DAY) == pytest.approx(factor)
    assert half_life(DEFAULT_RULES, replace(plain, kind=MemoryKind.ENTITY)) == 365 * DAY


@given(st.floats(0, 1e300), st.floats(0, 1e300))
def test_normalised_importance_is_monotone(one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert 0 <= normalised(low) <= normalised(high) <= 1
    assert normalised(1.0) == 0.5


# Rules


@given(_rules)
def test_rules_round_trip(rules: FadingRules) -> None:
    assert fading_rules(rules.as_json()) == rules


def test_rules_are_changed_in_part_and_switched_off() -> None:
    settings = namespace_settings({"fading": {"threshold": 0.1, "weights": {"links": 2}}, "max_memories": 5})
    assert settings.fading == FadingRules(threshold=0.1, link_weight=2.0)
    assert namespace_settings(settings.as_json()) == settings
    changed = namespace_settings({"fading": {"half_life_days": {"entity": 9}}}, settings)
    assert changed.fading == FadingRules(threshold=0.1, link_weight=2.0, entity_days=9.0)
    off = namespace_settings({"fading": False, "max_memories": 0}, settings)
    assert (off.fading, off.max_memories) == (None, None)


@pytest.mark.parametrize(
    "fading",
    [
        [], 1, True, {"unknown": 1}, {"threshold": 0}, {"threshold": 1}, {"threshold": "x"},
        {"half_life_days": {"episodic": 0}}, {"half_life_days": {"other": 1}}, {"half_life_days": {"episodic": 1e9}},
        {"weights": {"access": -1}}, {"weights": []}, {"summarise": 1}, {"grace_days": -1},
        {"erase_after_days": -1}, {"weights": {"access": None}},
    ],
)  # fmt: skip
def test_wrong_rules_are_refused(fading: object) -> None:
    with pytest.raises(InvalidInput):
        namespace_settings({"fading": fading})


@pytest.mark.parametrize("limit", [-1, 1.5, "5", True, 10**12])
def test_wrong_limits_are_refused(limit: object) -> None:
    with pytest.raises(InvalidInput):
        namespace_settings({"max_memories": limit})


# Verdicts


def _faded(step: Step = Step.WHOLE, *, touched: datetime = START, **more: Any) -> Faded:
    vitals = more.pop("vitals", Vitals(MemoryKind.EPISODIC, 0.0, touched))
    return Faded(MemoryId(1), START, step, more.pop("stepped_at", None), more.pop("touched_at", None), vitals, **more)


def test_verdicts_go_step_by_step() -> None:
    rules, late = FadingRules(erase_after_days=10), START + 70 * DAY
    assert verdict(rules, _faded(), START + DAY).later == START + 60 * DAY
    assert verdict(rules, _faded(), late).act is Act.SUMMARISE
    assert verdict(replace(rules, summarise=False), _faded(), late).act is Act.FORGET
    cut = _faded(Step.SUMMARISED, touched=START + 62 * DAY, stepped_at=START + 62 * DAY, touched_at=START)
    assert verdict(rules, cut.seen(), late).act is Act.FORGET
    used = replace(cut, vitals=Vitals(MemoryKind.EPISODIC, 0.0, START + 63 * DAY)).seen()
    assert used.step is Step.WHOLE
    assert verdict(rules, used, late).later == START + 123 * DAY
    gone = _faded(Step.FORGOTTEN, stepped_at=START, vitals=None)
    assert verdict(rules, gone, START + 9 * DAY).later == START + 10 * DAY
    assert verdict(rules, gone, START + 10 * DAY).act is Act.ERASE
    for nothing in (verdict(DEFAULT_RULES, gone, late), verdict(rules, _faded(vitals=None), late)):
        assert (nothing.act, nothing.later) == (None, None)
    assert verdict(rules, _faded(held=True), late).act is None


def test_a_summary_keeps_what_is_short() -> None:
    memory = Memory(
        MemoryId(1), NS, "k", (1.0,), MemoryKind.EPISODIC, "Title", LONG,
        {"n": 1, "deep": [{"text": LONG, "tag": "short"}], "flag": True}, 2.0, 1, START, START, None, None,
    )  # fmt: skip
    cut = summarised(memory)
    assert cut is not None
    assert cut.payload is not None
    assert 0 < len(cut.content) <= SHORT_CHARS
    assert all(sentence in LONG for sentence in cut.content.split(". "))
    text = cut.payload["deep"][0].pop("text")
    assert 0 < len(text) <= SHORT_CHARS
    assert cut.payload == {"n": 1, "deep": [{"tag": "short"}], "flag": True}
    assert (cut.title, cut.importance, cut.key) == ("Title", 2.0, "k")
    assert summarised(replace(memory, content="short", payload={})) is None


# Passes


class _Clock:
    def __init__(self) -> None:
        self.ahead = timedelta(0)

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


@pytest.fixture
def clock(services: Services) -> _Clock:
    """The time that memories fade by, which a test sets ahead; rounds do not rest."""
    found = _Clock()
    services.fading._clock = found
    services.fading._pace = AT_ONCE
    return found


async def _fades(services: Services, **more: Any) -> None:
    await services.namespaces.put(NS, settings={"fading": {**FAST, **more}}, model=None)


async def _store(services: Services, key: str, content: str = "short", **fields: Any) -> Memory:
    stored = await services.memory_writes.store(NS, {"key": key, "content": content, **fields})
    return stored.memory


async def _keys(services: Services) -> set[str | None]:
    async with services.views.open() as view:
        page = await services.memory_reads.list(view, NS, where=EVERYTHING, order=OrderBy(), first=100, after=None)
    return {one.key for one in page.items}


async def _get(services: Services, key: str) -> Memory:
    async with services.views.open() as view:
        return await services.memory_reads.get(view, NS, MemoryRef(key=key))


def _rows(dsn: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(query)  # type: ignore[arg-type]
        return cursor.fetchall() if cursor.description else []


async def test_each_step_is_a_change_and_the_next_waits(services: Services, clock: _Clock, database_dsn: str) -> None:
    await _fades(services, erase_after_days=5)
    memory = await _store(services, "old", LONG, payload={"n": 1})
    await services.fading.round()
    assert (await _get(services, "old")).version == 1

    clock.ahead = 3 * DAY
    await services.fading.round()
    await services.fading.round()
    cut = await _get(services, "old")
    assert (cut.version, cut.payload) == (2, {"n": 1})
    assert len(cut.content) <= SHORT_CHARS

    clock.ahead = 5 * DAY
    await services.fading.round()
    assert await _keys(services) == set()
    said = "select operation, before ->> 'content' from changes where entity = 'memory' order by id"
    assert [row[0] for row in _rows(database_dsn, said)] == ["create", "update", "forget"]
    assert _rows(database_dsn, said)[1][1] == LONG, "the whole text stays in the history"

    clock.ahead = 11 * DAY
    await services.fading.round()
    assert [row[0] for row in _rows(database_dsn, said)][-1] == "erase"
    assert {row[1] for row in _rows(database_dsn, said)} == {None}
    assert _rows(database_dsn, "select * from fading") == []
    assert memory.key == "old"


async def test_nothing_is_erased_unless_that_is_asked(services: Services, clock: _Clock, database_dsn: str) -> None:
    await _fades(services, summarise=False)
    await _store(services, "old", LONG)
    for days in (3, 30_000):
        clock.ahead = days * DAY
        await services.fading.round()
    assert [row[0] for row in _rows(database_dsn, "select operation from changes order by id")] == [
        "create", "forget",
    ]  # fmt: skip
    assert _rows(database_dsn, "select before ->> 'content' from changes where operation = 'forget'") == [(LONG,)]


async def test_what_is_short_waits_as_long_without_a_change(services: Services, clock: _Clock) -> None:
    await _fades(services)
    await _store(services, "short")
    clock.ahead = 3 * DAY
    await services.fading.round()
    assert (await _get(services, "short")).version == 1
    clock.ahead = 3.5 * DAY
    await services.fading.round()
    assert await _keys(services) == {"short"}
    clock.ahead = 4.5 * DAY
    await services.fading.round()
    assert await _keys(services) == set()


async def test_a_pass_touches_only_what_is_due(services: Services, clock: _Clock, database_dsn: str) -> None:
    await _fades(services)
    for number in range(20):
        await _store(services, f"later{number}", kind="semantic")
    await _store(services, "due")
    before = dict(_rows(database_dsn, "select memory_id, xmin::text || ctid::text from fading"))
    clock.ahead = 3 * DAY
    await services.fading.round()
    after = dict(_rows(database_dsn, "select memory_id, xmin::text || ctid::text from fading"))
    due = (await _get(services, "due")).id
    assert {id_ for id_ in before if before[id_] != after[id_]} == {due}
    await services.fading.round()
    assert dict(_rows(database_dsn, "select memory_id, xmin::text || ctid::text from fading")) == after


async def test_what_was_accessed_linked_or_updated_is_only_put_off(
    services: Services, clock: _Clock, database_dsn: str
) -> None:
    await _fades(services, summarise=False, weights={"links": 10})
    for key in ("accessed", "linked", "plain", "other"):
        await _store(services, key, importance=0)
    accessed = await _get(services, "accessed")
    _rows(
        database_dsn,
        "insert into accesses (namespace_id, memory_id, agent, count, last_at) select namespace_id, "
        f"{accessed.id}, 'a', 5, now() + interval '2 days' from fading limit 1",
    )
    await services.links.link(NS, {"key": "linked"}, {"key": "other"}, {})
    clock.ahead = 2.5 * DAY
    await services.fading.round()
    assert await _keys(services) == {"accessed", "linked", "other"}
    clock.ahead = 60 * DAY
    await services.fading.round()
    assert await _keys(services) == set()


async def test_an_update_that_makes_a_memory_fade_sooner_is_not_overlooked(
    services: Services, clock: _Clock, database_dsn: str
) -> None:
    await _fades(services, summarise=False)
    for key, more in (("kind", {"kind": "semantic"}), ("importance", {"importance": 1e9}), ("kept", {})):
        await _store(services, key, **more)
    noted = "select due_at from fading f join memories m on m.id = f.memory_id where m.key = 'kept'"
    kept = _rows(database_dsn, noted)
    writes = services.memory_writes
    await writes.update(NS, MemoryRef(key="kind"), {"kind": "episodic"})
    await writes.store(NS, {"key": "importance", "content": "short", "importance": 0})
    await writes.update(NS, MemoryRef(key="kept"), {"kind": "semantic", "importance": 9})
    assert _rows(database_dsn, noted) == kept, "what only fades later is left to the look"
    clock.ahead = 1.2 * DAY
    await services.fading.round()
    assert await _keys(services) == {"kind", "kept"}
    clock.ahead = 1.6 * DAY
    await services.fading.round()
    assert await _keys(services) == {"kept"}


async def test_at_a_limit_what_was_changed_goes_by_what_it_is_now(services: Services) -> None:
    await _limited(services, 80)
    items = [{"key": f"k{number}", "content": "x", "importance": 5} for number in range(80)]
    await services.memory_writes.store_many(NS, items)
    await services.memory_writes.store(NS, {"key": "k79", "content": "x", "importance": 0})
    await _store(services, "new", importance=5)
    await services.fading.round()
    assert {f"k{number}" for number in range(80)} - await _keys(services) == {"k79"}


async def test_an_update_makes_a_summary_whole_again(services: Services, clock: _Clock, database_dsn: str) -> None:
    await _fades(services)
    await _store(services, "old", LONG)
    clock.ahead = 3 * DAY
    await services.fading.round()
    await services.memory_writes.update(NS, MemoryRef(key="old"), {"content": LONG})
    _rows(database_dsn, "update memories set updated_at = now() + interval '4 days'")
    clock.ahead = 4.5 * DAY
    await services.fading.round()
    assert (await _get(services, "old")).content == LONG
    assert _rows(database_dsn, "select step from fading") == [("whole",)]


async def test_a_dry_run_says_what_a_pass_then_does(services: Services, clock: _Clock, database_dsn: str) -> None:
    await _fades(services)
    await _store(services, "long", LONG)
    await _store(services, "expired", expires_at=(datetime.now(UTC) + DAY).isoformat())
    await _store(services, "kept", kind="entity")
    clock.ahead = 3 * DAY
    count = "select count(*), max(id), (select md5(array_agg(f::text)::text) from fading f) from changes"
    before = _rows(database_dsn, count)
    said = await services.fading.decay(NS, dry_run=True)
    assert {(one.key, one.act, one.reason) for one in said.outcomes} == {
        ("long", Act.SUMMARISE, Reason.FADED), ("expired", Act.FORGET, Reason.EXPIRED),
    }  # fmt: skip
    assert all(one.retention is None or 0 < one.retention < 0.5 for one in said.outcomes)
    assert _rows(database_dsn, count) == before
    assert (await services.fading.decay(NS, dry_run=True, limit=1)).more
    done = await services.fading.decay(NS)
    assert {one.id for one in done.outcomes} == {one.id for one in said.outcomes}
    assert not done.more
    assert await _keys(services) == {"long", "kept"}
    assert (await _get(services, "long")).version == 2


async def test_a_pass_that_dies_goes_on_where_it_was(
    services: Services, clock: _Clock, database_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _fades(services)
    for number in range(45):
        await _store(services, f"k{number}", LONG)
    clock.ahead = 3 * DAY
    summarise, calls = FadingPass._summarise, 0

    async def dying(self: FadingPass, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise RuntimeError
        return await summarise(self, *arguments)

    monkeypatch.setattr(FadingPass, "_summarise", dying)
    with pytest.raises(Unavailable):
        await services.fading.round()
    versions = "select version, count(*) from memories group by 1 order by 1"
    assert _rows(database_dsn, versions) == [(1, 40), (2, 5)]
    monkeypatch.undo()
    for _ in range(2):
        await services.fading.round()
    assert _rows(database_dsn, versions) == [(2, 45)]
    assert _rows(database_dsn, "select operation, count(*) from changes where operation <> 'create' group by 1") == [
        ("update", 45)
    ]


async def test_the_background_rests_in_proportion(monkeypatch: pytest.MonkeyPatch) -> None:
    rests: list[float] = []

    async def rested(seconds: float) -> None:
        rests.append(seconds)

    times = iter([10.0, 10.1, 20.0, 50.0, 60.0, 61.0])
    monkeypatch.setattr("sfm_graph.services.fading.pace.time", SimpleNamespace(perf_counter=lambda: next(times)))
    monkeypatch.setattr("sfm_graph.services.fading.pace.asyncio", SimpleNamespace(sleep=rested))
    for pace in (IN_BACKGROUND, IN_BACKGROUND, AT_ONCE):
        async with pace.step():
            pass
    assert 0.1 / (0.1 + rests[0]) == pytest.approx(IN_BACKGROUND.share)
    assert rests[1:] == [MOST_REST_SECONDS, 0]


async def test_what_comes_back_while_a_pass_is_at_work_is_left_alone(
    services: Services, clock: _Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _fades(services)
    ids = [(await _store(services, key, LONG)).id for key in "ab"]
    clock.ahead = 3 * DAY
    await services.memory_writes.forget_many(NS, [MemoryRef(key="a")])
    columns = services.restoring._indexing.columns

    async def restoring(*arguments: Any) -> Any:
        monkeypatch.undo()
        await services.restoring.restore(NS, MemoryRef(key="a"))
        return await columns(*arguments)

    monkeypatch.setattr(services.fading._pass._indexing, "columns", restoring)
    assert await services.fading._pass._summarise(NS, ids, clock(), AT_ONCE) == [ids[1]]
    assert (await _get(services, "a")).content == LONG


async def test_rounds_come_by_themselves(services: Services, clock: _Clock) -> None:
    await _fades(services, summarise=False)
    await _store(services, "old")
    clock.ahead = 3 * DAY
    task = asyncio.ensure_future(services.fading.run_rounds())
    try:
        async with asyncio.timeout(20):
            while await _keys(services):  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.02)
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_two_passes_at_once_do_everything_once(services: Services, clock: _Clock, database_dsn: str) -> None:
    await _fades(services, grace_days=1)
    for number in range(60):
        await _store(services, f"k{number}", LONG if number % 2 else "short")
    clock.ahead = 3 * DAY
    await asyncio.gather(*(services.fading.round() for _ in range(3)))
    assert _rows(database_dsn, "select version, count(*) from memories group by 1 order by 1") == [(1, 30), (2, 30)]
    assert _rows(database_dsn, "select step, count(*) from fading group by 1") == [("summarised", 60)]


async def test_fading_that_is_switched_on_looks_at_what_is_there(
    services: Services, clock: _Clock, database_dsn: str
) -> None:
    for number in range(5):
        await _store(services, f"k{number}")
    assert _rows(database_dsn, "select * from fading") == []
    await _fades(services, summarise=False)
    await services.fading.round()
    assert _rows(database_dsn, "select count(*) from fading") == [(5,)]
    assert _rows(database_dsn, "select * from jobs where name = 'fading'") == []
    await services.namespaces.put(NS, settings={"fading": False}, model=None)
    await services.fading.round()
    clock.ahead = 30 * DAY
    await services.fading.round()
    assert _rows(database_dsn, "select * from fading") == []
    assert len(await _keys(services)) == 5


# Expiry


async def test_what_has_expired_is_not_recalled_before_any_pass(services: Services, clock: _Clock) -> None:
    past = (datetime.now(UTC) - DAY).isoformat()
    gone = await _store(services, "gone", "the harbour plan", expires_at=past)
    assert gone.valid_to == gone.expires_at
    await _store(services, "soon", "the harbour plan", expires_at=(datetime.now(UTC) + DAY).isoformat())
    async with services.views.open() as view:
        found = await services.recalls.recall(view, NS, RecallQuery("harbour plan", first=5))
    assert [hit.memory.key for hit in found.hits] == ["soon"]
    await services.fading.round()
    assert await _keys(services) == {"soon"}
    clock.ahead = 2 * DAY
    await services.fading.round()
    assert await _keys(services) == set()


async def test_the_end_of_validity_follows_the_expiry(services: Services) -> None:
    one, other = (datetime.now(UTC) + days * DAY for days in (1, 2))
    ref = MemoryRef(key="k")
    memory = await _store(services, "k", expires_at=one.isoformat())
    assert memory.valid_to == one
    longer = await services.memory_writes.update(NS, ref, {"expires_at": other})
    assert longer.valid_to == other
    shorter = await services.memory_writes.update(NS, ref, {"valid_to": one})
    assert (shorter.valid_to, shorter.expires_at) == (one, other)
    kept = await services.memory_writes.update(NS, ref, {"expires_at": None})
    assert (kept.valid_to, kept.expires_at) == (one, None)
    ended = await services.memory_writes.update(NS, ref, {"expires_at": one, "valid_to": None})
    assert ended.valid_to == one
    open_ = await services.memory_writes.update(NS, ref, {"expires_at": None})
    assert open_.valid_to is None
    with pytest.raises(InvalidInput):
        await _store(services, "never", valid_from=other.isoformat(), expires_at=one.isoformat())


# Holds


async def test_nobody_gets_past_a_hold(services: Services, clock: _Clock, database_dsn: str) -> None:
    await _fades(services, summarise=False)
    soon = (datetime.now(UTC) + DAY).isoformat()
    await _store(services, "held", LONG, expires_at=soon)
    await _store(services, "free", LONG, expires_at=soon)
    ref = MemoryRef(key="held")
    held = await services.holds.hold(NS, ref)
    assert (held.legal_hold, held.version) == (True, 2)
    assert (await services.holds.hold(NS, ref)).version == 2
    writes = services.memory_writes
    for refused in (
        writes.forget_many(NS, [ref]), writes.erase_many(NS, [ref]),
        writes.forget_many(NS, [MemoryRef(key="free"), ref]),
        writes.forget_where(NS, parse_where({"importance": {"gte": 0}})),
        services.namespaces.delete(NS, confirm=NS),
    ):  # fmt: skip
        with pytest.raises(LegalHold) as error:
            await refused
        assert error.value.details["ids"] == [held.global_id]
        assert held.global_id in error.value.message
    assert await _keys(services) == {"held", "free"}
    updated = await services.memory_writes.update(NS, ref, {"title": "still here"})
    assert updated.legal_hold

    clock.ahead = 90 * DAY
    for _ in range(3):
        await services.fading.round()
    assert await _keys(services) == {"held"}
    operations = "select operation from changes where entity_id = {} and entity = 'memory' order by id"
    assert [row[0] for row in _rows(database_dsn, operations.format(held.id))] == ["create", "update", "update"]

    released = await services.holds.release(NS, ref)
    assert not released.legal_hold
    await services.fading.round()
    assert await _keys(services) == set()


# Limits


async def _limited(services: Services, limit: int) -> None:
    await services.namespaces.put(NS, settings={"max_memories": limit}, model=None)


async def test_what_fades_first_goes_first(services: Services, database_dsn: str) -> None:
    await _limited(services, 3)
    for key, importance in (("low", 0), ("high", 50), ("linked", 0), ("middle", 1)):
        await _store(services, key, importance=importance)
        if key == "linked":
            await services.links.link(NS, {"key": "linked"}, {"key": "high"}, {})
    await services.fading.round()
    assert await _keys(services) == {"high", "linked", "middle"}
    gone = "select count(*) from changes where operation = 'forget' and entity = 'memory'"
    assert _rows(database_dsn, gone) == [(1,)]
    # Counted once, and kept since by whatever was done.
    await services.memory_writes.forget_many(NS, [MemoryRef(key="high")])
    assert _rows(database_dsn, "select sum(count) from memory_counts") == [(2,)]
    await services.namespaces.put(NS, settings={"max_memories": 0}, model=None)
    assert _rows(database_dsn, "select * from memory_counts") == []


async def test_a_limit_that_is_set_later_counts_what_is_there(services: Services, database_dsn: str) -> None:
    for number in range(6):
        await _store(services, f"k{number}", importance=number)
    await _limited(services, 4)
    assert _rows(database_dsn, "select sum(count) from memory_counts") == [(6,)]
    foreseen = await services.fading.decay(NS, dry_run=True)
    assert (foreseen.outcomes, foreseen.more) == ((), True), "nobody has looked at them yet"
    done = await services.fading.decay(NS, limit=1)
    assert [(one.key, done.more) for one in done.outcomes] == [("k0", True)]
    await services.fading.round()
    assert await _keys(services) == {"k2", "k3", "k4", "k5"}
    with pytest.raises(TooLarge):
        await services.memory_writes.store_many(NS, [{"content": str(number)} for number in range(5)])
    await services.memory_writes.store_many(NS, [{"content": str(number)} for number in range(4)])
    assert _rows(database_dsn, "select count(*) from memories") == [(4,)]


async def test_concurrent_writers_never_exceed_the_limit_by_a_tenth(services: Services, database_dsn: str) -> None:
    limit, most = 200, 0
    await _limited(services, limit)

    async def write(writer: int) -> None:
        nonlocal most
        for turn in range(8):
            size = (1, 7, 30)[(writer + turn) % 3]
            items = [{"content": f"w{writer} t{turn} i{i}"} for i in range(size)]
            await services.memory_writes.store_many(NS, items)
            most = max(most, _rows(database_dsn, "select count(*) from memories")[0][0])

    await asyncio.gather(*(write(writer) for writer in range(6)))
    assert limit < most <= limit * 1.1
    counted = _rows(database_dsn, "select sum(count), (select count(*) from memories) from memory_counts")
    assert counted[0][0] == counted[0][1]
    await services.fading.round()
    assert _rows(database_dsn, "select count(*) from memories") == [(limit,)]


async def test_a_limit_full_of_held_memories_refuses(services: Services) -> None:
    await _limited(services, 2)
    for key in ("a", "b"):
        await _store(services, key)
        await services.holds.hold(NS, MemoryRef(key=key))
    with pytest.raises(LegalHold):
        await _store(services, "c")
    await services.holds.release(NS, MemoryRef(key="a"))
    await _store(services, "c")
    assert await _keys(services) == {"b", "c"}


async def test_writers_wake_the_background(services: Services) -> None:
    await _limited(services, 100)
    task = asyncio.ensure_future(services.fading.run())
    try:
        await services.memory_writes.store_many(NS, [{"content": str(number)} for number in range(100)])
        for number in range(3):
            await _store(services, f"k{number}")
        async with asyncio.timeout(20):
            while (await services.fading.decay(NS, dry_run=True)).outcomes:  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.02)
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_writers_without_a_limit_touch_nothing(services: Services, database_dsn: str) -> None:
    await services.memory_writes.store_many("other", [{"content": "a"}])
    await _limited(services, 5)
    await services.memory_writes.store_many("other", [{"content": "b"}])
    assert _rows(database_dsn, "select * from fading") == []
    assert _rows(database_dsn, "select sum(count) from memory_counts") == [(0,)]


async def test_an_unknown_namespace_is_said(services: Services) -> None:
    with pytest.raises(SfmError) as error:
        await services.fading.decay("nowhere", dry_run=True)
    assert error.value.code == "namespace_not_found"
    for limit in (0, 1_001, "x"):
        with pytest.raises(InvalidInput):
            await services.fading.decay("nowhere", limit=limit)
