"""Getting a graph into a database: through the service's own bulk writes, or quicker by COPY past the service."""

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psycopg

from benchmarks.graph_data import SIZES, TYPES, Graph, blocks, power_law_graph
from benchmarks.serving import say
from sfm_graph.cli.progress import Bar, progress_bar
from sfm_graph.services.links import LinkRequest
from sfm_graph.services.registry import Services
from sfm_graph.store import namespaces
from sfm_graph.store.database import Database

NAMESPACE = "graph"
# What one transaction takes.
BATCH = 5_000
# Kept in the data directory: what is loaded there, so that another run knows it again.
MARKER = "benchmark-graph.json"


async def loaded(services: Services, dsn: str, size: str, seed: int, *, direct: bool) -> dict[str, Any]:
    """Load the graph of that size and seed unless the database has it; how it was loaded, and how quickly.

    dsn: the superuser's, for COPY. Raises RuntimeError when the data directory holds something else.
    """
    marker = Path(services.settings.data_dir) / MARKER
    if marker.exists():
        report: dict[str, Any] = json.loads(marker.read_text())
        if (report["size"], report["seed"]) != (size, seed):
            raise RuntimeError(f"{marker} tells of another graph: {report}")
        return {**report, "kept_from_an_earlier_run": True}
    graph = power_law_graph(SIZES[size], seed)
    say(f"loading {graph.described()}")
    report = {"size": size, "seed": seed, "through": "COPY past the service" if direct else "the service"}
    report |= await asyncio.to_thread(_copied, dsn, graph) if direct else await _stored(services, graph)
    with psycopg.connect(dsn, autocommit=True) as connection:
        for table in ("memories", "links", "changes"):
            connection.execute(f"vacuum analyze {table}")
    marker.write_text(json.dumps(report))
    return report


async def _stored(services: Services, graph: Graph) -> dict[str, Any]:
    items = [{"key": f"m{node}", "content": f"Memory {node}."} for node in range(graph.nodes)]
    started = time.perf_counter()
    with progress_bar("Memories", graph.nodes, None) as bar:
        for block in blocks(graph.nodes, BATCH):
            done = await services.memory_writes.store_many(NAMESPACE, items[block])
            bar.advance(len(done.stored))
    middle = time.perf_counter()
    with progress_bar("Links", len(graph.link_ids), None) as bar:
        await _linked(services, graph, bar)
    end = time.perf_counter()
    return {
        "seconds": round(end - started, 1),
        "memories_per_second": round(graph.nodes / (middle - started)),
        "links_per_second": round(len(graph.link_ids) / (end - middle)),
    }


async def _linked(services: Services, graph: Graph, bar: Bar) -> None:
    for block in blocks(len(graph.link_ids), BATCH):
        columns = (graph.source[block], graph.target[block], graph.type[block], graph.weight[block])
        requests = [
            LinkRequest({"key": f"m{source}"}, {"key": f"m{target}"}, {"type": TYPES[kind], "weight": weight})
            for source, target, kind, weight in zip(*(column.tolist() for column in columns), strict=True)
        ]
        done = await services.links.link_many(NAMESPACE, requests)
        bar.advance(len(done.stored))


def _copied(dsn: str, graph: Graph) -> dict[str, Any]:
    """Rows alone: no words, no vectors, no change rows; ends are not checked again, for they exist."""
    started = time.perf_counter()
    namespace_id = asyncio.run(_namespace_id(dsn))
    with psycopg.connect(dsn) as connection:
        connection.execute("set session_replication_role = replica")
        first_memory = _taken(connection, "memory_ids", graph.nodes)
        first_link = _taken(connection, "link_ids", len(graph.link_ids))
        columns = "namespace_id, id, key, coordinate, kind, content, payload, importance, digest"
        rows = _memory_lines(graph, namespace_id, first_memory)
        _copy(connection, f"copy memories ({columns}) from stdin", rows, "Memories", graph.nodes)
        middle = time.perf_counter()
        columns = "namespace_id, id, source_id, target_id, type, weight, properties"
        rows = _link_lines(graph, namespace_id, first_memory, first_link)
        _copy(connection, f"copy links ({columns}) from stdin", rows, "Links", len(graph.link_ids))
    end = time.perf_counter()
    return {
        "seconds": round(end - started, 1),
        "memories_per_second": round(graph.nodes / (middle - started)),
        "links_per_second": round(len(graph.link_ids) / (end - middle)),
    }


async def _namespace_id(dsn: str) -> int:
    database = Database(dsn, role="sfm_service", max_size=2)
    await database.open()
    try:
        return (await database.write(lambda session: namespaces.lock(session, NAMESPACE))).id
    finally:
        await database.close()


def _taken(connection: psycopg.Connection[Any], sequence: str, count: int) -> int:
    """The first of `count` ids taken from a sequence."""
    (first,) = connection.execute("select nextval(%s)", (sequence,)).fetchone() or (0,)
    connection.execute("select setval(%s, %s)", (sequence, first + count - 1))
    return int(first)


def _copy(connection: psycopg.Connection[Any], command: str, lines: Iterator[str], title: str, count: int) -> None:
    with progress_bar(title, count, None) as bar, connection.cursor().copy(command.encode()) as copy:
        for text in lines:
            copy.write(text)
            bar.advance(BATCH)


def _memory_lines(graph: Graph, namespace_id: int, first: int) -> Iterator[str]:
    for block in blocks(graph.nodes, BATCH):
        yield "".join(
            f"{namespace_id}\t{first + node}\tm{node}\t{{{node}}}\tsemantic\tMemory {node}.\t{{}}\t0.5\t\\\\x00\n"
            for node in range(block.start, block.stop)
        )


def _link_lines(graph: Graph, namespace_id: int, first_memory: int, first: int) -> Iterator[str]:
    for block in blocks(len(graph.link_ids), BATCH):
        columns = (graph.source[block], graph.target[block], graph.type[block], graph.weight[block])
        rows = zip(*(column.tolist() for column in columns), strict=True)
        yield "".join(
            f"{namespace_id}\t{first + place}\t{first_memory + source}\t{first_memory + target}"
            f"\t{TYPES[kind]}\t{weight!r}\t{{}}\n"
            for place, (source, target, kind, weight) in enumerate(rows, start=block.start)
        )


def read_back(dsn: str) -> Graph:
    """The graph as the database has it, by id: what every competitor is given."""
    memory = {"id": ">i8"}
    link = {"id": ">i8", "source_id": ">i8", "target_id": ">i8", "type": ">i4", "weight": ">f8"}
    types = f"array_position('{{{','.join(TYPES)}}}'::text[], type) - 1"
    with psycopg.connect(dsn) as connection:
        memories = _columns(connection, "select id from memories", memory)["id"].astype(np.int64)
        rows = _columns(connection, f"select id, source_id, target_id, {types}, weight from links", link)
    ids, source, target, kinds = (rows[name].astype(np.int64) for name in list(link)[:4])
    weight = rows["weight"].astype(np.float64)
    return Graph(memories, ids, np.searchsorted(memories, source), np.searchsorted(memories, target), kinds, weight)


def _columns(connection: psycopg.Connection[Any], query: str, columns: dict[str, str]) -> np.ndarray[Any, Any]:
    """Rows of the namespace in the order of their ids: a binary COPY of fixed widths is read as it is."""
    inner = f"select id from namespaces where name = '{NAMESPACE}'"
    command = f"copy ({query} where namespace_id = ({inner}) order by id) to stdout (format binary)"
    with connection.cursor().copy(command.encode()) as copy:
        received = b"".join(bytes(chunk) for chunk in copy)
    row = [("fields", ">i2")]
    for name, kind in columns.items():
        row += [(f"{name} bytes", ">i4"), (name, kind)]
    # 19 bytes of header, 2 of trailer.
    return np.frombuffer(received[19:-2], dtype=row)
