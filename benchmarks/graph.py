"""Walks over power-law graphs with hubs: the service against SQL on its database, graph libraries and Ladybug."""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks import graph_load
from benchmarks.graph_data import SIZES, Graph
from benchmarks.graph_measure import Limits, Samples, measured, ratio, report
from benchmarks.graph_ours import Ours
from benchmarks.graph_questions import OPERATIONS, Answers, NotOffered, questions
from benchmarks.graph_stall import stalls
from benchmarks.serving import say
from sfm_graph.runtime import EMBEDDED_DATABASE, open_runtime
from sfm_graph.settings import load_settings
from sfm_graph.store.embedded import embedded_postgres

COMPETITORS = ("recursive_sql", "networkx", "igraph", "ladybug")
OURS = "sfm_graph"


def add_options(parser: argparse.ArgumentParser) -> None:
    sizes = ", ".join(f"{name}: {size.memories:,} memories, {size.links:,} links" for name, size in SIZES.items())
    parser.add_argument("--size", choices=SIZES, default="small", help=sizes)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--data-dir", type=Path, help="an embedded database that is kept, and loaded only once")
    parser.add_argument("--direct", action="store_true", help="load by COPY past the service; the result says so")
    parser.add_argument("--queries", type=int, default=300, help="questions for each operation")
    parser.add_argument("--seconds", type=float, default=20, help="after these no further question of an operation")
    parser.add_argument(
        "--timeout-ms", type=int, default=10_000, help="of one question, where a store has such a limit"
    )
    parser.add_argument("--competitors", nargs="*", choices=COMPETITORS, default=COMPETITORS)
    parser.add_argument("--plot", type=Path, metavar="FILE.png")


async def run(options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="sfm-bench-") as fresh:
        data_dir = options.data_dir or Path(fresh)
        async with embedded_postgres(data_dir) as server:
            result = await _run(options, data_dir, server.superuser_dsn(EMBEDDED_DATABASE))
    if options.plot:
        title = "{memories:,} memories, {links:,} links, largest hub {largest_hub:,} links".format(**result["graph"])
        import_module("benchmarks.graph_plot").plot(result["stores"], title, options.plot)
    return result


async def _run(options: argparse.Namespace, data_dir: Path, dsn: str) -> dict[str, Any]:
    settings = load_settings(data_dir=data_dir, statement_timeout_ms=max(30_000, options.timeout_ms))
    answers, limits = Answers(), Limits(options.seconds)
    async with open_runtime(settings, maintenance=False) as services:
        loaded = await graph_load.loaded(services, dsn, options.size, options.seed, direct=options.direct)
        graph = await asyncio.to_thread(graph_load.read_back, dsn)
        asked = {name: questions(graph, name, options.queries, options.seed) for name in OPERATIONS}
        ours = Ours(services)
        ours.load(graph)
        found = {OURS: await measured(OURS, ours, graph, asked, answers, limits)}
        stores = {OURS: {**await _ours_alone(ours, graph), "operations": _reports(found[OURS])}}
        event_loop = await stalls(ours, asked)
    for name in options.competitors:
        try:
            store, seconds = await asyncio.to_thread(_loaded, name, graph, dsn, options.timeout_ms)
        except ModuleNotFoundError as exc:
            stores[name] = {"missing": f"no module {exc.name}; `make bench` installs it"}
            say(f"{name}: {stores[name]['missing']}")
            continue
        say(f"{name} loaded in {seconds} s")
        found[name] = await measured(name, store, graph, asked, answers, limits)
        stores[name] = {"cold_load_seconds": seconds, "operations": _reports(found[name])}
        store.close()
        del store
    return {
        "graph": graph.described(),
        "loaded": loaded,
        "walks": "in both directions",
        "stores": stores,
        "times_ours_p50": _ratios(found),
        "pagerank_top_20_overlap": answers.overlaps,
        "event_loop_worst_lateness": event_loop,
    }


def _loaded(name: str, graph: Graph, dsn: str, timeout_ms: int) -> tuple[Any, float | str]:
    """A store with the graph in it, and how many seconds it took to load."""
    store = _makers(dsn, timeout_ms)[name]()
    if hasattr(store, "prepare"):
        store.prepare(graph)
    started = time.perf_counter()
    store.load(graph)
    seconds = round(time.perf_counter() - started, 2)
    return store, "not offered" if name == "recursive_sql" else seconds


def _makers(dsn: str, timeout_ms: int) -> dict[str, Callable[[], Any]]:
    """Each imports its package when it is called: what is not installed is left out."""
    return {
        "recursive_sql": lambda: import_module("benchmarks.graph_sql").RecursiveSql(dsn, timeout_ms),
        "networkx": lambda: import_module("benchmarks.graph_networkx").NetworkX(),
        "igraph": lambda: import_module("benchmarks.graph_igraph").Igraph(),
        "ladybug": lambda: import_module("benchmarks.graph_ladybug").Ladybug(timeout_ms),
    }


async def _ours_alone(ours: Ours, graph: Graph) -> dict[str, Any]:
    """What only a store held in memory beside a database has: the time to load it from there, and its size."""
    started = time.perf_counter()
    try:
        await ours.cold_load()
        seconds = round(time.perf_counter() - started, 2)
        per_link = round(await ours.resident_bytes() / len(graph.link_ids), 1)
    except NotOffered:
        return {"cold_load_seconds": "not offered", "resident_bytes_per_link": "not offered"}
    return {"cold_load_seconds": seconds, "resident_bytes_per_link": per_link}


def _reports(found: dict[str, Samples | None]) -> dict[str, Any]:
    return {operation: report(samples) for operation, samples in found.items()}


def _ratios(found: dict[str, dict[str, Samples | None]]) -> dict[str, Any]:
    """For each competitor and operation how many times as long as ours its p50 is."""
    return {
        name: {operation: ratio(found[OURS][operation], samples) for operation, samples in theirs.items()}
        for name, theirs in found.items()
        if name != OURS
    }
