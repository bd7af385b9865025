"""The same recall asked again, with a cache in Redis and without; and a query's vector from Redis and from its model.

In process: one view and one recall, as a request has them; both services on one database, a query by turns with each.
`--redis` names a Redis to use, whose keys of ours are left to expire; else a `redis-server` of the path is started.
"""

import argparse
import asyncio
import json
import shutil
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from benchmarks.serving import percentiles, say
from benchmarks.texts import queries, texts
from sfm_graph.adapters.caches.redis import RedisCache
from sfm_graph.adapters.embedders.hashing import HashingEmbedder
from sfm_graph.adapters.embedders.onnx import OnnxEmbedder
from sfm_graph.adapters.models.source import ModelSource
from sfm_graph.domain.recall import RecallQuery
from sfm_graph.ports.embedder import Embedder
from sfm_graph.runtime import EMBEDDED_DATABASE, open_runtime
from sfm_graph.services.registry import Services
from sfm_graph.services.shared_vectors import SharedVectors
from sfm_graph.settings import CacheKind, Settings, load_settings
from sfm_graph.store.embedded import embedded_postgres
from sfm_graph.store.migrations import ensure_database

NAMESPACE = "large"
WARM_UP = 20
START_SECONDS = 10


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--memories", type=int, default=20_000)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--first", type=int, default=10, help="hits")
    parser.add_argument("--model", type=Path, metavar="DIR", help="model.onnx and tokenizer.json; hashing without")
    parser.add_argument("--redis", metavar="URL", help="redis://host:port/db")


async def run(options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as directory:
        async with _redis(options.redis) as url, embedded_postgres(Path(directory)) as server:
            await ensure_database(server.superuser_dsn(), EMBEDDED_DATABASE)
            plain = load_settings(
                postgres_url=SecretStr(server.superuser_dsn(EMBEDDED_DATABASE)),
                embedder="fastembed" if options.model else None,
                embedding_model=str(options.model) if options.model else None,
                allow_unpinned_models=True if options.model else None,
            )
            cached = plain.model_copy(update={"cache": CacheKind.REDIS, "redis_url": SecretStr(url)})
            async with (
                open_runtime(plain, maintenance=False) as without,
                open_runtime(cached, maintenance=False) as having,
            ):
                await _load(without, options.memories)
                recalls = await _recalls(without, having, queries(options.queries + WARM_UP, 3), options.first)
            vectors = await _vectors(cached, options.model, queries(options.queries, 5))
    result = {"memories": options.memories, "recall": recalls, "vector": vectors}
    say(json.dumps(result))
    return result


async def _load(services: Services, count: int) -> None:
    batch: list[dict[str, Any]] = []
    for text in texts(count, 3):
        batch.append({"content": text})
        if len(batch) == 1_000:
            await services.memory_writes.store_many(NAMESPACE, batch)
            batch = []
    if batch:
        await services.memory_writes.store_many(NAMESPACE, batch)
    say(f"stored {count} memories")


async def _recalls(without: Services, having: Services, asked: list[str], first: int) -> dict[str, Any]:
    for text in asked[:WARM_UP]:
        for services in (without, having):
            await _recalled(services, text, first)
    # The vectors of queries are in the memory of each process after that, so that only recall itself is compared.
    times: dict[str, list[float]] = {"without": [], "first_time": [], "again_without": [], "again": []}
    for text in asked[WARM_UP:]:
        for name, services in zip(times, (without, having, without, having), strict=True):
            times[name].append(await _recalled(services, text, first))
    counters = having.cache.counters if having.cache is not None else {}
    return {**{name: percentiles(found) for name, found in times.items()}, "counters": counters}


async def _recalled(services: Services, text: str, first: int) -> float:
    started = time.perf_counter()
    async with services.views.open() as view:
        await services.recalls.recall(view, NAMESPACE, RecallQuery(text, first))
    return time.perf_counter() - started


async def _vectors(settings: Settings, model: Path | None, asked: list[str]) -> dict[str, Any]:
    embedders: dict[str, Embedder] = {"hashing": HashingEmbedder()}
    if model is not None:
        embedders["onnx"] = await OnnxEmbedder.open(
            ModelSource(str(model), None, allow_unpinned=True, model_variable="--model", revision_variable="--model")
        )
    cache = RedisCache.open(settings)
    found = {}
    for name, embedder in embedders.items():
        shared = SharedVectors(cache)
        found[name] = {
            "embed": percentiles(await _timed(asked, lambda text, by=embedder: by.embed([text]))),
            "redis": percentiles(await _fetched(shared, embedder, asked)),
        }
        await embedder.aclose()
    await cache.aclose()
    return found


async def _fetched(shared: SharedVectors, embedder: Embedder, asked: list[str]) -> list[float]:
    for text in asked:
        await shared.keep(embedder.identity, text.encode(), (await embedder.embed([text]))[0])
    return await _timed(asked, lambda text: shared.find(embedder.identity, text.encode()))


async def _timed(asked: list[str], ask: Callable[[str], Awaitable[object]]) -> list[float]:
    times = []
    for text in asked:
        started = time.perf_counter()
        await ask(text)
        times.append(time.perf_counter() - started)
    return times


@asynccontextmanager
async def _redis(url: str | None) -> AsyncIterator[str]:
    if url is not None:
        yield url
        return
    program = shutil.which("redis-server")
    if program is None:
        raise SystemExit("no redis-server on the path; name one by --redis")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
    try:
        await _until_it_listens(port)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        await process.wait()


async def _until_it_listens(port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return
    raise RuntimeError("redis-server does not listen")
