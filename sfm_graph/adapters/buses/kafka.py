"""Events into Kafka: CloudEvents 1.0 in binary mode, by an idempotent producer that waits for all replicas.

A key stays in one partition, by the partitioner of Kafka's own clients. Of a partition one batch is under way at a
time, and nothing follows one that failed: an event never overtakes an earlier one of its key.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, Self

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, RecordListTooLargeError
from aiokafka.partitioner import DefaultPartitioner

from sfm_graph.adapters.buses.kafka_options import producer_options
from sfm_graph.adapters.buses.kafka_records import MAX_EVENT_BYTES, Lane, records_of, rounds
from sfm_graph.domain.event import Event
from sfm_graph.errors import EventBusUnavailable
from sfm_graph.settings import Settings

log = logging.getLogger(__name__)

TIMEOUT_SECONDS = 20.0
# Half of what a broker takes by default. Larger ones are no quicker.
BATCH_BYTES = 512 * 1024
# So many events are placed in about 2 ms, then others have their turn on the event loop.
_PLACED_AT_ONCE = 500
# The time for connections to be closed in order.
_CLOSE_SECONDS = 5.0


class KafkaBus:
    """Publishes to Kafka. It is usable while the broker is away: `publish` raises until it is back.

    One `publish` runs at a time, others wait for their turn. Events that the broker finds too large are sent with
    `before` and `after` null and `truncated` true, so that they do not hold up what follows them.
    """

    def __init__(self, options: dict[str, Any], *, tombstones: bool, timeout_seconds: float) -> None:
        # So that a request is given up, and tried again, within the time of one publish.
        self._request_seconds = timeout_seconds / 4
        # `Lane.fill` bounds batches; the producer's own bound is for what it collects by itself.
        self._options = {
            **options,
            "max_batch_size": 2 * MAX_EVENT_BYTES,
            "request_timeout_ms": int(self._request_seconds * 1000),
            # Each try of a broker that is away writes some lines to the log.
            "retry_backoff_ms": 250,
        }
        self._tombstones = tombstones
        self._timeout_seconds = timeout_seconds
        self._batch_bytes = BATCH_BYTES
        self._turn = asyncio.Lock()
        self._partitioner = DefaultPartitioner()
        self._producer: Any = None
        self._starting: asyncio.Task[None]
        self._abandoned: asyncio.Task[None] | None = None
        self._closed = False

    @classmethod
    async def open(cls, settings: Settings, *, timeout_seconds: float = TIMEOUT_SECONDS) -> Self:
        """A bus by the `kafka_*` settings. Connects to nothing: a broker that is away does not stop the start.

        Raises SettingsError when the brokers are not host:port pairs or the CA file cannot be used.
        """
        options = producer_options(settings)
        return cls(options, tombstones=settings.kafka_tombstones, timeout_seconds=timeout_seconds)

    @property
    def name(self) -> str:
        """`kafka`."""
        return "kafka"

    async def publish(self, events: Sequence[Event]) -> None:
        """Returns when all replicas in sync have all events, those of one key in this order.

        Raises EventBusUnavailable; some of the events may be in Kafka then, of each key the first ones. It gives up
        when the turn, or the acknowledgement of 8 MB of events, takes longer than the timeout.
        """
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await self._turn.acquire()
        except TimeoutError as error:
            raise EventBusUnavailable("Kafka: events published before these are not acknowledged yet") from error
        try:
            if self._closed:
                raise EventBusUnavailable("Kafka: the bus is closed")
            for some in rounds(events):
                await self._publish(some)
        finally:
            self._turn.release()

    async def aclose(self) -> None:
        """Close the connections when a `publish` under way has ended; takes seconds while the broker is away."""
        self._closed = True
        async with self._turn:
            self._abandon()
            if self._abandoned is not None:
                await asyncio.wait([self._abandoned])

    async def _publish(self, events: Sequence[Event]) -> None:
        delivered = False
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await self._deliver(events)
            delivered = True
        except TimeoutError as error:
            raise EventBusUnavailable(f"Kafka: no acknowledgement within {self._timeout_seconds:g} s") from error
        except (KafkaError, OSError) as error:
            raise EventBusUnavailable(f"Kafka: {type(error).__name__}: {error}") from error
        finally:
            # A producer that failed still holds batches, and would send them at some time behind newer ones.
            if not delivered:
                self._abandon()

    async def _deliver(self, events: Sequence[Event]) -> None:
        lanes = await self._lanes(await self._ready(), events)
        while waiting := [lane for lane in lanes if lane.done < len(lane.records)]:
            producer = await self._ready()
            drains = (self._drain(producer, lane) for lane in waiting)
            for outcome in await asyncio.gather(*drains, return_exceptions=True):
                if outcome is not None:
                    raise outcome
            refused = [lane for lane in waiting if lane.refused]
            for lane in refused:
                self._shrink(lane)
            if refused:
                self._abandon()  # the sequence numbers of refused batches are missing from its count

    async def _drain(self, producer: Any, lane: Lane) -> None:
        """Send a partition's records, up to a batch that is too large."""
        batch, count = self._fill(producer, lane, lane.done)
        while count:
            acknowledged = await producer.send_batch(batch, lane.topic, partition=lane.partition)
            # Built while the broker writes, sent after the acknowledgement: a broker that knows nothing of a producer
            # yet takes any sequence number, so behind a refused first batch it would let the second in.
            following = self._fill(producer, lane, lane.done + count)
            try:
                await acknowledged
            except (MessageSizeTooLargeError, RecordListTooLargeError):
                lane.refused = count
                if count > 1:
                    self._batch_bytes = min(self._batch_bytes, batch.size() // 2)
                return
            lane.done += count
            batch, count = following

    def _fill(self, producer: Any, lane: Lane, start: int) -> tuple[Any, int]:
        batch = producer.create_batch()
        return batch, lane.fill(batch, start, self._batch_bytes)

    def _shrink(self, lane: Lane) -> None:
        # Of several records together fewer are sent next time; one alone is sent without its states.
        record = lane.records[lane.done]
        if lane.refused == 1:
            if record.is_least:
                raise MessageSizeTooLargeError(f"{lane.topic} refuses messages of {record.size} bytes")
            lane.records[lane.done] = record.cut()
        lane.refused = 0

    async def _lanes(self, producer: Any, events: Sequence[Event]) -> list[Lane]:
        """The events, and tombstones, by partition and in order."""
        topics = {event.topic for event in events}
        partitions = {topic: sorted(await producer.partitions_for(topic)) for topic in topics}
        lanes: dict[tuple[str, int], Lane] = {}
        for number, event in enumerate(events, 1):
            if number % _PLACED_AT_ONCE == 0:
                await asyncio.sleep(0)
            records = records_of(event, tombstones=self._tombstones)
            for partition in self._places(event, partitions[event.topic]):
                lane = lanes.get((event.topic, partition))
                if lane is None:
                    lane = lanes[event.topic, partition] = Lane(event.topic, partition, [])
                lane.records += records
        return list(lanes.values())

    def _places(self, event: Event, partitions: Sequence[int]) -> Sequence[int]:
        if event.key is None:
            return partitions
        return (self._partitioner(event.key.encode(), partitions, partitions),)

    async def _ready(self) -> Any:
        # Nothing of a producer that was given up is on its way any more when another one begins.
        if self._abandoned is not None:
            await asyncio.shield(self._abandoned)
            self._abandoned = None
        if self._producer is None:
            self._producer = AIOKafkaProducer(**self._options)
            self._starting = asyncio.create_task(self._producer.start())
        # A start that is cut off would leave its first connection open.
        await asyncio.shield(self._starting)
        return self._producer

    def _abandon(self) -> None:
        if self._producer is not None:
            self._abandoned = asyncio.create_task(_end(self._producer, self._starting, self._request_seconds))
            self._producer = None


async def _end(producer: Any, starting: asyncio.Task[None], request_seconds: float) -> None:
    """Close a producer and drop what it has not sent. Its own `stop` would wait until the broker has that."""
    await asyncio.wait([starting])
    starting.exception()  # whoever waited for the start was told
    sender = producer._sender.sender_task
    if sender is not None:
        sender.cancel()
        # It waits for the requests that are on their way: one that is cut off may arrive behind newer ones.
        await asyncio.wait([sender], timeout=3 * request_seconds)
    producer._message_accumulator._batches.clear()
    producer._message_accumulator._pending_batches.clear()
    try:
        async with asyncio.timeout(_CLOSE_SECONDS):
            await producer.stop()
    except (KafkaError, OSError, TimeoutError) as error:
        log.warning("a connection to Kafka was not closed in order: %s", error)
