"""Rankings that need every link of a namespace: PageRank without seeds, components, communities, degrees.

What holds the interpreter's lock for long runs in a process of its own, one at a time. It costs 0.3 s to start, and
unlike multiprocessing's pools never runs the caller's script a second time.
"""

import asyncio
import logging
import subprocess
import sys
import threading
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from sfm_graph.domain.walk import RankBy
from sfm_graph.errors import InvalidInput, Overloaded, Unavailable, WalkTooLarge
from sfm_graph.hot.graph.columns import Arcs, arcs
from sfm_graph.hot.graph.graph import HotGraph
from sfm_graph.hot.graph.lens import Lens
from sfm_graph.hot.walks import whole
from sfm_graph.hot.walks.pagerank import Ranked, best_ranked
from sfm_graph.hot.walks.whole import Job, compute

log = logging.getLogger(__name__)

# Steps that are computed in this process: 10 ms, of which the event loop waits 5.
SMALL = 5_000
_JOBS = {
    RankBy.PAGERANK: Job.PAGERANK,
    RankBy.WEAK_COMPONENTS: Job.WEAK_COMPONENTS,
    RankBy.STRONG_COMPONENTS: Job.STRONG_COMPONENTS,
    RankBy.COMMUNITIES: Job.COMMUNITIES,
}


class WholeGraph:
    """Ranks the memories that have a link. One process runs at a time; `aclose` ends it."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._counting = asyncio.Lock()
        self._worker: Worker | None = None
        self._closed = False

    async def rank(self, graph: HotGraph, lens: Lens, by: RankBy, *, limit: int, seconds: float) -> Ranked:
        """The `limit` (from 1) first memories by falling score, ties by id; `truncated`: there are more.

        Components and communities: groups by falling size, ties by the smallest id in them, members by id; the score
        is the size of the group; the lens's direction plays no part in them. DEGREE counts parallel links.
        Raises WalkTooLarge after `seconds`, Overloaded when other jobs took them, Unavailable when the process died.
        """
        if by is not RankBy.DEGREE and by not in _JOBS:
            raise InvalidInput(f"ranking by {by} needs seeds")
        if by is RankBy.COMMUNITIES and find_spec("graspologic_native") is None:
            raise Unavailable("communities need graspologic-native, which has no release for this Python")
        started = by is RankBy.DEGREE or graph.link_count <= SMALL
        try:
            async with asyncio.timeout(seconds):
                if by is RankBy.DEGREE:
                    async with self._counting:
                        return await asyncio.to_thread(_by_degree, graph, lens, limit)
                if graph.link_count <= SMALL:
                    return await asyncio.to_thread(_ranked, graph, lens, by, limit, None)
                async with self._turn:
                    started = True
                    return await self._in_turn(graph, lens, by, limit)
        except TimeoutError as error:
            if not started:
                raise Overloaded("other rankings of whole namespaces took all the time; try again") from error
            raise WalkTooLarge("the ranking ran out of time; narrow types or where") from error

    async def aclose(self) -> None:
        """End the running job."""
        self._closed = True
        if self._worker is not None:
            self._worker.kill()
        async with self._turn:
            pass

    async def _in_turn(self, graph: HotGraph, lens: Lens, by: RankBy, limit: int) -> Ranked:
        """Run a job in a process. Cancelled, it kills the process and waits until it is gone."""
        if self._closed:
            raise Unavailable("the service is closing")
        worker = self._worker = Worker()
        job = asyncio.create_task(asyncio.to_thread(_ranked, graph, lens, by, limit, worker))
        try:
            return await asyncio.shield(job)
        except asyncio.CancelledError:
            worker.kill()
            await asyncio.wait([job])
            job.exception()  # Nobody else asks for it.
            raise
        finally:
            self._worker = None


class Worker:
    """A process for one job. `compute` blocks; `kill` may be called from any thread, also before."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._killed = False
        self._process: subprocess.Popen[bytes] | None = None

    def kill(self) -> None:
        """Nobody waits for the job any more."""
        with self._lock:
            self._killed = True
            if self._process is not None:
                self._process.kill()

    def compute(self, job: Job, columns: Arcs) -> NDArray[np.float64]:
        """As `whole.compute`. Raises Unavailable when the process died or cannot run, WalkTooLarge without memory."""
        try:
            with TemporaryDirectory(prefix="sfm-graph-") as folder:
                np.save(Path(folder) / "sources.npy", columns.sources)
                np.save(Path(folder) / "targets.npy", columns.targets)
                np.save(Path(folder) / "strengths.npy", _strengths(columns))
                self._run(job, folder, columns.size)
                values: NDArray[np.float64] = np.load(Path(folder) / "result.npy")
                return values
        except OSError as error:
            raise Unavailable(f"no process can be started to rank the whole namespace: {error}") from error

    def _run(self, job: Job, folder: str, size: int) -> None:
        # -P: nothing is imported from the folder that the service happens to run in.
        command = [sys.executable, "-P", "-m", whole.__name__, job.name, folder, str(size)]
        with (Path(folder) / "errors.txt").open("wb") as errors:
            with self._lock:
                if self._killed:
                    raise Unavailable("the ranking was abandoned")
                # Its own session: Ctrl-C is for the parent, whose end it sees by the end of its input.
                self._process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True
                )
            with self._process:
                code = self._process.wait()
        if code == whole.OUT_OF_MEMORY:
            raise WalkTooLarge("the namespace is too large to be ranked; narrow types or where")
        if code:
            log.error("a ranking ended with %s: %s", code, (Path(folder) / "errors.txt").read_text()[-2_000:])
            raise Unavailable("the process that ranks the whole namespace ended early; try again")


def _by_degree(graph: HotGraph, lens: Lens, limit: int) -> Ranked:
    columns = arcs(graph, lens)
    degrees = np.bincount(columns.sources, minlength=columns.size).astype(np.float64)
    return best_ranked(columns, np.arange(columns.size), degrees, limit)


def _ranked(graph: HotGraph, lens: Lens, by: RankBy, limit: int, worker: Worker | None) -> Ranked:
    """Few steps are computed here, more in a process."""
    job = _JOBS[by]
    columns = arcs(graph, lens if job is Job.PAGERANK else lens.outwards())
    if worker is None or len(columns) <= SMALL:
        values = compute(job, columns.size, columns.sources, columns.targets, _strengths(columns))
    else:
        values = worker.compute(job, columns)
    if job is Job.PAGERANK:
        return best_ranked(columns, np.arange(columns.size), values, limit)
    return _grouped(columns, values, limit)


def _strengths(columns: Arcs) -> NDArray[np.float64]:
    return 1 / (1 + columns.weights)


def _grouped(columns: Arcs, values: NDArray[np.float64], limit: int) -> Ranked:
    _, firsts, group, sizes = np.unique(values, return_index=True, return_inverse=True, return_counts=True)
    number = np.empty(len(sizes), np.int64)
    number[np.lexsort((firsts, -sizes))] = np.arange(len(sizes))
    groups = number[group]
    order = np.argsort(groups, kind="stable")[:limit]
    return Ranked(
        columns.memories[order], sizes[group[order]].astype(np.float64), len(groups) > limit, groups=groups[order]
    )
