"""The log of a process: one handler for its own lines and those of libraries, as text or as JSON, without secrets."""

import logging
import sys
from datetime import UTC, datetime
from typing import Final, TextIO

import orjson

from sfm_graph.settings import LogFormat
from sfm_graph.telemetry import request_ids, tracing
from sfm_graph.telemetry.masking import mask_bounded

_LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
# Below `debug` these tell of each connection or request: what the service has lines of its own for, or the URL of a
# webhook, which is a secret at times.
_QUIET: Final = ("uvicorn", "httpx", "httpcore", "aiokafka", "urllib3", "asyncio", "opentelemetry")
MAX_MESSAGE_CHARS: Final = 20_000
# `extra={FIELDS: {...}}`: what a line of JSON says beside its message, each under its name.
FIELDS: Final = "sfm_fields"
_INDENT: Final = "    "
# Control characters but the tab, and the other ends of lines of Unicode.
_ESCAPED: Final = {
    one: repr(chr(one))[1:-1] for one in (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029) if chr(one) != "\t"
}


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
    """`<time> <LEVEL> <logger>: <message> [request_id=... trace_id=... span_id=...]`.

    What follows, of an exception, is indented: text from elsewhere makes no lines that look like the service's own.
    """

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """The line and those of a traceback, masked."""
        record.asctime = self.formatTime(record)
        record.message = _on_one_line(_shown(record.getMessage()))
        ids = " ".join(f"{name}={value}" for name, value in _ids(record).items())
        lines = [self.formatMessage(record) + (f" [{ids}]" if ids else "")]
        for text in _details(self, record).values():
            lines += [_INDENT + _on_one_line(one) for one in text.split("\n")]
        return "\n".join(lines)


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message, the ids, the record's own fields, exception."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, masked."""
        line: dict[str, object] = {
            **_fields(record),
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            # Masked before it is quoted: a quote within a secret must not end it.
            "message": _shown(record.getMessage()),
            **_ids(record),
            **_details(self, record),
        }
        # Replaces lone surrogates, which no UTF-8 has.
        return orjson.dumps(_writable(line)).decode()


def _shown(text: str) -> str:
    return mask_bounded(text, MAX_MESSAGE_CHARS)


def _details(formatter: logging.Formatter, record: logging.LogRecord) -> dict[str, str]:
    """Exception and stack, masked; each as long as a message may be."""
    found = {}
    if record.exc_info:
        found["exception"] = _shown(formatter.formatException(record.exc_info))
    if record.stack_info:
        found["stack"] = _shown(record.stack_info)
    return found


def _ids(record: logging.LogRecord) -> dict[str, str]:
    found = {name: getattr(record, name, None) for name in ("request_id", "trace_id", "span_id")}
    return {name: value for name, value in found.items() if value}


def _fields(record: logging.LogRecord) -> dict[str, object]:
    found: dict[str, object] = getattr(record, FIELDS, {})
    return {name: _shown(value) if isinstance(value, str) else value for name, value in found.items()}


def _writable(line: dict[str, object]) -> dict[str, object]:
    return {
        name: value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
        for name, value in line.items()
    }


def _on_one_line(text: str) -> str:
    """Without what would begin a line or move a terminal's cursor."""
    return text.translate(_ESCAPED)
