"""How long the steps of the service's work take: a histogram for each, and a span where the request is traced.

with stage("recall.dense"):
    ...
"""

from time import perf_counter
from types import TracebackType
from typing import Final

from prometheus_client import Histogram

from sfm_graph.telemetry import tracing
from sfm_graph.telemetry.registry import PROCESS

# All there are: the label is bounded by this list.
STAGES: Final = (
    "recall.embed", "recall.load", "recall.dense", "recall.lexical", "recall.graph", "recall.fuse", "recall.rerank",
    "recall.fetch",
    "walk.load", "walk.search", "walk.fetch",
    "write.prepare", "write.transaction",
    "hot.load", "hot.delta", "hot.past",
    "pool.wait",
    "relay.publish", "subscriber.deliver",
)  # fmt: skip
_SECONDS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0,
)  # fmt: skip
_HISTOGRAM = Histogram(
    "sfm_stage_duration_seconds", "Of one step of the service's work", ("stage",), buckets=_SECONDS, registry=PROCESS
)
_OBSERVERS = {name: _HISTOGRAM.labels(name).observe for name in STAGES}


class Stage:
    """One run of a stage; see `stage`."""

    __slots__ = ("_began", "_name", "_observe", "_span")

    def __init__(self, name: str) -> None:
        self._name = name
        self._observe = _OBSERVERS[name]
        self._span: tracing.Span | None = None

    def __enter__(self) -> None:
        if tracing.is_on():
            self._span = tracing.inner(self._name)
            self._span.__enter__()
        self._began = perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._observe(perf_counter() - self._began)
        if self._span is not None:
            self._span.__exit__(kind, error, trace)


def stage(name: str) -> Stage:
    """Time a block as one of `STAGES`; one that raises counts too. Not around a `yield`. Raises KeyError.

    1.5 us without tracing, in threads too.
    """
    return Stage(name)


def observe(name: str, seconds: float) -> None:
    """Record a stage that was timed elsewhere; without a span. Raises KeyError."""
    _OBSERVERS[name](seconds)
