"""What waits on behalf of a request waits no longer than the request may, whatever it waits for."""

import asyncio
import socket
import time

import pytest

from sfm_graph.adapters.models.json_http import JsonEndpoint
from sfm_graph.domain.deadline import Deadline, at_most, remaining_seconds, under, within, without_deadline
from sfm_graph.errors import DeadlineExceeded, EmbedderUnavailable, Overloaded
from sfm_graph.services.registry import Services
from sfm_graph.store.database import Database, WriteSession


def _in(seconds: float) -> Deadline:
    return Deadline(time.monotonic() + seconds)


async def test_tasks_inherit_a_deadline_until_it_is_lifted() -> None:
    assert remaining_seconds() is None
    assert (within(7), at_most(7)) == (7, 7)
    with under(_in(5)) as deadline:
        assert await asyncio.create_task(_left()) <= 5
        assert within(1) == 1
        with without_deadline():
            assert await asyncio.create_task(_left()) is None
        deadline.lift()
        assert await asyncio.create_task(_left()) is None
    with under(_in(-1)):
        assert (remaining_seconds(), at_most(7)) == (0, 0)
        with pytest.raises(DeadlineExceeded):
            within(7)


async def _left() -> float | None:
    return remaining_seconds()


async def _sleep(session: WriteSession) -> None:
    await session.dynamic("select pg_sleep(20)")


async def test_the_database_itself_ends_statements_of_a_late_request(database_dsn: str) -> None:
    database = Database(database_dsn, max_size=2, statement_timeout_ms=20_000)
    await database.open()
    try:
        began = time.monotonic()
        with under(_in(0.3)), pytest.raises(DeadlineExceeded):
            await database.write(_sleep)
        with under(_in(0.3)), pytest.raises(DeadlineExceeded):
            async with database.read() as session:
                await session.dynamic("select pg_sleep(20)")
        assert time.monotonic() - began < 15
        # The next ones are as usual: the bound was the transaction's.
        async with database.read() as session:
            assert await session.dynamic("show statement_timeout") == [("20s",)]
        await database.write(_nothing)
    finally:
        await database.close()


async def _nothing(session: WriteSession) -> None:
    assert await session.dynamic("show statement_timeout") == [("20s",)]


async def test_a_statement_that_is_too_long_for_any_request_is_an_overload(database_dsn: str) -> None:
    database = Database(database_dsn, max_size=2, statement_timeout_ms=200)
    await database.open()
    try:
        with under(_in(20)), pytest.raises(Overloaded) as refused:
            await database.write(_sleep)
        assert refused.value.code == "overloaded"
    finally:
        await database.close()


async def test_no_more_wait_for_a_connection_than_can_be_served(database_dsn: str) -> None:
    database = Database(database_dsn, max_size=2, timeout_seconds=10)
    await database.open()
    try:
        waiting = {asyncio.create_task(database.write(_long)) for _ in range(500)}
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        # Before anybody has waited in vain, and before the first is done.
        assert {type(one.exception()) for one in done} == {Overloaded}
        for one in waiting:
            one.cancel()
        await asyncio.wait(waiting)
    finally:
        await database.close()


async def _long(session: WriteSession) -> None:
    await session.dynamic("select pg_sleep(5)")


async def test_a_model_is_waited_for_no_longer_than_the_request_may() -> None:
    # Connections are made, and nobody is there to accept them.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        endpoint = JsonEndpoint(
            f"http://127.0.0.1:{port}/", None, timeout_seconds=60, max_answer_bytes=100, connections=1,
            error=EmbedderUnavailable, key_variable="KEY",
        )  # fmt: skip
        try:
            with under(_in(0.2)), pytest.raises(DeadlineExceeded):
                await endpoint.post({})
        finally:
            await endpoint.aclose()


async def test_a_walk_leaves_time_for_its_answer(services: Services) -> None:
    runner = services.walks.runner
    assert runner.seconds() == pytest.approx(services.settings.walk_deadline_ms / 1000)
    with under(_in(2)):
        assert 1 < runner.seconds() <= 1.8
