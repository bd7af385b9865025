"""Lines of JSON: memories, links and plain documents.

    {"type": "memory", "key": "a", "content": "...", "payload": {...}}
    {"type": "link", "source": {"key": "a"}, "target": {"key": "b"}, "link_type": "cites"}
    {"id": "a", "text": "...", "metadata": {"title": "..."}, "namespace": "..."}

A line that cannot be read gives a BadRecord, and reading goes on: line_too_long, invalid_json,
unknown_record, invalid_link, invalid_document, or EVERYTHING on line 1.
"""

from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

from sfm_graph.adapters.readers import BadRecord, LinkRecord, MemoryRecord, Record
from sfm_graph.domain.strict_json import parse_json
from sfm_graph.errors import InvalidInput

MAX_LINE_BYTES = 20_000_000
# The code of a first line that says that all the others are an export of everything.
EVERYTHING = "export_of_everything"
_CHUNK_BYTES = 1 << 18
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class LineBuffer:
    """Cuts a stream that arrives in chunks into lines, in bounded memory.

    A line comes without its line feed. Of a line longer than `max_line_bytes`, the first `max_line_bytes` + 1
    bytes come, enough to be refused as too long; the rest is dropped.
    """

    def __init__(self, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self._limit = max_line_bytes + 1
        self._partial = bytearray()

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that end in this chunk."""
        *complete, rest = chunk.split(b"\n")
        lines = []
        for piece in complete:
            self._keep(piece)
            lines.append(bytes(self._partial))
            self._partial.clear()
        self._keep(rest)
        return lines

    def close(self) -> list[bytes]:
        """The last line, if the stream did not end with a line feed."""
        lines = [bytes(self._partial)] if self._partial else []
        self._partial.clear()
        return lines

    def _keep(self, piece: bytes) -> None:
        self._partial += piece[: self._limit - len(self._partial)]


def read_lines(stream: BinaryIO, max_line_bytes: int = MAX_LINE_BYTES) -> Iterator[bytes]:
    """The lines of an open binary file, as a LineBuffer cuts them."""
    buffer = LineBuffer(max_line_bytes)
    while chunk := stream.read(_CHUNK_BYTES):
        yield from buffer.feed(chunk)
    yield from buffer.close()


def read_ndjson(lines: Iterable[bytes], max_line_bytes: int = MAX_LINE_BYTES) -> Iterator[Record]:
    """One record per line that is not blank, in order. A line may end with its line feed or not."""
    for number, line in enumerate(lines, start=1):
        record = parse_line(number, line, max_line_bytes)
        if record is not None:
            yield record


def parse_line(number: int, line: bytes, max_line_bytes: int = MAX_LINE_BYTES) -> Record | None:
    """The record on a line, None when it is blank; line 1 may begin with a byte order mark. Never raises."""
    if number == 1:
        line = line.removeprefix(_BYTE_ORDER_MARK)
    if not line.strip():
        return None
    if len(line.rstrip(b"\r\n")) > max_line_bytes:
        return BadRecord(number, "line_too_long", f"the line is longer than {max_line_bytes:,} bytes")
    try:
        value = parse_json(line)
    except InvalidInput as error:
        return BadRecord(number, "invalid_json", error.message)
    if not isinstance(value, dict):
        return BadRecord(number, "unknown_record", "the line is not a JSON object")
    return _record(number, value)


def _record(number: int, fields: dict[str, Any]) -> Record:
    match fields.pop("type", None):
        case "memory":
            return MemoryRecord(number, fields)
        case "link":
            return _link(number, fields)
        case None if "text" in fields:
            return _document(number, fields)
        case "namespace" if number == 1 and "format" in fields:
            message = "this is an export of everything: pass --everything (everything=true)"
            return BadRecord(number, EVERYTHING, message)
        case _:
            expected = 'expected "type": "memory", "type": "link" or a document with "id" and "text"'
            return BadRecord(number, "unknown_record", expected)


def _link(number: int, fields: dict[str, Any]) -> Record:
    for end in ("source", "target"):
        if not isinstance(fields.get(end), dict):
            message = f'{end} must be an object that names a memory, like {{"key": "a"}}'
            return BadRecord(number, "invalid_link", message)
    if not isinstance(fields.get("link_type"), str):
        return BadRecord(number, "invalid_link", "link_type must be a string")
    return LinkRecord(number, fields)


def _document(number: int, document: dict[str, Any]) -> Record:
    key, text, metadata = document.get("id"), document["text"], document.get("metadata")
    namespace = document.get("namespace")
    if isinstance(key, int) and not isinstance(key, bool):
        key = str(key)
    if not (isinstance(key, str | None) and isinstance(text, str) and isinstance(namespace, str | None)):
        return BadRecord(number, "invalid_document", "id, text and namespace must be strings")
    if not isinstance(metadata, dict | None):
        return BadRecord(number, "invalid_document", "metadata must be an object")
    payload = metadata or {}
    title = payload.get("title")
    given = {"key": key, "title": title if isinstance(title, str) else None, "namespace": namespace}
    optional = {name: value for name, value in given.items() if value is not None}
    return MemoryRecord(number, {"content": text, "payload": payload, **optional})
