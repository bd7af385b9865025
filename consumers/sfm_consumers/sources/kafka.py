"""Kafka as a source: a member of a consumer group that confirms by hand, after the effect.

aiokafka fetches ahead at most one response for each partition, so that what waits in memory is bounded.
"""

import asyncio
import logging
from collections.abc import Collection, Coroutine, Mapping, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import CommitFailedError, ConsumerStoppedError, IllegalStateError, KafkaError

from sfm_consumers.retrying import Patience
from sfm_consumers.source import Listener, Lost, Message
from sfm_consumers.sources.kafka_dead_letters import KafkaDeadLetters
from sfm_graph.adapters.buses.kafka_options import producer_options
from sfm_graph.errors import EventBusUnavailable
from sfm_graph.settings import Settings

log = logging.getLogger(__name__)

BATCH = 500
SESSION_SECONDS = 10.0
_FETCH_MS = 1_000
_PULSE_SECONDS = 1.0
# A broker that takes longer than this to say where a partition ends is away, as far as /readyz is concerned.
_ANSWER_SECONDS = 5.0
_COMMIT_SECONDS = 30.0
_STOP_SECONDS = 10.0
# No such partition: asking for it says that the process is alive and takes nothing.
_NOWHERE = TopicPartition("", -1)

# What concerns producers only.
_PRODUCERS = ("acks", "enable_idempotence", "client_id")


def connection_of(settings: Settings) -> dict[str, Any]:
    """How the brokers are reached, as the relay reaches them. Raises SettingsError."""
    return {name: value for name, value in producer_options(settings).items() if name not in _PRODUCERS}


class KafkaSource:
    """One member of a group; it joins again, as a new member, after what aiokafka cannot recover from."""

    def __init__(
        self,
        connection: Mapping[str, Any],
        group: str,
        topics: Sequence[str],
        patience: Patience,
        *,
        from_beginning: bool = True,
        batch: int = BATCH,
        session_seconds: float = SESSION_SECONDS,
    ) -> None:
        self._session_ms = int(1_000 * session_seconds)
        self._connection = connection
        self._group = group
        self._topics = topics
        self._patience = patience
        self._from_beginning = from_beginning
        self._batch = batch
        self._dead_letters = KafkaDeadLetters(connection)

    async def run(self, listener: Listener) -> None:
        attempt = 0
        try:
            while True:
                member = _Member(self._consumer(), listener, self._from_beginning, self._batch)
                try:
                    await member.live(self._topics)
                except (KafkaError, ConsumerStoppedError, OSError) as error:
                    attempt = 0 if member.joined else attempt + 1
                    listener.reachable(f"Kafka: {type(error).__name__}: {error}")
                    log.warning("Kafka: %s: %s", type(error).__name__, error)
                await asyncio.sleep(self._patience.pause(attempt))
        finally:
            await self._dead_letters.aclose()

    async def dead_letter(self, message: Message, headers: Mapping[str, str]) -> None:
        await self._dead_letters.put(message, headers)

    def _consumer(self) -> AIOKafkaConsumer:
        return AIOKafkaConsumer(
            group_id=self._group,
            client_id=self._group,
            # An offset that the broker no longer has must not skip what it does have.
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            isolation_level="read_committed",
            session_timeout_ms=self._session_ms,
            heartbeat_interval_ms=self._session_ms // 4,
            # The others wait for the batch in hand when partitions move.
            rebalance_timeout_ms=int(1_000 * (2 * self._patience.finish_seconds + 10)),
            **self._connection,
        )


class _Member(ConsumerRebalanceListener):  # type: ignore[misc]
    """One membership, from joining to leaving."""

    def __init__(self, consumer: AIOKafkaConsumer, listener: Listener, from_beginning: bool, batch: int) -> None:
        self._consumer = consumer
        self._listener = listener
        self._from_beginning = from_beginning
        self._batch = batch
        self._claims: dict[TopicPartition, KafkaClaim] = {}
        self.joined = False

    async def live(self, topics: Sequence[str]) -> None:
        """Raises KafkaError when the membership is over."""
        self._consumer.subscribe(list(topics), listener=self)
        try:
            await self._consumer.start()
            self.joined = True
            while True:
                self._listener.reachable(await self._trouble())
                self._check_tasks()
                await asyncio.sleep(_PULSE_SECONDS)
        finally:
            await self._lose(tuple(self._claims))
            await self._stop()

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        """As aiokafka says: before others get the partitions."""
        await self._lose(revoked)

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        """As aiokafka says: they are ours now."""
        for partition in sorted(assigned):
            claim = KafkaClaim(self._consumer, partition, self._from_beginning, self._batch)
            self._claims[partition] = claim
            self._listener.gained(claim)

    async def _lose(self, partitions: Collection[TopicPartition]) -> None:
        claims = [self._claims[partition] for partition in partitions if partition in self._claims]
        if not claims:
            return
        try:
            await self._listener.lost(claims)
        finally:
            for claim in claims:
                claim.lose()
                self._claims.pop(claim.place, None)

    async def _trouble(self) -> str | None:
        """Why the broker cannot be reached, None when it answers. Raises KafkaError when the membership is over."""
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                # The time between two calls is what `max_poll_interval_ms` bounds: handlers that wait for what they
                # write to must not cost the partitions. While partitions move it waits for them, without an end when
                # the broker goes away meanwhile.
                await self._consumer.getmany(_NOWHERE, timeout_ms=0)
                return await self._look()
        except TimeoutError:
            return f"Kafka did not answer within {_ANSWER_SECONDS:g} s"

    async def _look(self) -> str | None:
        """See how far the partitions reach, and by that whether the broker answers."""
        try:
            if not self._claims:
                await self._consumer.topics()
            for partition, end in (await self._ends()).items():
                if partition in self._claims:
                    self._claims[partition].end = end
        except KafkaError as error:
            return f"Kafka: {type(error).__name__}: {error}"
        return None

    def _check_tasks(self) -> None:
        """Raises KafkaError when one of aiokafka's tasks, which nobody starts again, has ended."""
        for what, task in (
            ("metadata", self._consumer._client._sync_task),
            ("messages", self._consumer._fetcher.error_future),
        ):
            if task.done():
                error = None if task.cancelled() else task.exception()
                raise KafkaError(f"aiokafka's task for {what} has ended: {error!r}")

    async def _ends(self) -> Mapping[TopicPartition, int]:
        return await self._consumer.end_offsets(list(self._claims)) if self._claims else {}

    async def _stop(self) -> None:
        """Returns when nothing of the member runs or is connected any more, or at the deadlines of its parts."""
        client = self._consumer._client
        if client._sync_task is not None and client._sync_task.done():
            client._sync_task = None  # its error would be raised before a connection is closed
        if await _ends_well(self._consumer.stop()):
            return
        # It closes one part after the other: what stood behind the one that failed would go on for ever.
        coordinator, fetcher = self._consumer._coordinator, self._consumer._fetcher
        if coordinator is not None:
            await _ends_well(coordinator._stop_heartbeat_task())
            await _ends_well(coordinator._stop_commit_offsets_refresh_task())
        if fetcher is not None:
            await _ends_well(fetcher.close())
        await _ends_well(client.close())


async def _ends_well(closing: Coroutine[Any, Any, None]) -> bool:
    # A task of its own: aiokafka lets out the cancellations and errors of its own tasks, which are none of ours.
    task = asyncio.create_task(closing)
    await asyncio.wait([task], timeout=_STOP_SECONDS)
    task.cancel()
    await asyncio.wait([task], timeout=_STOP_SECONDS)
    error = "cut off" if not task.done() or task.cancelled() else task.exception()
    if error is not None:
        log.warning("Kafka: left the group, or a connection, without telling it: %r", error)
    return error is None


class KafkaClaim:
    """One partition between two rebalances."""

    def __init__(self, consumer: AIOKafkaConsumer, place: TopicPartition, from_beginning: bool, batch: int) -> None:
        self.place = place
        self.end: int | None = None  # the offset behind the last message, as last heard
        self._consumer = consumer
        self._skip = not from_beginning
        self._batch = batch
        self._next: int | None = None  # the offset behind the last confirmed message
        self._lost = False

    @property
    def topic(self) -> str:
        return str(self.place.topic)

    @property
    def partition(self) -> int:
        return int(self.place.partition)

    def lose(self) -> None:
        """It is not ours any more."""
        self._lost = True

    async def fetch(self) -> Sequence[Message]:
        self._check()
        try:
            if self._skip:
                await self._skip_to_end()
            found = await self._consumer.getmany(self.place, timeout_ms=_FETCH_MS, max_records=self._batch)
        except (IllegalStateError, ConsumerStoppedError) as error:
            raise Lost(str(error)) from error
        except KafkaError as error:
            raise EventBusUnavailable(f"Kafka: {type(error).__name__}: {error}") from error
        self._check()
        return [_message(record) for record in found.get(self.place, ())]

    async def commit(self, position: str) -> None:
        await self._commit(int(position) + 1)

    async def lag(self) -> int | None:
        self._check()
        if self.end is None:
            return None
        if self._next is None:
            self._next = await self._first()
        return max(0, self.end - self._next) if self._next is not None else None

    async def _commit(self, offset: int) -> None:
        self._check()
        try:
            async with asyncio.timeout(_COMMIT_SECONDS):
                await self._consumer.commit({self.place: offset})
        except (CommitFailedError, IllegalStateError) as error:
            raise Lost(str(error)) from error
        except (KafkaError, TimeoutError) as error:
            raise EventBusUnavailable(f"Kafka took no offset: {type(error).__name__}: {error}") from error
        self._next = offset

    async def _first(self) -> int | None:
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                return await self._consumer.committed(self.place) or 0
        except (KafkaError, TimeoutError):
            return None

    async def _skip_to_end(self) -> None:
        """For a new group that wants only what comes from now on; confirmed at once, to mean the same later."""
        if await self._consumer.committed(self.place) is None:
            await self._consumer.seek_to_end(self.place)
            await self._commit(await self._consumer.position(self.place))
        self._skip = False

    def _check(self) -> None:
        if self._lost:
            raise Lost(f"{self.topic}/{self.partition}")


def _message(record: Any) -> Message:
    headers = tuple((name, value or b"") for name, value in record.headers)
    return Message(record.topic, record.partition, str(record.offset), record.key, record.value, headers)
