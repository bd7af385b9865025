"""Spans by OpenTelemetry's API; imported only where tracing is on."""

from collections.abc import Mapping, Sequence
from contextvars import Token
from types import TracebackType
from typing import Final

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, SpanKind, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from sfm_graph.errors import SfmError
from sfm_graph.telemetry.tracing import Value

_KINDS: Final = {kind.name.lower(): kind for kind in SpanKind}
_PROPAGATOR: Final = TraceContextTextMapPropagator()
_OWN_FAULT = 500


class Spans:
    """Makes spans."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def span(
        self,
        name: str,
        kind: str,
        attributes: Mapping[str, Value] | None,
        parent: str | None,
        links: Sequence[str],
    ) -> "OpenSpan":
        """See `tracing.span`."""
        above = _context_of(parent) if parent is not None else None
        joined = [Link(trace.get_current_span(_context_of(one)).get_span_context()) for one in links]
        return OpenSpan(self._tracer, name, _KINDS[kind], attributes, above, joined)

    def inner(self, name: str, kind: str, attributes: Mapping[str, Value] | None) -> "OpenSpan | None":
        """See `tracing.inner`."""
        if not trace.get_current_span().is_recording():
            return None
        return OpenSpan(self._tracer, name, _KINDS[kind], attributes, None, ())

    def traceparent(self) -> str | None:
        """See `tracing.traceparent`."""
        found = trace.get_current_span().get_span_context()
        if not found.is_valid or not found.trace_flags.sampled:
            return None
        return f"00-{found.trace_id:032x}-{found.span_id:016x}-{found.trace_flags:02x}"

    def ids(self) -> tuple[str, str] | None:
        """See `tracing.ids`."""
        found = trace.get_current_span().get_span_context()
        return (f"{found.trace_id:032x}", f"{found.span_id:016x}") if found.is_valid else None


class OpenSpan:
    """One span, current while its block runs."""

    __slots__ = ("_above", "_attributes", "_kind", "_links", "_name", "_span", "_token", "_tracer")

    def __init__(
        self,
        tracer: Tracer,
        name: str,
        kind: SpanKind,
        attributes: Mapping[str, Value] | None,
        above: Context | None,
        links: Sequence[Link],
    ) -> None:
        self._tracer, self._name, self._kind, self._attributes = tracer, name, kind, attributes
        self._above, self._links = above, links
        self._span: trace.Span = trace.INVALID_SPAN
        self._token: Token[Context] | None = None

    def __enter__(self) -> "OpenSpan":
        self._span = self._tracer.start_span(
            self._name, self._above, self._kind, self._attributes, self._links,
            record_exception=False, set_status_on_exception=False,
        )  # fmt: skip
        self._token = contexts.attach(trace.set_span_in_context(self._span))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace_: TracebackType | None
    ) -> None:
        if self._token is not None:
            contexts.detach(self._token)
        if isinstance(error, SfmError):
            if error.http_status >= _OWN_FAULT:
                self.failed(error.code)
        elif error is not None:
            # Not what it says: a driver's message may hold the values of a row.
            self.failed(type(error).__name__)
        self._span.end()

    def name(self, name: str) -> None:
        """See `tracing.Span`."""
        self._span.update_name(name)

    def note(self, key: str, value: Value) -> None:
        """See `tracing.Span`."""
        self._span.set_attribute(key, value)

    def failed(self, code: str) -> None:
        """See `tracing.Span`."""
        self._span.set_attribute("error.type", code)
        self._span.set_status(StatusCode.ERROR)


def _context_of(traceparent: str) -> Context:
    """The context that a caller elsewhere gives; an empty one for what is no `traceparent`."""
    return _PROPAGATOR.extract({"traceparent": traceparent}, Context())
