"""What passes by itself, and how long to wait for it."""

import random
from dataclasses import dataclass

import httpx

from sfm_consumers.contract import Retry
from sfm_graph.errors import SfmError

# What `reason_to_wait` may find a reason in.
MAY_PASS = (Retry, SfmError, OSError, httpx.TransportError)
_UNAVAILABLE = 503


@dataclass(frozen=True, slots=True)
class Patience:
    """How failures are waited for.

    Pauses double from `first_pause_seconds` to `longest_pause_seconds`, each cut at random by up to a half, so that
    processes that failed together do not come back together. `failures` is how often an exception that says nothing
    of passing is tried again, `handle_seconds` how long one call of a handler may take, and `finish_seconds` how long
    a batch in hand is waited for when its partition goes away or the process ends.
    """

    first_pause_seconds: float = 0.2
    longest_pause_seconds: float = 30.0
    longest_wish_seconds: float = 600.0
    failures: int = 5
    handle_seconds: float = 300.0
    finish_seconds: float = 10.0

    def pause(self, attempt: int, wish: float | None = None) -> float:
        """Seconds before the next attempt; `attempt` counts from 0, `wish` is what the other side asked for."""
        if wish is not None:
            return min(max(wish, 0.0), self.longest_wish_seconds)
        whole = min(self.longest_pause_seconds, self.first_pause_seconds * 2.0 ** min(attempt, 30))
        return whole * random.uniform(0.5, 1.0)  # noqa: S311 no secret hangs on it


def reason_to_wait(error: Exception) -> str | None:
    """Why the same may succeed later; None when nothing says so."""
    if isinstance(error, Retry):
        return error.reason
    if isinstance(error, SfmError):
        return f"{error.code}: {error.message}" if error.http_status == _UNAVAILABLE else None
    if isinstance(error, (OSError, httpx.TransportError)):
        return f"{type(error).__name__}: {error}"
    return None
