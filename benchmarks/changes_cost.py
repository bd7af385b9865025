"""What the change log costs writers: the same writes as they are, and by statements without change rows."""

import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.serving import say
from benchmarks.texts import texts
from sfm_graph.runtime import open_runtime
from sfm_graph.services.links import LinkRequest
from sfm_graph.services.registry import Services
from sfm_graph.settings import load_settings
from sfm_graph.store.statements import all_statements

BATCH = 1_000
ROUNDS = 6
_LOGGED = re.compile(r",? ?logged as \(.*?\n\)", re.DOTALL)


async def cost_of_the_log(memories: int) -> dict[str, Any]:
    """Medians of several rounds, with and without in turn, in seconds, and their ratios."""
    data_dir = Path(tempfile.mkdtemp(prefix="sfm-bench-"))
    try:
        async with open_runtime(load_settings(data_dir=data_dir), maintenance=False) as services:
            await _round(services, "warm", memories // 4)
            seconds: dict[str, list[tuple[float, float]]] = {"with": [], "without": []}
            for number in range(ROUNDS):
                # Each way round in turn: what comes second finds a larger database, and other caches.
                for kind in ("with", "without") if number % 2 == 0 else ("without", "with"):
                    with _no_log() if kind == "without" else nullcontext():
                        seconds[kind].append(await _round(services, f"{kind}{number}", memories))
                say(f"log cost, round {number + 1}: {seconds['with'][-1]} against {seconds['without'][-1]}")
    finally:
        shutil.rmtree(data_dir, ignore_errors=True)
    found: dict[str, Any] = {"memories": memories, "links": memories}
    for place, kind in enumerate(("insert", "update")):
        logged, bare = (median(one[place] for one in seconds[key]) for key in ("with", "without"))
        found[kind] = {
            "seconds": round(logged, 2), "seconds_without_log": round(bare, 2), "ratio": round(logged / bare, 3)
        }  # fmt: skip
    return found


async def _round(services: Services, namespace: str, count: int) -> tuple[float, float]:
    """Seconds to insert memories with a link each, and to update the memories."""
    texts_of = list(texts(count, 5))
    items = [{"key": f"m{n}", "content": text, "payload": {"n": n}} for n, text in enumerate(texts_of)]
    changed = [{**item, "payload": {"n": -1}} for item in items]
    started = time.perf_counter()
    for first in range(0, count, BATCH):
        await services.memory_writes.store_many(namespace, items[first : first + BATCH])
        links = [
            LinkRequest({"key": f"m{n}"}, {"key": f"m{n * 7 % (n + 1)}"}, {"type": "follows"})
            for n in range(first, min(first + BATCH, count))
        ]
        await services.links.link_many(namespace, links)
    inserted = time.perf_counter()
    for first in range(0, count, BATCH):
        await services.memory_writes.store_many(namespace, changed[first : first + BATCH])
    return round(inserted - started, 2), round(time.perf_counter() - inserted, 2)


@contextmanager
def _no_log() -> Iterator[None]:
    statements = all_statements()
    kept = {name: statements[name] for name in ("memory_insert", "memory_update", "link_insert")}
    for name, text in kept.items():
        bare = _LOGGED.sub("", text)
        if bare == text:
            raise RuntimeError(f"{name} has no change rows to leave out")
        statements[name] = bare
    try:
        yield
    finally:
        statements.update(kept)
