"""Getting memories with given vectors into a namespace: through the service, or quicker by COPY past it."""

import asyncio
import json
import struct
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray

from benchmarks.graph_load import _taken
from benchmarks.serving import say
from benchmarks.texts import texts
from sfm_graph.cli.progress import progress_bar
from sfm_graph.domain.words import count_terms, words
from sfm_graph.services.registry import Services
from sfm_graph.store import vector_indexes
from sfm_graph.store.vector_types import half_vectors, sparse_counts

BATCH = 2_000
SEED = 3
MODEL = {"name": "benchmark", "dimension": 0}
# How many rounds of maintenance see a namespace as settled and index it, in as many pieces as it takes.
MAX_ROUNDS = 40


def namespace_of(memories: int) -> str:
    return f"speed{memories}"


def payload(row: int) -> dict[str, int]:
    """Fields that keep a tenth, a hundredth and a thousandth of all memories."""
    return {"tenth": row % 10, "hundredth": row % 100, "thousandth": row % 1_000}


async def loaded(services: Services, dsn: str, stored: NDArray[np.float16], *, direct: bool) -> dict[str, Any]:
    """A namespace of these vectors, unless the data directory has it; how long it took to load and to index."""
    name = namespace_of(len(stored))
    marker = Path(services.settings.data_dir) / f"benchmark-{name}.json"
    if marker.exists():
        report: dict[str, Any] = json.loads(marker.read_text())
        return {**report, "kept_from_an_earlier_run": True}
    model = {**MODEL, "dimension": stored.shape[1]}
    namespace = await services.namespaces.put(name, settings=None, model=model)
    assert namespace.model
    say(f"loading {len(stored)} memories {'by COPY past' if direct else 'through'} the service")
    started = time.perf_counter()
    if direct:
        await asyncio.to_thread(_copied, dsn, namespace.id, namespace.model.id, stored)
    else:
        await _stored(services, name, stored)
    seconds = time.perf_counter() - started
    with psycopg.connect(dsn, autocommit=True) as connection:
        for table in ("memories", "words", "embeddings", "changes"):
            connection.execute(f"vacuum analyze {table}")
    report = {
        "through": "COPY past the service" if direct else "the service",
        "load_seconds": round(seconds, 1),
        "memories_per_second": round(len(stored) / seconds),
        **await _indexed(services, namespace.id),
    }
    marker.write_text(json.dumps(report))
    return report


async def _indexed(services: Services, namespace_id: int) -> dict[str, Any]:
    """Let maintenance do what it would do beside a settled namespace."""
    started, unchanged, before = time.perf_counter(), 0, -1
    for _ in range(MAX_ROUNDS):
        await services.maintenance.round()
        ranges = await vector_indexes.ranges(services.maintenance._database)
        sizes = [one.built for one in ranges if one.span.namespace_id == namespace_id]
        unchanged, before = (unchanged + 1 if len(sizes) == before else 0), len(sizes)
        if unchanged == 3:
            break
    seconds = round(time.perf_counter() - started, 1)
    say(f"indexed in {seconds} s: ranges of {sizes}")
    return {"index_seconds": seconds, "index_ranges": sizes}


async def _stored(services: Services, name: str, stored: NDArray[np.float16]) -> None:
    contents = texts(len(stored), SEED)
    with progress_bar("Memories", len(stored), None) as bar:
        for start in range(0, len(stored), BATCH):
            items = [
                {"key": f"m{row}", "content": content, "payload": payload(row), "embedding": vector.tolist()}
                for row, (content, vector) in enumerate(
                    zip(islice(contents, BATCH), stored[start : start + BATCH].astype(np.float64), strict=False),
                    start,
                )
            ]
            done = await services.memory_writes.store_many(name, items)
            bar.advance(len(done.stored))


_COLUMNS = {
    "memories": "namespace_id, id, key, coordinate, kind, content, payload, importance, digest",
    "words": "namespace_id, memory_id, length, terms, lexemes",
    "embeddings": "namespace_id, model_id, memory_id, part, embedding",
}
_INT4, _INT8, _INT2, _FLOAT8 = (struct.Struct(f">{letter}").pack for letter in "iqhd")
Rows = list[tuple[int, str]]


def _copied(dsn: str, namespace_id: int, model_id: int, stored: NDArray[np.float16]) -> None:
    """Rows as the service would write them, but no change rows, and no words for prefix search."""
    with psycopg.connect(dsn) as connection:
        connection.execute("set session_replication_role = replica")
        owner = (namespace_id, model_id, _taken(connection, "memory_ids", len(stored)))
        contents = texts(len(stored), SEED)
        with progress_bar("Memories", len(stored), None) as bar:
            for start in range(0, len(stored), BATCH):
                rows = list(enumerate(islice(contents, BATCH), start))
                _copy(connection, "memories", _memories(owner, rows))
                _copy(connection, "words", _words(owner, rows))
                _copy(connection, "embeddings", _embeddings(owner, rows, stored[start : start + BATCH]))
                bar.advance(len(rows))


def _copy(connection: psycopg.Connection[Any], table: str, rows: Iterator[Sequence[bytes]]) -> None:
    command = f"copy {table} ({_COLUMNS[table]}) from stdin (format binary)"
    fields = [b"".join([_INT2(len(row)), *(_INT4(len(one)) + one for one in row)]) for row in rows]
    with connection.cursor().copy(command.encode()) as copy:
        copy.write(b"".join([b"PGCOPY\n\xff\r\n\0", bytes(8), *fields, b"\xff\xff"]))


def _memories(owner: tuple[int, int, int], rows: Rows) -> Iterator[Sequence[bytes]]:
    namespace_id, _, first = owner
    one_float = struct.pack(">iiiiii", 1, 0, 701, 1, 1, 8)
    for row, content in rows:
        yield (
            _INT4(namespace_id), _INT8(first + row), f"m{row}".encode(), one_float + _FLOAT8(row), b"semantic",
            content.encode(), b"\1" + json.dumps(payload(row)).encode(), _FLOAT8(0.5), b"\0",
        )  # fmt: skip


def _words(owner: tuple[int, int, int], rows: Rows) -> Iterator[Sequence[bytes]]:
    namespace_id, _, first = owner
    lexemes = _INT4(1) + f"@{namespace_id}\0".encode() + _INT2(0)
    for row, content in rows:
        found = words(content)
        terms = sparse_counts(count_terms(found)).data
        yield _INT4(namespace_id), _INT8(first + row), _INT4(len(found)), terms, lexemes


def _embeddings(owner: tuple[int, int, int], rows: Rows, stored: NDArray[np.float16]) -> Iterator[Sequence[bytes]]:
    namespace_id, model_id, first = owner
    for (row, _), vector in zip(rows, half_vectors(stored.astype(np.float32)), strict=True):
        yield _INT4(namespace_id), _INT4(model_id), _INT8(first + row), _INT2(0), vector.data
