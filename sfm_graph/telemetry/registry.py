"""The metrics that a process has once, whatever is opened in it.

Stages and counters stand where the work is done, in services and adapters that know of no app. Two apps in one
process add to the same ones; what is an app's own (its requests, the gauges of its services) is in its registry.
Where `PROMETHEUS_MULTIPROC_DIR` is set before the first import, all of them are files that any worker can read.
"""

import os
from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, disable_created_metrics

# When each series began: a series more for each of them, which nothing here asks for.
disable_created_metrics()  # type: ignore[no-untyped-call]
PROCESS = CollectorRegistry()


def is_shared() -> bool:
    """Whether several workers write their metrics to one folder."""
    return "PROMETHEUS_MULTIPROC_DIR" in os.environ


def counter(name: str, text: str, label: str, values: Iterable[str]) -> "Bounded":
    """A counter of the process with one label that has only these values; all stand at 0 from the start."""
    return Bounded(Counter(name, text, (label,), registry=PROCESS), tuple(values))


def pair_counter(name: str, text: str, labels: tuple[str, str]) -> Counter:
    """A counter of the process with two labels; whoever counts bounds their values."""
    return Counter(name, text, labels, registry=PROCESS)


def plain_counter(name: str, text: str) -> Counter:
    """A counter of the process."""
    return Counter(name, text, registry=PROCESS)


def state(name: str, text: str) -> Gauge:
    """A gauge of the process that is 1 while something is the matter with one of its workers."""
    return Gauge(name, text, registry=PROCESS, multiprocess_mode="livemax")


class Bounded:
    """A counter whose label takes no other values than it was made with."""

    def __init__(self, metric: Counter, values: Sequence[str]) -> None:
        self._children = {value: metric.labels(value) for value in values}

    def add(self, value: str, count: float = 1) -> None:
        """Count; a value that was not foreseen counts as `other`, where there is such a one. Raises KeyError else."""
        child = self._children.get(value)
        (child if child is not None else self._children["other"]).inc(count)
