"""What answers over HTTP mean to whoever sends events there."""

import time
from email.utils import parsedate_to_datetime

MAX_PAUSE_SECONDS = 300.0
# A wrong address or a missing right concerns every event, and the others pass by themselves: one waits until somebody
# mends it instead of putting all events aside.
WAITED_FOR = frozenset({401, 403, 404, 405, 407, 408, 421, 425, 429})


def passes(status: int) -> bool:
    """Whether the same request may succeed later: nothing that is said of its content."""
    return status in WAITED_FOR or status < 400 or status >= 500


def retry_after_seconds(value: str | None) -> float | None:
    """The pause that `Retry-After` asks for, in seconds or as a date, at most 300; None when it is neither."""
    if value is None:
        return None
    if value.isascii() and value.isdigit():
        # Of a number of a thousand digits the first ones say enough.
        return min(float(value[:9]), MAX_PAUSE_SECONDS)
    try:
        until = parsedate_to_datetime(value).timestamp()
    except (ValueError, OverflowError):
        return None
    return min(max(until - time.time(), 0.0), MAX_PAUSE_SECONDS)
