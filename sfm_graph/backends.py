"""What the settings plug in: embedders, a reranker, a predictor, an event bus, a vector index.

What needs redis-py is imported where it is used: that loads OpenTelemetry's SDK whenever it is installed, 0.1 s.
"""

from contextlib import AsyncExitStack

from sfm_graph.adapters.buses.kafka import KafkaBus
from sfm_graph.adapters.embedders.hashing import HashingEmbedder
from sfm_graph.adapters.embedders.onnx import OnnxEmbedder
from sfm_graph.adapters.embedders.openai import OpenAiEmbedder
from sfm_graph.adapters.embedders.sentence_transformers import SentenceTransformersEmbedder
from sfm_graph.adapters.models.source import ModelSource
from sfm_graph.adapters.predictors.ollama import OllamaPredictor
from sfm_graph.adapters.predictors.openai import OpenAiPredictor
from sfm_graph.adapters.qdrant.opening import open_client
from sfm_graph.adapters.rate_limits.in_process import InProcessRateLimiter
from sfm_graph.adapters.rerankers.http import HttpReranker
from sfm_graph.adapters.rerankers.onnx import OnnxReranker
from sfm_graph.adapters.tokens.jwt import JwtAuthenticator
from sfm_graph.adapters.tokens.static import StaticToken
from sfm_graph.ports.authenticator import Authenticator
from sfm_graph.ports.cache import Cache
from sfm_graph.ports.embedder import Embedder
from sfm_graph.ports.event_bus import EventBus
from sfm_graph.ports.predictor import Predictor
from sfm_graph.ports.rate_limiter import RateLimiter
from sfm_graph.ports.reranker import Reranker
from sfm_graph.ports.vector_index import ServedVectorIndex
from sfm_graph.services.embedders import Embedders
from sfm_graph.services.limits import Limits
from sfm_graph.services.shared_vectors import SharedVectors
from sfm_graph.settings import CacheKind, EmbedderKind, EventBusKind, PredictorKind, RerankerKind, Settings


async def make_embedders(settings: Settings, cache: Cache | None = None) -> Embedders:
    """The embedders that the settings name, opened; vectors of queries are shared by the cache, which is not closed
    with them. Raises SettingsError, EmbedderUnavailable."""
    async with AsyncExitStack() as opened:
        default = await make_embedder(settings)
        opened.push_async_callback(default.aclose)
        others = [await make_embedder(settings, old=True)] if settings.old_embedder else []
        opened.pop_all()
    hashing = HashingEmbedder()
    # Which takes 0.05 ms, a round trip to a cache more.
    shared = None if cache is None else SharedVectors(cache, without=[hashing.identity])
    return Embedders(default, [*others, hashing], shared=shared)


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


def make_cache(settings: Settings) -> Cache | None:
    """The cache that the settings name; it may be away. Raises SettingsError."""
    match settings.cache:
        case CacheKind.NONE:
            return None
        case CacheKind.REDIS:
            from sfm_graph.adapters.caches.redis import RedisCache

            return RedisCache.open(settings)


def make_authenticators(settings: Settings) -> list[Authenticator]:
    """The ways to authenticate that the settings name; a JWT issuer may be away. Raises SettingsError."""
    return [one for one in (StaticToken.open(settings), JwtAuthenticator.open(settings)) if one is not None]


async def make_limits(settings: Settings) -> Limits:
    """The limits of callers, shared where a Redis is named; it may be away. Raises SettingsError."""
    limiter: RateLimiter = InProcessRateLimiter()
    if settings.has_redis and settings.has_limits:
        from sfm_graph.adapters.rate_limits.redis import RedisRateLimiter

        limiter = await RedisRateLimiter.open(settings)
    return Limits(settings, limiter, InProcessRateLimiter())


async def make_bus(settings: Settings) -> EventBus | None:
    """The event bus that the settings name, opened; it may be away. Raises SettingsError."""
    match settings.bus:
        case EventBusKind.NONE:
            return None
        case EventBusKind.KAFKA:
            return await KafkaBus.open(settings)
        case EventBusKind.REDIS:
            from sfm_graph.adapters.buses.redis_streams import RedisStreamsBus

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


def make_predictor(settings: Settings) -> Predictor | None:
    """The predictor that the settings name; it may be away. Raises SettingsError."""
    url, model = settings.predictor_url or "", settings.predictor_model or ""
    key, timeout_ms = settings.predictor_api_key, settings.predictor_timeout_ms
    match settings.predictor:
        case PredictorKind.NONE:
            return None
        case PredictorKind.OLLAMA:
            return OllamaPredictor.open(url, model, api_key=key, timeout_ms=timeout_ms)
        case PredictorKind.OPENAI:
            return OpenAiPredictor.open(url, model, api_key=key, timeout_ms=timeout_ms)


def make_vector_index(settings: Settings) -> ServedVectorIndex | None:
    """The vector index that the settings name, None: Postgres is its own. Raises SettingsError."""
    if settings.qdrant_url is None and settings.qdrant_host is None:
        return None
    client = open_client(settings)
    # The package is an extra: it is there when its client is.
    from sfm_graph.adapters.qdrant.index import QdrantIndex

    return QdrantIndex(client)
