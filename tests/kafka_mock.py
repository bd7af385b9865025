"""librdkafka's mock cluster, from the wheel of confluent-kafka: Kafka's protocol on a real port, without Java.

It serves metadata, produce (idempotent too) and fetch; what it is told to refuse, it refuses.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import confluent_kafka

PRODUCE = 0  # the number of that request in Kafka's protocol


class MockCluster:
    """One broker. `bootstrap` is where it listens."""

    def __init__(self, library: ctypes.CDLL, cluster: int) -> None:
        self._library = library
        self._cluster = ctypes.c_void_p(cluster)

    @property
    def bootstrap(self) -> str:
        """Host and port."""
        self._library.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
        return self._library.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()

    def make_topic(self, name: str, partitions: int) -> None:
        """Create a topic."""
        failed = self._library.rd_kafka_mock_topic_create(self._cluster, name.encode(), partitions, 1)
        assert failed == 0

    def refuse(self, *codes: int) -> None:
        """Answer the next produce requests with these error codes, then work again."""
        numbers = (ctypes.c_int * len(codes))(*codes)
        push = self._library.rd_kafka_mock_push_request_errors_array
        push(self._cluster, ctypes.c_int16(PRODUCE), ctypes.c_size_t(len(codes)), numbers)


@contextmanager
def mock_cluster() -> Iterator[MockCluster]:
    """A started mock cluster."""
    library = _library()
    library.rd_kafka_new.restype = library.rd_kafka_mock_cluster_new.restype = ctypes.c_void_p
    message = ctypes.create_string_buffer(512)
    client = library.rd_kafka_new(0, None, message, ctypes.c_size_t(len(message)))
    assert client, message.value
    cluster = library.rd_kafka_mock_cluster_new(ctypes.c_void_p(client), 1)
    assert cluster
    try:
        yield MockCluster(library, cluster)
    finally:
        library.rd_kafka_mock_cluster_destroy(ctypes.c_void_p(cluster))
        library.rd_kafka_destroy(ctypes.c_void_p(client))


def _library() -> ctypes.CDLL:
    # Wheels keep the library beside the package on Linux, inside of it on macOS.
    package = Path(confluent_kafka.__file__).parent
    for folder in (package.parent / "confluent_kafka.libs", package / ".dylibs"):
        for file in folder.glob("librdkafka*"):
            return ctypes.CDLL(str(file))
    raise FileNotFoundError("no librdkafka in the wheel of confluent-kafka")
