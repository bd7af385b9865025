"""The composition root: settings in, opened services out, closed in reverse."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager

from psycopg.conninfo import make_conninfo

from sfm_graph.adapters.buses.kafka import KafkaBus
from sfm_graph.adapters.buses.redis_streams import RedisStreamsBus
from sfm_graph.adapters.embedders.hashing import HashingEmbedder
from sfm_graph.adapters.embedders.onnx import OnnxEmbedder
from sfm_graph.adapters.embedders.openai import OpenAiEmbedder
from sfm_graph.adapters.embedders.sentence_transformers import SentenceTransformersEmbedder
from sfm_graph.adapters.models.source import ModelSource
from sfm_graph.adapters.qdrant.opening import open_client
from sfm_graph.adapters.rerankers.http import HttpReranker
from sfm_graph.adapters.rerankers.onnx import OnnxReranker
from sfm_graph.hot.cache import HotBudget, HotCache
from sfm_graph.hot.graph.graph import HotGraph
from sfm_graph.hot.text.index import TextIndex
from sfm_graph.ports.embedder import Embedder
from sfm_graph.ports.event_bus import EventBus
from sfm_graph.ports.reranker import Reranker
from sfm_graph.ports.vector_index import ServedVectorIndex
from sfm_graph.services.changes.changes import Changes
from sfm_graph.services.changes.relay import Relay
from sfm_graph.services.changes.retention import Retention
from sfm_graph.services.changes.tail import Tail
from sfm_graph.services.changes.ticker import Ticker
from sfm_graph.services.embedders import Embedders
from sfm_graph.services.health import Health
from sfm_graph.services.hot_graph import FreshGraphs, HotGraphs
from sfm_graph.services.hot_text import HotText
from sfm_graph.services.indexing import Indexing
from sfm_graph.services.linking.linking import Linking, installed_linkers
from sfm_graph.services.links import Links
from sfm_graph.services.maintenance import Maintenance
from sfm_graph.services.memory_reads import MemoryReads
from sfm_graph.services.memory_writes import MemoryWrites
from sfm_graph.services.namespaces import Namespaces
from sfm_graph.services.recall.recalls import Recalls
from sfm_graph.services.recall.reranking import Reranking
from sfm_graph.services.reembed import Reembed
from sfm_graph.services.registry import Services
from sfm_graph.services.rewording import Rewording
from sfm_graph.services.settling import Settling
from sfm_graph.services.tasks import ended
from sfm_graph.services.transfer import Transfer
from sfm_graph.services.traversal import Traversal
from sfm_graph.services.vector_indexing import VectorIndexing
from sfm_graph.services.vector_search import IndexSearch, PostgresSearch, WriteSearch
from sfm_graph.services.view import Views
from sfm_graph.services.walk_runner import WalkRunner
from sfm_graph.services.walks import Walks
from sfm_graph.services.whole_graph import WholeGraph
from sfm_graph.services.windows import Windows
from sfm_graph.settings import EmbedderKind, EventBusKind, RerankerKind, Settings
from sfm_graph.store.change_stream import adopt
from sfm_graph.store.database import Database
from sfm_graph.store.embedded import EmbeddedServer, embedded_postgres
from sfm_graph.store.migrations import ensure_database, migrate

EMBEDDED_DATABASE = "sfm"


@asynccontextmanager
async def open_runtime(settings: Settings, *, maintenance: bool = True) -> AsyncIterator[Services]:
    """Start what the settings ask for: database, migrations, pool, embedder, background work.

    Raises DatabaseUnavailable, EmbedderUnavailable, SettingsError. `maintenance` False leaves background work to
    other processes.
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
        database.on_arrival(adopt)
        await database.open()
        retention = Retention(database, days=settings.change_retention_days)
        await retention.prepare()
        embedders = await make_embedders(settings)
        stack.push_async_callback(embedders.aclose)
        whole_graph = WholeGraph()
        stack.push_async_callback(whole_graph.aclose)
        reranker = await make_reranker(settings)
        if reranker is not None:
            stack.push_async_callback(reranker.aclose)
        bus = await make_bus(settings)
        if bus is not None:
            stack.push_async_callback(bus.aclose)
        vector_index = make_vector_index(settings)
        if vector_index is not None:
            stack.push_async_callback(vector_index.aclose)
        services = compose(settings, database, retention, embedders, reranker, bus, whole_graph, server, vector_index)
        stack.push_async_callback(services.changes.aclose)
        if maintenance:
            await stack.enter_async_context(running(services.maintenance.run(), "maintenance"))
            if services.vector_indexing is not None and settings.followers_inside:
                await stack.enter_async_context(running(services.vector_indexing.run(), "vector indexing"))
            if services.relay is not None and settings.followers_inside:
                await stack.enter_async_context(running(services.relay.run(), "relay"))
        yield services


def compose(
    settings: Settings,
    database: Database,
    retention: Retention,
    embedders: Embedders,
    reranker: Reranker | None,
    bus: EventBus | None,
    whole_graph: WholeGraph,
    server: EmbeddedServer | None,
    vector_index: ServedVectorIndex | None = None,
) -> Services:
    """Wire the services over an opened database."""
    budget = HotBudget(settings.hot_budget_bytes)
    hot_text: HotCache[TextIndex] = HotCache(budget)
    hot_graphs: HotCache[HotGraph] = HotCache(budget)
    views = Views(database, (hot_text, hot_graphs))
    database.on_arrival(views.forget_all)
    # A quarter of the connections stays free for requests that wait for nothing.
    max_waiting = settings.pool_max_size * 3 // 4
    graphs = HotGraphs(hot_graphs, max_waiting=max_waiting)
    runner = WalkRunner(views, graphs, FreshGraphs(database, graphs), deadline_ms=settings.walk_deadline_ms)
    walks = Walks(views, runner, whole_graph)
    indexing = Indexing(embedders)
    windows = Windows(database, indexing)
    vectors = PostgresSearch() if vector_index is None else IndexSearch(vector_index)
    linking = Linking(installed_linkers(), WriteSearch(vectors))
    memory_writes = MemoryWrites(database, indexing, Settling(windows, linking))
    rewording = Rewording(database, indexing, windows, linking)
    links = Links(database)
    background = Maintenance(
        database,
        indexing,
        windows,
        retention,
        tail=settings.vector_index_tail,
        interval_ms=settings.maintenance_interval_ms,
        indexes_vectors=vector_index is None,
    )
    poll_seconds = settings.change_poll_ms / 1000
    vector_indexing = None
    if vector_index is not None:
        vector_indexing = VectorIndexing(database, vector_index, poll_seconds=poll_seconds)
    changes = Changes(views, Tail(database, Ticker(database, poll_seconds)), runner)
    relay = Relay(database, bus, shards=settings.relay_shards, poll_seconds=poll_seconds) if bus is not None else None
    return Services(
        settings=settings,
        views=views,
        memory_reads=MemoryReads(),
        memory_writes=memory_writes,
        links=links,
        recalls=Recalls(
            indexing,
            HotText(hot_text, indexing, max_waiting=max_waiting),
            runner,
            Reranking(reranker, candidates=settings.rerank_candidates, deadline_ms=settings.rerank_deadline_ms),
            vectors,
        ),
        walks=walks,
        traversal=Traversal(walks),
        namespaces=Namespaces(database, {"text": hot_text, "graph": hot_graphs}),
        transfer=Transfer(memory_writes, links),
        reembed=Reembed(
            database,
            indexing,
            windows,
            rewording,
            tail=settings.vector_index_tail,
            indexes_vectors=vector_index is None,
        ),
        changes=changes,
        relay=relay,
        retention=retention,
        maintenance=background,
        vector_indexing=vector_indexing,
        health=Health(database, background, changes, relay, retention, server, vector_indexing),
    )


async def make_embedders(settings: Settings) -> Embedders:
    """The embedders that the settings name, opened. Raises SettingsError, EmbedderUnavailable."""
    async with AsyncExitStack() as opened:
        default = await make_embedder(settings)
        opened.push_async_callback(default.aclose)
        others = [await make_embedder(settings, old=True)] if settings.old_embedder else []
        opened.pop_all()
    return Embedders(default, [*others, HashingEmbedder()])


async def make_embedder(settings: Settings, *, old: bool = False) -> Embedder:
    """The embedder of new namespaces, or the one before it, opened. Raises SettingsError, EmbedderUnavailable."""
    prefix = "old_embedding" if old else "embedding"
    url, model, revision, api_key, dimension = (
        getattr(settings, f"{prefix}_{name}") for name in ("url", "model", "revision", "api_key", "dimension")
    )
    variables = f"SFM_{prefix.upper()}"
    source = ModelSource(
        model or "",
        revision,
        allow_unpinned=settings.allow_unpinned_models,
        model_variable=f"{variables}_MODEL",
        revision_variable=f"{variables}_REVISION" if old else "SOMA_MODEL_REV",
    )
    match settings.old_embedder if old else settings.embedder:
        case EmbedderKind.FASTEMBED:
            return await OnnxEmbedder.open(source)
        case EmbedderKind.SENTENCE_TRANSFORMERS:
            return await SentenceTransformersEmbedder.open(source)
        case EmbedderKind.OPENAI:
            timeout_ms = settings.embedding_timeout_ms
            return await OpenAiEmbedder.open(
                url,
                model,
                revision=revision,
                dimension=dimension,
                api_key=api_key,
                timeout_ms=timeout_ms,
                key_variable=f"{variables}_API_KEY",
            )
        case EmbedderKind.HASHING | None:
            return HashingEmbedder()


async def make_bus(settings: Settings) -> EventBus | None:
    """The event bus that the settings name, opened; it may be away. Raises SettingsError."""
    match settings.bus:
        case EventBusKind.NONE:
            return None
        case EventBusKind.KAFKA:
            return await KafkaBus.open(settings)
        case EventBusKind.REDIS:
            return await RedisStreamsBus.open(settings)


async def make_reranker(settings: Settings) -> Reranker | None:
    """The reranker that the settings name, opened. Raises SettingsError."""
    match settings.reranker:
        case RerankerKind.NONE:
            return None
        case RerankerKind.ONNX:
            return await OnnxReranker.open(
                ModelSource(
                    settings.reranker_model or "",
                    settings.reranker_revision,
                    allow_unpinned=settings.allow_unpinned_models,
                    model_variable="SFM_RERANKER_MODEL",
                    revision_variable="SFM_RERANKER_REVISION",
                )
            )
        case RerankerKind.HTTP:
            return HttpReranker.open(
                settings.reranker_url or "", settings.reranker_model, api_key=settings.reranker_api_key
            )


def make_vector_index(settings: Settings) -> ServedVectorIndex | None:
    """The vector index that the settings name, None: Postgres is its own. Raises SettingsError."""
    if settings.qdrant_url is None and settings.qdrant_host is None:
        return None
    client = open_client(settings)
    # The package is an extra: it is there when its client is.
    from sfm_graph.adapters.qdrant.index import QdrantIndex

    return QdrantIndex(client)


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
async def running(work: Coroutine[None, None, None], name: str) -> AsyncIterator[None]:
    """Work beside the block, cancelled at its end."""
    task = asyncio.create_task(work, name=name)
    try:
        yield
    finally:
        await ended(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error
