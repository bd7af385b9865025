"""What needs every link of a namespace: components, communities, PageRank without seeds. Run in other processes.

These libraries hold the interpreter's lock for as long as they run, up to seconds for a million links. A worker
process imports this module and nothing else of the package, so it imports numpy alone until a job needs more.
"""

import os
import sys
import threading
from collections.abc import Iterable, Iterator
from enum import Enum, auto
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from rustworkx import PyDiGraph

DAMPING = 0.85
# The sum of all changes that ends PageRank; each round takes at least 0.15 of it away, so 140 rounds reach it.
PRECISION = 1e-9
MAX_ROUNDS = 200
COMMUNITY_SEED = 1
# Leiden multiplies strengths: below this share of the largest their products would vanish.
LEAST_SHARE = 1e-12
# Links handed over at once: a list of a million tuples takes 150 MB.
CHUNK = 100_000
# Exit code of the process.
OUT_OF_MEMORY = 3


class Job(Enum):
    """What is computed for each node."""

    PAGERANK = auto()
    WEAK_COMPONENTS = auto()
    STRONG_COMPONENTS = auto()
    COMMUNITIES = auto()


def main() -> None:
    """The process: `JOB FOLDER SIZE`. Reads sources, targets and strengths from the folder, writes `result`.

    Ends with the process that started it, however that ends: its input ends then.
    """
    threading.Thread(target=_end_with_parent, daemon=True).start()
    job, folder, size = Job[sys.argv[1]], Path(sys.argv[2]), int(sys.argv[3])
    try:
        sources, targets, strengths = (
            np.load(folder / f"{name}.npy") for name in ("sources", "targets", "strengths")
        )
        np.save(folder / "result.npy", compute(job, size, sources, targets, strengths))
    except MemoryError:
        sys.exit(OUT_OF_MEMORY)


def _end_with_parent() -> None:
    # Not through `sys.stdin`: its buffer's lock, held here, would crash the interpreter at its end.
    while os.read(0, 1):
        pass
    os._exit(1)


def compute(
    job: Job,
    size: int,
    sources: NDArray[np.int32],
    targets: NDArray[np.int32],
    strengths: NDArray[np.float64],
) -> NDArray[np.float64]:
    """For PageRank the scores, else the number of each node's group, arbitrary but for equality; of shape (size,).

    `sources`, `targets`, `strengths` have shape (links,). Strengths are above 0; parallel links add up.
    """
    if job is Job.COMMUNITIES:
        return _communities(size, sources, targets, strengths)
    import rustworkx

    graph: PyDiGraph[int, Any] = rustworkx.PyDiGraph()
    graph.add_nodes_from(range(size))
    if job is Job.PAGERANK:
        for part in _chunks(len(sources)):
            columns = (sources[part].tolist(), targets[part].tolist(), strengths[part].tolist())
            graph.add_edges_from(list(zip(*columns, strict=True)))
        # rustworkx compares with the tolerance of one node.
        tolerance = PRECISION / max(1, size)
        scores = rustworkx.pagerank(graph, alpha=DAMPING, weight_fn=float, tol=tolerance, max_iter=MAX_ROUNDS)
        return np.fromiter((scores[node] for node in range(size)), np.float64, size)
    for part in _chunks(len(sources)):
        graph.add_edges_from_no_data(list(zip(sources[part].tolist(), targets[part].tolist(), strict=True)))
    if job is Job.STRONG_COMPONENTS:
        return _numbered(rustworkx.strongly_connected_components(graph), size)
    return _numbered(rustworkx.weakly_connected_components(graph), size)


def _chunks(count: int) -> Iterator[slice]:
    return (slice(start, start + CHUNK) for start in range(0, count, CHUNK))


def _numbered(groups: Iterable[Iterable[int]], size: int) -> NDArray[np.float64]:
    numbers = np.zeros(size)
    for number, group in enumerate(groups):
        numbers[list(group)] = number
    return numbers


def _communities(
    size: int, sources: NDArray[np.int32], targets: NDArray[np.int32], strengths: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Leiden communities of the undirected graph (Traag, Waltman & van Eck 2019), by modularity, seeded.

    The answer depends on the order of nodes, not on that of links. Self-links do not count.
    """
    numbers = np.arange(size, dtype=np.float64)
    joining = sources != targets
    if not joining.any():
        return numbers
    low = np.minimum(sources, targets)[joining].astype(np.int64)
    high = np.maximum(sources, targets)[joining]
    pairs, place = np.unique(low * size + high, return_inverse=True)
    totals = np.bincount(place, strengths[joining])
    shares = np.maximum(totals / totals.max(), LEAST_SHARE)
    found = _leiden(size, pairs // size, pairs % size, shares)
    # Beyond the numbers of the nodes that are groups of their own.
    numbers[np.fromiter(map(int, found), np.int64, len(found))] = size + np.fromiter(found.values(), np.int64)
    return numbers


def _leiden(
    size: int, low: NDArray[np.int64], high: NDArray[np.int64], shares: NDArray[np.float64]
) -> dict[str, int]:
    from graspologic_native import leiden

    names = [str(node) for node in range(size)]
    ends = ([names[node] for node in column.tolist()] for column in (low, high))
    _, found = leiden(
        edges=list(zip(*ends, shares.tolist(), strict=True)),
        starting_communities=None,
        resolution=1.0,
        randomness=0.001,
        iterations=1,
        use_modularity=True,
        seed=COMMUNITY_SEED,
        trials=1,
    )
    return found


if __name__ == "__main__":
    main()
