"""The composition root: settings in, opened services out, closed in reverse."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Protocol

from psycopg import ProgrammingError
from psycopg.conninfo import make_conninfo

from sfm_graph import __version__, backends
from sfm_graph.adapters.rate_limits.in_process import InProcessRateLimiter
from sfm_graph.errors import SettingsError
from sfm_graph.hot.cache import HotBudget, HotCache
from sfm_graph.hot.graph.graph import HotGraph
from sfm_graph.hot.text.index import TextIndex
from sfm_graph.ports.authenticator import Authenticator
from sfm_graph.ports.cache import Cache
from sfm_graph.ports.event_bus import EventBus
from sfm_graph.ports.predictor import Predictor
from sfm_graph.ports.reranker import Reranker
from sfm_graph.ports.vector_index import ServedVectorIndex
from sfm_graph.services.access.audit import AuditLog
from sfm_graph.services.access.audit_retention import AuditRetention
from sfm_graph.services.access.authentication import Authentication
from sfm_graph.services.access.keys import Keys
from sfm_graph.services.access.policy import ScopesByNamespace
from sfm_graph.services.accesses import Accesses
from sfm_graph.services.agent_reads import AgentReads
from sfm_graph.services.cache_use import CacheUse
from sfm_graph.services.changes.changes import Changes
from sfm_graph.services.changes.relay import Relay
from sfm_graph.services.changes.retention import Retention
from sfm_graph.services.changes.tail import Tail
from sfm_graph.services.changes.ticker import Ticker
from sfm_graph.services.consolidation.consolidation import Consolidation
from sfm_graph.services.copying.copies import Copies
from sfm_graph.services.copying.following import Following
from sfm_graph.services.duplicates import DuplicateSearch
from sfm_graph.services.embedders import Embedders
from sfm_graph.services.fading.fading import Fading
from sfm_graph.services.fading.fading_pass import FadingPass
from sfm_graph.services.fading.holds import Holds
from sfm_graph.services.fading.room import Room
from sfm_graph.services.health import Health
from sfm_graph.services.history import History
from sfm_graph.services.hooks import Hooks, installed_hooks
from sfm_graph.services.hot_graph import FreshGraphs, HotGraphs
from sfm_graph.services.hot_text import HotText
from sfm_graph.services.indexing import Indexing
from sfm_graph.services.jobs import Jobs
from sfm_graph.services.limits import Limits
from sfm_graph.services.linking.linking import Linking, installed_linkers
from sfm_graph.services.links import Links
from sfm_graph.services.maintenance import Maintenance
from sfm_graph.services.memory_reads import MemoryReads
from sfm_graph.services.memory_writes import MemoryWrites
from sfm_graph.services.merging import Merging
from sfm_graph.services.namespaces import Namespaces
from sfm_graph.services.prediction.extracting import Extracting
from sfm_graph.services.prediction.extraction import Extraction
from sfm_graph.services.prediction.foresights import Foresights
from sfm_graph.services.prediction.outcomes import Outcomes
from sfm_graph.services.prediction.predictions import Predictions
from sfm_graph.services.prediction.reflections import Reflections
from sfm_graph.services.recall.answers import Answers
from sfm_graph.services.recall.recalls import Recalls
from sfm_graph.services.recall.reranking import Reranking
from sfm_graph.services.reembed import Reembed
from sfm_graph.services.registry import Services
from sfm_graph.services.restoring import Restoring
from sfm_graph.services.rewording import Rewording
from sfm_graph.services.settling import Settling
from sfm_graph.services.tasks import ended, status
from sfm_graph.services.transfer import Transfer
from sfm_graph.services.traversal import Traversal
from sfm_graph.services.vector_indexing import VectorIndexing
from sfm_graph.services.vector_search import IndexSearch, PostgresSearch, WriteSearch
from sfm_graph.services.view import Views
from sfm_graph.services.walk_runner import WalkRunner
from sfm_graph.services.walks import Walks
from sfm_graph.services.whole_graph import WholeGraph
from sfm_graph.services.windows import Windows
from sfm_graph.settings import Settings
from sfm_graph.store.change_stream import adopt
from sfm_graph.store.database import Database
from sfm_graph.store.embedded import EmbeddedServer, embedded_postgres
from sfm_graph.store.migrations import ensure_database, migrate
from sfm_graph.telemetry.export import tracing_to_collector

EMBEDDED_DATABASE = "sfm"
# How soon a copy that follows its source is brought in step.
FOLLOWING_SECONDS = 1.0


@asynccontextmanager
async def open_runtime(
    settings: Settings, *, maintenance: bool = True, bus: EventBus | None = None
) -> AsyncIterator[Services]:
    """Start what the settings ask for: database, migrations, pool, embedder, background work.

    Raises DatabaseUnavailable, EmbedderUnavailable, SettingsError. `maintenance` False leaves background work to
    other processes. `bus`: where changes are relayed to instead of what the settings name; it is closed at the end.
    """
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(tracing_to_collector(settings, "sfm-graph"))
        server = None
        if settings.postgres_url is None:
            server = await stack.enter_async_context(embedded_postgres(settings.data_dir))
            await ensure_database(server.superuser_dsn(), EMBEDDED_DATABASE)
            owner_conninfo = server.superuser_dsn(EMBEDDED_DATABASE)
            role = await migrate(owner_conninfo, login=True)
            # Not as a superuser who takes on a role: no statement can then leave it.
            conninfo = make_conninfo(owner_conninfo, user=role)
        else:
            owner_conninfo = conninfo = external_conninfo(settings.postgres_url.get_secret_value(), settings)
            role = await migrate(conninfo)
        database = Database(
            conninfo,
            role=role,
            owner_conninfo=owner_conninfo,
            max_size=settings.pool_max_size,
            timeout_seconds=settings.pool_timeout_ms / 1000,
            statement_timeout_ms=settings.statement_timeout_ms,
        )
        stack.push_async_callback(database.close)
        database.on_arrival(adopt)
        await database.open()
        cache = backends.make_cache(settings)
        if cache is not None:
            stack.push_async_callback(cache.aclose)
        embedders = await backends.make_embedders(settings, cache)
        stack.push_async_callback(embedders.aclose)
        whole_graph = WholeGraph()
        stack.push_async_callback(whole_graph.aclose)
        reranker = await backends.make_reranker(settings)
        predictor = backends.make_predictor(settings)
        bus = bus or await backends.make_bus(settings)
        vector_index = backends.make_vector_index(settings)
        limits = await backends.make_limits(settings)
        stack.push_async_callback(limits.aclose)
        for plugged in (reranker, predictor, bus, vector_index):
            if plugged is not None:
                stack.push_async_callback(plugged.aclose)
        services = compose(
            settings, database, embedders, whole_graph, reranker=reranker, predictor=predictor, bus=bus,
            vector_index=vector_index, cache=cache, limits=limits, server=server,
            authenticators=backends.make_authenticators(settings),
        )  # fmt: skip
        stack.push_async_callback(services.audit.aclose)
        stack.push_async_callback(services.authentication.aclose)
        await stack.enter_async_context(running(services.keys.run(), "use of API keys"))
        stack.push_async_callback(services.accesses.aclose)
        await stack.enter_async_context(running(services.accesses.run(), "accesses"))
        await services.retention.prepare()
        stack.push_async_callback(services.changes.aclose)
        if maintenance:
            await stack.enter_async_context(running(services.maintenance.run(), "maintenance"))
            await stack.enter_async_context(running(services.following.run(), "copies"))
            await stack.enter_async_context(running(services.extraction.run(), "extraction"))
            await stack.enter_async_context(running(services.fading.run(), "fading"))
            await stack.enter_async_context(running(services.fading.run_rounds(), "fading rounds"))
        for follower in (services.relay, services.vector_indexing):
            if follower is not None and maintenance and settings.followers_inside:
                await stack.enter_async_context(running(follower.run(), "follower"))
        yield services


def compose(
    settings: Settings,
    database: Database,
    embedders: Embedders,
    whole_graph: WholeGraph,
    *,
    reranker: Reranker | None = None,
    predictor: Predictor | None = None,
    bus: EventBus | None = None,
    vector_index: ServedVectorIndex | None = None,
    cache: Cache | None = None,
    limits: Limits | None = None,
    server: EmbeddedServer | None = None,
    authenticators: Sequence[Authenticator] = (),
) -> Services:
    """Wire the services over an opened database, with what is plugged in."""
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
    vectors = (
        PostgresSearch()
        if vector_index is None
        else IndexSearch(vector_index, at_once=max(1, settings.pool_max_size // 2))
    )
    hooks = Hooks(installed_hooks(settings.hook_names), timeout_ms=settings.hook_timeout_ms)
    linking = Linking(installed_linkers(), WriteSearch(vectors))
    settling = Settling(windows, linking)
    room = Room(database, settling, hooks)
    fading = Fading(
        database, settling, FadingPass(database, indexing, settling, hooks), room,
        interval_ms=settings.maintenance_interval_ms, hooks=hooks,
    )  # fmt: skip
    memory_writes = MemoryWrites(database, indexing, settling, hooks, room)
    rewording = Rewording(database, indexing, windows, linking)
    links = Links(database, hooks)
    predictions = Predictions(
        predictor,
        database,
        cache,
        daily_calls=settings.predictor_daily_calls,
        timeout_ms=settings.predictor_timeout_ms,
    )
    summarise = None if predictor is None else predictions.summarise
    searched = HotText(hot_text, indexing, max_waiting=max_waiting)
    consolidation = Consolidation(database, indexing, settling, summarise, hooks, room)
    retention = Retention(database, days=settings.change_retention_days)
    background = Maintenance(
        database,
        indexing,
        windows,
        retention,
        audit_retention=AuditRetention(database, days=settings.audit_retention_days),
        tail=settings.vector_index_tail,
        interval_ms=settings.maintenance_interval_ms,
        indexes_vectors=vector_index is None,
        rounds=(consolidation.round,),
    )
    poll_seconds = settings.change_poll_ms / 1000
    vector_indexing = None
    if vector_index is not None:
        vector_indexing = VectorIndexing(database, vector_index, poll_seconds=poll_seconds)
    changes = Changes(views, Tail(database, Ticker(database, poll_seconds)), runner)
    relay = Relay(database, bus, shards=settings.relay_shards, poll_seconds=poll_seconds) if bus is not None else None
    reranking = Reranking(reranker, candidates=settings.rerank_candidates, deadline_ms=settings.rerank_deadline_ms)
    answers = None if cache is None else Answers(cache, indexing, setup=_answered_with(settings, reranking))
    caching = None if cache is None or answers is None else CacheUse(cache, answers, embedders.shared)
    limits = limits or Limits(settings, InProcessRateLimiter(), InProcessRateLimiter())
    accesses = Accesses(database, flush_ms=settings.access_flush_ms)
    extraction = Extraction(
        database,
        predictions,
        Extracting(database, memory_writes, links),
        interval_ms=settings.maintenance_interval_ms,
        timeout_ms=settings.predictor_timeout_ms,
    )
    keys, audit = Keys(database), AuditLog(database)
    following = Following(database, views, memory_writes, links, keys, poll_seconds=FOLLOWING_SECONDS)
    plugged = {
        "accesses": accesses.state,
        "predictor": predictions.state,
        "extraction": _state_of(extraction),
        "fading": _state_of(fading),
        "copies": _state_of(following),
    }
    if caching is not None:
        plugged["cache"] = caching.state
    if settings.has_limits:
        plugged["limits"] = limits.state
    if hooks.any:
        plugged["hooks"] = hooks.state
    authentication = Authentication(
        [*authenticators, keys],
        ScopesByNamespace(),
        audit,
        configured=settings.has_token or settings.has_jwt,
        keys_exist=keys.exist,
        open_to_local=settings.on_loopback,
    )
    recalls = Recalls(
        indexing,
        HotText(hot_text, indexing, max_waiting=max_waiting),
        runner,
        reranking,
        vectors,
        answers,
        accesses,
        hooks,
    )
    traversal = Traversal(walks)
    return Services(
        settings=settings,
        views=views,
        memory_reads=MemoryReads(),
        memory_writes=memory_writes,
        links=links,
        history=History(),
        restoring=Restoring(database, indexing, settling, hooks, room),
        consolidation=consolidation,
        duplicates=DuplicateSearch(searched, vectors),
        merging=Merging(database, indexing, settling, hooks),
        recalls=recalls,
        accesses=accesses,
        walks=walks,
        traversal=traversal,
        namespaces=Namespaces(database, {"text": hot_text, "graph": hot_graphs}),
        # What is imported with its links is not linked anew.
        transfer=Transfer(database, memory_writes, links, indexing, Settling(windows, Linking(()))),
        agent_reads=AgentReads(),
        copies=Copies(database, views, traversal, memory_writes, links),
        following=following,
        reembed=Reembed(
            database,
            indexing,
            windows,
            rewording,
            tail=settings.vector_index_tail,
            indexes_vectors=vector_index is None,
        ),
        foresights=Foresights(views, recalls, memory_writes, links, predictions),
        outcomes=Outcomes(database, embedders, memory_writes, links),
        reflections=Reflections(views, vectors, memory_writes, links, predictions),
        extraction=extraction,
        jobs=Jobs(),
        changes=changes,
        relay=relay,
        retention=retention,
        maintenance=background,
        fading=fading,
        holds=Holds(database),
        vector_indexing=vector_indexing,
        health=Health(
            database,
            background,
            changes,
            relay,
            retention,
            server,
            vector_indexing,
            plugged=plugged,
        ),
        limits=limits,
        keys=keys,
        audit=audit,
        authentication=authentication,
        cache=caching,
    )


class _Background(Protocol):
    """Work beside the requests; `problem`: what failed last, None when nothing did."""

    problem: str | None


def _state_of(work: _Background) -> Callable[[], Awaitable[dict[str, Any]]]:
    async def state() -> dict[str, Any]:
        return status(work.problem)

    return state


def _answered_with(settings: Settings, reranking: Reranking) -> str:
    """What the answer to a recall depends on beside the memories and the query."""
    return repr((
        __version__, reranking.name, reranking.candidates, settings.reranker, settings.reranker_model,
        settings.reranker_revision, settings.reranker_url,
    ))  # fmt: skip


def external_conninfo(url: str, settings: Settings) -> str:
    """The connection string of an external database with the TLS settings. Raises SettingsError."""
    tls = {
        "sslmode": settings.postgres_ssl_mode,
        "sslrootcert": settings.postgres_ssl_root_cert,
        "sslcert": settings.postgres_ssl_cert,
        "sslkey": settings.postgres_ssl_key,
    }
    given = {name: str(value) for name, value in tls.items() if value is not None}
    try:
        return make_conninfo(url, **given)
    except ProgrammingError:
        # Its message repeats the text, password and all.
        raise SettingsError("POSTGRES_URL is no URL like postgresql://user:password@host:5432/database") from None


@asynccontextmanager
async def running(work: Coroutine[None, None, None], name: str) -> AsyncIterator[asyncio.Task[None]]:
    """Work beside the block, cancelled at its end. Raises there what the work has ended with."""
    task = asyncio.create_task(work, name=name)
    try:
        yield task
    finally:
        await ended(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error
