"""One partition's batch from messages to effects: what is new is handled in order, what cannot be goes aside."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sfm_consumers.contract import Consumer, Poison, Received, Retry, printable
from sfm_consumers.inspection import inspect
from sfm_consumers.ledger import Ledger, fresh_of, handled_by, place_of
from sfm_consumers.retrying import Patience, reason_to_wait
from sfm_consumers.source import Message
from sfm_consumers.waiting import Waiting
from sfm_consumers.watch import Watch
from sfm_graph.telemetry import messages

log = logging.getLogger(__name__)
# What is inspected before others get a turn: some 2 ms.
_INSPECT_BYTES = 1_000_000
_INSPECT_EVENTS = 100
_MAX_REASON_CHARS = 1_000

DeadLetter = Callable[[Message, Mapping[str, str]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Means:
    """What the partitions of a process handle events with."""

    consumer: Consumer
    ledger: Ledger
    dead_letter: DeadLetter
    watch: Watch
    patience: Patience
    max_event_bytes: int


@dataclass(frozen=True, slots=True)
class _Part:
    """Events to hand over together. `suspect`: one of them made a handler fail without saying which."""

    events: Sequence[Received]
    suspect: bool = False
    reason: str | None = None  # why its one event goes to the dead letters


class TooSlow(TimeoutError):
    """A call of a handler took longer than it may."""


class Handling:
    """What becomes of the messages of one partition, one batch at a time."""

    def __init__(self, means: Means, topic: str, waiting: Waiting) -> None:
        self._means = means
        self._topic = topic
        self._waiting = waiting
        self._originals: dict[str, Message] = {}

    async def handle(self, messages: Sequence[Message]) -> None:
        """Returns when each message has had its effect, had it before, or is with the dead letters, all durably.

        Raises Abandoned when it was told to stop while it had to wait.
        """
        self._originals = {message.position: message for message in messages}
        events = await self._inspected(messages)
        if not events:
            return
        places = {place_of(event) for event in events}
        last = await self._waiting.persist("ledger", lambda: self._means.ledger.last(self._topic, places))
        fresh = fresh_of(events, last)
        self._means.watch.duplicates(self._topic, len(events) - len(fresh))
        await self._apply(fresh)

    async def _inspected(self, messages: Sequence[Message]) -> list[Received]:
        events, parsed = [], 0
        for number, message in enumerate(messages, 1):
            try:
                event = inspect(message, self._means.max_event_bytes)
            except Poison as poison:
                await self._bury(message, poison.reason)
                continue
            if event is not None:
                events.append(event)
                parsed += len(event.data)
            if parsed > _INSPECT_BYTES or number % _INSPECT_EVENTS == 0:
                parsed = 0
                await asyncio.sleep(0)
        return events

    async def _apply(self, events: Sequence[Received]) -> None:
        # A list of what is left instead of recursion: a batch of nothing but poison would be 500 calls deep.
        left = deque([_Part(events)])
        while left:
            part = left.popleft()
            if not part.events:
                continue
            if part.reason is not None:
                await self._bury(self._originals[part.events[0].position], part.reason)
            else:
                try:
                    await self._attempt(part)
                except Poison as poison:
                    left.extendleft(reversed(_split(part.events, poison)))
                    continue
                self._means.watch.handled(self._topic, part.events)
            await self._record(part.events)

    async def _record(self, events: Sequence[Received]) -> None:
        handled = handled_by(events)
        await self._waiting.persist("ledger", lambda: self._means.ledger.record(self._topic, handled))

    async def _attempt(self, part: _Part) -> None:
        """Hand the events over until their effect is there. Raises Poison, also for many that are too slow."""
        attempt = failures = 0
        # Halves of a batch that failed are looked through once; the single one that is left gets all its chances.
        allowed = 1 if part.suspect and len(part.events) > 1 else self._means.patience.failures
        while True:
            failure = await self._failure(part)
            if failure is None:
                self._waiting.over("effect")
                return
            if isinstance(failure, TooSlow) and len(part.events) > 1:
                # The same again would take as long again, and repeat its effects for ever.
                log.warning("%s: %s; %d events are handed over in halves", self._topic, failure, len(part.events))
                raise Poison(str(failure)) from failure
            reason = reason_to_wait(failure)
            if reason is None:
                failures += 1
                reason = f"{type(failure).__name__}: {failure}"
                log.warning("%s: failure %d of %d", self._topic, failures, allowed, exc_info=failure)
            if failures >= allowed:
                raise Poison(reason) from failure
            wish = failure.after_seconds if isinstance(failure, Retry) else None
            await self._waiting.pause("effect", reason, attempt, wish)
            attempt += 1

    async def _failure(self, part: _Part) -> Exception | None:
        seconds, consumer = self._means.patience.handle_seconds, self._means.consumer
        traces = [event.attributes.get(messages.ATTRIBUTE) for event in part.events]
        try:
            with self._means.watch.handling(self._topic), messages.handling(consumer.name, self._topic, traces):
                async with asyncio.timeout(seconds) as limit:
                    await consumer.handle(part.events)
        except Poison:
            raise
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # Something that the handler waited for was cancelled; nobody cancelled this.
            return RuntimeError("the handler was cancelled from within")
        # A handler may be anyone's code: whatever it raises must neither lose its events nor stop the others.
        except Exception as error:  # noqa: BLE001
            if isinstance(error, TimeoutError) and limit.expired():
                return TooSlow(f"not handled within {seconds:g} s")
            return error
        return None

    async def _bury(self, message: Message, reason: str) -> None:
        reason = printable(reason[:_MAX_REASON_CHARS])
        headers = {
            "dlq_reason": reason,
            "dlq_consumer": self._means.consumer.name,
            "dlq_topic": message.topic,
            "dlq_partition": str(message.partition),
            "dlq_position": message.position,
            "dlq_at": datetime.now(UTC).isoformat(),
        }
        log.warning("%s/%d %s to the dead letters: %s", message.topic, message.partition, message.position, reason)
        await self._waiting.persist("dead letters", lambda: self._means.dead_letter(message, headers))
        self._means.watch.dead_letter(message.topic)


def _split(events: Sequence[Received], poison: Poison) -> list[_Part]:
    """What to do instead, in order, when `events` cannot be handled together."""
    named = poison.event.position if poison.event is not None else None
    at = next((at for at, event in enumerate(events) if event.position == named), None)
    if len(events) == 1:
        at = 0
    if at is None:
        middle = len(events) // 2
        return [_Part(events[:middle], suspect=True), _Part(events[middle:], suspect=True)]
    return [_Part(events[:at]), _Part(events[at : at + 1], reason=poison.reason), _Part(events[at + 1 :])]
