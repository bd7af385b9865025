"""Prometheus metrics of one app: its requests, and the state of the services behind it.

With several workers a scrape reaches any one of them. Prometheus' client then keeps all numbers in files of
`PROMETHEUS_MULTIPROC_DIR`, and whoever is asked adds up what all workers wrote; gauges count for workers that live.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector

from sfm_graph.api.gauges import Gauges
from sfm_graph.services.registry import Services
from sfm_graph.services.tasks import ended
from sfm_graph.telemetry.registry import PROCESS, is_shared
from sfm_graph.telemetry.worker_files import page_of_all

# How old the gauges of other workers may be.
REFRESH_SECONDS: Final = 5.0
_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """The metrics of one app, in a registry of its own so that two apps may live in one process. What the process
    counts as a whole (`telemetry.registry.PROCESS`) is shown by each of them."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        if not is_shared():
            ProcessCollector(registry=self.registry)
        self.requests = Histogram(
            "sfm_http_request_duration_seconds",
            "From the head of a request to the end of its answer, by route template and class of status",
            ("method", "route", "status"),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.in_flight = Gauge(
            "sfm_http_requests_in_flight", "Requests under way, streams among them", registry=self.registry,
            multiprocess_mode="livesum",
        )  # fmt: skip
        self._gauges = Gauges(self.registry)
        self._services: Services | None = None

    @asynccontextmanager
    async def observing(self, services: Services) -> AsyncIterator[None]:
        """Show the gauges of opened services for as long as they are."""
        self._services = services
        # Alone, a process looks when it is asked.
        looking = asyncio.create_task(self._look(services), name="gauges") if is_shared() else None
        try:
            yield
        finally:
            self._services = None
            if looking is not None:
                await ended(looking)

    async def exposition(self) -> bytes:
        """Everything in Prometheus' text format; takes up to 2 s while the database is away, and 4 s
        while its connections are all in use."""
        if self._services is not None:
            await self._gauges.refresh(self._services)
        if not is_shared():
            return generate_latest(self.registry) + generate_latest(PROCESS)
        return await asyncio.to_thread(page_of_all, Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]))

    async def _look(self, services: Services) -> None:
        while True:
            await self._gauges.refresh(services)
            await asyncio.sleep(REFRESH_SECONDS)
