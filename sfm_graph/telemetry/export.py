"""Where spans go: to a collector by OTLP over HTTP, from a thread beside the event loop."""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from sfm_graph.settings import Settings
from sfm_graph.telemetry import tracing

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

# What the end of the process waits for the last spans; a collector that is away costs no more.
FLUSH_SECONDS: Final = 3.0
# Of one request to the collector. What does not arrive is dropped, never kept at the cost of the service.
_EXPORT_SECONDS: Final = 5.0
_QUEUED_SPANS: Final = 8_192
_SAID_AGAIN_SECONDS: Final = 300.0


@asynccontextmanager
async def tracing_to_collector(
    settings: Settings, service: str, *, exporter: "SpanExporter | None" = None
) -> AsyncIterator[None]:
    """Make spans while the block runs, where `otlp_endpoint` says where to send them; else do nothing.

    The last ones are sent at the end, for up to 3 s. `service`: what the process is called there. `exporter` takes
    the spans at once instead, for tests. A second one in a process, while the first is open, does nothing.
    """
    if tracing.is_on() or (settings.otlp_endpoint is None and exporter is None):
        yield
        return
    provider = _provider(settings, service, exporter)
    from sfm_graph.telemetry.spans import Spans

    tracing.use(Spans(provider.get_tracer("sfm_graph")))
    try:
        yield
    finally:
        tracing.use(None)
        await _flushed(provider)


def _provider(settings: Settings, service: str, exporter: "SpanExporter | None") -> "TracerProvider":
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor

    from sfm_graph.telemetry.sampling import sampler_of

    provider = TracerProvider(
        sampler=sampler_of(settings.trace_sample_ratio),
        resource=Resource.create({"service.name": service}),
        shutdown_on_exit=False,
    )
    if exporter is not None:
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        return provider
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    _quieten()
    endpoint = (settings.otlp_endpoint or "").rstrip("/")
    if not endpoint.endswith("/v1/traces"):
        endpoint += "/v1/traces"
    sender = OTLPSpanExporter(endpoint, timeout=_EXPORT_SECONDS)
    provider.add_span_processor(BatchSpanProcessor(sender, max_queue_size=_QUEUED_SPANS, schedule_delay_millis=1_000))
    return provider


async def _flushed(provider: "TracerProvider") -> None:
    # The exporter's own waits are longer than a process should take to end; a daemon's thread ends with it.
    ending = threading.Thread(target=provider.shutdown, name="last spans", daemon=True)
    ending.start()
    await asyncio.to_thread(ending.join, FLUSH_SECONDS)


class _SaidOnce(logging.Filter):
    """Lets one message of a logger through in five minutes: a collector that is away is worth no more lines."""

    def __init__(self) -> None:
        super().__init__()
        self._until = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        now = time.monotonic()
        if now < self._until:
            return False
        self._until = now + _SAID_AGAIN_SECONDS
        record.exc_info = None
        return True


def _quieten() -> None:
    once = _SaidOnce()
    for name in (
        "opentelemetry.exporter.otlp.proto.http.trace_exporter",
        "opentelemetry.sdk._shared_internal",
        "opentelemetry.sdk.trace.export",
    ):
        logger = logging.getLogger(name)
        if not any(isinstance(one, _SaidOnce) for one in logger.filters):
            logger.addFilter(once)
    # Each attempt to connect is a warning of its own there.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
