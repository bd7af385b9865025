"""Recall of 10 explained hits at several sizes, with and without filters, side by side with the bare pgvector query.

Vectors are given, so that no model's own time is in any figure. In process: one view and one recall, as a request has
them. The bare query: the ten nearest vectors by HNSW with their contents, at the smallest ef_search that reaches a
recall@10 of .99, asked alternately with ours. Recall@10 is that of the dense leg alone, at the settings that were
timed, against exact search.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import recall_speed_http
from benchmarks.recall_speed_bare import Bare
from benchmarks.recall_speed_load import loaded, namespace_of
from benchmarks.recall_speed_vectors import Vectors, exact, topics, vectors
from benchmarks.serving import percentiles, say
from benchmarks.texts import queries
from sfm_graph.domain.namespace import Namespace
from sfm_graph.domain.recall import Leg, RecallQuery, pool_size
from sfm_graph.domain.where import parse_where
from sfm_graph.hot.text.index import TextIndex
from sfm_graph.runtime import EMBEDDED_DATABASE, open_runtime
from sfm_graph.services.recall.legs import HotLegs
from sfm_graph.services.recall.question import Question, Said
from sfm_graph.services.registry import Services
from sfm_graph.services.vector_search import PostgresSearch
from sfm_graph.services.view import View
from sfm_graph.settings import load_settings
from sfm_graph.store.embedded import embedded_postgres

HITS = 10
FIELDS = {"10 %": "tenth", "1 %": "hundredth", "0.1 %": "thousandth"}
SHARES = {"10 %": 0.1, "1 %": 0.01, "0.1 %": 0.001}
# A large namespace is hot at a budget that holds its postings.
HOT_BUDGET_BYTES = 8 * 1024**3
WARM_UP = 20
# Of the bare query: what the dense leg has to reach.
LEAST_RECALL = 0.99


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--memories", type=int, nargs="+", default=[10_000, 100_000], help="sizes of the namespaces")
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--vectors", type=Path, metavar="FILE", help=".npy of rows; the last tenth are queries")
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="docs.jsonl and questions.jsonl to embed, with --model"
    )
    parser.add_argument("--model", type=Path, metavar="DIR", help="model.onnx and tokenizer.json")
    parser.add_argument("--direct", action="store_true", help="load by COPY past the service")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="keep the database there, for further runs")
    parser.add_argument("--no-http", action="store_true", help="in process only")


@dataclass(frozen=True)
class Asked:
    """What is asked of one namespace: texts and vectors, one row each."""

    namespace: Namespace
    texts: list[str]
    vectors: NDArray[np.float32]
    memories: int

    @property
    def kept(self) -> dict[str | None, int]:
        """How many memories pass the filter on a field of the payload."""
        fields = {field: len(range(7, self.memories, round(1 / SHARES[name]))) for name, field in FIELDS.items()}
        return {None: self.memories, **fields}


async def run(options: argparse.Namespace) -> dict[str, Any]:
    if options.data_dir:
        return await _run(options, options.data_dir)
    with tempfile.TemporaryDirectory(prefix="sfm-bench-") as data_dir:
        return await _run(options, Path(data_dir))


async def _run(options: argparse.Namespace, data_dir: Path) -> dict[str, Any]:
    largest = max(options.memories)
    given = await vectors(largest, options.queries, options.vectors, options.data, options.model)
    say(given.described)
    texts = queries(len(given.asked), 3)
    sizes: dict[str, Any] = {}
    async with embedded_postgres(data_dir) as server:
        dsn = server.superuser_dsn(EMBEDDED_DATABASE)
        settings = load_settings(data_dir=data_dir, hot_budget_bytes=HOT_BUDGET_BYTES)
        async with open_runtime(settings, maintenance=False) as services:
            for memories in options.memories:
                report = await loaded(services, dsn, given.stored[:memories], direct=options.direct)
                sizes[str(memories)] = {"load": report}
            for memories in options.memories:
                sizes[str(memories)] |= await _in_process(services, dsn, given, memories, texts)
    if not options.no_http:
        bodies = recall_speed_http.bodies(texts, given.asked)
        for memories in options.memories:
            sizes[str(memories)]["http"] = recall_speed_http.measured(data_dir, namespace_of(memories), bodies)
    return {"vectors": given.described, "queries": len(given.asked), "memories": sizes}


async def _in_process(
    services: Services, dsn: str, given: Vectors, memories: int, texts: list[str]
) -> dict[str, Any]:
    async with services.views.open() as view:
        namespace = await view.existing_namespace(namespace_of(memories))
    asked = Asked(namespace, texts, given.asked, memories)
    quality = await _quality(services, asked, given, memories)
    recalls = {name: await _recalls(services, asked, field) for name, field in FIELDS.items()}
    bare = await Bare.opened(dsn, namespace, memories)
    try:
        await bare.choose_ef(asked.vectors, quality["exact"], LEAST_RECALL)
        plain, theirs = await _side_by_side(services, asked, bare)
    finally:
        await bare.aclose()
    ours = percentiles(plain)
    report = {
        "recall": ours,
        **{f"recall_with_filter_of_{name}": percentiles(samples) for name, samples in recalls.items()},
        "bare_pgvector": percentiles(theirs) | bare.described(),
        "ratio_p50_to_bare_pgvector": round(ours["p50_ms"] / percentiles(theirs)["p50_ms"], 2),
        "dense_leg": quality["report"],
    }
    say(f"{memories}: {report}")
    return report


async def _side_by_side(services: Services, asked: Asked, bare: Bare) -> tuple[list[float], list[float]]:
    ours, theirs = [], []
    for place in [*range(WARM_UP), *range(len(asked.texts))]:
        theirs.append(await _seconds(lambda place=place: bare.ask(asked.vectors[place])))  # type: ignore[misc]
        ours.append(await _seconds(lambda place=place: _recall(services, asked, place, None)))  # type: ignore[misc]
    return ours[WARM_UP:], theirs[WARM_UP:]


async def _recalls(services: Services, asked: Asked, field: str) -> list[float]:
    samples = [
        await _seconds(lambda place=place: _recall(services, asked, place, field))  # type: ignore[misc]
        for place in [*range(WARM_UP), *range(len(asked.texts))]
    ]
    return samples[WARM_UP:]


async def _recall(services: Services, asked: Asked, place: int, field: str | None) -> None:
    where = parse_where({"payload": [{"path": [field], "eq": 7}]} if field else {})
    query = RecallQuery(asked.texts[place], HITS, where=where, embedding=asked.vectors[place])
    async with services.views.open() as view:
        found = await services.recalls.recall(view, asked.namespace.name, query)
    hits = min(HITS, asked.kept[field])
    if len(found.hits) != hits or not found.hot or not all(hit.legs for hit in found.hits):
        raise RuntimeError(f"not {hits} explained hits of a hot namespace: {found}")


async def _seconds(work: Callable[[], Awaitable[Any]]) -> float:
    started = time.perf_counter()
    await work()
    return time.perf_counter() - started


async def _quality(services: Services, asked: Asked, given: Vectors, memories: int) -> dict[str, Any]:
    """Time and recall@10 of the dense search by itself, at filters that go at random and that go with a topic."""
    rows = np.arange(memories)
    masks: dict[str, NDArray[np.bool_] | None] = {"none": None}
    for name, share in SHARES.items():
        masks[f"{name} at random"] = rows % round(1 / share) == 7
    nearest = topics(given.stored[:memories], SHARES)
    masks |= {f"{name}, a topic": mask for name, mask in nearest.items()}
    # Few memories hold no ten rows in a thousandth: all of them are the answer then.
    right = await exact(given, memories, masks, HITS)
    async with services.views.open() as view:
        first = await _first_id(view.session, asked)
        report = {}
        index = await services.recalls.hot_text.at(view, asked.namespace)
        for name, mask in masks.items():
            allowed = None if mask is None else np.flatnonzero(mask) + first
            report[name] = await _searched(view, index, asked, allowed, right[name] + first)
            say(f"{memories} dense, filter {name}: {report[name]}")
    return {"report": report, "exact": right["none"] + first}


async def _first_id(session: Any, asked: Asked) -> int:
    rows = await session.dynamic(f"select min(id) from memories where namespace_id = {asked.namespace.id}")
    return int(rows[0][0])


async def _searched(
    view: View, index: TextIndex | None, asked: Asked, allowed: NDArray[np.int64] | None, right: NDArray[np.int64]
) -> dict[str, Any]:
    """The dense leg as recall runs it."""
    if index is None:
        raise RuntimeError("the namespace is not hot")
    samples, shares = [], []
    count = pool_size(HITS)
    for vector, expected in zip(asked.vectors, right.tolist(), strict=True):
        question = Question(
            RecallQuery("", HITS), {}, vector, allowed, Said((), {}, ()), count, 1.0, 0.0, view.now.timestamp()
        )
        started = time.perf_counter()
        legs = HotLegs(view, asked.namespace, index, question, PostgresSearch(), asyncio.Semaphore(1))
        await legs.run()
        samples.append(time.perf_counter() - started)
        found = legs.candidates[Leg.DENSE]
        if len(found.ids) < (count if allowed is None else min(count, len(allowed))):
            raise RuntimeError(f"{len(found.ids)} rows where there are more")
        shares.append(len(set(expected) & set(found.ids[:HITS].tolist())) / len(expected))
    return {"recall@10": round(float(np.mean(shares)), 4), **percentiles(samples)}
