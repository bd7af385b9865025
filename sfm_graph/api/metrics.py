"""Prometheus metrics: requests by route, the database pool, memory kept hot."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sfm_graph.services.registry import Services

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60)


class Metrics:
    """The metrics of one app, in a registry of its own so that two apps may live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Histogram(
            "sfm_http_request_duration_seconds",
            "From the head of a request to the end of its answer, by route template and class of status",
            ("method", "route", "status"),
            buckets=_SECONDS,
            registry=self.registry,
        )

    @contextmanager
    def observing(self, services: Services) -> Iterator[None]:
        """Show the gauges of opened services for as long as they are."""
        gauges = _Gauges(services)
        self.registry.register(gauges)
        try:
            yield
        finally:
            self.registry.unregister(gauges)


class MeteredApp:
    """ASGI middleware that times each HTTP request."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and record how long its answer took; one that raises counts as 5xx.

        Streams of events are left out: they last as long as their readers stay.
        """
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, streams = 500, False
        started = time.perf_counter()

        async def noted(message: Message) -> None:
            nonlocal status, streams
            if message["type"] == "http.response.start":
                status = message["status"]
                streams = any(value.startswith(b"text/event-stream") for _, value in message.get("headers", ()))
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            if not streams:
                labels = (_method(scope["method"]), _route(scope), f"{status // 100}xx")
                self._metrics.requests.labels(*labels).observe(time.perf_counter() - started)


class _Gauges(Collector):
    def __init__(self, services: Services) -> None:
        self._services = services

    def collect(self) -> Iterable[GaugeMetricFamily]:
        for name, value in self._services.health.pool().items():
            yield GaugeMetricFamily(f"sfm_database_{name}", "Of the pool of database connections", value)
        held = GaugeMetricFamily("sfm_hot_bytes", "Namespaces held in memory, in bytes", labels=["structure"])
        count = GaugeMetricFamily("sfm_hot_namespaces", "Namespaces held in memory", labels=["structure"])
        for structure, sizes in self._services.namespaces.hot_bytes().items():
            held.add_metric([structure], sum(sizes.values()))
            count.add_metric([structure], len(sizes))
        yield held
        yield count
        subscribers = self._services.changes.subscribers
        yield GaugeMetricFamily("sfm_change_subscribers", "Readers that follow changes in this process", subscribers)
        lag = GaugeMetricFamily(
            "sfm_relay_lag_seconds", "Age of the oldest change that is not on the bus yet", labels=["shard"]
        )
        for shard in self._services.health.relay():
            if shard.active or shard.problem is not None:
                lag.add_metric([str(shard.shard)], shard.lag_seconds)
        yield lag

    def describe(self) -> Iterable[GaugeMetricFamily]:
        return ()


def _method(method: str) -> str:
    # Names come from outside: an unbounded label would let a caller fill the registry.
    return method if method in _METHODS else "other"


def _route(scope: Scope) -> str:
    return str(getattr(scope.get("route"), "path", "unmatched"))
