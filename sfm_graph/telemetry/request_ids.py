"""What the lines of one request's log have in common."""

import re
import uuid
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

HEADER: Final = "X-Request-ID"
_WELL_FORMED: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")


@dataclass(frozen=True, slots=True)
class RequestIds:
    """`trace` and `span` are those of the request's own span, None without one."""

    request: str
    trace: str | None = None
    span: str | None = None


# Not reset at a request's end: the server logs an exception that nobody caught afterwards, in the same task.
_current: ContextVar[RequestIds | None] = ContextVar("request_ids", default=None)


def current() -> RequestIds | None:
    """Those of the request that this task works for."""
    return _current.get()


def begin(found: RequestIds) -> None:
    """What this task does from now on is for a request."""
    _current.set(found)


def request_id(given: str | None) -> str:
    """A caller's own id where it is well-formed (up to 128 letters, digits and `._:-`), else a new one."""
    return given if given is not None and _WELL_FORMED.fullmatch(given) else uuid.uuid4().hex
