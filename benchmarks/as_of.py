"""Questions as of another time against the same questions now: recall, neighbours, paths.

In process: one view and one question, as a request has them. `valid`: a moment of a year ago. `known`: the moment
before the last `n` changes, for growing `n`. Each round asks every variant the same question, in turns.
"""

import argparse
import json
import random
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from benchmarks.serving import percentiles, say
from benchmarks.texts import queries, texts
from sfm_graph.domain.as_of import NOW, AsOf
from sfm_graph.domain.identity import MemoryRef
from sfm_graph.domain.recall import RecallQuery
from sfm_graph.domain.walk import WalkFilter
from sfm_graph.runtime import EMBEDDED_DATABASE, open_runtime
from sfm_graph.services.links import LinkRequest
from sfm_graph.services.registry import Services
from sfm_graph.services.view import View
from sfm_graph.settings import load_settings
from sfm_graph.store.embedded import embedded_postgres
from sfm_graph.store.migrations import ensure_database

NAMESPACE = "large"
BATCH = 1_000
WARM_UP = 5
Ask = Callable[[View, int], Awaitable[object]]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--memories", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--changes", type=int, nargs="+", default=[10, 1_000, 10_000], help="since the moment known")


async def run(options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as directory:
        async with embedded_postgres(Path(directory)) as server:
            await ensure_database(server.superuser_dsn(), EMBEDDED_DATABASE)
            settings = load_settings(postgres_url=SecretStr(server.superuser_dsn(EMBEDDED_DATABASE)))
            async with open_runtime(settings, maintenance=False) as services:
                await _load(services, options.memories)
                moments = await _changed(services, options.memories, sorted(options.changes, reverse=True))
                variants = {"now": NOW, "valid": AsOf(valid=datetime.now(UTC) - timedelta(days=365))}
                variants |= {f"known_{count}": AsOf(known=moment) for count, moment in moments.items()}
                found = await _asked(services, variants, options.memories, options.rounds)
    result = {"memories": options.memories, "milliseconds": found, "ratios": _ratios(found)}
    say(json.dumps(result["ratios"]))
    return result


async def _load(services: Services, count: int) -> None:
    """Memories, each linked to three others; half of the links hold for ever, half since ten years ago."""
    chance = random.Random(5)
    batch: list[dict[str, Any]] = []
    for place, text in enumerate(texts(count, 3)):
        batch.append({"key": str(place), "content": text})
        if len(batch) == BATCH or place == count - 1:
            await services.memory_writes.store_many(NAMESPACE, batch)
            batch = []
    requests = [
        LinkRequest(
            {"key": str(place)}, {"key": str(chance.randrange(count))}, {"valid_from": "2016-01-01"} if way else {}
        )
        for place in range(count)
        for way in range(3)
    ]
    for begin in range(0, len(requests), 10_000):
        await services.links.link_many(NAMESPACE, requests[begin : begin + 10_000])
    say(f"stored {count} memories and {len(requests)} links")


async def _changed(services: Services, memories: int, counts: list[int]) -> dict[int, datetime]:
    """Half updates of memories, half new links, one transaction for 100; the moments before the last so many."""
    chance, moments = random.Random(7), {}
    for left in range(counts[0], 0, -10):
        if left in counts:
            moments[left] = datetime.now(UTC)
        ids = chance.sample(range(memories), 10)
        await services.memory_writes.store_many(
            NAMESPACE, [{"key": str(one), "content": f"changed {one} {left}"} for one in ids[:5]]
        )
        await services.links.link_many(
            NAMESPACE, [LinkRequest({"key": str(one)}, {"key": "0"}, {"type": f"t{left}"}) for one in ids[5:]]
        )
    return moments


async def _asked(
    services: Services, variants: dict[str, AsOf], memories: int, rounds: int
) -> dict[str, dict[str, Any]]:
    asked = queries(rounds + WARM_UP, 3)
    chance = random.Random(9)
    refs = [MemoryRef(key=str(chance.randrange(memories))) for _ in range(2 * (rounds + WARM_UP))]
    walk = WalkFilter()

    async def recall(view: View, place: int) -> object:
        return await services.recalls.recall(view, NAMESPACE, RecallQuery(asked[place], 10))

    async def neighbours(view: View, place: int) -> object:
        return await services.walks.reach(view, NAMESPACE, refs[2 * place], walk, hops=2, limit=50)

    async def path(view: View, place: int) -> object:
        ends = refs[2 * place], refs[2 * place + 1]
        return await services.walks.shortest(view, NAMESPACE, ends, walk, weighted=False, max_hops=20)

    questions: dict[str, Ask] = {"recall": recall, "neighbours": neighbours, "path": path}
    found = {}
    for name, ask in questions.items():
        times: dict[str, list[float]] = {variant: [] for variant in variants}
        for place in range(rounds + WARM_UP):
            for variant, as_of in variants.items():
                times[variant].append(await _timed(services, as_of, ask, place))
        found[name] = {variant: percentiles(one[WARM_UP:]) for variant, one in times.items()}
        say(f"{name}: {json.dumps(found[name])}")
    return found


async def _timed(services: Services, as_of: AsOf, ask: Ask, place: int) -> float:
    started = time.perf_counter()
    async with services.views.open(as_of) as view:
        await ask(view, place)
    return time.perf_counter() - started


def _ratios(found: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """The median of each variant, times that of now."""
    return {
        name: {variant: round(one["p50_ms"] / variants["now"]["p50_ms"], 2) for variant, one in variants.items()}
        for name, variants in found.items()
    }
