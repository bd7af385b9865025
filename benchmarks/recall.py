"""Recall over HTTP GraphQL in a large namespace beside many small ones, against the bare pgvector scan."""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import psycopg

from benchmarks.ingest import blocks, line, post
from benchmarks.serving import Service, ask, percentiles, say, serving
from benchmarks.texts import queries, texts
from sfm_graph.adapters.embedders.hashing import HashingEmbedder
from sfm_graph.store.embedded import embedded_postgres

RECALL = """query ($query: String!, $where: MemoryWhere) {
  recall(namespace: "large", query: $query, first: 10, where: $where) {
    edges { score node { id key title content importance }
            explanation { legs { leg rank rawScore weight contribution } } } } }"""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--memories", type=int, default=100_000)
    parser.add_argument("--namespaces", type=int, default=1_000, help="small namespaces of 20 memories beside it")
    parser.add_argument("--queries", type=int, default=500)


async def run(options: argparse.Namespace) -> dict[str, Any]:
    with serving() as service:
        _load(service, options.memories, options.namespaces)
        asked = queries(options.queries, 3)
        started = time.perf_counter()
        _recall(service, asked[:1], None)
        cold = time.perf_counter() - started
        _recall(service, asked[:20], None)
        plain = _recall(service, asked, None)
        one_percent = {"payload": [{"path": ["percent"], "eq": 7}]}
        filtered = _recall(service, asked[: options.queries // 2], one_percent)
        bare = await _bare_scan(service, asked[: options.queries // 5])
    result = {
        "recall": percentiles(plain),
        "recall_with_filter_of_1_percent": percentiles(filtered),
        "bare_pgvector_scan": percentiles(bare),
        "first_recall_loads_ms": round(cold * 1e3),
    }
    result["ratio_p50_to_bare_scan"] = round(result["recall"]["p50_ms"] / result["bare_pgvector_scan"]["p50_ms"], 2)
    say(json.dumps(result))
    return result


def _load(service: Service, count: int, namespaces: int) -> None:
    lines = [
        line({"type": "memory", "key": f"m{n}", "content": text, "payload": {"percent": n % 100}})
        for n, text in enumerate(texts(count, 3))
    ]
    post(service.connection(), "/import?namespace=large", [b"".join(block) for block in blocks(lines, 500)])
    connection = service.connection()
    small = texts(namespaces * 20, 8)
    for number in range(namespaces):
        items = [{"content": next(small)} for _ in range(20)]
        ask(connection, "POST", "/store_bulk", {"namespace": f"small{number}", "items": items})
    say(f"loaded {count} memories and {namespaces} small namespaces")


def _recall(service: Service, asked: list[str], where: dict[str, Any] | None) -> list[float]:
    connection = service.connection()
    samples = []
    for query in asked:
        body = {"query": RECALL, "variables": {"query": query, "where": where}}
        started = time.perf_counter()
        answer = ask(connection, "POST", "/graphql", body)
        samples.append(time.perf_counter() - started)
        if "errors" in answer or len(answer["data"]["recall"]["edges"]) != 10:
            raise RuntimeError(f"not 10 hits: {str(answer)[:500]}")
    return samples


async def _bare_scan(service: Service, asked: list[str]) -> list[float]:
    """What a user would write: the ten nearest vectors of the namespace, and their contents."""
    embedder = HashingEmbedder()
    samples = []
    async with embedded_postgres(Path(service.data_dir)) as server:
        with psycopg.connect(server.superuser_dsn("sfm"), autocommit=True) as connection:
            row = connection.execute("select id, model_id from namespaces where name = 'large'").fetchone()
            assert row
            for vector in await embedder.embed(asked):
                text = "[" + ",".join(f"{x:.5f}" for x in np.asarray(vector)) + "]"
                started = time.perf_counter()
                connection.execute(
                    "select m.content, n.score from (select e.memory_id, e.embedding <#> %s::halfvec as score "
                    "from embeddings e where e.namespace_id = %s and e.model_id = %s order by score limit 10) n "
                    "join memories m on m.namespace_id = %s and m.id = n.memory_id order by n.score",
                    (text, *row, row[0]),
                ).fetchall()
                samples.append(time.perf_counter() - started)
    return samples
