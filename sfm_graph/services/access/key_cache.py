"""What requests know of API keys: looked up together, remembered for seconds."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import Final

from sfm_graph.domain.api_key import StoredKey
from sfm_graph.errors import SfmError, Unavailable
from sfm_graph.services.tasks import ended

# How long a revoked key may still be good in a process that did not revoke it.
KNOWN_SECONDS: Final = 5.0
# A key that another process makes is good here after so long, should somebody have asked for its id before.
MISSING_SECONDS: Final = 1.0
# Entries take about 1 kB; who sends ids that do not exist pushes only others of that kind out.
MOST_KNOWN: Final = 10_000
MOST_AT_ONCE: Final = 1_000

Find = Callable[[Sequence[int]], Awaitable[Mapping[int, StoredKey]]]
Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class _Entry:
    stored: StoredKey | None
    asked_at: float


class KeyCache:
    """Keys by id. All ids that are asked for while a statement runs go into the next one, so that a flood of tokens
    takes one connection and one statement at a time, however many ids it makes up."""

    def __init__(self, find: Find, clock: Clock = time.monotonic) -> None:
        self._find = find
        self._clock = clock
        self._known: OrderedDict[int, _Entry] = OrderedDict()
        self._missing: OrderedDict[int, _Entry] = OrderedDict()
        self._wanted: dict[int, asyncio.Future[StoredKey | None]] = {}
        self._task: asyncio.Task[None] | None = None

    async def get(self, id: int) -> StoredKey | None:
        """A key as it was at most 5 seconds ago; None when there is none. Raises DatabaseUnavailable, Overloaded."""
        for entries, seconds in ((self._known, KNOWN_SECONDS), (self._missing, MISSING_SECONDS)):
            entry = entries.get(id)
            if entry is not None and self._clock() - entry.asked_at < seconds:
                return entry.stored
        found = self._wanted.get(id)
        if found is None:
            found = self._wanted[id] = asyncio.get_running_loop().create_future()
        if self._task is None or self._task.done():
            # Not in this request's context: it goes on for others when the deadline of this one is over.
            self._task = asyncio.create_task(self._look_up(), name="api keys", context=Context())
        # Others may wait for the same.
        return await asyncio.shield(found)

    def drop(self, id: int) -> None:
        """Forget a key that was changed just now; a look-up that may have seen it before is not remembered."""
        self._known.pop(id, None)
        self._missing.pop(id, None)
        self._wanted.pop(id, None)

    async def aclose(self) -> None:
        """End the look-up under way."""
        if self._task is not None:
            await ended(self._task)

    async def _look_up(self) -> None:
        while self._wanted:
            batch = dict(list(self._wanted.items())[:MOST_AT_ONCE])
            asked_at = self._clock()
            try:
                found = await self._find(list(batch))
            except SfmError as error:
                self._fail(batch, error)
            else:
                self._answer(batch, found, asked_at)
            finally:
                # What is still open now was cancelled, or met a defect: nobody may wait for ever.
                self._fail(batch, Unavailable("API keys cannot be looked up"))

    def _answer(
        self, batch: Mapping[int, asyncio.Future[StoredKey | None]], found: Mapping[int, StoredKey], asked_at: float
    ) -> None:
        for id, waiting in batch.items():
            stored = found.get(id)
            if self._settled(id, waiting):
                _remember(self._missing if stored is None else self._known, id, _Entry(stored, asked_at))
            if not waiting.done():
                waiting.set_result(stored)

    def _fail(self, batch: Mapping[int, asyncio.Future[StoredKey | None]], error: SfmError) -> None:
        for id, waiting in batch.items():
            self._settled(id, waiting)
            if not waiting.done():
                waiting.set_exception(error)
                # Looked at, should all who waited have gone.
                waiting.exception()

    def _settled(self, id: int, waiting: asyncio.Future[StoredKey | None]) -> bool:
        """Whether nobody has dropped the key since it was asked for."""
        current = self._wanted.get(id) is waiting
        if current:
            del self._wanted[id]
        return current


def _remember(entries: OrderedDict[int, _Entry], id: int, entry: _Entry) -> None:
    entries[id] = entry
    entries.move_to_end(id)
    if len(entries) > MOST_KNOWN:
        entries.popitem(last=False)
