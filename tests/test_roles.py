"""The role of the service: what it can never do, and how databases come by it."""

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import AsyncConnection, sql
from psycopg.conninfo import make_conninfo
from pydantic import SecretStr

from sfm_graph.cli.doctor import checks
from sfm_graph.errors import DatabaseUnavailable
from sfm_graph.runtime import open_runtime
from sfm_graph.settings import load_settings
from sfm_graph.store.embedded import EmbeddedServer, embedded_postgres
from sfm_graph.store.migrations import MIGRATION_LOCK, Migration, ensure_database, migrate, migrations
from sfm_graph.store.roles import OWNER_ROLE, SERVICE_ROLE, wanted_rights

QUICK = {"fsync": "off", "autovacuum": "off", "shared_buffers": "16MB"}
FORBIDDEN = [
    "create table mine (id integer)",
    "create temporary table memories (id integer)",
    "create schema mine",
    "create view mine as select * from memories",
    "create index mine on memories (content)",
    "create function mine() returns integer language sql as 'select 1'",
    "create function pg_temp.mine() returns integer language sql as 'select 1'",
    "create role mine",
    "create database mine",
    "create sequence mine",
    "create trigger mine before insert on memories for each row execute function audit_log_keep()",
    "create policy mine on memories using (true)",
    "create publication mine for table memories",
    "alter table memories add column mine integer",
    "alter table memories owner to sfm_service",
    "alter table audit_log disable trigger all",
    "alter table memories enable row level security",
    "alter role sfm_service superuser",
    "alter system set fsync = off",
    "alter database postgres set work_mem = '1MB'",
    "drop table memories",
    "drop index memories_key",
    "drop function memory_state(memories)",
    "drop schema public cascade",
    "drop extension vector",
    "truncate memories",
    "truncate audit_log",
    "reindex table memories",
    "cluster memories using memories_pkey",
    "begin; lock table audit_log in access exclusive mode",
    "comment on table memories is 'mine'",
    "copy memories to program 'cat'",
    "copy memories from program 'echo'",
    "copy memories to '/tmp/mine'",
    "copy api_keys from '/etc/passwd'",
    "select pg_read_file('/etc/passwd')",
    "select pg_ls_dir('/')",
    "select lo_import('/etc/passwd')",
    "select pg_reload_conf()",
    "select * from pg_authid",
    "select * from schema_migrations",
    "select * from changes_first",
    "select add_change_partitions(interval '1 day', now() + interval '1 day')",
    "select setval('memory_ids', 1)",
    "update audit_log set allowed = true",
    "delete from audit_log",
    "update memories set namespace_id = 2",
    "update links set source_id = 1",
    "update changes set xid = '3'",
    "update change_log set cursor_key = ''",
    "update api_keys set hash = '', scopes = '{admin}'",
    "delete from api_keys",
    "update namespaces set name = 'other'",
    "insert into schema_migrations values (99, 'mine', '')",
    "set role sfm_owner",
    "set role postgres",
    "set session authorization postgres",
    "select set_config('role', 'sfm_owner', false)",
    "set session_replication_role = replica",
]


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    """A server of this module's own, since roles are a whole server's."""
    with tempfile.TemporaryDirectory(prefix="sfm-roles-") as folder, asyncio.Runner() as runner:
        context = embedded_postgres(Path(folder) / "data", QUICK)
        yield runner.run(context.__aenter__())
        runner.run(context.__aexit__(None, None, None))


_numbers = iter(range(1_000_000))


@pytest.fixture
def empty(server: EmbeddedServer) -> str:
    """The superuser's connection string of an empty database; the roles do not exist."""
    name = f"roles_{next(_numbers)}"
    with psycopg.connect(server.superuser_dsn(), autocommit=True) as connection:
        for (old,) in connection.execute(
            "select datname from pg_database where datname <> 'postgres' and not datistemplate"
        ).fetchall():
            connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(old)))
        roles = "select rolname from pg_roles where rolname not like 'pg_%' and rolname <> 'postgres'"
        for (old,) in connection.execute(roles).fetchall():
            connection.execute(sql.SQL("drop owned by {0}; drop role {0}").format(sql.Identifier(old)))
        connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
    return server.superuser_dsn(name)


def _run(dsn: str, *statements: str) -> list[tuple[object, ...]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.cursor()
        for one in statements:
            cursor.execute(one)  # type: ignore[arg-type]
        return cursor.fetchall() if cursor.description else []


def _owners(dsn: str) -> set[object]:
    """Whose the relations and functions of the schema are."""
    return {
        row[0]
        for row in _run(
            dsn,
            "select pg_get_userbyid(c.relowner) from pg_class c where c.relnamespace = 'public'::regnamespace "
            "and c.relkind in ('r', 'p', 'S', 'i', 'I') and not exists "
            "(select from pg_depend d where d.objid = c.oid and d.deptype = 'e') "
            "union select pg_get_userbyid(p.proowner) from pg_proc p where p.pronamespace = 'public'::regnamespace "
            "and not exists (select from pg_depend d where d.objid = p.oid and d.deptype = 'e')",
        )
    }


def _rights(dsn: str) -> int:
    """How many rights the service's role was given."""
    (row,) = _run(
        dsn,
        "select (select count(*) from pg_class c, aclexplode(c.relacl) a where a.grantee = 'sfm_service'::regrole) + "
        "(select count(*) from pg_attribute t, aclexplode(t.attacl) a where a.grantee = 'sfm_service'::regrole) + "
        "(select count(*) from pg_proc p, aclexplode(p.proacl) a where a.grantee = 'sfm_service'::regrole)",
    )
    return int(str(row[0]))


@pytest.mark.parametrize("statement", FORBIDDEN)
async def test_the_service_can_do_nothing_else(server: EmbeddedServer, statement: str) -> None:
    dsn = server.superuser_dsn("walled")
    await ensure_database(server.superuser_dsn(), "walled")
    await migrate(dsn, login=True)
    async with await AsyncConnection.connect(make_conninfo(dsn, user=SERVICE_ROLE), autocommit=True) as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await connection.execute(statement)  # type: ignore[arg-type]


async def test_what_the_service_may_do_is_no_more_than_wanted(empty: str) -> None:
    await migrate(empty)
    assert _rights(empty) == len(wanted_rights())
    _run(
        empty,
        "grant truncate, trigger on memories to sfm_service",
        "grant update (namespace_id) on links to sfm_service",
        "revoke insert on names from sfm_service",
        "grant execute on function add_change_partitions to public",
        "grant create on schema public to public",
    )
    await migrate(empty)
    assert _rights(empty) == len(wanted_rights())
    (row,) = _run(
        empty,
        "select has_table_privilege('sfm_service', 'memories', 'TRUNCATE'), "
        "has_column_privilege('sfm_service', 'links', 'namespace_id', 'UPDATE'), "
        "has_table_privilege('sfm_service', 'names', 'INSERT'), "
        "has_function_privilege('sfm_service', 'add_change_partitions(interval, timestamptz)', 'EXECUTE'), "
        "has_schema_privilege('sfm_service', 'public', 'CREATE')",
    )
    assert row == (False, False, True, False, False)


async def test_a_database_whose_service_owned_the_tables_moves_over(empty: str) -> None:
    _run(
        empty,
        "create extension vector",
        "create role sfm_service",
        "grant create, usage on schema public to sfm_service",
        "set role sfm_service",
        "create table schema_migrations (number integer primary key, name text not null, checksum text not null, "
        "applied_at timestamptz not null default now())",
        *(one.text for one in migrations()[:3]),
        *(
            f"insert into schema_migrations values ({one.number}, '{one.name}', '{one.checksum}')"
            for one in migrations()[:3]
        ),
        "insert into namespaces (name) values ('kept')",
    )
    assert await migrate(empty) == SERVICE_ROLE
    assert _owners(empty) == {OWNER_ROLE}
    assert _rights(empty) == len(wanted_rights())
    await _serves(empty)
    assert _run(empty, "select name from namespaces order by id limit 1") == [("kept",)]


async def test_a_migration_does_not_stand_between_readers_and_a_backup(
    empty: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await migrate(empty)
    monkeypatch.setattr("sfm_graph.store.migrations.LOCK_WAIT_MS", 50)
    monkeypatch.setattr("sfm_graph.store.migrations.LOCK_PAUSE_SECONDS", 0.2)
    later = Migration(9_999, "later", "alter table changes add column later text")
    known = migrations()
    monkeypatch.setattr("sfm_graph.store.migrations.migrations", lambda: [*known, later])
    async with await psycopg.AsyncConnection.connect(empty) as backup:
        await backup.execute("lock table changes in access share mode")
        migrating = asyncio.create_task(migrate(empty))
        async with await psycopg.AsyncConnection.connect(empty, autocommit=True) as reader:
            for _ in range(20):
                # Behind a migration that waits, this would wait too.
                await reader.execute("set statement_timeout = '5s'")
                await reader.execute("select count(*) from changes")
                await asyncio.sleep(0.05)
        assert not migrating.done()
        await backup.rollback()
        await migrating
    assert ("later",) in _run(empty, "select name from schema_migrations where number = 9999")


async def test_processes_that_start_together(empty: str) -> None:
    assert await asyncio.gather(*(migrate(empty) for _ in range(5))) == [SERVICE_ROLE] * 5
    assert _owners(empty) == {OWNER_ROLE}


async def _login(empty: str, attributes: str) -> str:
    """The connection string of a role `app` that owns the database."""
    name = psycopg.conninfo.conninfo_to_dict(empty)["dbname"]
    _run(
        empty, "create extension vector", f"create role app login {attributes}", f"alter database {name} owner to app"
    )
    return make_conninfo(empty, user="app")


async def _serves(dsn: str) -> dict[str, object]:
    """Open the services, write, read, and let maintenance do everything that it has to; health's database part."""
    settings = load_settings(postgres_url=SecretStr(dsn), pool_max_size=4)
    async with open_runtime(settings, maintenance=False) as services:
        await services.memory_writes.store_many(
            "demo", [{"key": "a", "content": "alpha"}, {"key": "b", "content": "b"}]
        )
        await services.maintenance.round()
        await services.retention.prepare()
        report = await services.health.report()
        assert report.ready
        return report.parts["database"]


async def test_who_may_create_roles_makes_them(empty: str) -> None:
    dsn = await _login(empty, "createrole")
    assert await migrate(dsn) == SERVICE_ROLE
    assert _owners(empty) == {OWNER_ROLE}
    assert "wall" not in await _serves(dsn)
    assert await migrate(empty) == SERVICE_ROLE


async def test_who_may_not_owns_the_tables_until_roles_are_granted(
    empty: str, caplog: pytest.LogCaptureFixture
) -> None:
    dsn = await _login(empty, "")
    assert await migrate(dsn) is None
    assert "create role sfm_owner" in caplog.text
    assert 'grant sfm_owner, sfm_service to "app"' in caplog.text
    assert _owners(empty) == {"app"}
    assert "sfm_owner" in str((await _serves(dsn))["wall"])
    _run(empty, "create role sfm_owner", "create role sfm_service", "grant sfm_owner, sfm_service to app")
    assert await migrate(dsn) == SERVICE_ROLE
    assert _owners(empty) == {OWNER_ROLE}
    assert "wall" not in await _serves(dsn)
    _run(empty, "revoke sfm_owner from app")
    with pytest.raises(DatabaseUnavailable, match='grant sfm_owner, sfm_service to "app"'):
        await migrate(dsn)


async def test_an_extension_that_only_a_superuser_may_create_is_asked_for(empty: str) -> None:
    _run(empty, "create role app login createrole")
    with pytest.raises(DatabaseUnavailable, match="as a superuser, in this database: create extension vector"):
        await migrate(make_conninfo(empty, user="app"))


async def test_strangers_tables_are_left_alone(empty: str) -> None:
    dsn = await _login(empty, "createrole")
    _run(dsn, "create table invoices (id integer)", "create function total() returns integer return 1")
    await migrate(dsn)
    assert _owners(empty) == {OWNER_ROLE, "app"}
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("set role sfm_service")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("select * from invoices")


async def test_an_embedded_service_connects_as_its_role() -> None:
    with tempfile.TemporaryDirectory(prefix="sfm-roles-") as folder:
        async with open_runtime(load_settings(data_dir=Path(folder) / "data"), maintenance=False) as services:
            facts = await services.health.database()
            assert (facts.login, facts.role, facts.owns_tables) == (SERVICE_ROLE, SERVICE_ROLE, False)
            await services.memory_writes.store_many("demo", [{"key": "a", "content": "alpha"}])
            await services.maintenance.round()


async def test_a_start_waits_for_the_one_before(empty: str) -> None:
    async with await AsyncConnection.connect(empty, autocommit=True) as held:
        await held.execute("select pg_advisory_lock(%s)", (MIGRATION_LOCK,))
        waiting = asyncio.create_task(migrate(empty))
        done, _ = await asyncio.wait({waiting}, timeout=0.3)
        assert not done
        await held.execute("select pg_advisory_unlock(%s)", (MIGRATION_LOCK,))
        assert await waiting == SERVICE_ROLE


async def test_doctor_says_that_the_wall_is_open(empty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTGRES_URL", empty)
    monkeypatch.setenv("SFM_PORT", "0")
    await migrate(empty)
    _run(empty, "grant sfm_owner to sfm_service")
    (found,) = [one for one in await checks(None) if one.check == "role"]
    assert not found.ok
    assert "revoke sfm_owner from sfm_service" in found.found


async def test_doctor_says_what_to_grant(empty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTGRES_URL", await _login(empty, ""))
    monkeypatch.setenv("SFM_PORT", "0")
    (found,) = [one for one in await checks(None) if one.check == "role"]
    # It works, with a weaker wall.
    assert found.ok
    assert 'grant sfm_owner, sfm_service to "app"' in found.found
