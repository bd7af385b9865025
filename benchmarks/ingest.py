"""Bulk import over HTTP: memories of 60 words with one link each, and memories with given 384-dimension vectors."""

import argparse
import http.client
import json
import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.serving import Service, ask, percentiles, say, serving
from benchmarks.texts import texts

DIMENSION = 384


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--memories", type=int, default=100_000)
    parser.add_argument("--small", type=int, default=10_000, help="size to compare the cost per memory with")
    parser.add_argument("--vectors", type=int, default=120_000, help="memories with given vectors; 0 leaves them out")


async def run(options: argparse.Namespace) -> dict[str, Any]:
    result: dict[str, Any] = {}
    with serving() as service:
        warm = _import(service, "warm", _records(2_000, 1), 2_000)
        say(f"warm-up {warm['memories_per_second']}/s")
        small = _import(service, "small", _records(options.small, 2), options.small)
        say(f"{options.small}: {small['memories_per_second']}/s")
        large = _import(service, "large", _records(options.memories, 3), options.memories)
        say(f"{options.memories}: {large['memories_per_second']}/s")
        result["default_embedder"] = {
            "small": small,
            "large": large,
            "cost_per_memory_large_to_small": round(small["memories_per_second"] / large["memories_per_second"], 2),
            "found_at_once": _found(service, "large", options.memories),
        }
    if options.vectors:
        with serving() as service:
            result["given_vectors"] = _with_vectors(service, options.vectors)
    return result


def _records(count: int, seed: int) -> Iterator[bytes]:
    chosen = random.Random(seed)
    for number, text in enumerate(texts(count, seed)):
        yield line({"type": "memory", "key": f"m{number}", "content": text, "payload": {"n": number}})
        target = chosen.randrange(number + 1)
        yield line(
            {"type": "link", "source": {"key": f"m{number}"}, "target": {"key": f"m{target}"}, "link_type": "follows"}
        )


def line(record: dict[str, Any]) -> bytes:
    return json.dumps(record).encode() + b"\n"


def _import(service: Service, namespace: str, lines: Iterator[bytes], count: int) -> dict[str, Any]:
    # The client's own work is done before the clock runs: on two cores it would be measured as the service's.
    chunks = [b"".join(block) for block in blocks(list(lines), 500)]
    resident: list[float] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.25):
            resident.append(service.resident_megabytes())

    before = service.resident_megabytes()
    watcher = threading.Thread(target=watch)
    watcher.start()
    started = time.perf_counter()
    answer = post(service.connection(), f"/import?namespace={namespace}", chunks)
    seconds = time.perf_counter() - started
    stop.set()
    watcher.join()
    failed = answer.get("failed", answer.get("failures"))
    if failed:
        raise RuntimeError(f"the import refused records: {str(answer)[:500]}")
    middle, end = resident[len(resident) // 4 : -1] or [before], resident or [before]
    return {
        "seconds": round(seconds, 2),
        "memories_per_second": round(count / seconds),
        "resident_mb": {"before": round(before), "first_quarter": round(middle[0]), "highest": round(max(end))},
    }


def blocks(lines: list[bytes], size: int) -> Iterator[list[bytes]]:
    for start in range(0, len(lines), size):
        yield lines[start : start + size]


def post(connection: http.client.HTTPConnection, path: str, chunks: list[bytes]) -> dict[str, Any]:
    connection.request(
        "POST", path, iter(chunks), {"Content-Type": "application/x-ndjson", "Transfer-Encoding": "chunked"},
        encode_chunked=True,
    )  # fmt: skip
    answer = connection.getresponse()
    text = answer.read()
    if answer.status != 200:
        raise RuntimeError(f"{answer.status} {text[:500]!r}")
    parsed: dict[str, Any] = json.loads(text)
    return parsed


def _found(service: Service, namespace: str, count: int) -> str:
    connection = service.connection()
    chosen = random.Random(9)
    wanted = {number: text for number, text in enumerate(texts(count, 3)) if chosen.random() < 50 / count}
    hits = 0
    for number, text in wanted.items():
        body = {"namespace": namespace, "query": " ".join(text.split()[:12]), "top_k": 5}
        matches = ask(connection, "POST", "/recall", body)["matches"]
        hits += any(match["key"] == f"m{number}" for match in matches)
    return f"{hits} of {len(wanted)}"


def _with_vectors(service: Service, count: int) -> dict[str, Any]:
    connection = service.connection()
    body = {"model": {"name": "given", "revision": "1", "dimension": DIMENSION}}
    ask(connection, "PUT", "/namespaces/vectors", body)
    chosen = np.random.default_rng(0)
    centres = chosen.standard_normal((300, DIMENSION))

    def records(start: int, stop: int) -> Iterator[bytes]:
        for number, text in zip(range(start, stop), texts(stop - start, 4), strict=True):
            vector = centres[number % 300] + 0.7 * chosen.standard_normal(DIMENSION)
            vector = np.round(vector / np.linalg.norm(vector), 5)
            yield line({"type": "memory", "key": f"v{number}", "content": text, "embedding": vector.tolist()})

    first = _import(service, "vectors", records(0, count), count)
    say(f"{count} with vectors: {first['memories_per_second']}/s")
    started = time.perf_counter()
    while time.perf_counter() - started < 300:
        vectors = ask(service.connection(), "GET", "/namespaces/vectors")["vectors"]
        if vectors["indexed"] >= count * 0.8:
            break
        time.sleep(0.5)
    ready = time.perf_counter() - started
    say(f"index ready after {ready:.0f} s")
    more = max(1_000, count // 10)
    second = _import(service, "vectors", records(count, count + more), more)
    samples = []
    connection = service.connection()
    for _ in range(50):
        vector = centres[int(chosen.integers(300))] + 0.7 * chosen.standard_normal(DIMENSION)
        query = {"namespace": "vectors", "query": "", "embedding": vector.tolist(), "top_k": 10}
        started = time.perf_counter()
        matches = ask(connection, "POST", "/recall", query)["matches"]
        samples.append(time.perf_counter() - started)
        if len(matches) != 10:
            raise RuntimeError("fewer rows than asked for")
    return {
        "import": first,
        "index_ready_seconds_after_import": round(ready, 1),
        "memories_per_second_into_indexed_namespace": second["memories_per_second"],
        "recall": percentiles(samples),
    }
