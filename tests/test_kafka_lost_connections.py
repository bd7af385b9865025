"""Connections to Kafka that are reset, and memberships whose broker goes away: without a broker of Java."""

import asyncio
from collections.abc import Collection
from typing import Any

import pytest
import uvloop
from aiokafka.conn import create_conn
from aiokafka.errors import KafkaConnectionError, KafkaError
from aiokafka.protocol.metadata import MetadataRequest
from kafka_mock import mock_cluster

from sfm_consumers.source import Claim
from sfm_consumers.sources import kafka
from sfm_graph.adapters.buses.kafka_options import producer_options
from sfm_graph.settings import load_settings


@pytest.mark.parametrize("turns", range(5))
def test_what_is_sent_behind_a_reset_fails_as_the_connection_does(turns: int) -> None:
    async def cut(host: str, port: int) -> None:
        connection = await create_conn(host, port)
        connection._writer.transport.abort()
        for _ in range(turns):  # until aiokafka has noticed
            await asyncio.sleep(0)
        with pytest.raises(KafkaConnectionError):
            await connection.send(MetadataRequest([]))
        await connection.close()

    with mock_cluster() as cluster:
        producer_options(load_settings(kafka_bootstrap_servers=cluster.bootstrap))
        host, port = cluster.bootstrap.split(",")[0].rsplit(":", 1)
        uvloop.run(cut(host, int(port)))


async def _for_ever(*_: Any, **__: Any) -> Any:
    await asyncio.Event().wait()


async def _nothing(*_: Any, **__: Any) -> Any:
    return {}


class _Part:
    """What aiokafka's consumer is made of: tasks, and whether they were closed."""

    def __init__(self) -> None:
        self._sync_task = self.error_future = asyncio.create_task(_for_ever())
        self.closed = False

    async def close(self) -> None:
        self.closed = True
        self.error_future.cancel()


class _Coordinator:
    """The part whose tasks only `stop` would end."""

    def __init__(self) -> None:
        self.ended: list[str] = []

    async def _stop_heartbeat_task(self) -> None:
        self.ended.append("heartbeat")

    async def _stop_commit_offsets_refresh_task(self) -> None:
        self.ended.append("offsets")


class _Consumer:
    """aiokafka's, joined, whose broker answers as long as nothing else is said."""

    def __init__(self) -> None:
        self._client, self._fetcher, self._coordinator = _Part(), _Part(), _Coordinator()
        self.start = self.stop = self.getmany = self.topics = _nothing

    def subscribe(self, topics: list[str], listener: Any) -> None:
        pass


class _Listener:
    def __init__(self) -> None:
        self.told: asyncio.Queue[str | None] = asyncio.Queue()

    def gained(self, claim: Claim) -> None:
        pass

    async def lost(self, claims: Collection[Claim]) -> None:
        pass

    def reachable(self, trouble: str | None) -> None:
        self.told.put_nowait(trouble)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_ANSWER_SECONDS", "_PULSE_SECONDS", "_STOP_SECONDS"):
        monkeypatch.setattr(kafka, name, 0.01)


def _live(consumer: _Consumer) -> tuple[_Listener, asyncio.Task[None]]:
    listener = _Listener()
    member = kafka._Member(consumer, listener, from_beginning=True, batch=10)
    return listener, asyncio.create_task(member.live(["a"]))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("call", ["getmany", "topics"])
async def test_a_broker_that_goes_away_is_told_of_at_any_moment(call: str) -> None:
    """Also while partitions move, when aiokafka waits for them for ever."""
    consumer = _Consumer()
    listener, living = _live(consumer)
    async with asyncio.timeout(60):
        assert await listener.told.get() is None
        setattr(consumer, call, _for_ever)
        while (told := await listener.told.get()) is None:
            pass
        assert "did not answer" in told
        setattr(consumer, call, _nothing)
        while await listener.told.get() is not None:
            pass
        living.cancel()
        await asyncio.wait([living])


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("part", ["_client", "_fetcher"])
async def test_a_membership_whose_task_has_ended_is_over(part: str) -> None:
    consumer = _Consumer()
    listener, living = _live(consumer)
    async with asyncio.timeout(60):
        assert await listener.told.get() is None
        getattr(consumer, part).error_future.cancel()
        with pytest.raises(KafkaError, match="has ended"):
            await living


async def _cancelled() -> None:
    raise asyncio.CancelledError


async def _defect() -> None:
    raise RuntimeError("the handler is closed")


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("stop", [_for_ever, _cancelled, _defect])
async def test_nothing_of_a_membership_outlives_it(stop: Any) -> None:
    """A consumer that stops badly neither ends the source nor goes on fetching."""
    consumer = _Consumer()
    consumer.stop = stop
    listener, living = _live(consumer)
    async with asyncio.timeout(60):
        assert await listener.told.get() is None
        consumer._client.error_future.cancel()
        with pytest.raises(KafkaError, match="has ended"):
            await living
    assert consumer._coordinator.ended == ["heartbeat", "offsets"]
    assert consumer._client.closed
    assert consumer._fetcher.closed
