"""The consumer runner on a scripted bus: order, retries, poison, dedupe, crashes, lost partitions, draining."""

import asyncio
import importlib.util
import logging
import tomllib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from scripted_source import LOG, TOPIC, ScriptedBus, ScriptedSource, event

from sfm_consumers import Options, Poison, Received, Retry, assembly
from sfm_consumers.handling import Means
from sfm_consumers.inspection import inspect
from sfm_consumers.ledger import Ledger, Place
from sfm_consumers.ledgers.postgres import PostgresLedger
from sfm_consumers.ledgers.sqlite import SqliteLedger
from sfm_consumers.retrying import Patience
from sfm_consumers.runner import Runner
from sfm_consumers.settings import ConsumerSettings
from sfm_consumers.source import Message
from sfm_consumers.watch import Watch
from sfm_consumers.web import serving
from sfm_graph.errors import DatabaseUnavailable, EmbedderUnavailable, SettingsError, VersionConflict
from sfm_graph.settings import EventBusKind, Settings, load_settings

QUICK = Patience(first_pause_seconds=0.001, longest_pause_seconds=0.01, failures=3, finish_seconds=5.0)
MAX_BYTES = 10_000
README = Path(__file__).parents[1] / "consumers" / "README.md"
EXAMPLE = README.parent / "examples" / "print_changes.py"

Behaviour = Callable[[Sequence[Received]], Awaitable[None]]


class Recorder:
    """Writes down what it was given once `behaviour` let it pass."""

    name = "recorder"
    topics = (TOPIC,)

    def __init__(self, behaviour: Behaviour | None = None) -> None:
        self.effects: list[tuple[str | None, int]] = []
        self.calls: list[list[int]] = []
        self._behaviour = behaviour

    async def handle(self, events: Sequence[Received]) -> None:
        self.calls.append([one.sequence for one in events])
        if self._behaviour is not None:
            await self._behaviour(events)
        self.effects += [(one.key, one.sequence) for one in events]

    async def aclose(self) -> None:
        pass

    @property
    def sequences(self) -> list[int]:
        return [sequence for _, sequence in self.effects]


async def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 what is waited for has no event
            await asyncio.sleep(0.005)


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[SqliteLedger]:
    opened = SqliteLedger(tmp_path / "state" / "ledger.sqlite", "group")
    await opened.open()
    yield opened
    await opened.aclose()


class Running:
    """A runner at work."""

    def __init__(self, source: ScriptedSource, means: Means) -> None:
        self.source = source
        self.watch = means.watch
        self.stop = asyncio.Event()
        self.task = asyncio.create_task(Runner(source, means).run(self.stop))

    async def end(self) -> None:
        self.stop.set()
        async with asyncio.timeout(20):
            await self.task

    async def crash(self) -> None:
        """The nearest to `kill -9` within a process: nothing is waited for, no effect is recorded any more."""
        self.task.cancel()
        await asyncio.wait([self.task])

    def count(self, name: str) -> float:
        return self.watch.registry.get_sample_value(name, {"consumer": "recorder", "topic": TOPIC}) or 0.0


@asynccontextmanager
async def running(
    bus: ScriptedBus, consumer: Recorder, ledger: Ledger, *, patience: Patience = QUICK, batch: int = 100
) -> AsyncIterator[Running]:
    source = ScriptedSource(bus, batch=batch)
    means = Means(consumer, ledger, source.dead_letter, Watch(consumer.name), patience, MAX_BYTES)
    opened = Running(source, means)
    try:
        yield opened
    finally:
        await (opened.crash() if opened.task.done() else opened.end())


async def run_through(
    bus: ScriptedBus, consumer: Recorder, ledger: Ledger, *, patience: Patience = QUICK, batch: int = 100
) -> None:
    """Until everything is confirmed."""
    async with running(bus, consumer, ledger, patience=patience, batch=batch):
        await until(lambda: bus.left() == 0)


def bus_of(*messages: Message) -> ScriptedBus:
    bus = ScriptedBus()
    bus.put(*messages)
    return bus


# Order and confirming.


async def test_a_partition_keeps_its_order_and_is_confirmed_after_the_effect(
    ledger: SqliteLedger,
) -> None:
    bus = bus_of(*(event(f"n/{number % 7}", number) for number in range(1, 351)))
    confirmed_before: list[int] = []

    async def look(events: Sequence[Received]) -> None:
        confirmed_before.append(bus.confirmed.get(0, 0) - int(events[0].position))

    consumer = Recorder(look)
    await run_through(bus, consumer, ledger, batch=50)
    assert consumer.sequences == list(range(1, 351))
    assert confirmed_before == [0] * 7


async def test_partitions_are_worked_at_the_same_time(ledger: SqliteLedger) -> None:
    together = asyncio.Barrier(3)

    async def meet(events: Sequence[Received]) -> None:
        await together.wait()

    bus = bus_of(*(event(f"n/{number}", number, partition=number) for number in range(3)))
    consumer = Recorder(meet)
    await run_through(bus, consumer, ledger)
    assert sorted(consumer.sequences) == [0, 1, 2]


async def test_one_partition_that_waits_does_not_hold_up_the_others(ledger: SqliteLedger) -> None:
    async def refuse_first(events: Sequence[Received]) -> None:
        if events[0].partition == 0:
            raise Retry("not yet")

    bus = bus_of(event("n/0", 1, partition=0), event("n/1", 2, partition=1))
    consumer = Recorder(refuse_first)
    async with running(bus, consumer, ledger) as runner:
        await until(lambda: bus.confirmed.get(1) == 1)
        await until(lambda: "effect of memory.events/0" in runner.watch.troubles)
        assert runner.watch.troubles == {"effect of memory.events/0": "not yet"}
    assert bus.confirmed.get(0) is None
    assert consumer.sequences == [2]


# Retries.


@pytest.mark.parametrize(
    "error",
    [
        Retry("busy"),
        EmbedderUnavailable("away"),
        ConnectionRefusedError("no"),
        httpx.ConnectError("no"),
        httpx.ReadTimeout("slow"),
        TimeoutError(),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_what_passes_is_tried_until_it_does(ledger: SqliteLedger, error: Exception) -> None:
    left = [error] * 10

    async def fail(events: Sequence[Received]) -> None:
        if left:
            raise left.pop()

    bus = bus_of(event("n/1", 1), event("n/2", 2))
    consumer = Recorder(fail)
    async with running(bus, consumer, ledger) as runner:
        await until(lambda: bus.left() == 0)
        assert runner.count("sfm_consumer_retries_total") == 10
        assert runner.watch.troubles == {}
    assert consumer.calls == [[1, 2]] * 11
    assert consumer.sequences == [1, 2]
    assert bus.dead == []


async def test_a_handler_that_hangs_is_cancelled_and_tried_again(ledger: SqliteLedger) -> None:
    calls = iter([True, False])

    async def hang_once(events: Sequence[Received]) -> None:
        if next(calls):
            await asyncio.Event().wait()

    bus, consumer = bus_of(event("n/1", 1)), Recorder(hang_once)
    await run_through(bus, consumer, ledger, patience=replace(QUICK, handle_seconds=0.05))
    assert consumer.sequences == [1]


async def test_a_batch_that_takes_too_long_is_handed_over_in_halves(ledger: SqliteLedger) -> None:
    async def by_one(events: Sequence[Received]) -> None:
        if len(events) > 3:
            await asyncio.Event().wait()

    bus, consumer = bus_of(*(event("n/1", number) for number in range(1, 21))), Recorder(by_one)
    await run_through(bus, consumer, ledger, patience=replace(QUICK, handle_seconds=0.05))
    assert consumer.sequences == list(range(1, 21))
    assert bus.dead == []


async def test_a_handler_that_is_cancelled_from_within_has_failed(ledger: SqliteLedger) -> None:
    async def wait_for_nobody(events: Sequence[Received]) -> None:
        if events[0].sequence == 1:
            waited_for = asyncio.get_running_loop().create_future()
            waited_for.cancel()
            await waited_for

    bus, consumer = bus_of(event("n/1", 1), event("n/1", 2)), Recorder(wait_for_nobody)
    await run_through(bus, consumer, ledger)
    assert consumer.sequences == [2]
    assert [message.position for message, _ in bus.dead] == ["0"]


async def test_a_partition_that_nobody_cancelled_ends_the_process(ledger: SqliteLedger) -> None:
    class Cancelled(CrashingLedger):
        async def last(self, topic: str, places: set[Place]) -> Mapping[Place, int]:
            raise asyncio.CancelledError

    async with running(bus_of(event("n/1", 1)), Recorder(), Cancelled(ledger)) as runner:
        await asyncio.wait([runner.task], timeout=20)
        with pytest.raises(RuntimeError, match="cancelled by nobody"):
            runner.task.result()


async def test_pauses_double_up_to_a_bound_and_wishes_are_bounded() -> None:
    patience = Patience(first_pause_seconds=1.0, longest_pause_seconds=30.0, longest_wish_seconds=600.0)
    for attempt, whole in enumerate([1, 2, 4, 8, 16, 30, 30]):
        assert whole / 2 <= patience.pause(attempt) <= whole
    assert patience.pause(10**9) <= 30
    assert patience.pause(0, 45.0) == 45.0
    assert patience.pause(0, 10**9) == 600.0
    assert patience.pause(0, -5.0) == 0.0


async def test_a_commit_that_is_refused_is_tried_again_without_a_second_effect(ledger: SqliteLedger) -> None:
    bus = bus_of(event("n/1", 1))
    bus.commit_refusals = 3
    consumer = Recorder()
    await run_through(bus, consumer, ledger)
    assert consumer.sequences == [1]


# Poison.


async def test_poison_in_the_middle_of_a_batch_goes_aside_and_the_rest_flows_on(ledger: SqliteLedger) -> None:
    async def refuse(events: Sequence[Received]) -> None:
        for one in events:
            if one.sequence == 5:
                raise Poison("never heard of it", one)

    bus = bus_of(*(event(f"n/{number}", number) for number in range(1, 11)))
    bus.dead_refusals = 2
    consumer = Recorder(refuse)
    await run_through(bus, consumer, ledger)
    assert consumer.sequences == [1, 2, 3, 4, 6, 7, 8, 9, 10]
    [(message, headers)] = bus.dead
    assert (message, message.key) == (bus.partitions[0][4], b"n/5")
    assert headers.pop("dlq_at").endswith("+00:00")
    assert headers == {
        "dlq_reason": "never heard of it",
        "dlq_consumer": "recorder",
        "dlq_topic": TOPIC,
        "dlq_partition": "0",
        "dlq_position": "4",
    }
    assert bus.journal == [("dead", 0, 4), ("commit", 0, 9)]


async def test_what_others_say_cannot_forge_logs_or_headers(
    ledger: SqliteLedger, caplog: pytest.LogCaptureFixture
) -> None:
    said = "no\r\nERROR forged \x1b[2J\u202e\ud800 caf\u00e9"
    failures = iter([Retry(said), Poison(said)])

    async def refuse(events: Sequence[Received]) -> None:
        raise next(failures)

    bus = bus_of(event("n/1", 1))
    with caplog.at_level(logging.WARNING):
        await run_through(bus, Recorder(refuse), ledger)
    [(_, headers)] = bus.dead
    assert headers["dlq_reason"] == "no\\r\\nERROR forged \\x1b[2J\\u202e\\ud800 caf\u00e9"
    told = [one.getMessage() for one in caplog.records]
    assert len(told) == 2
    assert all(one.isprintable() and "forged" in one for one in told)


async def test_poison_without_a_name_is_found_by_halving(ledger: SqliteLedger) -> None:
    async def refuse(events: Sequence[Received]) -> None:
        if any(one.sequence in (3, 90) for one in events):
            raise Poison("one of them")

    bus = bus_of(*(event(f"n/{number}", number) for number in range(1, 101)))
    consumer = Recorder(refuse)
    await run_through(bus, consumer, ledger)
    assert consumer.sequences == [number for number in range(1, 101) if number not in (3, 90)]
    assert [message.position for message, _ in bus.dead] == ["2", "89"]


async def test_a_batch_of_nothing_but_poison(ledger: SqliteLedger) -> None:
    async def refuse(events: Sequence[Received]) -> None:
        raise Poison("no", events[0])

    bus = bus_of(*(event(f"n/{number}", number) for number in range(1, 1_501)))
    consumer = Recorder(refuse)
    await run_through(bus, consumer, ledger, batch=1_500)
    assert [int(message.position) for message, _ in bus.dead] == list(range(1_500))


async def test_an_exception_that_nobody_expected_is_isolated(ledger: SqliteLedger) -> None:
    async def stumble(events: Sequence[Received]) -> None:
        if any(one.sequence == 6 for one in events):
            raise ZeroDivisionError("at six")

    bus = bus_of(*(event(f"n/{number}", number) for number in range(1, 11)))
    consumer = Recorder(stumble)
    await run_through(bus, consumer, ledger)
    assert consumer.sequences == [1, 2, 3, 4, 5, 7, 8, 9, 10]
    assert [(message.position, headers["dlq_reason"]) for message, headers in bus.dead] == [
        ("5", "ZeroDivisionError: at six")
    ]
    # The batch and the single event at fault get all attempts, what halving comes across on the way one.
    assert consumer.calls.count([6]) == QUICK.failures
    assert consumer.calls.count(list(range(1, 11))) == QUICK.failures
    assert consumer.calls.count([6, 7, 8, 9, 10]) == 1


async def test_an_exception_that_passes_by_itself_costs_no_event(ledger: SqliteLedger) -> None:
    left = [KeyError("x"), VersionConflict("y")]

    async def stumble(events: Sequence[Received]) -> None:
        if left:
            raise left.pop()

    bus, consumer = bus_of(event("n/1", 1), event("n/2", 2)), Recorder(stumble)
    await run_through(bus, consumer, ledger)
    assert (consumer.sequences, bus.dead) == ([1, 2], [])


GOOD = event("n/1", 1)
MALFORMED = {
    "no headers": replace(GOOD, headers=()),
    "no sequence": event("n/1", 1, sequence=""),
    "another specversion": event("n/1", 1, specversion="0.3"),
    "another source": event("n/1", 1, source="urn:else:log"),
    "a later schema": event("n/1", 1, dataschema="urn:sfm-graph:event:memory:2"),
    "a sequence that is none": event("n/1", 1, sequence="-1"),
    "a sequence beyond bigint": event("n/1", 1, sequence="9223372036854775808"),
    "a sequence of other digits": event("n/1", 1, sequence="\u0661"),
    "no JSON": replace(GOOD, value=b"{"),
    "empty": replace(GOOD, value=b""),
    "no object": replace(GOOD, value=b"[1]"),
    "JSON too deep": replace(GOOD, value=b"[" * 5_000),
    "too large": replace(GOOD, value=b'"' + b"x" * MAX_BYTES + b'"'),
    "a key that is not UTF-8": replace(GOOD, key=b"\xff"),
    "a key with NUL": replace(GOOD, key=b"n/\x00"),
    "a key too long": replace(GOOD, key=b"k" * 1_025),
    "an attribute that is not UTF-8": replace(GOOD, headers=(*GOOD.headers, ("ce_x", b"\xff"))),
    "an attribute too long": replace(GOOD, headers=(*GOOD.headers, ("ce_x", b"x" * 1_025))),
    "an attribute with a line break": replace(GOOD, headers=(*GOOD.headers, ("ce_x", b"a\r\nb"))),
    "an attribute's name with a space": replace(GOOD, headers=(*GOOD.headers, ("ce_a b", b"x"))),
    "an attribute's name with a line break": replace(GOOD, headers=(*GOOD.headers, ("ce_a\r\nb", b"x"))),
    "an attribute's name too long": replace(GOOD, headers=(*GOOD.headers, ("ce_" + "x" * 1_025, b"x"))),
    "an id with a space": event("n/1", 1, id=" log-1.1"),
    "an id beyond ASCII": event("n/1", 1, id="é"),
    "headers without end": replace(GOOD, headers=GOOD.headers * 20),
}


@pytest.mark.parametrize("message", MALFORMED.values(), ids=MALFORMED.keys())
async def test_what_is_no_event_goes_to_the_dead_letters_as_it_came(ledger: SqliteLedger, message: Message) -> None:
    bus = bus_of(event("n/0", 1), message, event("n/2", 2))
    consumer = Recorder()
    await run_through(bus, consumer, ledger)
    assert consumer.effects == [("n/0", 1), ("n/2", 2)]
    [(dead, headers)] = bus.dead
    assert (dead.key, dead.value, dead.headers) == (message.key, message.value, message.headers)
    assert headers["dlq_reason"]


def test_an_event_as_it_is_seen_by_a_consumer() -> None:
    seen = inspect(event("n/1", 12), MAX_BYTES)
    assert seen is not None
    assert (seen.log, seen.sequence, seen.id, seen.key) == (LOG, 12, f"{LOG}.12", "n/1")
    assert seen.value()["id"] == "id-n/1"
    assert "ce_id" not in seen.attributes
    with pytest.raises(Poison):
        replace(seen, data=b"[]").value()


async def test_a_tombstone_is_passed_by(ledger: SqliteLedger) -> None:
    bus, consumer = bus_of(event("n/1", 1), replace(GOOD, value=None, headers=())), Recorder()
    await run_through(bus, consumer, ledger)
    assert (consumer.sequences, bus.dead) == ([1], [])


# Dedupe.


async def test_what_comes_again_has_no_second_effect(ledger: SqliteLedger) -> None:
    first = [event("n/1", 1), event("n/2", 2), event("n/1", 3)]
    bus, consumer = bus_of(*first, *first, event("n/2", 4), *first), Recorder()
    async with running(bus, consumer, ledger, batch=5) as runner:
        await until(lambda: bus.left() == 0)
        assert runner.count("sfm_consumer_duplicates_total") == 6
        assert runner.count("sfm_consumer_handled_total") == 4
    assert consumer.effects == [("n/1", 1), ("n/2", 2), ("n/1", 3), ("n/2", 4)]


async def test_a_restored_log_is_new_and_the_old_one_stays_known(ledger: SqliteLedger) -> None:
    old, new = event("n/1", 50), event("n/1", 3, log="log-2")
    bus, consumer = bus_of(old, new, old, new), Recorder()
    await run_through(bus, consumer, ledger, batch=1)
    assert consumer.sequences == [50, 3]


async def test_the_ends_of_namespaces_are_told_apart_in_every_partition(ledger: SqliteLedger) -> None:
    ends = [
        event(None, sequence, partition=partition, subject=subject, dataschema="urn:sfm-graph:event:namespace:1")
        for partition in (0, 1)
        # The later one of two changes may become visible first.
        for sequence, subject in ((9, "a/1"), (8, "b/2"), (9, "a/1"))
    ]
    bus, consumer = bus_of(*ends), Recorder()
    await run_through(bus, consumer, ledger)
    assert sorted(consumer.sequences) == [8, 8, 9, 9]


async def test_the_end_of_a_namespace_on_compacted_topics_comes_in_every_partition(ledger: SqliteLedger) -> None:
    schema = "urn:sfm-graph:event:namespace:1"
    bus = bus_of(*(event("n/", 5, partition=number, subject="n/7", dataschema=schema) for number in range(2)))
    consumer = Recorder()
    await run_through(bus, consumer, ledger)
    assert consumer.effects == [(None, 5), (None, 5)]


async def test_memories_and_links_of_one_number_are_told_apart(ledger: SqliteLedger) -> None:
    await ledger.record("link.events", {Place(LOG, "kn/1"): 100})
    bus, consumer = bus_of(event("n/1", 1)), Recorder()
    await run_through(bus, consumer, ledger)
    assert consumer.sequences == [1]


class CrashingLedger:
    """Loses its process before it records anything."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.reached = asyncio.Event()

    async def last(self, topic: str, places: set[Place]) -> Mapping[Place, int]:
        return await self._ledger.last(topic, places)

    async def record(self, topic: str, handled: Mapping[Place, int]) -> None:
        self.reached.set()
        await asyncio.Event().wait()

    async def aclose(self) -> None:
        pass


@pytest.fixture(params=["sqlite", "postgres"])
def ledger_place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where two processes of this test find one ledger."""
    return str(request.getfixturevalue("database_dsn") if request.param == "postgres" else tmp_path / "two.sqlite")


async def _opened(place: str) -> Ledger:
    ledger = SqliteLedger(Path(place), "group") if place.endswith(".sqlite") else PostgresLedger(place, "group")
    await ledger.open()
    return ledger


async def test_a_crash_between_record_and_commit_has_no_second_effect_after_a_restart(ledger_place: str) -> None:
    bus, consumer = bus_of(event("n/1", 1), event("n/2", 2)), Recorder()
    bus.commit_refusals = 10**9
    first = await _opened(ledger_place)
    async with running(bus, consumer, first) as runner:
        await until(lambda: bus.commit_refusals < 10**9)
        await runner.crash()
    await first.aclose()
    assert (consumer.sequences, bus.left()) == ([1, 2], 2)
    bus.commit_refusals = 0
    bus.put(event("n/1", 3))
    second = await _opened(ledger_place)
    await run_through(bus, consumer, second)
    await second.aclose()
    assert consumer.sequences == [1, 2, 3]


async def test_a_crash_between_effect_and_record_repeats_the_batch_and_loses_nothing(ledger: SqliteLedger) -> None:
    bus, consumer, crashing = bus_of(event("n/1", 1), event("n/2", 2)), Recorder(), CrashingLedger(ledger)
    async with running(bus, consumer, crashing) as runner:
        await asyncio.wait_for(crashing.reached.wait(), 20)
        await runner.crash()
    assert bus.left() == 2
    await run_through(bus, consumer, ledger)
    assert consumer.sequences == [1, 2, 1, 2]


class FlakyLedger(CrashingLedger):
    """Fails every other time."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(ledger)
        self._calls = 0

    def _fail(self) -> None:
        self._calls += 1
        if self._calls % 2:
            raise DatabaseUnavailable("disk full")

    async def last(self, topic: str, places: set[Place]) -> Mapping[Place, int]:
        self._fail()
        return await self._ledger.last(topic, places)

    async def record(self, topic: str, handled: Mapping[Place, int]) -> None:
        self._fail()
        await self._ledger.record(topic, handled)


async def test_a_ledger_that_fails_is_waited_for_without_a_second_effect(ledger: SqliteLedger) -> None:
    bus, consumer = bus_of(*(event("n/1", number) for number in range(1, 11))), Recorder()
    await run_through(bus, consumer, FlakyLedger(ledger), batch=2)
    assert consumer.sequences == list(range(1, 11))


async def test_dead_letters_that_come_again_are_put_aside_once(ledger: SqliteLedger) -> None:
    async def refuse(events: Sequence[Received]) -> None:
        raise Poison("no", events[0])

    bus, consumer = bus_of(event("n/1", 1), event("n/1", 1)), Recorder(refuse)
    await run_through(bus, consumer, ledger, batch=1)
    assert len(bus.dead) == 1


# The end, and partitions that go.


async def test_the_batch_in_hand_is_finished_and_confirmed_before_the_end(ledger: SqliteLedger) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(events: Sequence[Received]) -> None:
        begun.set()
        await go_on.wait()

    bus, consumer = bus_of(event("n/1", 1), event("n/2", 2)), Recorder(slow)
    async with running(bus, consumer, ledger, batch=1) as runner:
        await begun.wait()
        runner.stop.set()
        await asyncio.sleep(0.05)
        assert not runner.task.done()
        go_on.set()
        await runner.end()
    assert consumer.sequences == [1]
    assert bus.confirmed == {0: 1}


async def test_the_end_does_not_wait_longer_than_its_deadline(ledger: SqliteLedger) -> None:
    begun = asyncio.Event()

    async def hang(events: Sequence[Received]) -> None:
        begun.set()
        await asyncio.Event().wait()

    bus, consumer = bus_of(event("n/1", 1)), Recorder(hang)
    async with running(bus, consumer, ledger, patience=replace(QUICK, finish_seconds=0.1)) as runner:
        await begun.wait()
        await runner.end()
    assert (bus.confirmed, consumer.sequences) == ({}, [])


async def test_the_end_does_not_wait_for_what_is_away(ledger: SqliteLedger) -> None:
    async def refuse(events: Sequence[Received]) -> None:
        raise Retry("away", after_seconds=600)

    bus, consumer = bus_of(event("n/1", 1)), Recorder(refuse)
    async with running(bus, consumer, ledger, patience=replace(QUICK, finish_seconds=600)) as runner:
        await until(lambda: consumer.calls != [])
        await runner.end()
    assert bus.confirmed == {}


async def test_the_end_does_not_wait_for_a_consumer_to_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop, cancelled = asyncio.Event(), asyncio.Event()

    async def never(settings: Settings, options: Options) -> Recorder:
        stop.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return Recorder()

    monkeypatch.setattr(assembly, "_opener", lambda name: never)
    settings = load_settings(data_dir=tmp_path, redis_host="127.0.0.1")
    plan = assembly.Plan("recorder", "g", EventBusKind.REDIS, {}, settings, ConsumerSettings())
    async with asyncio.timeout(20):
        await assembly.consume(plan, stop, lambda message: None)
    assert cancelled.is_set()


async def test_a_partition_that_goes_is_finished_first(ledger: SqliteLedger) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(events: Sequence[Received]) -> None:
        if events[0].partition == 0:
            begun.set()
            await go_on.wait()

    bus = bus_of(event("n/1", 1, partition=0), event("n/2", 2, partition=1))
    consumer = Recorder(slow)
    async with running(bus, consumer, ledger) as runner:
        await begun.wait()
        revoking = asyncio.create_task(runner.source.revoke(0))
        await asyncio.sleep(0.05)
        assert not revoking.done()
        go_on.set()
        await revoking
        assert bus.confirmed[0] == 1
        bus.put(event("n/1", 3, partition=0), event("n/2", 4, partition=1))
        await until(lambda: bus.confirmed.get(1) == 2)
    assert bus.confirmed[0] == 1
    assert 3 not in consumer.sequences


async def test_a_lost_partition_is_never_confirmed(ledger: SqliteLedger) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(events: Sequence[Received]) -> None:
        begun.set()
        await go_on.wait()

    bus, consumer = bus_of(event("n/1", 1)), Recorder(slow)
    async with running(bus, consumer, ledger, patience=replace(QUICK, finish_seconds=0.05)) as runner:
        await begun.wait()
        await runner.source.revoke(0)
        go_on.set()
        # It comes back: what was abandoned is handled again, from the confirmed place.
        runner.source.claim(0)
        await until(lambda: bus.left() == 0)
    assert consumer.sequences == [1]
    assert [entry for entry in bus.journal if entry[0] == "commit"] == [("commit", 0, 0)]


async def test_a_claim_lost_without_a_word_ends_its_work_only(ledger: SqliteLedger) -> None:
    async def lose(events: Sequence[Received]) -> None:
        if events[0].partition == 0:
            runner.source.claims[0].is_lost = True

    bus = bus_of(event("n/1", 1, partition=0), event("n/2", 2, partition=1))
    consumer = Recorder(lose)
    async with running(bus, consumer, ledger) as runner:
        await until(lambda: bus.confirmed.get(1) == 1 and len(consumer.effects) == 2)
        bus.put(event("n/2", 3, partition=1))
        await until(lambda: bus.confirmed.get(1) == 2)
        assert not runner.task.done()
    assert 0 not in bus.confirmed


async def test_a_defect_ends_the_process_instead_of_a_partition_in_silence(ledger: SqliteLedger) -> None:
    class Broken(CrashingLedger):
        async def last(self, topic: str, places: set[Place]) -> Mapping[Place, int]:
            raise ZeroDivisionError

    bus = bus_of(event("n/1", 1))
    async with running(bus, Recorder(), Broken(ledger)) as runner:
        await asyncio.wait([runner.task], timeout=20)
        with pytest.raises(ZeroDivisionError):
            runner.task.result()


# Metrics and health.


async def test_metrics_and_health_over_http(ledger: SqliteLedger) -> None:
    away = asyncio.Event()

    async def refuse(events: Sequence[Received]) -> None:
        if away.is_set():
            raise Retry("the shop is closed")
        for one in events:
            if one.sequence == 2:
                raise Poison("no", one)

    bus, consumer = bus_of(event("n/1", 1), event("n/2", 2), event("n/1", 1)), Recorder(refuse)
    async with (
        running(bus, consumer, ledger) as runner,
        serving(runner.watch, "127.0.0.1", 0) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client,
    ):
        await until(lambda: bus.left() == 0)
        page = (await client.get("/metrics")).text
        labels = f'{{consumer="recorder",topic="{TOPIC}"}}'
        assert f"sfm_consumer_handled_total{labels} 1.0" in page
        assert f"sfm_consumer_duplicates_total{labels} 1.0" in page
        assert f"sfm_consumer_dead_letters_total{labels} 1.0" in page
        assert f"sfm_consumer_event_age_seconds_count{labels} 1.0" in page
        assert 'sfm_consumer_ready{consumer="recorder"} 1.0' in page
        assert (await client.get("/healthz")).status_code == 200
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()) == (200, {"ready": True, "troubles": {}})
        away.set()
        bus.put(event("n/3", 3))
        await until(lambda: runner.watch.troubles != {})
        ready = await client.get("/readyz")
        assert ready.status_code == 503
        assert ready.json()["troubles"] == {"effect of memory.events/0": "the shop is closed"}
        away.clear()
        await until(lambda: bus.left() == 0)
        assert (await client.get("/readyz")).status_code == 200
        assert (await client.post("/metrics")).status_code == 405
        assert (await client.get("/else")).status_code == 404
        head = await client.head("/readyz")
        assert (head.status_code, head.content) == (200, b"")


async def test_lag_is_told_by_partition_and_taken_back_with_it(ledger: SqliteLedger) -> None:
    held = asyncio.Event()

    async def hold(events: Sequence[Received]) -> None:
        await held.wait()

    bus, consumer = bus_of(event("n/1", 1), event("n/2", 2)), Recorder(hold)
    async with running(bus, consumer, ledger) as runner:
        labels = {"consumer": "recorder", "topic": TOPIC, "partition": "0"}
        await until(lambda: runner.watch.registry.get_sample_value("sfm_consumer_lag", labels) == 2)
        held.set()
        await runner.source.revoke(0)
        assert runner.watch.registry.get_sample_value("sfm_consumer_lag", labels) is None


async def test_a_port_in_use_is_a_setting_at_fault(ledger: SqliteLedger) -> None:
    async with serving(Watch("a"), "127.0.0.1", 0) as port:
        with pytest.raises(SettingsError, match="SFM_CONSUMER_PORT"):
            async with serving(Watch("b"), "127.0.0.1", port):
                pass


async def test_whoever_talks_nonsense_to_the_port_is_hung_up_on() -> None:
    async with serving(Watch("a"), "127.0.0.1", 0) as port:
        for nonsense in (b"x" * 20_000, b"\r\n\r\n", b"\xff\x00\r\n\r\n"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(nonsense)
            async with asyncio.timeout(20):
                answer = await _read_all(reader)
            assert answer in (b"",) or answer.startswith(b"HTTP/1.1 405 ")
            writer.close()


async def _read_all(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionError:
        return b""


# The example of the README.


async def test_the_example_is_short_and_prints_changes(
    ledger: SqliteLedger, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    text = EXAMPLE.read_text()
    code = [line for line in text.split('"""', 2)[2].splitlines() if line.strip()]
    assert len(code) <= 20
    spec = importlib.util.spec_from_file_location("print_changes", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    consumer = await example.open(None, {})
    bus = bus_of(event("n/1", 1), event("n/2", 2))
    with caplog.at_level(logging.WARNING):
        await run_through(bus, consumer, ledger)
    assert capsys.readouterr().out.splitlines() == ["n update id-n/1", "n update id-n/2"]
    assert caplog.records == []


def test_the_readme_shows_the_example_and_every_setting_and_metric() -> None:
    readme = README.read_text()
    code = EXAMPLE.read_text().split('"""', 2)[2].strip()
    assert f"```python\n{code}\n```" in readme
    project = EXAMPLE.with_name("pyproject.toml").read_text()
    assert f"```toml\n{project}```" in readme
    [(name, place)] = tomllib.loads(project)["project"]["entry-points"]["sfm_consumers.consumers"].items()
    assert (name, place) == (EXAMPLE.stem, f"{EXAMPLE.stem}:open")
    variables = [str(field.validation_alias.choices[0]) for field in ConsumerSettings.model_fields.values()]
    assert [name for name in variables if f"| `{name}` |" not in readme] == []
    watch = Watch("any")
    named = {metric.name + ("_total" if metric.type == "counter" else "") for metric in watch.registry.collect()}
    assert [name for name in named if f"| `{name}` |" not in readme] == []
