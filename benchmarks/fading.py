"""Decay passes at the pace of the background beside traffic, and inserts at a limit of memories against below it.

Memories are filled in by SQL, past the service. One in a hundred is due, half of these long enough to be summarised
first. Recalls go by words alone, in process, so that no vector index is in any figure.
"""

import argparse
import asyncio
import contextlib
import itertools
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.graph_load import _taken
from benchmarks.serving import percentiles, say
from benchmarks.texts import queries, texts
from sfm_graph.domain.identity import MemoryRef
from sfm_graph.domain.recall import RecallQuery, RecallWeights
from sfm_graph.domain.words import count_terms, words
from sfm_graph.runtime import EMBEDDED_DATABASE, open_runtime
from sfm_graph.services.registry import Services
from sfm_graph.settings import load_settings
from sfm_graph.store.embedded import embedded_postgres
from sfm_graph.store.vector_types import SPARSE_DIMENSION

NAMESPACE = "fading"
SEED = 3
HOT_BUDGET_BYTES = 8 * 1024**3
RULES = {"half_life_days": {"episodic": 1, "semantic": 3_650, "entity": 3_650}, "grace_days": 0}
# Of two seconds, at most, until what recalls read is in memory.
WARMING_WINDOWS = 100
# Texts repeat after so many.
POOL = 2_000
# One in `every` is due; of these every other one has 15 sentences more, and is summarised.
_FILL = (
    """
    insert into memories (namespace_id, id, key, coordinate, kind, content, payload, importance, updated_at, digest)
    select %(ns)s, id, 'm' || id - %(first)s, array[id - %(first)s],
           case when id %% %(every)s = 0 then 'episodic' else 'semantic' end,
           case when id %% (2 * %(every)s) = 0
                then p.content || '. ' || regexp_replace(q.content || ' ' || r.content || ' ' || s.content,
                                                         '((?:\\S+ ){11}\\S+) ', '\\1. ', 'g')
                else p.content end,
           '{}', 0.5, case when id %% %(every)s = 0 then now() - interval '4000 days' else now() end, ''
    from generate_series(%(first)s::bigint, %(last)s::bigint) as id
    join pool p on p.n = id %% %(pool)s join pool q on q.n = (id + 1) %% %(pool)s
    join pool r on r.n = (id + 2) %% %(pool)s join pool s on s.n = (id + 3) %% %(pool)s
    """,
    """
    insert into words (namespace_id, memory_id, length, terms, lexemes)
    select %(ns)s, id, p.length, p.terms, array_to_tsvector(array['@' || %(ns)s::int])
    from generate_series(%(first)s::bigint, %(last)s::bigint) as id join pool p on p.n = id %% %(pool)s
    """,
    """
    insert into links (namespace_id, source_id, target_id, type, weight, properties)
    select %(ns)s, id, %(first)s + (id * 7919) %% %(n)s, 'related', 1, '{}'
    from generate_series(%(first)s::bigint, %(last)s::bigint) as id
    """,
    """
    insert into fading (namespace_id, memory_id, due_at)
    select namespace_id, id, case when kind = 'episodic' then now() - interval '1 day'
                                  else now() + (100 + id %% 1000) * interval '1 day' end
    from memories where namespace_id = %(ns)s
    """,
)
Samples = dict[str, list[float]]
_KINDS = ("recall", "get", "store")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--memories", type=int, default=100_000)
    parser.add_argument("--due", type=float, default=0.01, help="the share of them that is due")
    parser.add_argument("--clients", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=20.0, help="of a window of traffic, alone or beside passes")
    parser.add_argument("--turns", type=int, default=4, help="windows with passes, and as many without")
    parser.add_argument("--inserts", type=int, default=500, help="of a turn, below the limit, and at it")


async def run(options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="sfm-bench-") as folder:
        async with embedded_postgres(Path(folder)) as server:
            settings = load_settings(data_dir=Path(folder), hot_budget_bytes=HOT_BUDGET_BYTES)
            async with open_runtime(settings, maintenance=False) as services:
                dsn = server.superuser_dsn(EMBEDDED_DATABASE)
                await services.namespaces.put(NAMESPACE, settings={"fading": RULES}, model=None)
                started = time.perf_counter()
                due = await asyncio.to_thread(_filled, dsn, options.memories, options.due)
                return {
                    "memories": options.memories,
                    "due": due,
                    "fill_seconds": round(time.perf_counter() - started, 1),
                    "decay": await _decay(services, dsn, options),
                    "inserts": await _inserts(services, options),
                }


async def _decay(services: Services, dsn: str, options: argparse.Namespace) -> dict[str, Any]:
    """Windows of traffic alone and beside the background's passes in turns, so that drift meets both alike."""
    traffic = _Traffic(services, options.memories, options.clients)
    for _ in range(WARMING_WINDOWS):
        if max((await traffic.during(2.0))["recall"]) < 1.0:
            break
    await asyncio.to_thread(_note_versions, dsn)
    alone: list[Samples] = []
    beside: list[Samples] = []
    for turn in range(options.turns):
        # A B, B A, A B: neither is always the first.
        for with_passes in (False, True) if turn % 2 == 0 else (True, False):
            async with _in_background(services.fading.run_rounds()) if with_passes else contextlib.nullcontext():
                (beside if with_passes else alone).append(await traffic.during(options.seconds))
    touched = await asyncio.to_thread(_touched, dsn)
    seconds = options.turns * options.seconds
    return {
        "seconds_beside": seconds,
        **touched,
        "memories_per_second": round(touched["due_touched"] / seconds, 2),
        "alone": _pooled(alone),
        "beside_the_passes": _pooled(beside),
        "p99_raised_by": _raised(_pooled(alone), _pooled(beside)),
        "p99_ms_of_windows": {
            name: [[percentiles(one[name])["p99_ms"] for one in windows] for windows in (alone, beside)]
            for name in _KINDS
        },
    }


def _pooled(windows: list[Samples]) -> dict[str, dict[str, float]]:
    pooled = {name: [one for window in windows for one in window[name]] for name in _KINDS}
    return {name: {**percentiles(found), "requests": len(found)} for name, found in pooled.items()}


def _raised(alone: dict[str, dict[str, float]], beside: dict[str, dict[str, float]]) -> dict[str, str]:
    return {name: f"{beside[name]['p99_ms'] / alone[name]['p99_ms'] - 1:+.0%}" for name in _KINDS}


async def _inserts(services: Services, options: argparse.Namespace) -> dict[str, Any]:
    below: list[float] = []
    at: list[float] = []
    limits: list[list[int]] = []
    async with _in_background(services.fading.run()):
        started = time.perf_counter()
        await services.namespaces.put(NAMESPACE, settings={"max_memories": 10 * options.memories}, model=None)
        counted = time.perf_counter() - started
        await _inserted(services, options.inserts // 4, 19)
        for turn in range(options.turns):
            for full in (False, True) if turn % 2 == 0 else (True, False):
                held = await _held(services)
                # So that the first insert already has something forgotten.
                limit = held * 100 // 101 if full else 10 * options.memories
                await services.namespaces.put(NAMESPACE, settings={"max_memories": limit}, model=None)
                (at if full else below).extend(await _inserted(services, options.inserts, 20 + turn))
                if full:
                    limits.append([limit, held, await _held(services)])
    return {
        "seconds_to_count_once": round(counted, 3),
        "limit_held_before_and_after": limits,
        "below": _summed(below),
        "at_the_limit": _summed(at),
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

    async def during(self, seconds: float) -> Samples:
        """How long requests took, by kind."""
        samples: Samples = {name: [] for name in _KINDS}
        done = asyncio.Event()
        clients = [asyncio.ensure_future(self._client(samples, done)) for _ in range(self._clients)]
        await asyncio.sleep(seconds)
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
async def _in_background(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
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
        first = _taken(connection, "memory_ids", memories)
        say("filling")
        connection.execute(
            "create temp table pool (n integer primary key, content text, length integer, terms sparsevec)"
        )
        insert = "insert into pool values (%s, %s, %s, %s::text::sparsevec)"
        with connection.cursor() as cursor:
            cursor.executemany(insert, [(n, text, *_counted(text)) for n, text in enumerate(texts(POOL, SEED))])
        given = {"ns": row[0], "first": first, "last": first + memories - 1, "n": memories, "pool": POOL,
                 "every": round(1 / share)}  # fmt: skip
        for statement in _FILL:
            connection.execute(statement, given)
        connection.execute("delete from jobs")
        for table in ("memories", "words", "links", "fading"):
            connection.execute(f"vacuum analyze {table}")
        row = connection.execute("select count(*) from fading where due_at <= now()").fetchone()
        return int(row[0]) if row else 0


def _counted(text: str) -> tuple[int, str]:
    """How many words a text has, and its terms in the text form of a sparsevec."""
    found = words(text)
    terms = sorted(count_terms(found).items())
    return len(found), "{" + ",".join(f"{term}:{count}" for term, count in terms) + f"}}/{SPARSE_DIMENSION}"


def _note_versions(dsn: str) -> None:
    """Note which version of each row of a memory, and of when it is due, is stored, and what is due."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("drop table if exists bench_before")
        connection.execute(
            "create unlogged table bench_before as select f.memory_id, f.due_at <= now() as due, "
            "f.xmin::text || f.ctid as noted, m.xmin::text || m.ctid as stored "
            "from fading f join memories m on m.namespace_id = f.namespace_id and m.id = f.memory_id"
        )


def _touched(dsn: str) -> dict[str, Any]:
    """What has changed since, of what was due then and of what was not."""
    with psycopg.connect(dsn) as connection:
        row = connection.execute(
            "select count(*) filter (where b.due), count(*) filter (where not b.due), "
            "count(*) filter (where f.step = 'summarised'), count(*) filter (where m.id is null) from bench_before b "
            "left join fading f on f.memory_id = b.memory_id left join memories m on m.id = b.memory_id "
            "where (f.xmin::text || f.ctid, m.xmin::text || m.ctid) is distinct from (b.noted, b.stored)"
        ).fetchone()
        assert row
        return dict(zip(("due_touched", "not_due_touched", "summarised", "forgotten"), row, strict=True))
