"""Token buckets as one number each: the time at which the bucket is full again (GCRA, ITU-T I.371).

A bucket holds `most` tokens and fills in `window_seconds`, at an even rate. What is taken moves the time at which it
is full; a bucket that was never used, or is forgotten once it is full, is a full one. Times are seconds of any clock.
"""

from dataclasses import dataclass
from math import floor
from typing import Final

# Sums of times round: a token may be given so much early, which no rounding adds up.
TOLERANCE_SECONDS: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Limit:
    """A bucket that holds `most` (1 or more) and fills in `window_seconds` (above 0).

    In any t seconds it gives at most `most + t * most / window_seconds` tokens.
    """

    most: int
    window_seconds: float


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of a try to take tokens.

    remaining: whole tokens that are left, 0 to `most`. retry_after_seconds: 0 when allowed; else after how long the
    same try succeeds, if nobody else takes from the bucket. reset_seconds: after how long the bucket is full.
    """

    allowed: bool
    remaining: int
    retry_after_seconds: float
    reset_seconds: float


def take(full_at: float | None, now: float, limit: Limit, cost: int = 1) -> tuple[float, Taken]:
    """Take `cost` (0 to `most`) tokens, all or none, from a bucket that is full at `full_at`; None: it is full.

    The time at which it is full afterwards, and what became of the try. 0 tokens are always given. Raises ValueError
    for more tokens than the bucket holds, which no waiting would help.
    """
    if not 0 <= cost <= limit.most:
        raise ValueError(f"a bucket of {limit.most} never gives {cost}")
    # A clock that was set back, or a limit that was changed, owes nobody more than one empty bucket.
    before = min(max(full_at if full_at is not None else now, now), now + limit.window_seconds)
    after = before + cost * limit.window_seconds / limit.most
    wait = after - now - limit.window_seconds
    allowed = wait <= TOLERANCE_SECONDS
    kept = after if allowed else before
    room = now + limit.window_seconds - kept + TOLERANCE_SECONDS
    remaining = min(limit.most, max(0, floor(room * limit.most / limit.window_seconds)))
    return kept, Taken(allowed, remaining, 0.0 if allowed else wait, max(0.0, kept - now))
