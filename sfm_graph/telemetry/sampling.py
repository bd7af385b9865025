"""Which requests of callers that trace are recorded; imported only where tracing is on."""

import random
from collections.abc import Sequence

from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    ParentBased,
    Sampler,
    SamplingResult,
    TraceIdRatioBased,
)
from opentelemetry.trace import Link, SpanKind
from opentelemetry.trace.span import TraceState
from opentelemetry.util.types import Attributes


def sampler_of(ratio: float) -> Sampler:
    """`ratio` of the traces that begin here, and of the requests whose callers record theirs.

    What a caller does not record, and what is below a span of the process, goes by that. What comes from the bus goes
    by the request that wrote it.
    """
    return ParentBased(TraceIdRatioBased(ratio), remote_parent_sampled=_OfCallers(ratio))


class _OfCallers(Sampler):
    """Of what is above in another process, and recorded there."""

    def __init__(self, ratio: float) -> None:
        self._ratio = ratio

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        # Drawn, not by the trace's id: the caller chooses that too, and nobody knows yet who it is.
        follows = kind is not SpanKind.SERVER or random.random() < self._ratio  # noqa: S311 - not a secret
        chosen = ALWAYS_ON if follows else ALWAYS_OFF
        return chosen.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)

    def get_description(self) -> str:
        return f"OfCallers{{{self._ratio}}}"
