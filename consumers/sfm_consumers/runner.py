"""Runs a consumer on a source: one task for each partition, and an orderly end."""

import asyncio
import logging
from collections.abc import Collection, Iterable, Sequence
from functools import partial
from typing import Any

from sfm_consumers.handling import Handling, Means
from sfm_consumers.source import Claim, Lost, Message, Source
from sfm_consumers.waiting import Abandoned, Waiting
from sfm_graph.errors import SfmError

log = logging.getLogger(__name__)
_LAG_SECONDS = 5.0
# For workers that were cancelled, and for a source to leave its group.
_END_SECONDS = 5.0
_LEAVE_SECONDS = 30.0


class Runner:
    """Handles what the claimed partitions bring until it is told to stop; a Listener of its source."""

    def __init__(self, source: Source, means: Means) -> None:
        self._source = source
        self._means = means
        self._workers: dict[Claim, _Worker] = {}
        self._draining = False
        self._defect: asyncio.Future[None] | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Returns after `stop` is set and what was in hand is finished or, at its deadline, abandoned.

        A defect of the runner or a source is raised: a process that cannot do its work has to end.
        """
        self._means.watch.begin(self._means.consumer.topics)
        self._defect = asyncio.get_running_loop().create_future()
        reading = asyncio.create_task(self._source.run(self))
        stopping = asyncio.create_task(stop.wait())
        counting = asyncio.create_task(self._count_lag())
        try:
            ends: list[asyncio.Future[Any]] = [reading, stopping, counting, self._defect]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            self._draining = True
            await self._end(self._workers)
        finally:
            self._draining = True
            failures = [task for task in (reading, counting) if task.done()]
            await _cancel([reading, stopping, counting, *(worker.task for worker in self._workers.values())])
        for ended in (*failures, self._defect):
            if ended.done():
                ended.result()

    def gained(self, claim: Claim) -> None:
        """As Listener says."""
        if self._draining:
            return
        worker = _Worker(claim, self._means)
        self._workers[claim] = worker
        worker.task.add_done_callback(lambda task: self._ended(worker, claim, task))

    async def lost(self, claims: Collection[Claim]) -> None:
        """As Listener says."""
        await self._end([claim for claim in claims if claim in self._workers])

    def reachable(self, trouble: str | None) -> None:
        """As Listener says."""
        self._means.watch.trouble("source", trouble)

    async def _end(self, claims: Iterable[Claim]) -> None:
        workers = [self._workers[claim] for claim in tuple(claims)]
        for worker in workers:
            worker.stop()
        tasks = [worker.task for worker in workers]
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=self._means.patience.finish_seconds)
        for task in late:
            task.cancel()
        if late:
            log.warning("%d batches abandoned at their deadline", len(late))
            await asyncio.wait(late, timeout=_END_SECONDS)

    def _ended(self, worker: "_Worker", claim: Claim, task: asyncio.Task[None]) -> None:
        del self._workers[claim]
        self._means.watch.gone(claim)
        error = None if task.cancelled() else task.exception()
        if task.cancelled() and not (self._draining or worker.stopping):
            error = RuntimeError(f"{claim.topic}/{claim.partition}: cancelled by nobody")
        if error is not None and self._defect is not None and not self._defect.done():
            self._defect.set_exception(error)

    async def _count_lag(self) -> None:
        while True:
            for claim in tuple(self._workers):
                try:
                    self._means.watch.lag(claim, await claim.lag())
                except (Lost, SfmError) as error:
                    log.debug("no lag of %s/%d: %s", claim.topic, claim.partition, error)
                if claim not in self._workers:
                    self._means.watch.gone(claim)
            await asyncio.sleep(_LAG_SECONDS)


class _Worker:
    """The task that works one partition."""

    def __init__(self, claim: Claim, means: Means) -> None:
        self._claim = claim
        self._stop = asyncio.Event()
        self._waiting = Waiting(
            f"{claim.topic}/{claim.partition}", means.watch, means.patience, self._stop, topic=claim.topic
        )
        self._handling = Handling(means, claim.topic, self._waiting)
        self._fetching = False
        self.task = asyncio.create_task(self._work(), name=f"{claim.topic}/{claim.partition}")

    @property
    def stopping(self) -> bool:
        """Whether it was told to end."""
        return self._stop.is_set()

    def stop(self) -> None:
        """End after the batch in hand."""
        self._stop.set()
        if self._fetching:
            self.task.cancel()

    async def _work(self) -> None:
        try:
            while not self._stop.is_set():
                messages = await self._waiting.persist("source", self._fetch)
                if messages:
                    await self._handling.handle(messages)
                    position = messages[-1].position
                    await self._waiting.persist("commit", partial(self._claim.commit, position))
        except (Lost, Abandoned) as error:
            log.info("%s/%d: %s", self._claim.topic, self._claim.partition, error)
        finally:
            self._waiting.end()

    async def _fetch(self) -> Sequence[Message]:
        self._fetching = True
        try:
            return await self._claim.fetch()
        finally:
            self._fetching = False


async def _cancel(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Returns when all have ended; what they raise is theirs."""
    running = {task for task in tasks if not task.done()}
    while running:
        for task in running:
            task.cancel()
        # On Python 3.11 `asyncio.wait_for`, which drivers use, at times swallows a cancellation.
        _, running = await asyncio.wait(running, timeout=_LEAVE_SECONDS)
    for task in tasks:
        if not task.cancelled() and task.exception() is not None:
            log.debug("ended by %r", task.exception())
