"""Traces across a bus: from what was written to whoever handles its event."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Final

from sfm_graph.telemetry import tracing
from sfm_graph.telemetry.tracing import Span, Value

# The CloudEvents extension for distributed tracing; on a bus the header is `ce_traceparent`.
ATTRIBUTE: Final = "traceparent"
# Of one batch: what a span is linked to, and how many traces see the batch.
MAX_TRACES: Final = 64


def publishing(bus: str, traces: Iterable[str | None], count: int) -> Span:
    """The span of a batch on its way to a bus, linked to the requests that wrote it."""
    if not tracing.is_on():
        return tracing.span("")
    attributes: dict[str, Value] = {
        "messaging.system": bus, "messaging.operation.name": "publish", "messaging.batch.message_count": count,
    }  # fmt: skip
    return tracing.span(f"publish {bus}", "producer", attributes=attributes, links=distinct(traces))


@contextmanager
def handling(consumer: str, topic: str, traces: Sequence[str | None]) -> Iterator[None]:
    """Around the handling of events: in the trace of the request that wrote them.

    Of events of several requests the first one's trace holds what the handler does; each other one gets a span of its
    own that is linked to it.
    """
    found = distinct(traces)
    if not tracing.is_on():
        yield
        return
    attributes: dict[str, Value] = {
        "messaging.consumer.group.name": consumer, "messaging.destination.name": topic,
        "messaging.operation.name": "process", "messaging.batch.message_count": len(traces),
    }  # fmt: skip
    name = f"process {topic}"
    parent = found[0] if found else None
    with ExitStack() as stack:
        for other in found[1:]:
            stack.enter_context(tracing.span(name, "consumer", attributes=attributes, parent=other, links=found[:1]))
        stack.enter_context(tracing.span(name, "consumer", attributes=attributes, parent=parent, links=found[1:]))
        yield


def distinct(traces: Iterable[str | None]) -> list[str]:
    """The `traceparent`s among these, each once, the first 64."""
    found = dict.fromkeys(one for one in traces if one is not None and tracing.is_traceparent(one))
    return list(found)[:MAX_TRACES]
