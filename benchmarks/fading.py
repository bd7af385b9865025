"""A decay pass beside traffic, and inserts at a namespace's limit of memories against inserts below it.

Memories are filled in by COPY and SQL, past the service. One in a hundred is due, half of these long enough to be
summarised first. Recalls go by words alone, in process, so that no vector index is in any figure.
"""

import argparse
import asyncio
import contextlib
import itertools
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.graph_load import _taken
from benchmarks.recall_speed_load import BATCH, SEED, Rows, _copy, _memories, _words
from benchmarks.serving import percentiles, say
from benchmarks.texts import queries, texts
from sfm_graph.domain.identity import MemoryRef
from sfm_graph.domain.recall import RecallQuery, RecallWeights
from sfm_graph.runtime import EMBEDDED_DATABASE, open_runtime
from sfm_graph.services.registry import Services
from sfm_graph.settings import load_settings
from sfm_graph.store.embedded import embedded_postgres

NAMESPACE = "fading"
HOT_BUDGET_BYTES = 8 * 1024**3
RULES = {"half_life_days": {"episodic": 1, "semantic": 3_650, "entity": 3_650}, "grace_days": 0}
Samples = dict[str, list[float]]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--memories", type=int, default=100_000)
    parser.add_argument("--due", type=float, default=0.01, help="the share of them that is due")
    parser.add_argument("--clients", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=20.0, help="of traffic alone, before and after the pass")
    parser.add_argument("--inserts", type=int, default=2_000, help="below the limit, and at it")


async def run(options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="sfm-bench-") as folder:
        async with embedded_postgres(Path(folder)) as server:
            settings = load_settings(
                data_dir=Path(folder), hot_budget_bytes=HOT_BUDGET_BYTES, maintenance_interval_ms=3_600_000
            )
            async with open_runtime(settings, maintenance=False) as services:
                dsn = server.superuser_dsn(EMBEDDED_DATABASE)
                await services.namespaces.put(NAMESPACE, settings={"fading": RULES}, model=None)
                due = await asyncio.to_thread(_filled, dsn, options.memories, options.due)
                return {
                    "memories": options.memories,
                    "due": due,
                    "decay": await _decay(services, dsn, options),
                    "inserts": await _inserts(services, options),
                }


async def _decay(services: Services, dsn: str, options: argparse.Namespace) -> dict[str, Any]:
    traffic = _Traffic(services, options.memories, options.clients)
    await traffic.during(asyncio.sleep(options.seconds / 4))
    before = await traffic.during(asyncio.sleep(options.seconds))
    untouched = await asyncio.to_thread(_row_versions, dsn)
    started = time.perf_counter()
    beside = await traffic.during(_passes(services))
    seconds = time.perf_counter() - started
    now = await asyncio.to_thread(_row_versions, dsn)
    after = await traffic.during(asyncio.sleep(options.seconds))
    alone = {name: before[name] + after[name] for name in before}
    return {
        "seconds": round(seconds, 2),
        "rows_touched": sum(1 for row, version in untouched.items() if now.get(row) != version),
        "alone": {name: percentiles(found) for name, found in alone.items() if found},
        "beside_the_pass": {name: percentiles(found) for name, found in beside.items() if found},
        "requests": {name: [len(alone[name]), len(beside[name])] for name in alone},
    }


async def _passes(services: Services) -> None:
    """Rounds as maintenance makes them, until nothing is due."""
    while (await services.fading.decay(NAMESPACE, dry_run=True, limit=1)).outcomes:
        await services.fading.round()
        await asyncio.sleep(0.1)


async def _inserts(services: Services, options: argparse.Namespace) -> dict[str, Any]:
    async with _in_background(services.fading.run()):
        started = time.perf_counter()
        await services.namespaces.put(NAMESPACE, settings={"max_memories": 10 * options.memories}, model=None)
        counted = time.perf_counter() - started
        below = [await _inserted(services, options.inserts, 20)]
        held = await _held(services)
        # So that the first insert already has something forgotten.
        limit = max(1, held * 100 // 101)
        await services.namespaces.put(NAMESPACE, settings={"max_memories": limit}, model=None)
        at = [await _inserted(services, options.inserts, 21)]
        most = await _held(services)
        await services.namespaces.put(NAMESPACE, settings={"max_memories": 10 * options.memories}, model=None)
        below.append(await _inserted(services, options.inserts, 22))
    return {
        "seconds_to_count_once": round(counted, 3),
        "limit": limit,
        "held_before_and_after": [held, most],
        "below": [_summed(one) for one in below],
        "at_the_limit": [_summed(one) for one in at],
    }


def _summed(samples: list[float]) -> dict[str, float]:
    return {**percentiles(samples), "mean_ms": round(sum(samples) / len(samples) * 1e3, 3)}


async def _inserted(services: Services, count: int, seed: int) -> list[float]:
    samples = []
    for text in texts(count, seed):
        started = time.perf_counter()
        await services.memory_writes.store(NAMESPACE, {"content": text})
        samples.append(time.perf_counter() - started)
    return samples


async def _held(services: Services) -> int:
    async with services.views.open() as view:
        found = await services.namespaces.statistics(view, NAMESPACE)
    return sum(found.counts.memories_by_kind.values())


class _Traffic:
    """Clients that recall, get and store in turns, one after the other."""

    def __init__(self, services: Services, memories: int, clients: int) -> None:
        self._services = services
        self._memories = memories
        self._clients = clients
        self._queries = itertools.cycle(queries(200, SEED))
        self._texts = itertools.cycle(list(texts(200, 9)))
        self._rows = itertools.cycle(range(1, memories, 97))

    async def during(self, work: Awaitable[None]) -> Samples:
        """Seconds by kind of request while something else is done."""
        samples: Samples = {"recall": [], "get": [], "store": []}
        done = asyncio.Event()
        clients = [asyncio.ensure_future(self._client(samples, done)) for _ in range(self._clients)]
        await work
        done.set()
        await asyncio.gather(*clients)
        return samples

    async def _client(self, samples: Samples, done: asyncio.Event) -> None:
        requests: dict[str, Callable[[], Awaitable[object]]] = {
            "recall": self._recall, "get": self._get, "store": self._store,
        }  # fmt: skip
        for name, request in itertools.cycle(requests.items()):
            if done.is_set():
                return
            started = time.perf_counter()
            await request()
            samples[name].append(time.perf_counter() - started)
            await asyncio.sleep(0.002)

    async def _recall(self) -> None:
        words_alone = RecallWeights(dense=0.0, lexical=1.0)
        async with self._services.views.open() as view:
            await self._services.recalls.recall(
                view, NAMESPACE, RecallQuery(next(self._queries), first=10, weights=words_alone)
            )

    async def _get(self) -> None:
        ref = MemoryRef(key=f"m{next(self._rows)}")
        async with self._services.views.open() as view:
            await self._services.memory_reads.find_many(view, NAMESPACE, [ref])

    async def _store(self) -> None:
        await self._services.memory_writes.store(NAMESPACE, {"content": next(self._texts)})


@contextlib.asynccontextmanager
async def _in_background(work: Any) -> AsyncIterator[None]:
    task = asyncio.ensure_future(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()


def _filled(dsn: str, memories: int, share: float) -> int:
    """Fill the namespace; how many are due."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("set session_replication_role = replica")
        row = connection.execute("select id from namespaces where name = %s", [NAMESPACE]).fetchone()
        assert row
        owner = (row[0], 0, _taken(connection, "memory_ids", memories))
        contents = texts(memories, SEED)
        for start in range(0, memories, BATCH):
            rows: Rows = list(enumerate(itertools.islice(contents, BATCH), start))
            _copy(connection, "memories", _memories(owner, rows))
            _copy(connection, "words", _words(owner, rows))
        return _aged(connection, owner[0], owner[2], memories, round(1 / share))


def _aged(connection: psycopg.Connection[Any], namespace_id: int, first: int, memories: int, every: int) -> int:
    say("linking and ageing")
    given = {"ns": namespace_id, "first": first, "last": first + memories - 1, "n": memories, "every": every}
    connection.execute(
        "insert into links (namespace_id, source_id, target_id, type, weight, properties) select %(ns)s, id, "
        "%(first)s + (id * 7919) %% %(n)s, 'related', 1, '{}' "
        "from generate_series(%(first)s::bigint, %(last)s::bigint) as id",
        given,
    )
    # Half of what is due is long.
    connection.execute(
        "update memories set kind = 'episodic', updated_at = now() - interval '4000 days', content = case when "
        "id %% (2 * %(every)s) = 0 then content || '. ' || content || '. ' || content else content end "
        "where namespace_id = %(ns)s and id %% %(every)s = 0",
        given,
    )
    connection.execute(
        "insert into fading (namespace_id, memory_id, due_at) select namespace_id, id, case when kind = 'episodic' "
        "then now() - interval '1 day' else now() + (100 + id %% 1000) * interval '1 day' end "
        "from memories where namespace_id = %(ns)s",
        given,
    )
    connection.execute("delete from jobs")
    for table in ("memories", "words", "links", "fading"):
        connection.execute(f"vacuum analyze {table}")
    row = connection.execute("select count(*) from fading where due_at <= now()").fetchone()
    return int(row[0]) if row else 0


def _row_versions(dsn: str) -> dict[tuple[str, int], str]:
    """Which version of each row of a memory, and of when it is due, is stored."""
    found: dict[tuple[str, int], str] = {}
    with psycopg.connect(dsn) as connection:
        for memory_id, version in connection.execute("select memory_id, xmin::text || ctid::text from fading"):
            found["fading", memory_id] = version
        for memory_id, version in connection.execute("select id, xmin::text || ctid::text from memories"):
            found["memory", memory_id] = version
    return found
