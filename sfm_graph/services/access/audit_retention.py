"""How long the audit log is kept."""

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

from sfm_graph.store import audit
from sfm_graph.store.database import Database

log = logging.getLogger("sfm_graph.audit")

ROUND_SECONDS: Final = 3_600.0


def _now() -> datetime:
    return datetime.now(UTC)


class AuditRetention:
    """Removes what is older than `days`, as the owner of the table: the service's own role cannot."""

    def __init__(self, database: Database, *, days: int, clock: Callable[[], datetime] = _now) -> None:
        self._database = database
        self._days = days
        self._clock = clock
        self._next_round = 0.0

    async def round(self) -> None:
        """What is due every hour. Raises DatabaseUnavailable."""
        if time.monotonic() >= self._next_round:
            self._next_round = time.monotonic() + ROUND_SECONDS
            await self.prune()

    async def prune(self) -> int:
        """Remove what is too old; how many rows. Raises DatabaseUnavailable."""
        before = self._clock() - timedelta(days=self._days)
        removed = await audit.prune(self._database, before)
        if removed:
            log.info("%d rows of the audit log from before %s were removed", removed, before.date())
        return removed
