"""Fixtures on the real database: one embedded server for all workers, one migrated template, a copy for each test."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import hypothesis
import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo
from pydantic import SecretStr

from sfm_graph.app import app_for
from sfm_graph.runtime import open_runtime
from sfm_graph.services.registry import Services
from sfm_graph.settings import Settings, load_settings
from sfm_graph.store.embedded import embedded_postgres
from sfm_graph.store.migrations import ensure_database, migrate

# The suite draws the same examples each time; `make test ARGS="--hypothesis-profile=search"` looks for new ones.
# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile("suite", derandomize=True, deadline=None)
hypothesis.settings.register_profile("search", max_examples=1_000, deadline=None)
hypothesis.settings.load_profile("suite")

TEMPLATE = "sfm_template"
BASE_URL = "http://localhost:9595"
# A test database lives for a second: nothing that keeps data safe or tidy for longer is worth its time.
QUICK = {
    "autovacuum": "off",
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "max_wal_senders": "0",
    "shared_buffers": "128MB",
    "synchronous_commit": "off",
    "wal_level": "minimal",
}


@pytest.fixture(scope="session")
def server_dsn(worker_id: str) -> Iterator[str]:
    """The superuser's connection string of the server that all workers of this run share."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    # Memory where there is a file system of it: half of the suite's time is copying and dropping databases.
    home = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else Path(tempfile.gettempdir())
    data_dir = home / f"sfm-tests-{run}"
    with asyncio.Runner() as runner:
        server_context = embedded_postgres(data_dir, QUICK)
        server = runner.run(server_context.__aenter__())
        runner.run(_make_template(server.superuser_dsn()))
        yield server.superuser_dsn()
        runner.run(server_context.__aexit__(None, None, None))
    if not (data_dir / "postgres" / "postmaster.pid").exists():  # the last worker of the run
        shutil.rmtree(data_dir, ignore_errors=True)


async def _make_template(dsn: str) -> None:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await connection.execute("select pg_advisory_lock(1)")
        await ensure_database(dsn, TEMPLATE)
        await migrate(make_conninfo(dsn, dbname=TEMPLATE))


@pytest.fixture
def database_dsn(server_dsn: str, worker_id: str) -> Iterator[str]:
    """The connection string of a fresh, migrated database of this test's own."""
    name = f"test_{worker_id}_{next(_numbers)}"
    with psycopg.connect(server_dsn, autocommit=True) as connection:
        connection.execute(
            sql.SQL("create database {} template {}").format(sql.Identifier(name), sql.Identifier(TEMPLATE))
        )
        yield make_conninfo(server_dsn, dbname=name)
        connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


_numbers = iter(range(1_000_000))


@pytest.fixture
def settings(database_dsn: str) -> Settings:
    """Settings of a service on this test's database."""
    return load_settings(postgres_url=SecretStr(database_dsn), pool_max_size=8, maintenance_interval_ms=3_600_000)


@pytest.fixture
async def services(settings: Settings) -> AsyncIterator[Services]:
    """Opened services on this test's database."""
    async with open_runtime(settings, maintenance=False) as opened:
        yield opened


@pytest.fixture
async def client(services: Services) -> AsyncIterator[httpx.AsyncClient]:
    """Speaks HTTP to an app over this test's services, without a socket."""
    app = app_for(services)
    # An answer of 500 shall reach the test that looks for it.
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url=BASE_URL) as opened:
        yield opened
