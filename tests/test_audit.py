"""The audit log: every denied action and every one of an administrator, before it is done."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection
from served import until

from sfm_graph.domain.access import EVERYTHING, Grant, Principal, Scope, reach
from sfm_graph.domain.audit import AuditFilter, AuditRecord, start
from sfm_graph.errors import DatabaseUnavailable, Forbidden, InvalidCursor, InvalidInput, Overloaded, TooLarge
from sfm_graph.ports.policy import Action, Decision
from sfm_graph.services.access import audit_writer
from sfm_graph.services.access.audit import AuditLog
from sfm_graph.services.access.audit_retention import AuditRetention
from sfm_graph.services.access.audit_writer import AuditWriter
from sfm_graph.services.access.guard import Caller, acting
from sfm_graph.services.access.policy import ScopesByNamespace
from sfm_graph.services.registry import Services
from sfm_graph.store import audit as rows
from sfm_graph.store.database import Database
from sfm_graph.store.statements import statement

ALLOWED, DENIED = Decision(True), Decision(False, "no")


def principal(name: str = "key:1", scopes: Sequence[Scope] = (), namespaces: Sequence[str] = ("*",)) -> Principal:
    return Principal(name, Grant(frozenset(scopes), reach(namespaces)))


def action(name: str = "x.do", namespace: str | None = "a", scope: Scope = Scope.WRITE) -> Action:
    return Action(name, scope, namespace)


def caller(services: Services, one: Principal) -> Caller:
    return Caller(one, ScopesByNamespace(), services.audit)


async def records(services: Services, who: Principal | None = None, **page: Any) -> list[AuditRecord]:
    """What somebody sees, without what looking adds."""
    with acting(Caller(who or Principal("reader", EVERYTHING), ScopesByNamespace())):
        async with services.views.open() as view:
            found = await services.audit.list(view, first=100, after=None, **page)
    return list(found.items)


async def actions(services: Services, who: Principal | None = None, **wanted: Any) -> list[str]:
    """The actions of what a filter lets through, the newest first."""
    return [one.action for one in await records(services, who, wanted=AuditFilter(**wanted))]


async def test_denied_actions_are_written_down(services: Services) -> None:
    with acting(caller(services, principal(scopes=[Scope.READ], namespaces=["mine"]))):
        with pytest.raises(Forbidden):
            await services.memory_writes.store("mine", {"content": "x"})
        with pytest.raises(Forbidden):
            async with services.views.open() as view:
                await services.changes.page(view, "other", "beginning", None, 1)
    first, second = reversed(await records(services))
    assert (first.principal, first.scope, first.namespace, first.allowed) == ("key:1", "write", "mine", False)
    assert first.action == "memory_writes.store"
    assert "write" in first.reason
    assert (second.namespace, second.allowed) == ("other", False)


async def test_what_administrators_do_is_written_down_and_what_others_may_is_not(services: Services) -> None:
    with acting(caller(services, Principal("jwt:i#admin", EVERYTHING))):
        await services.memory_writes.store("a", {"content": "x"})
        await services.keys.create("k", scopes=["read"], namespaces=["a"])
    (row,) = await records(services)
    assert (row.principal, row.action, row.scope, row.allowed) == ("jwt:i#admin", "keys.create", "admin", True)
    assert row.reason == ""


async def test_an_admin_action_that_cannot_be_written_down_is_not_done(
    services: Services, database_dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with await AsyncConnection.connect(database_dsn, autocommit=True) as connection:
        await connection.execute("alter table audit_log rename to elsewhere")
        with acting(caller(services, principal(scopes=[Scope.ADMIN]))):
            with pytest.raises(Exception, match="the database refused a statement"):
                await services.keys.create("k", scopes=["admin"], namespaces=["a"])
            cursor = await connection.execute("select count(*) from api_keys")
            assert await cursor.fetchone() == (0,)
            # Denied stays denied.
            with pytest.raises(Forbidden):
                await services.memory_writes.store("a", {"content": "x"})
        await connection.execute("alter table elsewhere rename to audit_log")
    assert "could not be written" in caplog.text
    assert await records(services) == []


async def test_each_decision_is_one_line_of_the_log(services: Services, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "sfm_graph.audit")
    await services.audit.record(principal("jwt:i#a"), action(namespace="a\nb"), DENIED)
    (line,) = [one for one in caplog.records if one.getMessage().startswith("audit ")]
    assert "\n" not in line.getMessage()
    assert json.loads(line.getMessage().removeprefix("audit ")) == {
        "principal": "jwt:i#a", "principal_name": None, "action": "x.do", "scope": "write", "namespace": "a\nb",
        "target": None, "allowed": False, "reason": "no",
    }  # fmt: skip


async def test_what_postgres_cannot_hold_costs_no_row(services: Services) -> None:
    group = [("plain", "a"), ("nul\x00", "b\x00"), ("lone \ud800", "c"), ("long" * 1_000, "d" * 5_000)]
    await asyncio.gather(
        *(services.audit.record(principal(name), action(namespace=place), DENIED) for name, place in group)
    )
    assert {one.namespace and one.namespace[:2] for one in await records(services)} == {"a", "b\ufffd", "c", "dd"}


async def test_rows_stay_as_they_are(services: Services, database_dsn: str) -> None:
    await services.audit.record(principal(), action(), DENIED)
    async with await AsyncConnection.connect(database_dsn, autocommit=True) as connection:
        for statement in ("update audit_log set allowed = true", "delete from audit_log", "truncate audit_log"):
            with pytest.raises(psycopg.errors.RaiseException, match="append only"):
                await connection.execute(statement)
    assert [one.allowed for one in await records(services)] == [False]


async def test_pages_go_from_the_newest_on(services: Services) -> None:
    for number in range(5):
        await services.audit.record(principal(), action(f"x.do{number}"), DENIED)
    with acting(Caller(Principal("reader", EVERYTHING), ScopesByNamespace())):
        async with services.views.open() as view:
            first = await services.audit.list(view, first=2, after=None)
            await services.audit.record(principal(), action("x.late"), DENIED)
            rest = await services.audit.list(view, first=9, after=first.end_cursor)
            for wrong in ("%%%", "WyJhcGlfa2V5cyIsMV0"):
                with pytest.raises(InvalidCursor):
                    await services.audit.list(view, first=2, after=wrong)
    assert [one.action for one in first.items] == ["x.do4", "x.do3"]
    assert first.has_next
    assert [one.action for one in rest.items] == ["x.do2", "x.do1", "x.do0"]
    assert not rest.has_next


async def test_an_administrator_sees_what_is_within_reach(services: Services) -> None:
    for namespace in ("team/a", "team/b", "teams", "other", None):
        await services.audit.record(principal(), action(namespace=namespace), DENIED)

    async def seen(*patterns: str) -> set[str | None]:
        return {one.namespace for one in await records(services, principal("r", [Scope.ADMIN], patterns))}

    assert await seen("team/*") == {"team/a", "team/b"}
    assert await seen("team/a", "other") == {"team/a", "other"}
    assert await seen("*") == {"team/a", "team/b", "teams", "other", None}
    with pytest.raises(Forbidden):
        await records(services, principal("r", [Scope.READ]))


async def test_keys_are_shown_by_name(services: Services) -> None:
    made = await services.keys.create("boss", scopes=["read"], namespaces=["*"])
    with acting(await services.authentication.caller(made.token)), pytest.raises(Forbidden):
        await services.memory_writes.store("a", {"content": "x"})
    # Names that look like keys, and are none.
    for name in ("key:999999", f"key:{'9' * 30}", "key:x", "token"):
        await services.audit.record(principal(name), action(), DENIED)
    found = {one.principal: one.label for one in await records(services)}
    assert found.pop(f"key:{made.key.id}") == "boss"
    assert set(found.values()) == {None}
    assert await actions(services, principal="boss") == ["memory_writes.store"]
    assert await actions(services, principal=f"key:{made.key.id}") == ["memory_writes.store"]


async def test_a_name_that_was_given_again_finds_both_keys(services: Services) -> None:
    for number in range(2):
        made = await services.keys.create("ci", scopes=["read"], namespaces=["*"])
        await services.audit.record(principal(f"key:{made.key.id}"), action(f"x.do{number}"), DENIED)
        await services.keys.revoke("ci")
    await services.audit.record(principal("ci"), action("x.do2"), DENIED)
    assert await actions(services, principal="ci") == ["x.do2", "x.do1", "x.do0"]


async def test_what_is_looked_for(services: Services, database_dsn: str) -> None:
    for name, act, place, decision in (
        ("token", "x.old", "team/a", ALLOWED), ("token", "x.a", "team/a", ALLOWED),
        ("token", "x.b", "team/a", DENIED),
        ("jwt:i#b", "x.c", "other", DENIED), ("jwt:i#b", "x.d", None, ALLOWED), ("jwt:i#b", "x.e", "team/a", DENIED),
    ):  # fmt: skip
        await services.audit.record(principal(name), action(act, place), decision)
    async with await AsyncConnection.connect(database_dsn, autocommit=True) as connection:
        await connection.execute("set session_replication_role = replica")
        await connection.execute("update audit_log set at = now() - interval '2 hours' where action = 'x.old'")
    assert await actions(services, principal="token") == ["x.b", "x.a", "x.old"]
    assert await actions(services, namespace="team/a") == ["x.e", "x.b", "x.a", "x.old"]
    assert await actions(services, denied=True) == ["x.e", "x.c", "x.b"]
    hour_ago = datetime.now(UTC) - timedelta(hours=1)
    assert await actions(services, since=hour_ago) == ["x.e", "x.d", "x.c", "x.b", "x.a"]
    assert await actions(services, since=datetime.now(UTC) + timedelta(hours=1)) == []
    assert await actions(services, principal="token", namespace="team/a", denied=True, since=hour_ago) == ["x.b"]
    assert await actions(services, principal="nobody") == []
    # Within reach, whatever is looked for.
    limited = principal("r", [Scope.ADMIN], ["other"])
    assert await actions(services, limited, principal="jwt:i#b") == ["x.c"]
    assert await actions(services, limited, namespace="team/a") == []
    assert await actions(services, limited, principal="jwt:i#b", namespace="team/a") == []
    assert await actions(services, limited, since=hour_ago) == ["x.c"]
    for wrong in ({"principal": ""}, {"principal": "x" * 1_001}, {"namespace": ""}, {"namespace": "a\x00"}):
        with pytest.raises((InvalidInput, TooLarge)):
            await actions(services, **wrong)


def test_since_is_a_period_or_a_time() -> None:
    now = datetime(2026, 3, 1, tzinfo=UTC)
    assert start(None, now) is None
    assert start("90m", now) == now - timedelta(minutes=90)
    assert start("2026-02-01", now) == datetime(2026, 2, 1, tzinfo=UTC)
    for wrong in ("soon", "-1d", "999999w"):
        with pytest.raises(InvalidInput):
            start(wrong, now)


async def test_pages_run_on_an_index(services: Services, database_dsn: str) -> None:
    everywhere = {"everywhere": True, "names": [], "prefixes": []}
    expected: list[tuple[str, dict[str, Any], str]] = [
        ("audit_page", everywhere, "audit_log_pkey"),
        ("audit_page_in", {"namespace": "n7"}, "audit_log_namespace"),
        ("audit_page_of", {"principal": "key:7", **everywhere}, "audit_log_principal"),
    ]
    async with await AsyncConnection.connect(database_dsn, autocommit=True) as connection:
        await connection.execute(
            "insert into audit_log (principal, action, scope, namespace, allowed, reason) "
            "select 'key:' || i % 100, 'x', 'read', 'n' || i % 100, false, '' from generate_series(1, 20000) as i"
        )
        await connection.execute("vacuum analyze audit_log")
        # As it is for all values, not for those that are given.
        await connection.execute("set plan_cache_mode = force_generic_plan")
        for name, given, index in expected:
            parameters = {"before": 2**62, "limit": 21, "denied": False, "since": None, **given}
            cursor = await connection.execute("explain " + statement(name), parameters, prepare=True)
            plan = "\n".join(row[0] for row in await cursor.fetchall())
            assert f"using {index}" in plan, plan
            assert "Seq Scan on audit_log" not in plan, plan


async def test_old_rows_are_removed_by_the_owner_alone(
    services: Services, database_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "MAX_PRUNED", 2)
    for number in range(6):
        await services.audit.record(principal(), action(f"x.do{number}"), DENIED)
    database = services.views._database
    assert isinstance(database, Database)
    assert database.is_walled
    async with await AsyncConnection.connect(database_dsn, autocommit=True) as connection:
        await connection.execute("set session_replication_role = replica")
        await connection.execute("update audit_log set at = now() - interval '31 days' where action <= 'x.do4'")
    async with database.dedicated() as connection:
        await connection.execute("set sfm.audit_prune = 'on'")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await connection.execute("delete from audit_log")
    assert await AuditRetention(database, days=60).prune() == 0
    assert await AuditRetention(database, days=30).prune() == 5
    assert [one.action for one in await records(services)] == ["x.do5"]
    # What was allowed for a moment is not any more.
    async with database.owned() as connection:
        with pytest.raises(psycopg.errors.RaiseException, match="append only"):
            await connection.execute("delete from audit_log")


async def test_maintenance_removes_old_rows(services: Services, database_dsn: str) -> None:
    await services.audit.record(principal(), action("x.old"), DENIED)
    await services.audit.record(principal(), action("x.new"), DENIED)
    async with await AsyncConnection.connect(database_dsn, autocommit=True) as connection:
        await connection.execute("set session_replication_role = replica")
        await connection.execute("update audit_log set at = now() - interval '366 days' where action = 'x.old'")
    await services.maintenance.round()
    assert [one.action for one in await records(services)] == ["x.new"]


async def test_many_at_once_take_one_connection_and_few_statements(services: Services, database_dsn: str) -> None:
    # More than the pool has connections, each of which is held by a request that is being denied.
    async with asyncio.timeout(30):
        views = [services.views.open() for _ in range(services.settings.pool_max_size)]
        opened = [await one.__aenter__() for one in views]
        await asyncio.gather(
            *(services.audit.record(principal(), action(f"x.{number}"), DENIED) for number in range(500))
        )
        assert len(opened) == services.settings.pool_max_size
        for one in views:
            await one.__aexit__(None, None, None)
    async with await AsyncConnection.connect(database_dsn) as connection:
        cursor = await connection.execute("select count(*), count(distinct xmin::text) from audit_log")
        rows, transactions = await cursor.fetchone() or (0, 0)
    assert rows == 500
    assert transactions <= 3


async def test_the_connection_is_made_anew(services: Services, database_dsn: str) -> None:
    await services.audit.record(principal(), action("x.before"), ALLOWED)
    async with await AsyncConnection.connect(database_dsn, autocommit=True) as connection:
        cursor = await connection.execute(
            "select count(pg_terminate_backend(pid)) from pg_stat_activity "
            "where datname = current_database() and pid <> pg_backend_pid() and query like '%audit_log%'"
        )
        assert await cursor.fetchone() == (1,)
        await until(lambda: _gone(connection))
    await services.audit.record(principal(), action("x.after"), ALLOWED)
    assert [one.action for one in await records(services)] == ["x.after", "x.before"]


async def _gone(connection: AsyncConnection) -> bool:
    cursor = await connection.execute(
        "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid() "
        "and query like '%audit_log%'"
    )
    return await cursor.fetchone() == (0,)


class HangingDatabase:
    """Connections that never come about."""

    @asynccontextmanager
    async def dedicated(self) -> AsyncIterator[Any]:
        await asyncio.Event().wait()
        yield


async def test_a_database_that_hangs_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_writer, "MOST_WAITING", 2)
    hanging: Any = HangingDatabase()
    writer = AuditWriter(hanging, seconds=0.05)
    log = AuditLog(hanging, writer=writer)
    async with asyncio.timeout(30):
        for _ in range(2):
            with pytest.raises(DatabaseUnavailable):
                await log.record(principal(), action(), ALLOWED)
        with pytest.raises(Overloaded):
            await log.record(principal(), action(), ALLOWED)
        await log.record(principal(), action(), DENIED)
        await log.aclose()


async def test_a_request_that_ends_takes_no_other_with_it(services: Services) -> None:
    begun = [
        asyncio.create_task(services.audit.record(principal(), action(f"x.{number}"), ALLOWED)) for number in range(3)
    ]
    await asyncio.sleep(0)
    begun[0].cancel()
    await asyncio.gather(*begun, return_exceptions=True)
    assert begun[0].cancelled()
    assert {"x.1", "x.2"} <= {one.action for one in await records(services)}
