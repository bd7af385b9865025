"""What a runner says about itself: counters, lag, and what hinders it."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from sfm_consumers.contract import Received
from sfm_consumers.source import Claim

# From the broker's next breath to a day of being away.
_AGES = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1_800.0, 7_200.0, 86_400.0)
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_PER_TOPIC = ("consumer", "topic")
_PER_PARTITION = ("consumer", "topic", "partition")
_MAX_REASON_CHARS = 300


class Watch:
    """The numbers and the health of one consumer, in a registry of its own.

    Labels are bounded: the consumer's name, the topics it reads, their partitions.
    """

    def __init__(self, consumer: str) -> None:
        self.consumer = consumer
        self.registry = CollectorRegistry()
        self._troubles: dict[str, str] = {"source": "not joined yet"}
        self._make_metrics()

    def _make_metrics(self) -> None:
        registry = self.registry
        self._handled = Counter("sfm_consumer_handled", "Events whose effect was made", _PER_TOPIC, registry=registry)
        self._duplicates = Counter(
            "sfm_consumer_duplicates", "Events dropped since they were handled before", _PER_TOPIC, registry=registry
        )
        self._dead = Counter("sfm_consumer_dead_letters", "Messages put aside", _PER_TOPIC, registry=registry)
        self._retries = Counter(
            "sfm_consumer_retries", "Batches that were tried again", _PER_TOPIC, registry=registry
        )
        self._lag = Gauge("sfm_consumer_lag", "Messages not confirmed yet", _PER_PARTITION, registry=registry)
        self._age = Histogram(
            "sfm_consumer_event_age_seconds", "From a change's time to its effect", _PER_TOPIC,
            buckets=_AGES, registry=registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "sfm_consumer_handling_seconds", "Of one call of the handler, failed ones too", _PER_TOPIC,
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self._success = Gauge(
            "sfm_consumer_last_success_timestamp_seconds", "When a batch was last handled", _PER_TOPIC,
            registry=registry,
        )  # fmt: skip
        self._ready = Gauge("sfm_consumer_ready", "1 when nothing hinders it", ("consumer",), registry=registry)
        self._ready.labels(self.consumer).set_function(lambda: float(not self._troubles))

    @property
    def troubles(self) -> dict[str, str]:
        """What hinders it now, by the part that is hindered; empty when it is ready."""
        return dict(self._troubles)

    def trouble(self, part: str, reason: str | None) -> None:
        """Say what hinders a part, or with None that nothing does any more."""
        if reason is None:
            self._troubles.pop(part, None)
        else:
            self._troubles[part] = reason[:_MAX_REASON_CHARS]

    def begin(self, topics: Iterable[str]) -> None:
        """Let counters stand at 0 from the start: a rate has to see the first event."""
        for topic in topics:
            for metric in (self._handled, self._duplicates, self._dead, self._retries):
                metric.labels(self.consumer, topic)

    @contextmanager
    def handling(self, topic: str) -> Iterator[None]:
        """Time a call of the handler."""
        with self._seconds.labels(self.consumer, topic).time():
            yield

    def handled(self, topic: str, events: Iterable[Received]) -> None:
        """The effect of these is there."""
        now, count = datetime.now(UTC), 0
        for event in events:
            count += 1
            age = _age(event, now)
            if age is not None:
                self._age.labels(self.consumer, topic).observe(age)
        self._handled.labels(self.consumer, topic).inc(count)
        self._success.labels(self.consumer, topic).set(now.timestamp())

    def duplicates(self, topic: str, count: int) -> None:
        """So many were dropped."""
        self._duplicates.labels(self.consumer, topic).inc(count)

    def dead_letter(self, topic: str) -> None:
        """One was put aside."""
        self._dead.labels(self.consumer, topic).inc()

    def retry(self, topic: str) -> None:
        """A batch will be tried again."""
        self._retries.labels(self.consumer, topic).inc()

    def lag(self, claim: Claim, messages: int | None) -> None:
        """How far a partition is behind."""
        if messages is not None:
            self._lag.labels(self.consumer, claim.topic, str(claim.partition)).set(messages)

    def gone(self, claim: Claim) -> None:
        """A partition is another process's: its lag is not ours to tell."""
        labels = (self.consumer, claim.topic, str(claim.partition))
        if self.registry.get_sample_value("sfm_consumer_lag", dict(zip(_PER_PARTITION, labels, strict=True))) is None:
            return
        self._lag.remove(*labels)

    def page(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self.registry)


def _age(event: Received, now: datetime) -> float | None:
    try:
        at = datetime.fromisoformat(event.attributes["time"])
    except ValueError:
        return None
    if at.tzinfo is None:
        return None
    # Clocks of two machines differ.
    return max(0.0, (now - at).total_seconds())
