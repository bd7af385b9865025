"""What metrics and traces cost a recall: the same recalls in turns with them and without, on one event loop."""

import argparse
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from benchmarks.serving import say
from benchmarks.texts import queries, texts
from sfm_graph.domain.recall import RecallQuery
from sfm_graph.runtime import open_runtime
from sfm_graph.services.registry import Services
from sfm_graph.settings import load_settings
from sfm_graph.telemetry import stages, tracing
from sfm_graph.telemetry.export import tracing_to_collector

# Modules that have taken `stage` by name.
_TIMED = (
    "services.recall.question", "services.recall.recalls", "services.recall.legs", "services.recall.hits",
    "services.hot", "services.walk_runner", "store.database",
)  # fmt: skip
# Recalls of one kind before the other has its turn: what else the machine does falls on all alike.
BLOCK = 20


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--memories", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=60, help=f"of {BLOCK} recalls of each kind")


async def run(options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        settings = load_settings(data_dir=Path(folder), maintenance_interval_ms=3_600_000)
        async with open_runtime(settings, maintenance=False) as services:
            await _fill(services, options.memories)
            asked = queries(BLOCK)
            return await _measured(services, asked, options.rounds)


async def _fill(services: Services, count: int) -> None:
    for start in range(0, count, 1_000):
        items = [{"content": text} for text in texts(min(1_000, count - start), seed=start)]
        await services.memory_writes.store_many("default", items)
    say(f"{count} memories")


async def _measured(services: Services, asked: list[str], rounds: int) -> dict[str, Any]:
    async def block() -> tuple[float, float]:
        wall, cpu = time.perf_counter(), time.process_time()
        for text in asked:
            with tracing.span("recall"):
                async with services.views.open() as view:
                    await services.recalls.recall(view, "default", RecallQuery(text))
        return (time.perf_counter() - wall) / BLOCK, (time.process_time() - cpu) / BLOCK

    kinds: dict[str, Callable[[], Awaitable[tuple[float, float]]]] = {
        "without": lambda: _within(_without(), block),
        "metrics": lambda: _within(nullcontext(), block),
        "traced": lambda: _traced(services, block),
    }
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in kinds}
    await block()
    for number in range(rounds):
        # Each kind goes first in turn.
        order = list(kinds)[number % 3 :] + list(kinds)[: number % 3]
        for name in order:
            samples[name].append(await kinds[name]())
    found = {
        name: {
            "wall_ms": round(1000 * statistics.median(wall for wall, _ in some), 4),
            "cpu_ms": round(1000 * statistics.median(cpu for _, cpu in some), 4),
        }
        for name, some in samples.items()
    }
    shares = {
        name: round(
            100 * statistics.median(
                one[1] / bare[1] - 1 for one, bare in zip(samples[name], samples["without"], strict=True)
            ), 2,
        )
        for name in ("metrics", "traced")
    }  # fmt: skip
    return {"recalls": found, "cpu_percent_more": shares, "stage_us": _stage_us()}


async def _within(context: Any, block: Callable[[], Awaitable[tuple[float, float]]]) -> tuple[float, float]:
    with context:
        return await block()


async def _traced(services: Services, block: Callable[[], Awaitable[tuple[float, float]]]) -> tuple[float, float]:
    async with tracing_to_collector(services.settings, "benchmark", exporter=_Nowhere()):
        return await block()


@contextmanager
def _without() -> Iterator[None]:
    nothing = nullcontext()
    patches = [patch(f"sfm_graph.{name}.stage", lambda _: nothing) for name in _TIMED]
    for one in patches:
        one.start()
    try:
        yield
    finally:
        for one in patches:
            one.stop()


def _stage_us() -> float:
    began = time.perf_counter()
    for _ in range(100_000):
        with stages.stage("recall.dense"):
            pass
    return round((time.perf_counter() - began) * 10, 2)


class _Nowhere(SpanExporter):
    def export(self, spans: Any) -> SpanExportResult:
        return SpanExportResult.SUCCESS
