"""Several server processes on one listening socket, looked after by their parent."""

import asyncio
import logging
import os
import socket
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from sfm_graph.api.serving import refuse_connections
from sfm_graph.cli.serving import STOPS
from sfm_graph.cli.worker import READY, packed
from sfm_graph.store.embedded import embedded_postgres
from sfm_graph.telemetry.worker_files import fold, metrics_folder

if TYPE_CHECKING:
    from sfm_graph.settings import Settings

log = logging.getLogger(__name__)

# One that dies is started again after this, each time twice as long, unless it lived for a while.
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
STEADY_SECONDS = 60.0
# For a worker's own end beyond the time that requests have.
MARGIN_SECONDS = 15.0


async def supervise(settings: "Settings", listener: socket.socket, ready: Callable[[bool], None]) -> int:
    """Run `settings.workers` workers until SIGINT or SIGTERM, and wait for their ends; the exit code.

    1 when they cannot start, which they have explained on stderr. `ready` is called once all of them answer, with
    whether the database holds an API key. Closes the listener. Raises DatabaseUnavailable.
    """
    stop = asyncio.Event()
    for one in STOPS:
        asyncio.get_running_loop().add_signal_handler(one, stop.set)
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(metrics_folder())
        if settings.postgres_url is None:
            # Held here, it stays when workers come and go.
            await stack.enter_async_context(embedded_postgres(settings.data_dir))
        return await _Workers(settings, listener, folder, stop).run(ready)


class _Workers:
    def __init__(self, settings: "Settings", listener: socket.socket, folder: Path, stop: asyncio.Event) -> None:
        self._settings = settings
        self._listener = listener
        self._environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)}
        self._folder = folder
        # Whose metrics are not added up yet.
        self._gone: set[int] = set()
        self._stop = stop
        self._with_keys = False
        self._running: set[Process] = set()

    async def run(self, ready: Callable[[bool], None]) -> int:
        stopping = asyncio.create_task(self._stop.wait())
        serving = asyncio.create_task(self._serve(ready))
        try:
            await asyncio.wait({stopping, serving}, return_when=asyncio.FIRST_COMPLETED)
            if self._stop.is_set():
                log.info("stopping %d workers", len(self._running))
            # Only a failed start ends it.
            failed = serving.done() and not self._stop.is_set()
        finally:
            stopping.cancel()
            serving.cancel()
            await asyncio.wait({stopping, serving})
            await self._end()
        if failed:
            serving.result()
        return 1 if failed else 0

    async def _serve(self, ready: Callable[[bool], None]) -> None:
        """Ends when the first start fails; else goes on."""
        # The first one brings the database to this version; the others find it so.
        first = await self._started()
        if first is None:
            return
        others = await asyncio.gather(*(self._started() for _ in range(self._settings.workers - 1)))
        workers = [first, *(one for one in others if one is not None)]
        if len(workers) < self._settings.workers:
            return
        ready(self._with_keys)
        async with asyncio.TaskGroup() as group:
            for one in workers:
                group.create_task(self._keep(one))

    async def _started(self) -> Process | None:
        """A worker that answers, None: it ended before."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "sfm_graph.cli.worker", str(self._listener.fileno()),
            stdin=PIPE, stdout=PIPE, pass_fds=(self._listener.fileno(),), env=self._environment,
        )  # fmt: skip
        self._running.add(process)
        keys = await _answers(process, packed(self._settings))
        if keys is not None:
            self._with_keys = keys
            log.info("worker %d answers", process.pid)
            return process
        await self._ended(process)
        return None

    async def _keep(self, process: Process | None) -> None:
        """Start a worker again whenever it ends."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            began = time.monotonic()
            if process is not None:
                code = await self._ended(process)
                log.error("worker %d ended with code %d, and is started again", process.pid, code)
            if time.monotonic() - began > STEADY_SECONDS:
                pause = FIRST_PAUSE_SECONDS
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            process = await self._started()
            if process is None:
                log.error("a worker could not start, and is tried again in %.1f s", pause)

    async def _ended(self, process: Process) -> int:
        code = await process.wait()
        self._running.discard(process)
        self._gone.add(process.pid)
        # One that was held up is tried again when the next one ends.
        for pid in self._gone - {one.pid for one in self._running}:
            if await asyncio.to_thread(fold, self._folder, pid):
                self._gone.discard(pid)
        return code

    async def _end(self) -> None:
        """Tell all to stop. New connections are refused while workers still take those that wait."""
        for process in self._running:
            with suppress(ProcessLookupError):
                process.terminate()
        ends = [asyncio.create_task(process.wait()) for process in self._running]
        drain = self._settings.drain_seconds
        if ends and drain:
            await asyncio.wait(ends, timeout=drain)
        refuse_connections(self._listener)
        self._listener.close()
        if ends:
            await asyncio.wait(ends, timeout=self._settings.graceful_timeout_seconds + MARGIN_SECONDS)
        for process in self._running:
            if process.returncode is None:
                log.error("worker %d does not end, and is killed", process.pid)
                process.kill()
        await asyncio.gather(*ends)


async def _answers(process: Process, settings: bytes) -> bool | None:
    """Whether the database holds an API key, once the worker answers; None: it ended before."""
    if process.stdin is None or process.stdout is None:
        return None
    with suppress(ConnectionError):
        process.stdin.write(settings)
        await process.stdin.drain()
    return READY.get(await process.stdout.readline())
