"""The state of opened services as gauges."""

import asyncio
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge

from sfm_graph.errors import DatabaseUnavailable, SfmError
from sfm_graph.services.registry import Services
from sfm_graph.telemetry.registry import is_shared

# Of psycopg_pool's names.
_POOL: Final = (
    "pool_min", "pool_max", "pool_size", "pool_available", "requests_waiting", "requests_num", "requests_queued",
    "requests_wait_ms", "requests_errors", "usage_ms", "connections_num", "connections_errors", "connections_lost",
    "returns_bad",
)  # fmt: skip
_OF_CACHE: Final = {
    "recall": ("hits", "misses", "refused", "damaged"),
    "vector": ("hits", "misses", "damaged"),
    "cache": ("failed", "skipped"),
}
# A scrape does not wait longer for a database that is away.
_LOOK_SECONDS: Final = 2.0
# Of one gauge, those that are gone among them where several workers show theirs.
MAX_SERIES: Final = 256
_PAGES: Final = Path("/proc/self/statm")


class Gauges:
    """What is read from the services when someone looks. `refresh` may run in several tasks."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        # The labels that each gauge shows.
        self._shown: dict[Gauge, set[tuple[str, ...]]] = {}
        self._pool = {name: self._sum(f"sfm_database_{name}", "Of the pool of connections") for name in _POOL}
        self._up = self._gauge("sfm_database_up", "1 while the database answers", mode="livemin")
        self._workers = self._sum("sfm_workers", "Processes that serve this port")
        self._resident = self._sum(
            "sfm_resident_bytes", "Memory of the processes, pages that they share counted in each"
        )
        self._hot_bytes = self._sum("sfm_hot_bytes", "Namespaces held in memory, in bytes", "structure")
        self._hot_budget = self._sum("sfm_hot_budget_bytes", "What they may take")
        self._hot = self._sum("sfm_hot_namespaces", "Namespaces held in memory", "structure")
        self._subscribers = self._sum("sfm_change_subscribers", "Readers that follow changes")
        self._problem = self._gauge(
            "sfm_problem", "1 while a background task cannot do its work", "part", mode="livemax"
        )
        self._lag = self._gauge(
            "sfm_relay_lag_seconds", "Age of the oldest change that is not on the bus yet", "shard", mode="livemax"
        )
        self._active = self._sum("sfm_relay_active", "1 where a process relays the shard", "shard")
        self._partitions = self._gauge("sfm_change_log_partitions", "Partitions of the change log", mode="livemax")
        self._pruned = self._gauge(
            "sfm_change_log_pruned_timestamp_seconds", "When changes were last dropped, 0: never", mode="livemax"
        )
        self._follower = self._gauge(
            "sfm_follower_idle_seconds", "Since a durable reader of the log stored its place; a live one does each "
            "minute", "follower", "shard", mode="livemin",
        )  # fmt: skip

        cache = Counter(
            "sfm_cache_events", "What became of looks into the cache, and of the cache", ("part", "outcome"),
            registry=registry,
        )  # fmt: skip
        self._cache = {
            (part, outcome): cache.labels(part, outcome)
            for part, outcomes in _OF_CACHE.items()
            for outcome in outcomes
        }
        self._counted = dict.fromkeys(self._cache, 0)

    async def refresh(self, services: Services) -> None:
        """Bring all up to date. What the database does not tell within 2 s stays as it was."""
        for name, gauge in self._pool.items():
            gauge.set(services.health.pool().get(name, 0))
        self._workers.set(1)
        self._resident.set(_resident_bytes())
        hot = services.namespaces.hot_bytes()
        self._show(self._hot_bytes, {(structure,): sum(sizes.values()) for structure, sizes in hot.items()})
        self._show(self._hot, {(structure,): len(sizes) for structure, sizes in hot.items()})
        self._hot_budget.set(services.settings.hot_budget_bytes)
        self._subscribers.set(services.changes.subscribers)
        relay = services.health.relay()
        self._show(self._lag, {(str(one.shard),): one.lag_seconds for one in relay})
        self._show(self._active, {(str(one.shard),): float(one.active) for one in relay})
        problems = {
            "maintenance": services.maintenance.problem,
            "changes": services.changes.problem,
            "relay": next((one.problem for one in relay if one.problem is not None), None),
        }
        self._show(self._problem, {(part,): float(problem is not None) for part, problem in problems.items()})
        self._count(services)
        await self._ask(services)

    def _count(self, services: Services) -> None:
        for part, counters in services.cache.counters.items() if services.cache is not None else ():
            for outcome, total in counters.items():
                if (part, outcome) in self._cache:
                    # Those of services that were opened anew begin at 0.
                    before = self._counted[part, outcome]
                    self._cache[part, outcome].inc(total - before if total >= before else total)
                    self._counted[part, outcome] = total

    async def _ask(self, services: Services) -> None:
        try:
            # Its own connection where the pool has none left: being busy is not being away.
            await services.health.ping()
            self._up.set(1)
            async with asyncio.timeout(_LOOK_SECONDS):
                log = await services.health.change_log()
        except DatabaseUnavailable:
            self._up.set(0)
            return
        except (SfmError, TimeoutError):
            return
        self._partitions.set(log.partitions)
        self._pruned.set(log.pruned_at.timestamp())
        now = time.time()
        self._show(
            self._follower,
            {(one.key.name, str(one.key.shard)): max(0.0, now - one.moved_at.timestamp()) for one in log.followers},
        )

    def _gauge(self, name: str, text: str, *labels: str, mode: str) -> Gauge:
        return Gauge(name, text, labels, registry=self._registry, multiprocess_mode=mode)  # type: ignore[arg-type]

    def _sum(self, name: str, text: str, *labels: str) -> Gauge:
        return self._gauge(name, text, *labels, mode="livesum")

    def _show(self, gauge: Gauge, values: Mapping[tuple[str, ...], float]) -> None:
        shown = self._shown.setdefault(gauge, set())
        for labels in shown - set(values):
            if is_shared():
                # The files of workers only grow: it stays there, and counts to the bound.
                gauge.labels(*labels).set(0)
            else:
                gauge.remove(*labels)
                shown.discard(labels)
        for labels, value in values.items():
            if labels in shown or len(shown) < MAX_SERIES:
                gauge.labels(*labels).set(value)
                shown.add(labels)


def _resident_bytes() -> int:
    """0 where the system does not tell."""
    try:
        return int(_PAGES.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, AttributeError):
        return 0
