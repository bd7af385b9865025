"""The log of a process: one handler for its own lines and those of libraries, as text or as JSON, without secrets."""

import logging
import sys
from datetime import UTC, datetime
from typing import Final, TextIO

import orjson

from sfm_graph.settings import LogFormat
from sfm_graph.telemetry import request_ids, tracing
from sfm_graph.telemetry.masking import mask

_LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
# Below `debug` these tell of each connection or request: what the service has lines of its own for, or the URL of a
# webhook, which is a secret at times.
_QUIET: Final = ("uvicorn", "httpx", "httpcore", "aiokafka", "urllib3", "asyncio", "opentelemetry")
MAX_MESSAGE_CHARS: Final = 20_000


def start_logging(log_format: LogFormat, level: str, *, stream: TextIO | None = None) -> None:
    """Let every logger of the process write to `stream` (stderr), and no other handler.

    Each line of a request carries `request_id`, and `trace_id` and `span_id` where it is traced.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.addFilter(_with_ids)
    handler.setFormatter(JsonLines() if log_format is LogFormat.JSON else TextLines())
    root = logging.getLogger()
    for one in root.handlers[:]:
        root.removeHandler(one)
    root.addHandler(handler)
    root.setLevel(_LEVELS[level])
    for name in list(logging.root.manager.loggerDict):
        # What a library has set up for itself would write beside the handler, without its mask.
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.NOTSET if level == "debug" else logging.WARNING)


def _with_ids(record: logging.LogRecord) -> bool:
    of_request = request_ids.current()
    ids = tracing.ids()
    record.request_id = of_request.request if of_request else None
    if ids is None and of_request is not None and of_request.trace and of_request.span:
        ids = of_request.trace, of_request.span
    record.trace_id, record.span_id = ids or (None, None)
    return True


class TextLines(logging.Formatter):
    """`<time> <LEVEL> <logger>: <message> [request_id=... trace_id=... span_id=...]`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line without a traceback."""
        record.message = _without_breaks(record.message[:MAX_MESSAGE_CHARS])
        ids = " ".join(f"{name}={value}" for name, value in _ids(record).items())
        return super().formatMessage(record) + (f" [{ids}]" if ids else "")

    def format(self, record: logging.LogRecord) -> str:
        """The whole of it, masked."""
        return mask(super().format(record))


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message, the ids, exception."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, masked."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            # Masked before it is quoted: a quote within a secret must not end it.
            "message": mask(record.getMessage()[:MAX_MESSAGE_CHARS]),
            **_ids(record),
        }
        if record.exc_info:
            line["exception"] = mask(self.formatException(record.exc_info))
        if record.stack_info:
            line["stack"] = mask(record.stack_info)
        # Replaces lone surrogates, which no UTF-8 has.
        return orjson.dumps(_writable(line)).decode()


def _ids(record: logging.LogRecord) -> dict[str, str]:
    found = {name: getattr(record, name, None) for name in ("request_id", "trace_id", "span_id")}
    return {name: value for name, value in found.items() if value}


def _writable(line: dict[str, object]) -> dict[str, object]:
    return {
        name: value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
        for name, value in line.items()
    }


def _without_breaks(text: str) -> str:
    # Text from elsewhere must not make lines that look like the service's own.
    return text.replace("\r", "\\r").replace("\n", "\\n")
