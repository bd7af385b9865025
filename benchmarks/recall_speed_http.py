"""The same recalls over HTTP GraphQL: one client, then eight at once, on a service of its own."""

import http.client
import json
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.serving import Service, percentiles, say, serving

CLIENTS = 8
WARM_UP = 20
RECALL = """query ($namespace: String!, $query: String!, $embedding: Vector) {
  recall(namespace: $namespace, query: $query, embedding: $embedding, first: 10) {
    edges { score node { id key title content importance }
            explanation { legs { leg rank rawScore weight contribution } } } } }"""


def bodies(texts: list[str], asked: NDArray[np.float32]) -> list[dict[str, Any]]:
    """The variables of each request but the namespace."""
    return [
        {"query": text, "embedding": [round(float(one), 6) for one in vector]}
        for text, vector in zip(texts, asked, strict=True)
    ]


def measured(data_dir: Path, namespace: str, variables: list[dict[str, Any]]) -> dict[str, Any]:
    """Latencies of one client and of eight, and their throughput."""
    encoded = [json.dumps({"query": RECALL, "variables": {"namespace": namespace, **one}}) for one in variables]
    with serving(data_dir, SFM_HOT_BUDGET_BYTES=str(8 * 1024**3), SFM_LOG_LEVEL="warning") as service:
        started = time.perf_counter()
        _asked(service, encoded[:1], [])
        cold = time.perf_counter() - started
        _asked(service, encoded[:WARM_UP], [])
        alone: list[float] = []
        _asked(service, encoded, alone)
        started = time.perf_counter()
        together = _at_once(service, encoded)
        seconds = time.perf_counter() - started
    report = {
        "first_recall_loads_ms": round(cold * 1e3),
        "one_client": percentiles(alone),
        f"{CLIENTS}_clients": percentiles(together) | {"queries_per_second": round(len(together) / seconds)},
    }
    say(f"{namespace} over HTTP: {report}")
    return report


def _at_once(service: Service, encoded: list[str]) -> list[float]:
    samples: list[list[float]] = [[] for _ in range(CLIENTS)]
    # Each client begins elsewhere, so that they do not ask the same at the same time.
    threads = [
        threading.Thread(target=_asked, args=(service, encoded[place * 17 :] + encoded[: place * 17], samples[place]))
        for place in range(CLIENTS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if any(len(one) != len(encoded) for one in samples):
        raise RuntimeError("a client failed")
    return [one for own in samples for one in own]


def _asked(service: Service, encoded: list[str], samples: list[float]) -> None:
    connection: http.client.HTTPConnection = service.connection()
    for body in encoded:
        started = time.perf_counter()
        connection.request("POST", "/graphql", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
        samples.append(time.perf_counter() - started)
        if answer.status != 200 or text.count(b'"explanation"') != 10:
            raise RuntimeError(f"not 10 explained hits: {answer.status} {text[:500]!r}")
