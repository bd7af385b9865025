"""Readers of what `import` takes. They yield records; the services judge what the fields hold."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class MemoryRecord:
    """A memory to store. line: where it was read, from 1. fields: as in the body of `POST /memories`."""

    line: int
    fields: dict[str, Any]


@dataclass(frozen=True, slots=True)
class LinkRecord:
    """A link to store. fields: `source` and `target` name memories by key, id or coordinate; `link_type`."""

    line: int
    fields: dict[str, Any]


@dataclass(frozen=True, slots=True)
class BadRecord:
    """What could not be read. code: stable, for programs. message: for people."""

    line: int
    code: str
    message: str


Record = MemoryRecord | LinkRecord | BadRecord
