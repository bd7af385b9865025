"""aiokafka's connections on uvloop: what is sent behind the loss of a connection fails as what the loss cut off.

A transport of asyncio drops what is written after a reset; one of uvloop raises RuntimeError, and aiokafka expects an
OSError at most (aio-libs/aiokafka#1038). Between a reset and its notice of it, a moment, that ends for good whichever
of its tasks sends: without a word the one that looks for brokers, and all others wait for that one ever after.
"""

from typing import Any

from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.errors import KafkaConnectionError

_send = AIOKafkaConnection.send


def mend_connections() -> None:
    """Let all aiokafka clients of this process raise KafkaConnectionError then. May be called again."""
    AIOKafkaConnection.send = _send_or_fail


def _send_or_fail(connection: Any, request: Any, expect_response: bool = True) -> Any:
    writer = connection._writer
    if writer is not None and writer.transport.is_closing():
        connection.close(reason=CloseReason.CONNECTION_BROKEN)
        raise KafkaConnectionError(f"Connection at {connection.host}:{connection.port} is lost")
    return _send(connection, request, expect_response)
