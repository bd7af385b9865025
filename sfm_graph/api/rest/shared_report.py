"""One look at the dependencies for all who ask at about the same time."""

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from sfm_graph.domain.deadline import without_deadline
from sfm_graph.errors import Unavailable
from sfm_graph.services.health import HealthReport
from sfm_graph.services.registry import Services

FRESH_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True)
class Seen:
    """A report, and whether the service requires tokens. `began`: when it was asked for, by `time.monotonic`."""

    report: HealthReport
    is_closed: bool
    began: float


class SharedReport:
    """The health report of services, made by one asker at a time."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._looking = asyncio.Lock()
        self._seen: Seen | None = None
        # What was true last counts while the database cannot be asked for keys.
        self._is_closed = True

    def is_of(self, services: Services) -> bool:
        """Whether it is these services' report."""
        return self._services is services

    async def look(self) -> Seen:
        """A report that was begun at most half a second before the call, or since. Two looks at most are waited for:
        one that began too early, and the next."""
        enough = time.monotonic() - FRESH_SECONDS
        async with self._looking:
            if self._seen is None or self._seen.began < enough:
                # What others are shown as well is not to fail for want of this asker's time.
                with without_deadline():
                    self._seen = await self._looked()
            return self._seen

    async def _looked(self) -> Seen:
        began = time.monotonic()
        report = await self._services.health.report()
        # Whoever asks for the first time while the database is away is told less.
        with suppress(Unavailable):
            self._is_closed = await self._services.authentication.required()
        return Seen(report, self._is_closed, began)
