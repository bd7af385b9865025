"""The load run: clients work with a served system whose database and Redis die under them, and come back."""

import asyncio
import json
import statistics
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import httpx
import psutil
from fault_processes import DatabaseServer, Program, answers, database_server
from load_client import LoadClient
from redis_server import RedisServer, free_port, redis_server

TOKEN = "the-token-of-the-load-run"
# A refusal that was on its way when the service became ready again.
LATE_SECONDS = 0.5
SAMPLE_SECONDS = 1.0
NAMESPACES = 4


@dataclass(frozen=True)
class Plan:
    """`database`, `redis`: at which parts of the run each is killed, for how many seconds it stays away."""

    seconds: float
    clients: int = 16
    seed: int = 1
    workers: int = 1
    database: tuple[float, ...] = (0.35, 0.65)
    redis: tuple[float, ...] = (0.5,)
    away_seconds: float = 3.0
    # The part of the run after which memory is measured.
    warm_up: float = 0.3


@dataclass
class Outcome:
    """The figures of a run that held."""

    requests: dict[str, int] = field(default_factory=dict)
    requests_a_second: float = 0.0
    slowest_ms: float = 0.0
    refused_while_away: int = 0
    ready_again_seconds: list[float] = field(default_factory=list)
    memory_mb: tuple[float, float] = (0.0, 0.0)
    growth: float = 0.0

    def as_json(self) -> str:
        return json.dumps(asdict(self), indent=1)


async def load_run(plan: Plan) -> Outcome:
    """Raises AssertionError for a wrong answer, a lost write, or a refusal while nothing was away."""
    with tempfile.TemporaryDirectory(prefix="sfm-load-") as folder:
        home = Path(folder)
        with redis_server(home) as redis:
            async with database_server(home / "database") as database:
                service = _service(home, plan, database, redis)
                await service.start()
                try:
                    await answers(service.port or 0)
                    return await _Run(plan, service, database, redis).outcome()
                finally:
                    assert await service.stop() == 0


def _service(home: Path, plan: Plan, database: DatabaseServer, redis: RedisServer) -> Program:
    port = free_port()
    environment = {
        "POSTGRES_URL": database.url(), "REDIS_URL": redis.url, "SFM_CACHE": "redis", "SOMA_API_TOKEN": TOKEN,
        "SOMA_RATE_LIMIT_MAX": "1000000", "SFM_PORT": str(port), "UVICORN_WORKERS": str(plan.workers),
    }  # fmt: skip
    return Program("service", home, ["sfm", "serve"], environment, port)


class _Run:
    def __init__(self, plan: Plan, service: Program, database: DatabaseServer, redis: RedisServer) -> None:
        self._plan = plan
        self._service = service
        self._database = database
        self._redis = redis
        # When the database was away: from its end to the moment at which the service was ready again.
        self._away: list[tuple[float, float]] = []
        self._ready_again: list[float] = []
        self._memory: list[tuple[float, float]] = []

    async def outcome(self) -> Outcome:
        limits = httpx.Limits(max_connections=self._plan.clients)
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{self._service.port}", headers={"Authorization": f"Bearer {TOKEN}"},
            trust_env=False, timeout=60, limits=limits,
        ) as http:  # fmt: skip
            clients = [
                LoadClient(http, number, f"team/{number % NAMESPACES}", self._plan.seed)
                for number in range(self._plan.clients)
            ]
            started = time.monotonic()
            until = started + self._plan.seconds
            async with asyncio.TaskGroup() as group:
                sampling = group.create_task(self._sample(until))
                group.create_task(self._faults(started))
                for one in clients:
                    group.create_task(one.run(until))
            await sampling
            for one in clients:
                await one.check_all()
            return self._judged(clients, started)

    async def _faults(self, started: float) -> None:
        faults = [(at, self._lose_database) for at in self._plan.database]
        faults += [(at, self._lose_redis) for at in self._plan.redis]
        for at, fault in sorted(faults, key=lambda one: one[0]):
            await asyncio.sleep(max(0.0, started + at * self._plan.seconds - time.monotonic()))
            await fault()

    async def _lose_database(self) -> None:
        gone = time.monotonic()
        await self._database.kill()
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self._service.port}", timeout=10) as http:
            await _until_status(http, 503)
            await asyncio.sleep(self._plan.away_seconds)
            await self._database.start()
            back = time.monotonic()
            await _until_status(http, 200)
        self._ready_again.append(time.monotonic() - back)
        self._away.append((gone, time.monotonic() + LATE_SECONDS))

    async def _lose_redis(self) -> None:
        await asyncio.to_thread(self._redis.kill)
        await asyncio.sleep(self._plan.away_seconds)
        await asyncio.to_thread(self._redis.start)

    async def _sample(self, until: float) -> None:
        while time.monotonic() < until:
            self._memory.append((time.monotonic(), self._resident_mb()))
            await asyncio.sleep(SAMPLE_SECONDS)

    def _resident_mb(self) -> float:
        parent = psutil.Process(self._service.pid)
        total = 0
        for one in [parent, *parent.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                total += one.memory_info().rss
        return total / 1024**2

    def _judged(self, clients: list[LoadClient], started: float) -> Outcome:
        met = [one.met for one in clients]
        wrong = [said for one in met for said in one.wrong]
        assert wrong == [], f"{len(wrong)} wrong answers: {wrong[:5]}"
        refusals = [moment for one in met for moment in one.refusals]
        unasked = [moment - started for moment in refusals if not self._was_away(moment)]
        assert unasked == [], f"{len(unasked)} refusals while nothing was away, at {sorted(unasked)[:10]} s"
        assert all(seconds <= 5 for seconds in self._ready_again), self._ready_again
        requests = sum((one.counts for one in met), Counter())
        warm = started + self._plan.warm_up * self._plan.seconds
        after = [size for moment, size in self._memory if moment >= warm]
        part = max(1, len(after) // 8)
        first, last = statistics.median(after[:part]), statistics.median(after[-part:])
        return Outcome(
            requests=dict(requests), requests_a_second=round(requests.total() / self._plan.seconds, 1),
            slowest_ms=round(max(one.slowest_ms for one in met), 1), refused_while_away=len(refusals),
            ready_again_seconds=[round(one, 2) for one in self._ready_again],
            memory_mb=(round(first, 1), round(last, 1)), growth=round(last / first - 1, 4),
        )  # fmt: skip

    def _was_away(self, moment: float) -> bool:
        return any(begin <= moment <= end for begin, end in self._away)


async def _until_status(http: httpx.AsyncClient, status: int) -> None:
    async with asyncio.timeout(60):
        while True:
            with suppress(httpx.HTTPError):
                if (await http.get("/readyz")).status_code == status:
                    return
            await asyncio.sleep(0.05)
