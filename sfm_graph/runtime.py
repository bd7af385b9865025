"""The composition root: settings in, opened services out, closed in reverse."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

from psycopg.conninfo import make_conninfo

from sfm_graph.adapters.embedders.hashing import HashingEmbedder
from sfm_graph.hot.cache import HotBudget, HotCache
from sfm_graph.hot.graph.graph import HotGraph
from sfm_graph.hot.text_index import TextIndex
from sfm_graph.ports.embedder import Embedder
from sfm_graph.services.health import Health
from sfm_graph.services.hot_graph import FreshGraphs, HotGraphs
from sfm_graph.services.hot_text import HotText
from sfm_graph.services.indexing import Indexing
from sfm_graph.services.links import Links
from sfm_graph.services.maintenance import Maintenance
from sfm_graph.services.memory_reads import MemoryReads
from sfm_graph.services.memory_writes import MemoryWrites
from sfm_graph.services.namespaces import Namespaces
from sfm_graph.services.recall import Recalls
from sfm_graph.services.registry import Services
from sfm_graph.services.transfer import Transfer
from sfm_graph.services.traversal import Traversal
from sfm_graph.services.view import Views
from sfm_graph.services.walk_runner import WalkRunner
from sfm_graph.services.walks import Walks
from sfm_graph.services.whole_graph import WholeGraph
from sfm_graph.settings import EmbedderKind, Settings
from sfm_graph.store.database import Database
from sfm_graph.store.embedded import EmbeddedServer, embedded_postgres
from sfm_graph.store.migrations import ensure_database, migrate

EMBEDDED_DATABASE = "sfm"


@asynccontextmanager
async def open_runtime(settings: Settings, *, maintenance: bool = True) -> AsyncIterator[Services]:
    """Start what the settings ask for: database, migrations, pool, embedder, background work.

    Raises DatabaseUnavailable. `maintenance` False leaves background work to other processes.
    """
    async with AsyncExitStack() as stack:
        server = None
        if settings.postgres_url is None:
            server = await stack.enter_async_context(embedded_postgres(settings.data_dir))
            await ensure_database(server.superuser_dsn(), EMBEDDED_DATABASE)
            conninfo = server.superuser_dsn(EMBEDDED_DATABASE)
        else:
            conninfo = external_conninfo(settings.postgres_url.get_secret_value(), settings)
        role = await migrate(conninfo)
        database = Database(
            conninfo,
            role=role,
            max_size=settings.pool_max_size,
            timeout_seconds=settings.pool_timeout_ms / 1000,
            statement_timeout_ms=settings.statement_timeout_ms,
        )
        stack.push_async_callback(database.close)
        await database.open()
        embedder = make_embedder(settings)
        stack.push_async_callback(embedder.aclose)
        whole_graph = WholeGraph()
        stack.push_async_callback(whole_graph.aclose)
        services = compose(settings, database, embedder, whole_graph, server)
        if maintenance:
            await stack.enter_async_context(_running(services.maintenance))
        yield services


def compose(
    settings: Settings,
    database: Database,
    embedder: Embedder,
    whole_graph: WholeGraph,
    server: EmbeddedServer | None,
) -> Services:
    """Wire the services over an opened database."""
    budget = HotBudget(settings.hot_budget_bytes)
    hot_text: HotCache[TextIndex] = HotCache(budget)
    hot_graphs: HotCache[HotGraph] = HotCache(budget)
    views = Views(database, (hot_text, hot_graphs))
    # A quarter of the connections stays free for requests that wait for nothing.
    max_waiting = settings.pool_max_size * 3 // 4
    graphs = HotGraphs(hot_graphs, max_waiting=max_waiting)
    runner = WalkRunner(views, graphs, FreshGraphs(database, graphs), deadline_ms=settings.walk_deadline_ms)
    walks = Walks(views, runner, whole_graph)
    indexing = Indexing(embedder)
    memory_writes = MemoryWrites(database, indexing)
    links = Links(database)
    background = Maintenance(
        database, indexing, tail=settings.vector_index_tail, interval_ms=settings.maintenance_interval_ms
    )
    return Services(
        settings=settings,
        views=views,
        memory_reads=MemoryReads(),
        memory_writes=memory_writes,
        links=links,
        recalls=Recalls(indexing, HotText(hot_text, indexing, max_waiting=max_waiting)),
        walks=walks,
        traversal=Traversal(walks),
        namespaces=Namespaces(database, {"text": hot_text, "graph": hot_graphs}),
        transfer=Transfer(memory_writes, links),
        maintenance=background,
        health=Health(database, background, server),
    )


def make_embedder(settings: Settings) -> Embedder:
    """The embedder that the settings name."""
    match settings.embedder:
        case EmbedderKind.HASHING:
            return HashingEmbedder()


def external_conninfo(url: str, settings: Settings) -> str:
    """The connection string of an external database with the TLS settings."""
    tls = {
        "sslmode": settings.postgres_ssl_mode,
        "sslrootcert": settings.postgres_ssl_root_cert,
        "sslcert": settings.postgres_ssl_cert,
        "sslkey": settings.postgres_ssl_key,
    }
    given = {name: str(value) for name, value in tls.items() if value is not None}
    return make_conninfo(url, **given)


@asynccontextmanager
async def _running(background: Maintenance) -> AsyncIterator[None]:
    task = asyncio.create_task(background.run(), name="maintenance")
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
