"""What is kept to tell what was known, and for how long."""

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from sfm_graph.domain.as_of import AsOf
from sfm_graph.domain.identity import MemoryRef
from sfm_graph.errors import KnownExpired
from sfm_graph.services.changes.retention import Retention
from sfm_graph.services.registry import Services
from sfm_graph.store import past_rows
from sfm_graph.store.database import Database

SPACE = "kept"


def _one(dsn: str, query: str) -> Any:
    with psycopg.connect(dsn) as connection:
        row = connection.execute(query).fetchone()  # type: ignore[arg-type]
        assert row
        return row[0]


async def _store(services: Services, content: str) -> None:
    await services.memory_writes.store(SPACE, {"key": "a", "content": content, "title": content})


async def test_what_was_known_ends_with_the_changes_that_tell_it(services: Services, database_dsn: str) -> None:
    database: Database = services.memory_writes._database
    await _store(services, "one")
    await _store(services, "two")
    first, second = (
        _one(
            database_dsn, f"select at from commits where tx = (select tx from changes order by id offset {n} limit 1)"
        )
        for n in (0, 1)
    )
    async with services.views.open(AsOf(known=first)) as view:
        assert (await services.memory_reads.get(view, SPACE, MemoryRef(key="a"))).content == "one"
    # The partition of now is past.
    later = datetime.now(UTC) + timedelta(days=3)
    retention = Retention(database, days=1, grace=timedelta(0), clock=lambda: later)
    await retention.prune()
    assert _one(database_dsn, "select count(*) from changes") > 0
    assert _one(database_dsn, "select known_from from change_log") >= second
    # Said before they go: who asks is told, and what nobody can ask for goes.
    with pytest.raises(KnownExpired):
        async with services.views.open(AsOf(known=first)):
            pass
    await retention.prune()
    assert _one(database_dsn, "select count(*) from changes") == 0
    assert await past_rows.prune(database) > 0
    for table in ("past_words", "past_names", "past_embeddings"):
        assert _one(database_dsn, f"select count(*) from {table}") == 0
    known = _one(database_dsn, "select known_from from change_log")
    assert _one(database_dsn, f"select count(*) from commits where at < '{known}'") == 0
    async with services.views.open(AsOf(known=known)) as view:
        assert (await services.memory_reads.get(view, SPACE, MemoryRef(key="a"))).content == "two"
    assert (await past_rows.prune(database)) >= 0


async def test_what_may_still_be_asked_for_is_kept(services: Services, database_dsn: str) -> None:
    database: Database = services.memory_writes._database
    for content in ("one", "two", "three"):
        await _store(services, content)
    before = [
        _one(database_dsn, f"select count(*) from {table}") for table in ("past_words", "past_embeddings", "commits")
    ]
    assert before[0] == 2
    assert before[1] >= 2
    assert await past_rows.prune(database) == 0
    # A moment in between: what was replaced before it goes, stamps stay with their changes.
    moment = _one(
        database_dsn, "select at from commits where tx = (select tx from changes order by id offset 1 limit 1)"
    )
    with psycopg.connect(database_dsn) as connection:
        connection.execute("update change_log set known_from = %s", (moment,))
    await past_rows.prune(database)
    assert _one(database_dsn, "select count(*) from past_words") == 1
    assert _one(database_dsn, "select count(*) from commits") >= before[2]
    async with services.views.open(AsOf(known=moment)) as view:
        assert (await services.memory_reads.get(view, SPACE, MemoryRef(key="a"))).content == "two"
