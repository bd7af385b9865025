"""A single `POST /remember` against the SQL transaction in it, on the same database in one run."""

import argparse
import asyncio
import json
import socket
import threading
import time
from itertools import cycle
from typing import Any

from benchmarks.serving import Service, percentiles, say, serving
from benchmarks.texts import texts
from sfm_graph.adapters.embedders.hashing import HashingEmbedder
from sfm_graph.domain import inputs
from sfm_graph.services.indexing import Indexing
from sfm_graph.services.store_plan import free_coordinate
from sfm_graph.store import memories, namespaces
from sfm_graph.store.database import Database, WriteSession
from sfm_graph.store.embedded import embedded_postgres


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--writes", type=int, default=1_000)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of the run with all clients")


async def run(options: argparse.Namespace) -> dict[str, Any]:
    with serving() as service:
        await asyncio.to_thread(_one_client, service, 200)
        single = await asyncio.to_thread(_one_client, service, options.writes)
        bare = await _bare_transactions(service, options.writes)
        again = await asyncio.to_thread(_one_client, service, options.writes)
        rate = await asyncio.to_thread(_many_clients, service, options.clients, options.seconds)
    over_http, in_sql = percentiles(single + again), percentiles(bare)
    say(f"http {over_http}, sql {in_sql}, {rate:.0f}/s")
    return {
        "http_one_client": over_http,
        "bare_sql_transaction": in_sql,
        "p50_above_bare_ms": round(over_http["p50_ms"] - in_sql["p50_ms"], 2),
        "ratio_p50": round(over_http["p50_ms"] / in_sql["p50_ms"], 2),
        "clients": options.clients,
        "writes_per_second": round(rate),
    }


def _one_client(service: Service, count: int) -> list[float]:
    client = _Client(service.port)
    samples = []
    for request in _requests("one", count, 5):
        started = time.perf_counter()
        client.send(request)
        samples.append(time.perf_counter() - started)
    return samples


def _many_clients(service: Service, clients: int, seconds: float) -> float:
    counts = [0] * clients
    prepared = [_requests("many", 2_000, 10 + place) for place in range(clients)]
    end = time.perf_counter() + seconds

    def work(place: int) -> None:
        client = _Client(service.port)
        for request in cycle(prepared[place]):
            if time.perf_counter() > end:
                return
            client.send(request)
            counts[place] += 1

    threads = [threading.Thread(target=work, args=(place,)) for place in range(clients)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - started)


def _requests(namespace: str, count: int, seed: int) -> list[bytes]:
    """Whole HTTP requests, made before the clock runs: the client shares two cores with what it measures."""
    requests = []
    for text in texts(count, seed):
        body = json.dumps({"namespace": namespace, "content": text}).encode()
        lines = ["POST /remember HTTP/1.1", "Host: localhost", "Content-Type: application/json"]
        head = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""])
        requests.append(head.encode() + body)
    return requests


class _Client:
    """One keep-alive connection that reads just enough of an answer to know it whole."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))

    def send(self, request: bytes) -> None:
        self._socket.sendall(request)
        answer = self._socket.recv(65_536)
        head, _, body = answer.partition(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        while len(body) < length:
            body += self._socket.recv(65_536)
        if not head.startswith((b"HTTP/1.1 200", b"HTTP/1.1 201")):
            raise RuntimeError(answer.decode())


async def _bare_transactions(service: Service, count: int) -> list[float]:
    """The statements of a single store with everything else prepared: text, words, vector."""
    samples = []
    indexing = Indexing(HashingEmbedder())
    async with embedded_postgres(service.data_dir) as server:
        database = Database(server.superuser_dsn("sfm"), role="sfm_service", max_size=2)
        await database.open()
        for text in texts(count, 6):
            memory = inputs.new_memory({"content": text, "coordinate": free_coordinate()})
            (columns,) = await indexing.columns([memory])

            async def write(session: WriteSession, memory: Any = memory, columns: Any = columns) -> None:
                target = await namespaces.lock(session, "one")
                model_id = target.model.id if target.model else 0
                await memories.insert(session, target.id, model_id, [(memory, columns)])

            started = time.perf_counter()
            await database.write(write)
            samples.append(time.perf_counter() - started)
        await database.close()
    return samples
