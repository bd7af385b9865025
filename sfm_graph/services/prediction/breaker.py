"""Leaving a predictor alone that keeps failing."""

import time
from typing import Final

from sfm_graph.errors import PredictorUnavailable

FAILURES: Final = 5
PAUSE_SECONDS: Final = 30.0
# What says something about the server; a wrong answer says something about a question.
_COUNTED: Final = frozenset({"away", "slow", "too_large"})


class Breaker:
    """After 5 failures in a row nobody asks for 30 seconds, then one at a time until an answer comes."""

    def __init__(self, pause_seconds: float = PAUSE_SECONDS) -> None:
        self._pause_seconds = pause_seconds
        self._failures = 0
        self._until = 0.0
        # The last failure, while it is the last that happened.
        self.problem: PredictorUnavailable | None = None

    @property
    def is_open(self) -> bool:
        """Whether nobody may ask now."""
        return self._failures >= FAILURES and time.monotonic() < self._until

    def check(self) -> None:
        """Raises PredictorUnavailable during a pause; who gets through after one keeps the others off."""
        if self._failures < FAILURES:
            return
        if self.problem is not None and time.monotonic() < self._until:
            state = self.problem.details["state"]
            why = f"{self.problem.message}; it is left alone for a while"
            raise PredictorUnavailable(why, state=state, asked=False)
        self._until = time.monotonic() + self._pause_seconds

    def succeeded(self) -> None:
        """An answer came."""
        self._failures = 0
        self.problem = None

    def failed(self, error: PredictorUnavailable) -> None:
        """None came, or a wrong one."""
        self.problem = error
        if error.details.get("state") not in _COUNTED:
            self._failures = 0
            return
        self._failures += 1
        if self._failures >= FAILURES:
            self._until = time.monotonic() + self._pause_seconds
