"""Spans, where tracing is on. While it is off nothing of OpenTelemetry is imported and a span costs 0.1 us.

What goes into a span: names of routes, stages, statements and operations. Never values, documents or messages of
errors, which may repeat what a caller sent.
"""

import re
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from sfm_graph.telemetry.spans import Spans

_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
Value = str | int | float | bool


class Span(Protocol):
    """A context manager around what it stands for; not around a `yield`."""

    def __enter__(self) -> "Span": ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def name(self, name: str) -> None:
        """Call it otherwise than at its begin."""

    def note(self, key: str, value: Value) -> None:
        """Add an attribute."""

    def failed(self, code: str) -> None:
        """It stands for something that went wrong."""


class _NoSpan:
    __slots__ = ()

    def __enter__(self) -> "_NoSpan":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def name(self, name: str) -> None:
        pass

    def note(self, key: str, value: Value) -> None:
        pass

    def failed(self, code: str) -> None:
        pass


NO_SPAN: Final = _NoSpan()
_spans: "Spans | None" = None


def is_on() -> bool:
    """Whether spans are made in this process."""
    return _spans is not None


def use(spans: "Spans | None") -> None:
    """Make spans from now on, or none any more."""
    global _spans
    _spans = spans


def span(
    name: str,
    kind: str = "internal",
    *,
    attributes: Mapping[str, Value] | None = None,
    parent: str | None = None,
    links: Sequence[str] = (),
) -> Span:
    """A span below the current one, or below `parent` where a caller elsewhere is: its `traceparent`.

    `kind`: internal, server, client, producer or consumer. `links`: the `traceparent`s of what it has to do with.
    """
    if _spans is None:
        return NO_SPAN
    return _spans.span(name, kind, attributes, parent, links)


def inner(name: str, kind: str = "internal", attributes: Mapping[str, Value] | None = None) -> Span:
    """As `span`, below a span that is recorded; nothing elsewhere: what runs in the background has no trace."""
    return NO_SPAN if _spans is None else _spans.inner(name, kind, attributes) or NO_SPAN


def traceparent() -> str | None:
    """The current span as a W3C `traceparent`, to be sent along; None where there is none, or it is not recorded."""
    return None if _spans is None else _spans.traceparent()


def ids() -> tuple[str, str] | None:
    """Trace id and span id of the current span in hexadecimal digits, for logs."""
    return None if _spans is None else _spans.ids()


def headers() -> dict[str, str]:
    """The headers of a request to another service that carry the trace on."""
    found = traceparent()
    return {} if found is None else {"traceparent": found}


def is_traceparent(text: str | None) -> bool:
    """Whether a text from elsewhere is a `traceparent` of the version that is known."""
    return text is not None and _TRACEPARENT.fullmatch(text) is not None
