"""The fault run: writers, while whatever carries their changes to a mirror and an audit is killed at random times."""

import asyncio
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Iterable, Mapping
from contextlib import AsyncExitStack, nullcontext, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import fault_checks as checks
import psycopg
from fault_processes import Broker, DatabaseServer, Program, Victim, answers, database_server, until
from fault_writers import HeldTransaction, Writer, prepare
from kafka_broker import free_ports, jars, java

DRAIN_SECONDS = 180.0
FROZEN_SECONDS = 0.6
BUSY_SECONDS = 0.1
RELAYS = ("relay-1", "relay-2")
_LEADER = """
select a.application_name from pg_locks l join pg_stat_activity a on a.pid = l.pid
where l.locktype = 'advisory' and l.granted and a.application_name like 'relay-%%'"""


@dataclass(frozen=True)
class Plan:
    """`kills`: how often each victim dies, at random times that `seed` draws, and `pauses`: for how long it is away.

    The database dies outside of `held` alone, the part of the run in which a transaction is held open: it would take
    that with it. `table_audits`: processes of one more group, which share a ledger and an audit in Postgres.
    """

    seconds: float
    writers: int
    seed: int
    kills: Mapping[str, int]
    pauses: tuple[float, float] = (0.3, 3.0)
    held: tuple[float, float] = (0.25, 0.75)
    session_seconds: float = 3.0
    table_audits: int = 0
    mirror_reads_source: bool = False


@dataclass
class Outcome:
    """The figures of a run that held."""

    changes: int = 0
    writes: int = 0
    repeated_writes: int = 0
    kills: dict[str, int] = field(default_factory=dict)
    hand_overs: int = 0
    relayed_twice: int = 0
    dropped_duplicates: dict[str, int] = field(default_factory=dict)
    ended_alone: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def as_json(self) -> str:
        """To show it."""
        return json.dumps(asdict(self), indent=2)


async def fault_run(plan: Plan) -> Outcome:
    """Run, and assert that nothing is lost, out of order, or twice in effect. Raises BrokerMissing without Java.

    On failure the ends of all logs are on stderr.
    """
    java(), jars()
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    home = Path(tempfile.mkdtemp(prefix="sfm-faults-", dir=base))
    try:
        async with AsyncExitStack() as stack:
            stage = await Stage.open(plan, home, stack)
            run = Run(plan, stage)
            await run.write_and_kill()
            return await run.verify()
    except BaseException:
        _show_logs(home)
        raise
    finally:
        shutil.rmtree(home, ignore_errors=True)


@dataclass
class Stage:
    """Everything that runs."""

    source_database: DatabaseServer
    target_database: DatabaseServer
    broker: Broker
    programs: dict[str, Program]
    audit: Path

    @property
    def source_port(self) -> int:
        return self.programs["service"].port or 0

    @property
    def target_port(self) -> int:
        return self.programs["target"].port or 0

    @classmethod
    async def open(cls, plan: Plan, home: Path, stack: AsyncExitStack) -> "Stage":
        """Start it; what starts is ended with the stack."""
        broker = Broker(home)
        stack.push_async_callback(broker.kill)
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.to_thread(broker.open))
            source = group.create_task(stack.enter_async_context(database_server(home / "source-postgres")))
            target = group.create_task(stack.enter_async_context(database_server(home / "target-postgres", "audit")))
        stage = cls(source.result(), target.result(), broker, {}, home / "audit.ndjson")
        stage.programs = {one.name: one for one in _programs(plan, home, stage)}
        for one in stage.programs.values():
            stack.push_async_callback(one.stop)
            await one.start()
        await answers(stage.source_port)
        await answers(stage.target_port)
        await prepare(stage.source_port)
        return stage

    @property
    def table_audits(self) -> list[Program]:
        return [one for name, one in self.programs.items() if name.startswith("audit-table")]

    @property
    def consumers(self) -> list[Program]:
        return [self.programs["mirror"], self.programs["audit"], *self.table_audits]

    @property
    def groups(self) -> list[str]:
        return ["sfm-mirror", "sfm-audit", *(["sfm-audit-table"] if self.table_audits else [])]

    async def leader(self) -> str | None:
        """The relay that holds the shard."""
        with suppress(psycopg.OperationalError):
            rows = await self.source_database.rows(_LEADER)
            return str(rows[0][0]) if rows else None
        return None


def _programs(plan: Plan, home: Path, stage: Stage) -> Iterable[Program]:
    source_port, target_port, mirror_port, audit_port, *table_ports = free_ports(4 + plan.table_audits)
    bus = {"KAFKA_BOOTSTRAP_SERVERS": stage.broker.kafka.bootstrap, "SFM_DATA_DIR": str(home / "data")}
    service = {**bus, "POSTGRES_URL": stage.source_database.url(), "SFM_FOLLOWERS_INSIDE": "false"}
    consumer = {
        **bus,
        "SFM_CONSUMER_SESSION_SECONDS": str(plan.session_seconds),
        "SFM_CONSUMER_LONGEST_PAUSE_SECONDS": "1",
    }
    yield Program("service", home, ["sfm", "serve"], {**service, "SFM_PORT": str(source_port)}, source_port)
    target = {"POSTGRES_URL": stage.target_database.url(), "SFM_PORT": str(target_port), "SFM_DATA_DIR": str(home)}
    yield Program("target", home, ["sfm", "serve"], target, target_port)
    for name in RELAYS:
        yield Program(name, home, ["sfm", "relay"], service)

    def consume(name: str, kind: str, port: int, *more: str, **variables: str) -> Program:
        command = ["sfm-consume", kind, "--port", str(port), *more]
        return Program(name, home, command, {**consumer, **variables}, port)

    mirror = ["--set", f"target=http://127.0.0.1:{target_port}", "--set", f"state={home / 'mirror.sqlite'}"]
    if plan.mirror_reads_source:
        mirror += ["--set", f"source=http://127.0.0.1:{source_port}"]
    yield consume("mirror", "mirror", mirror_port, *mirror)
    yield consume("audit", "audit", audit_port, "--set", f"file={stage.audit}")
    database = stage.target_database.url("audit")
    for place, port in enumerate(table_ports):
        settings = {"SFM_AUDIT_POSTGRES_URL": database, "SFM_CONSUMER_LEDGER": database}
        yield consume(f"audit-table-{place}", "audit", port, "--group", "sfm-audit-table", **settings)


class Run:
    """One run on a stage."""

    def __init__(self, plan: Plan, stage: Stage) -> None:
        self._plan = plan
        self._stage = stage
        self._random = random.Random(plan.seed)
        self._writers = [Writer(number, stage.source_port, plan.seed) for number in range(plan.writers)]
        self._kills: Counter[str] = Counter()
        self._leaders: list[str] = []
        self._dropped: Counter[str] = Counter()
        self._seconds: dict[str, float] = {}
        # One who kills the database would end the held transaction, too.
        self._database = asyncio.Lock()

    async def write_and_kill(self) -> None:
        """Returns when all writers are done and everything runs again."""
        stopped = asyncio.Event()
        async with asyncio.timeout(self._plan.seconds + 2 * DRAIN_SECONDS):
            started = time.monotonic()
            await until(self._stage.leader, "a relay leads", DRAIN_SECONDS)
            self._seconds["until a relay led"] = time.monotonic() - started
            async with asyncio.TaskGroup() as group:
                watching = group.create_task(self._watch_leaders())
                writing = [group.create_task(writer.run(stopped)) for writer in self._writers]
                killing = [group.create_task(self._kill(kind, at, pause)) for kind, at, pause in self._schedule()]
                held = group.create_task(self._hold())
                await asyncio.sleep(self._plan.seconds)
                stopped.set()
                await asyncio.wait([*writing, *killing, held])
                watching.cancel()

    def _schedule(self) -> Iterable[tuple[str, list[float], list[float]]]:
        """For each kind of victim the times of its deaths, in seconds from the beginning, and how long it is away."""
        for kind, count in self._plan.kills.items():
            begin, end = self._plan.held
            spans = [(0.05, begin - 0.03), (end + 0.03, 0.95)] if kind == "database" else [(0.05, 0.95)]
            total = sum(high - low for low, high in spans)
            # One from each of `count` equal parts, so that all of the run has some.
            times = [
                self._place(spans, total * self._random.uniform(place, place + 1) / count) for place in range(count)
            ]
            pauses = [self._random.uniform(*self._plan.pauses) for _ in times]
            yield kind, [self._plan.seconds * at for at in times], pauses

    @staticmethod
    def _place(spans: list[tuple[float, float]], at: float) -> float:
        for low, high in spans:
            if at <= high - low:
                return low + at
            at -= high - low
        return spans[-1][1]

    async def _kill(self, kind: str, times: list[float], pauses: list[float]) -> None:
        started = time.monotonic()
        for at, pause in zip(times, pauses, strict=True):
            await asyncio.sleep(max(0.0, at - (time.monotonic() - started)))
            async with self._database if kind == "database" else nullcontext():
                victim = await self._victim(kind)
                if isinstance(victim, Program):
                    await self._note_dropped(victim)
                    # So that it dies in the middle of work, not while it waits for some.
                    await victim.freeze(FROZEN_SECONDS)
                    await asyncio.sleep(self._random.uniform(0, BUSY_SECONDS))
                await victim.kill()
                self._kills[kind] += 1
                if kind == "relay":
                    await until(lambda gone=victim: self._other_leads(gone), "the other relay leads", DRAIN_SECONDS)
                await asyncio.sleep(pause)
                await victim.start()

    async def _victim(self, kind: str) -> Victim:
        stage = self._stage
        match kind:
            case "database":
                return stage.source_database
            case "broker":
                return stage.broker
            case "relay":
                # The one that leads; while the database is away, whoever did last.
                return stage.programs[await stage.leader() or self._leaders[-1]]
            case "audit-table":
                return self._random.choice(stage.table_audits)
            case _:
                return stage.programs[kind]

    async def _other_leads(self, gone: Victim) -> bool:
        leader = await self._stage.leader()
        return leader is not None and self._stage.programs[leader] is not gone

    async def _watch_leaders(self) -> None:
        while True:
            leader = await self._stage.leader()
            if leader is not None and self._leaders[-1:] != [leader]:
                self._leaders.append(leader)
            await asyncio.sleep(0.2)

    async def _hold(self) -> None:
        begin, end = (self._plan.seconds * part for part in self._plan.held)
        await asyncio.sleep(begin)
        transaction = HeldTransaction(self._stage.source_database.dsn)
        async with self._database:
            try:
                await until(lambda: _done(transaction.begin()), "a transaction begins", DRAIN_SECONDS)
                before = self._count_audited()
                started = time.monotonic()
                await asyncio.sleep(end - begin)
                await until(lambda: self._audited_more(before), "others go on meanwhile", DRAIN_SECONDS)
                self._seconds["held open"] = time.monotonic() - started
                await transaction.commit()
            finally:
                await transaction.close()

    async def _audited_more(self, before: int) -> bool:
        return self._count_audited() > before

    def _count_audited(self) -> int:
        path = self._stage.audit
        return path.read_bytes().count(b"\n") if path.exists() else 0

    async def _note_dropped(self, program: Program) -> None:
        if program.port is not None and program in self._stage.consumers:
            self._dropped[program.name] += int(await program.metric("sfm_consumer_duplicates_total"))

    async def verify(self) -> Outcome:
        """Wait until everything has arrived, and compare."""
        plan, stage = self._plan, self._stage
        database, bootstrap = stage.source_database, stage.broker.kafka.bootstrap
        started = time.monotonic()
        await answers(stage.source_port)
        await until(lambda: _is_zero(checks.undelivered(database)), "the relay delivers everything", DRAIN_SECONDS)
        self._seconds["until relayed"] = time.monotonic() - started
        await until(
            lambda: _is_zero(checks.unconfirmed(bootstrap, stage.groups)), "consumers confirm all", DRAIN_SECONDS
        )
        self._seconds["until confirmed"] = time.monotonic() - started

        wanted = await checks.history(database)
        count = sum(map(len, wanted.values()))
        bus = await checks.read_bus(bootstrap)
        checks.assert_same(bus.histories, wanted, "the bus")
        checks.assert_same(checks.audited(stage.audit), wanted, "the audit")
        checks.assert_chain(stage.audit, count)
        if plan.table_audits:
            in_table = await checks.audited_in_table(stage.target_database.server.superuser_dsn("audit"))
            checks.assert_same({entity: sorted(ids) for entity, ids in in_table.items()}, wanted, "the audit table")
        assert bus.dead_letters == 0
        assert not await checks.mirror_differences(stage.source_port, stage.target_port)
        lines = await checks.exported(stage.source_port)
        assert lines == await checks.exported(stage.target_port)
        self._seconds["until compared"] = time.monotonic() - started
        await checks.assert_acknowledged(database, lines, self._writers)
        self._assert_it_was_a_test(count)
        for one in stage.consumers:
            await self._note_dropped(one)
        return self._outcome(count, bus.records)

    def _assert_it_was_a_test(self, changes: int) -> None:
        """A run in which little happened would prove little."""
        assert dict(self._kills) == dict(self._plan.kills)
        assert set(self._leaders) == set(RELAYS) or "relay" not in self._plan.kills
        assert changes > 3 * self._plan.seconds, "too few changes to mean anything"

    def _outcome(self, changes: int, records: int) -> Outcome:
        programs = self._stage.programs.values()
        return Outcome(
            changes=changes,
            writes=sum(writer.done.total() for writer in self._writers),
            repeated_writes=sum(writer.repeated for writer in self._writers),
            kills=dict(self._kills),
            hand_overs=len(self._leaders) - 1,
            relayed_twice=records - changes,
            dropped_duplicates=dict(self._dropped),
            ended_alone={one.name: one.ended_alone for one in programs if one.ended_alone},
            seconds={what: round(seconds, 1) for what, seconds in self._seconds.items()},
        )


async def _is_zero(count: Awaitable[int]) -> bool:
    return await count == 0


async def _done(work: Awaitable[None]) -> bool:
    """False while the database is away."""
    try:
        await work
    except psycopg.OperationalError:
        return False
    return True


def _show_logs(home: Path) -> None:
    for path in sorted([*home.glob("*.log"), *home.glob("*/broker.log"), *home.glob("*/postgres.log")]):
        end = path.read_bytes()[-6_000:].decode(errors="replace")
        sys.stderr.write(f"\n--- {path.relative_to(home)}\n{end}\n")


if __name__ == "__main__":
    # Seconds, writers, seed; then how often each victim dies, such as `relay=2 broker=1`.
    seconds, writers, seed, *victims = sys.argv[1:]
    kills = {name: int(count) for name, _, count in (one.partition("=") for one in victims)}
    outcome = asyncio.run(fault_run(Plan(float(seconds), int(writers), int(seed), kills)))
    sys.stdout.write(f"{outcome.as_json()}\n")
