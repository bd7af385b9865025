"""Dead letters in Kafka: `<topic>.dlq`, the message as it was and why it is there."""

import asyncio
from collections.abc import Mapping
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError

from sfm_consumers.source import Message
from sfm_graph.errors import EventBusUnavailable

PREFIX = "dlq_"
_SECONDS = 30.0
# The broker's own limit is the one that counts.
_MAX_REQUEST_BYTES = 128 * 1024**2


class KafkaDeadLetters:
    """A producer that is made with the first dead letter, and anew after a failure."""

    def __init__(self, connection: Mapping[str, Any]) -> None:
        self._connection = connection
        self._producer: AIOKafkaProducer | None = None
        self._turn = asyncio.Lock()

    async def put(self, message: Message, headers: Mapping[str, str]) -> None:
        """Returns when all in-sync replicas have it. Raises EventBusUnavailable."""
        kept = [(name, value) for name, value in message.headers if not name.startswith(PREFIX)]
        added = [(name, value.encode()) for name, value in headers.items()]
        async with self._turn:
            try:
                async with asyncio.timeout(_SECONDS):
                    await self._send(message, kept + added)
            except (KafkaError, OSError) as error:
                await self.aclose()
                reason = f"{type(error).__name__}: {error}"
                raise EventBusUnavailable(f"Kafka took no dead letter: {reason}") from error

    async def aclose(self) -> None:
        """Stop the producer; nothing is unsent, `put` waits."""
        producer, self._producer = self._producer, None
        if producer is None:
            return
        try:
            async with asyncio.timeout(_SECONDS):
                await producer.stop()
        except (KafkaError, OSError):
            return

    async def _send(self, message: Message, headers: list[tuple[str, bytes]]) -> None:
        if self._producer is None:
            producer = AIOKafkaProducer(
                acks="all", enable_idempotence=True, max_request_size=_MAX_REQUEST_BYTES, **self._connection
            )
            self._producer = producer
            await producer.start()
        topic = f"{message.topic}.dlq"
        try:
            await self._producer.send_and_wait(topic, message.value, key=message.key, headers=headers)
        except MessageSizeTooLargeError:
            # With its reason it is larger than the topic takes: the original stays where dlq_position says.
            headers = [*headers, (f"{PREFIX}value_bytes", str(len(message.value or b"")).encode())]
            await self._producer.send_and_wait(topic, b"", key=message.key, headers=headers)
