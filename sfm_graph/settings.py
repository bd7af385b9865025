"""Every setting of the service: one frozen class, one table in `docs/settings.md`.

A value comes from, in this order: an explicit argument, the environment, a `.env` file, the YAML file named by
`--config` or `SFM_CONFIG`, the default here. Nothing else in the package reads the environment.
"""

import difflib
import ipaddress
import os
import re
from collections.abc import Iterable
from contextvars import ContextVar
from enum import StrEnum
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Self, cast
from urllib.parse import urlsplit

import yaml
from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    InitSettingsSource,
    SettingsConfigDict,
)
from pydantic_settings import PydanticBaseSettingsSource as Source

from sfm_graph.errors import SettingsError


class MemoryMode(StrEnum):
    """How much of the outside world a deployment expects.

    DEVELOPMENT and TEST run on the embedded database unless `POSTGRES_URL` is given;
    EVENTED_ENTERPRISE and CLOUD_MANAGED refuse to start without `POSTGRES_URL`.
    """

    DEVELOPMENT = "development"
    TEST = "test"
    EVENTED_ENTERPRISE = "evented_enterprise"
    CLOUD_MANAGED = "cloud_managed"


class EmbedderKind(StrEnum):
    """Which embedder turns text into vectors."""

    HASHING = "hashing"
    FASTEMBED = "fastembed"
    OPENAI = "openai"
    SENTENCE_TRANSFORMERS = "sentence-transformers"


class RerankerKind(StrEnum):
    """What reads the best memories of a recall once more, together with the query."""

    NONE = "none"
    ONNX = "onnx"
    HTTP = "http"


class PredictorKind(StrEnum):
    """Which protocol the language model speaks that extracts, summarises and predicts."""

    NONE = "none"
    OLLAMA = "ollama"
    OPENAI = "openai"


class EventBusKind(StrEnum):
    """Where the relay sends events."""

    NONE = "none"
    KAFKA = "kafka"
    REDIS = "redis"


class CacheKind(StrEnum):
    """Where answered recalls and vectors of queries are kept for the next one who asks the same."""

    NONE = "none"
    REDIS = "redis"


class LogFormat(StrEnum):
    """How a line of the log looks."""

    TEXT = "text"
    JSON = "json"


class KafkaProtocol(StrEnum):
    """How Kafka's brokers are spoken to."""

    PLAINTEXT = "PLAINTEXT"
    SSL = "SSL"
    SASL_PLAINTEXT = "SASL_PLAINTEXT"
    SASL_SSL = "SASL_SSL"


class KafkaMechanism(StrEnum):
    """How the service shows Kafka who it is."""

    PLAIN = "PLAIN"
    SCRAM_SHA_256 = "SCRAM-SHA-256"
    SCRAM_SHA_512 = "SCRAM-SHA-512"


# As much as domain/validate.py lets a vector have.
_MAX_DIMENSION = 4_000


def _names(*names: str) -> AliasChoices:
    """A setting's variables. One that begins with SOMA_ is also taken with SFM_, last of all."""
    return AliasChoices(*names, *(f"SFM_{name[5:]}" for name in names if name.startswith("SOMA_")))


# What the YAML file holds, while settings are read.
_from_file: ContextVar[dict[str, Any]] = ContextVar("from_file", default={})  # noqa: B039 - never changed


class Settings(BaseSettings):
    """The settings of one process. Frozen; units are in the names."""

    model_config = SettingsConfigDict(
        frozen=True, extra="ignore", env_file=".env", populate_by_name=True, env_ignore_empty=True
    )

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: Source, env_settings: Source, dotenv_settings: Source,
        file_secret_settings: Source,
    ) -> tuple[Source, ...]:  # fmt: skip
        """Where values come from, the first one wins."""
        for source in (env_settings, dotenv_settings):
            if isinstance(source, EnvSettingsSource):
                # Fields go by their names in Python and YAML alone: HOST and PORT are variables of somebody else.
                source.env_vars = {
                    name: value for name, value in source.env_vars.items() if name.upper() in _fields()
                }
        return init_settings, env_settings, dotenv_settings, InitSettingsSource(settings_cls, _from_file.get())

    mode: MemoryMode = Field(MemoryMode.DEVELOPMENT, validation_alias=_names("MEMORY_MODE"))

    data_dir: Path = Field(Path("data"), validation_alias=_names("SFM_DATA_DIR"))
    postgres_url: SecretStr | None = Field(None, validation_alias=_names("POSTGRES_URL"))
    postgres_ssl_mode: str | None = Field(None, validation_alias=_names("POSTGRES_SSL_MODE"))
    postgres_ssl_root_cert: Path | None = Field(None, validation_alias=_names("POSTGRES_SSL_ROOT_CERT"))
    postgres_ssl_cert: Path | None = Field(None, validation_alias=_names("POSTGRES_SSL_CERT"))
    postgres_ssl_key: Path | None = Field(None, validation_alias=_names("POSTGRES_SSL_KEY"))
    # 2 cores saturate well below this; more connections only queue inside Postgres.
    pool_max_size: int = Field(16, ge=2, le=200, validation_alias=_names("SFM_POOL_MAX_SIZE"))
    pool_timeout_ms: int = Field(5_000, ge=10, validation_alias=_names("SFM_POOL_TIMEOUT_MS"))
    statement_timeout_ms: int = Field(30_000, ge=100, validation_alias=_names("SFM_STATEMENT_TIMEOUT_MS"))

    host: str = Field("127.0.0.1", validation_alias=_names("SFM_HOST"))
    port: int = Field(9595, ge=0, le=65_535, validation_alias=_names("SFM_PORT"))
    # Names a browser may use to reach the service; a page of another origin is refused.
    allowed_hosts: str = Field("localhost,127.0.0.1,[::1],testserver", validation_alias=_names("SFM_ALLOWED_HOSTS"))
    graceful_timeout_seconds: int = Field(
        10, ge=0, validation_alias=_names("SFM_GRACEFUL_TIMEOUT_SECONDS", "UVICORN_TIMEOUT_GRACEFUL")
    )

    # Answers that are still asked for on connections that were open before get so long after SIGTERM.
    drain_seconds: int = Field(0, ge=0, le=300, validation_alias=_names("SFM_DRAIN_SECONDS"))
    workers: int = Field(1, ge=1, le=64, validation_alias=_names("UVICORN_WORKERS", "SFM_WORKERS"))
    # Origins of pages elsewhere that may use the service from a browser.
    cors_origins: str = Field("", validation_alias=_names("SFM_CORS_ORIGINS"))

    api_token: SecretStr | None = Field(None, validation_alias=_names("SOMA_API_TOKEN"))
    api_token_file: Path | None = Field(None, validation_alias=_names("SOMA_API_TOKEN_FILE"))
    jwt_issuer: str | None = Field(None, validation_alias=_names("SFM_JWT_ISSUER"))
    jwt_audience: str | None = Field(None, validation_alias=_names("SFM_JWT_AUDIENCE"))
    jwt_jwks_url: str | None = Field(None, validation_alias=_names("SFM_JWT_JWKS_URL"))
    jwt_public_key_file: Path | None = Field(None, validation_alias=_names("SFM_JWT_PUBLIC_KEY_FILE"))
    jwt_scopes_claim: str = Field("scope", min_length=1, validation_alias=_names("SFM_JWT_SCOPES_CLAIM"))
    jwt_namespaces_claim: str = Field(
        "sfm_namespaces", min_length=1, validation_alias=_names("SFM_JWT_NAMESPACES_CLAIM")
    )

    # Requests of one principal and class of routes in one window; none by default.
    rate_limit_max: int | None = Field(None, ge=1, le=10**9, validation_alias=_names("SOMA_RATE_LIMIT_MAX"))
    rate_limit_window_seconds: float = Field(
        60, gt=0, le=86_400, validation_alias=_names("SOMA_RATE_LIMIT_WINDOW_SECONDS")
    )
    rate_limit_classes: str = Field("", validation_alias=_names("SFM_RATE_LIMIT_CLASSES"))
    cost_budget: int | None = Field(None, ge=1, le=10**12, validation_alias=_names("SFM_COST_BUDGET"))
    # What one GraphQL request may cost; docs/http.md says how cost is counted.
    max_query_cost: int = Field(1_000_000, ge=100, validation_alias=_names("SFM_MAX_QUERY_COST"))
    # One request from its head to its answer; streams last longer.
    request_timeout_ms: int = Field(30_000, ge=100, validation_alias=_names("SFM_REQUEST_TIMEOUT_MS"))
    # Beyond so many requests at once the next one is refused at once: it would only be answered late.
    max_requests: int = Field(128, ge=1, le=100_000, validation_alias=_names("SFM_MAX_REQUESTS"))
    # Of exports, each of which holds a connection for as long as its client takes; and as many imports.
    max_transfers: int = Field(4, ge=1, le=1_000, validation_alias=_names("SFM_MAX_TRANSFERS"))

    embedder: EmbedderKind = Field(EmbedderKind.HASHING, validation_alias=_names("SFM_EMBEDDER"))
    embedding_model: str | None = Field(None, validation_alias=_names("SFM_EMBEDDING_MODEL", "SOMA_MODEL_NAME"))
    embedding_revision: str | None = Field(None, validation_alias=_names("SOMA_MODEL_REV"))
    embedding_url: str | None = Field(None, validation_alias=_names("SFM_EMBEDDING_URL"))
    embedding_api_key: SecretStr | None = Field(None, validation_alias=_names("SFM_EMBEDDING_API_KEY"))
    embedding_dimension: int | None = Field(
        None, ge=1, le=_MAX_DIMENSION, validation_alias=_names("SFM_EMBEDDING_DIMENSION")
    )
    # One request with its retries. A model on a small machine takes seconds for 256 texts.
    embedding_timeout_ms: int = Field(30_000, ge=10, validation_alias=_names("SFM_EMBEDDING_TIMEOUT_MS"))
    # What a repository on a hub holds may change from one day to the next.
    allow_unpinned_models: bool = Field(False, validation_alias=_names("SOMA_ALLOW_UNPINNED_HF"))

    # The model that namespaces still have until `sfm reembed` has moved them.
    old_embedder: EmbedderKind | None = Field(None, validation_alias=_names("SFM_OLD_EMBEDDER"))
    old_embedding_model: str | None = Field(None, validation_alias=_names("SFM_OLD_EMBEDDING_MODEL"))
    old_embedding_revision: str | None = Field(None, validation_alias=_names("SFM_OLD_EMBEDDING_REVISION"))
    old_embedding_url: str | None = Field(None, validation_alias=_names("SFM_OLD_EMBEDDING_URL"))
    old_embedding_api_key: SecretStr | None = Field(None, validation_alias=_names("SFM_OLD_EMBEDDING_API_KEY"))
    old_embedding_dimension: int | None = Field(
        None, ge=1, le=_MAX_DIMENSION, validation_alias=_names("SFM_OLD_EMBEDDING_DIMENSION")
    )

    reranker: RerankerKind = Field(RerankerKind.NONE, validation_alias=_names("SFM_RERANKER"))
    reranker_model: str | None = Field(None, validation_alias=_names("SFM_RERANKER_MODEL"))
    reranker_revision: str | None = Field(None, validation_alias=_names("SFM_RERANKER_REVISION"))
    reranker_url: str | None = Field(None, validation_alias=_names("SFM_RERANKER_URL"))
    reranker_api_key: SecretStr | None = Field(None, validation_alias=_names("SFM_RERANKER_API_KEY"))
    # A small cross-encoder reads some 100 texts of 100 words a second on two cores.
    rerank_candidates: int = Field(20, ge=1, le=100, validation_alias=_names("SFM_RERANK_CANDIDATES"))
    rerank_deadline_ms: int = Field(300, ge=1, validation_alias=_names("SFM_RERANK_DEADLINE_MS"))

    predictor: PredictorKind = Field(PredictorKind.NONE, validation_alias=_names("SFM_PREDICTOR"))
    predictor_url: str | None = Field(None, validation_alias=_names("SFM_PREDICTOR_URL"))
    predictor_model: str | None = Field(None, validation_alias=_names("SFM_PREDICTOR_MODEL"))
    predictor_api_key: SecretStr | None = Field(None, validation_alias=_names("SFM_PREDICTOR_API_KEY"))
    # One question with its retries; a model on a small machine writes some 10 words a second.
    predictor_timeout_ms: int = Field(30_000, ge=10, validation_alias=_names("SFM_PREDICTOR_TIMEOUT_MS"))
    # Of one namespace on one day: whoever may write could otherwise spend without end.
    predictor_daily_calls: int = Field(1_000, ge=1, le=10**9, validation_alias=_names("SFM_PREDICTOR_DAILY_CALLS"))

    # Names of installed plug-ins, in the order in which they are asked.
    hooks: str = Field("", validation_alias=_names("SFM_HOOKS"))
    # Each write waits for each hook.
    hook_timeout_ms: int = Field(1_000, ge=1, le=60_000, validation_alias=_names("SFM_HOOK_TIMEOUT_MS"))

    # One import line or JSON body above this is refused before it is parsed.
    max_body_bytes: int = Field(64 * 1024**2, ge=1024, validation_alias=_names("SFM_MAX_BODY_BYTES"))
    # 100k memories with 256 dimensions take about 140 MB hot, a million links 31 to 48 MB.
    hot_budget_bytes: int = Field(2 * 1024**3, ge=0, validation_alias=_names("SFM_HOT_BUDGET_BYTES"))
    # A walk that takes longer is ended: a path search with an error, neighbours with `truncated`.
    walk_deadline_ms: int = Field(10_000, ge=10, validation_alias=_names("SFM_WALK_DEADLINE_MS"))
    # Below this many unindexed vectors an exact scan is quicker than another index.
    vector_index_tail: int = Field(20_000, ge=100, validation_alias=_names("SFM_VECTOR_INDEX_TAIL"))
    # How often the background indexer looks for work.
    maintenance_interval_ms: int = Field(2_000, ge=50, validation_alias=_names("SFM_MAINTENANCE_INTERVAL_MS"))

    # What is recalled is counted in memory, and written so often.
    access_flush_ms: int = Field(5_000, ge=10, le=3_600_000, validation_alias=_names("SFM_ACCESS_FLUSH_MS"))

    # Changes are kept so long for readers that come back, and longer while a relay has not passed them on.
    change_retention_days: int = Field(30, ge=1, le=3_650, validation_alias=_names("SFM_CHANGE_RETENTION_DAYS"))
    # Decisions that were written down are kept for so long.
    audit_retention_days: int = Field(365, ge=1, le=36_500, validation_alias=_names("SFM_AUDIT_RETENTION_DAYS"))
    # The time between a commit elsewhere and its subscribers is half of this and a few milliseconds.
    change_poll_ms: int = Field(10, ge=1, le=10_000, validation_alias=_names("SFM_CHANGE_POLL_MS"))
    # A subscriber that takes nothing for so long is closed with its cursor.
    subscriber_patience_seconds: int = Field(30, ge=1, validation_alias=_names("SFM_SUBSCRIBER_PATIENCE_SECONDS"))

    eventing_enabled: bool = Field(True, validation_alias=_names("EVENTING_ENABLED"))
    event_bus: EventBusKind | None = Field(None, validation_alias=_names("SFM_EVENT_BUS"))
    followers_inside: bool = Field(True, validation_alias=_names("SFM_FOLLOWERS_INSIDE"))
    relay_shards: int = Field(1, ge=1, le=64, validation_alias=_names("SFM_RELAY_SHARDS"))

    kafka_bootstrap_servers: str | None = Field(None, validation_alias=_names("KAFKA_BOOTSTRAP_SERVERS"))
    kafka_security_protocol: KafkaProtocol = Field(
        KafkaProtocol.PLAINTEXT, validation_alias=_names("KAFKA_SECURITY_PROTOCOL")
    )
    kafka_ssl_ca_location: Path | None = Field(None, validation_alias=_names("KAFKA_SSL_CA_LOCATION"))
    kafka_ssl_cert_location: Path | None = Field(None, validation_alias=_names("KAFKA_SSL_CERTIFICATE_LOCATION"))
    kafka_ssl_key_location: Path | None = Field(None, validation_alias=_names("KAFKA_SSL_KEY_LOCATION"))
    kafka_sasl_mechanism: KafkaMechanism = Field(
        KafkaMechanism.SCRAM_SHA_512, validation_alias=_names("KAFKA_SASL_MECHANISM")
    )
    kafka_sasl_username: str | None = Field(None, validation_alias=_names("KAFKA_SASL_USERNAME"))
    kafka_sasl_password: SecretStr | None = Field(None, validation_alias=_names("KAFKA_SASL_PASSWORD"))
    # Compacted topics: a memory's or link's end is followed by a message without a value.
    kafka_tombstones: bool = Field(False, validation_alias=_names("SFM_KAFKA_TOMBSTONES"))

    redis_url: SecretStr | None = Field(None, validation_alias=_names("REDIS_URL"))
    redis_host: str | None = Field(None, validation_alias=_names("REDIS_HOST"))
    redis_port: int = Field(6379, ge=1, le=65_535, validation_alias=_names("REDIS_PORT"))
    redis_username: str | None = Field(None, validation_alias=_names("REDIS_USERNAME"))
    redis_password: SecretStr | None = Field(None, validation_alias=_names("REDIS_PASSWORD"))
    redis_tls: bool = Field(False, validation_alias=_names("REDIS_TLS"))
    redis_ssl_ca_location: Path | None = Field(None, validation_alias=_names("REDIS_SSL_CA_LOCATION"))
    # Entries of a stream that consumers may still read; older ones go.
    redis_stream_length: int = Field(1_000_000, ge=1_000, validation_alias=_names("SFM_REDIS_STREAM_LENGTH"))

    qdrant_url: str | None = Field(None, validation_alias=_names("QDRANT_URL"))
    qdrant_host: str | None = Field(None, validation_alias=_names("QDRANT_HOST"))
    qdrant_port: int = Field(6333, ge=1, le=65_535, validation_alias=_names("QDRANT_PORT"))
    qdrant_tls: bool = Field(False, validation_alias=_names("QDRANT_TLS"))
    qdrant_tls_cert: Path | None = Field(None, validation_alias=_names("QDRANT_TLS_CERT"))
    qdrant_api_key: SecretStr | None = Field(None, validation_alias=_names("SFM_QDRANT_API_KEY"))

    # Where answered recalls and vectors of queries are kept; never what is true.
    cache: CacheKind = Field(CacheKind.NONE, validation_alias=_names("SFM_CACHE"))
    cache_seconds: int = Field(300, ge=1, le=86_400, validation_alias=_names("SFM_CACHE_SECONDS"))

    # Traces go there by OTLP over HTTP, such as http://localhost:4318; none without it.
    otlp_endpoint: str | None = Field(
        None, validation_alias=_names("SFM_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    )
    trace_sample_ratio: float = Field(1.0, ge=0, le=1, validation_alias=_names("SFM_TRACE_SAMPLE_RATIO"))
    log_format: LogFormat = Field(LogFormat.TEXT, validation_alias=_names("SFM_LOG_FORMAT"))
    access_log: bool = Field(False, validation_alias=_names("SFM_ACCESS_LOG"))
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$", validation_alias=_names("SFM_LOG_LEVEL"))

    @model_validator(mode="after")
    def _enterprise_needs_a_server(self) -> Self:
        if self.mode in (MemoryMode.EVENTED_ENTERPRISE, MemoryMode.CLOUD_MANAGED) and not self.postgres_url:
            raise ValueError(f"POSTGRES_URL is required when MEMORY_MODE is {self.mode}")
        return self

    @model_validator(mode="after")
    def _models_are_named(self) -> Self:
        _need("SFM_EMBEDDER", self.embedder, "SFM_EMBEDDING", self.embedding_model, self.embedding_url)
        _need(
            "SFM_OLD_EMBEDDER",
            self.old_embedder,
            "SFM_OLD_EMBEDDING",
            self.old_embedding_model,
            self.old_embedding_url,
        )
        if self.reranker is RerankerKind.ONNX and not self.reranker_model:
            raise ValueError("SFM_RERANKER_MODEL is required when SFM_RERANKER is onnx")
        if self.reranker is RerankerKind.HTTP and not self.reranker_url:
            raise ValueError("SFM_RERANKER_URL is required when SFM_RERANKER is http")
        if self.predictor is not PredictorKind.NONE:
            for variable, value in (("URL", self.predictor_url), ("MODEL", self.predictor_model)):
                if not value:
                    raise ValueError(f"SFM_PREDICTOR_{variable} is required when SFM_PREDICTOR is {self.predictor}")
        return self

    @model_validator(mode="after")
    def _bus_is_reachable(self) -> Self:
        if self.event_bus is EventBusKind.KAFKA and not self.kafka_bootstrap_servers:
            raise ValueError("KAFKA_BOOTSTRAP_SERVERS is required when SFM_EVENT_BUS is kafka")
        if self.event_bus is EventBusKind.REDIS and not (self.redis_url or self.redis_host):
            raise ValueError("REDIS_URL is required when SFM_EVENT_BUS is redis")
        if self.kafka_security_protocol.value.startswith("SASL") and not (
            self.kafka_sasl_username and self.kafka_sasl_password
        ):
            raise ValueError(
                "KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD are required when KAFKA_SECURITY_PROTOCOL is "
                f"{self.kafka_security_protocol}"
            )
        return self

    @model_validator(mode="after")
    def _plugged_in_is_named(self) -> Self:
        if self.cache is CacheKind.REDIS and not self.has_redis:
            raise ValueError("REDIS_URL is required when SFM_CACHE is redis")
        if self.api_token is not None and self.api_token_file is not None:
            raise ValueError("SOMA_API_TOKEN and SOMA_API_TOKEN_FILE are both set; one of them is the token")
        if self.jwt_jwks_url and self.jwt_public_key_file:
            raise ValueError("SFM_JWT_JWKS_URL and SFM_JWT_PUBLIC_KEY_FILE are both set; one of them has the keys")
        jwt = {
            "SFM_JWT_ISSUER": self.jwt_issuer,
            "SFM_JWT_AUDIENCE": self.jwt_audience,
            "SFM_JWT_JWKS_URL or SFM_JWT_PUBLIC_KEY_FILE": self.has_jwt,
        }
        missing = [name for name, value in jwt.items() if not value]
        if 0 < len(missing) < len(jwt):
            raise ValueError(f"JWTs need an issuer, an audience and keys; set {', and '.join(missing)} too")
        if ANY_HOST in self.host_names and not (self.has_token or self.has_jwt):
            raise ValueError("SFM_ALLOWED_HOSTS is *, which needs a token: SOMA_API_TOKEN, or SFM_JWT_ISSUER")
        return self

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, value: str) -> str:
        for origin in filter(None, (one.strip() for one in value.split(","))):
            parts = urlsplit(origin)
            # A wildcard would let every page read what this machine may; what follows the host would match nothing.
            if parts.scheme not in ("http", "https") or origin != f"{parts.scheme}://{parts.netloc}" or "*" in origin:
                raise ValueError(f"{origin!r} is no origin like https://app.example")
        return value

    @field_validator("rate_limit_classes")
    @classmethod
    def _are_limits(cls, value: str) -> str:
        _limits(value)
        return value

    @field_validator(
        "embedding_url",
        "old_embedding_url",
        "reranker_url",
        "predictor_url",
        "qdrant_url",
        "jwt_jwks_url",
        "otlp_endpoint",
    )
    @classmethod
    def _is_plain_url(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("must look like http://host:port/v1")
        if parts.username is not None or parts.password is not None:
            raise ValueError("holds a name or password, which has a setting of its own, ..._API_KEY")
        return value

    @property
    def bus(self) -> EventBusKind:
        """Where events go: what `event_bus` says, else Kafka when its brokers are named."""
        if not self.eventing_enabled:
            return EventBusKind.NONE
        if self.event_bus is not None:
            return self.event_bus
        return EventBusKind.KAFKA if self.kafka_bootstrap_servers else EventBusKind.NONE

    @property
    def on_loopback(self) -> bool:
        """Whether the address to listen on is out of reach for other machines."""
        return is_loopback(self.host)

    @property
    def is_open(self) -> bool:
        """Whether no request needs a token, until the database holds an API key."""
        return self.on_loopback and not (self.has_token or self.has_jwt)

    @property
    def is_called_locally(self) -> bool:
        """Whether other machines reach the address, but by none of the names that are answered."""
        return not self.on_loopback and self.allowed_hosts == type(self).model_fields["allowed_hosts"].default

    @property
    def has_redis(self) -> bool:
        """Whether a Redis is named."""
        return self.redis_url is not None or self.redis_host is not None

    @property
    def has_jwt(self) -> bool:
        """Whether JWTs are taken."""
        return self.jwt_jwks_url is not None or self.jwt_public_key_file is not None

    @property
    def has_token(self) -> bool:
        """Whether there is a static token."""
        return self.api_token is not None or self.api_token_file is not None

    @property
    def class_limits(self) -> dict[str, int]:
        """Requests in one window by class of routes, where they differ from `rate_limit_max`."""
        return _limits(self.rate_limit_classes)

    @property
    def has_limits(self) -> bool:
        """Whether callers are limited in any way."""
        return bool(self.rate_limit_max or self.class_limits or self.cost_budget)

    @property
    def hook_names(self) -> tuple[str, ...]:
        """The names in `hooks`."""
        return tuple(name.strip() for name in self.hooks.split(",") if name.strip())

    @property
    def cors_origin_names(self) -> tuple[str, ...]:
        """The origins that browsers let use the service."""
        return tuple(name.strip() for name in self.cors_origins.split(",") if name.strip())

    @property
    def host_names(self) -> frozenset[str]:
        """The Host header names that are answered, lower case, without ports."""
        return frozenset(name.strip().lower() for name in self.allowed_hosts.split(",") if name.strip())


def is_loopback(host: str) -> bool:
    """Whether an address to listen on, such as 127.0.0.1, ::1 or localhost, is out of reach for other machines."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


ANY_HOST = "*"
ROUTE_CLASSES = ("read", "write", "search", "graphql", "stream", "admin")


def _limits(text: str) -> dict[str, int]:
    """`search=100,write=50` as a mapping. Raises ValueError."""
    found: dict[str, int] = {}
    for one in filter(None, (part.strip() for part in text.split(","))):
        name, _, most = one.partition("=")
        if name not in ROUTE_CLASSES or not most.isdecimal() or not 0 < int(most) <= 10**9:
            raise ValueError(f"must look like search=100,write=50; classes are {', '.join(ROUTE_CLASSES)}")
        found[name] = int(most)
    return found


def _need(variable: str, kind: EmbedderKind | None, prefix: str, model: str | None, url: str | None) -> None:
    if kind in (None, EmbedderKind.HASHING):
        return
    if not model:
        raise ValueError(f"{prefix}_MODEL is required when {variable} is {kind}")
    if kind is EmbedderKind.OPENAI and not url:
        raise ValueError(f"{prefix}_URL is required when {variable} is {kind}")


def load_settings(config: Path | None = None, **explicit: Any) -> Settings:
    """Read the settings; `explicit` wins over everything, by field name.

    Raises SettingsError naming the environment variable at fault, also for one that begins with SFM_ or SOMA_ and is
    no setting: a limit or token that nobody reads would leave the service open.
    """
    _refuse_unknown()
    config = config or (Path(os.environ["SFM_CONFIG"]) if os.environ.get("SFM_CONFIG") else None)
    from_file = _yaml_values(config) if config else {}
    given = {name: value for name, value in explicit.items() if value is not None}
    token = _from_file.set(from_file)
    try:
        return Settings(**given)
    except ValidationError as exc:
        # Not as its cause: it holds what was given, secrets too.
        raise SettingsError(_explain(exc)) from None
    finally:
        _from_file.reset(token)


def variable_names(field: str) -> list[str]:
    """The environment variables that set a field, the preferred one first."""
    alias = cast(AliasChoices, Settings.model_fields[field].validation_alias)
    return [str(choice) for choice in alias.choices]


# Read by the command line, Docker Compose and consumers: `docs/consumers.md` names the options of ours.
_ELSEWHERE = {
    "SFM": ("CONFIG", "TOKEN", "TOKEN_FILE", "SECRETS", "PUBLISHED_PORT"),
    "SFM_CONSUMER": (
        "HOST",
        "PORT",
        "LEDGER",
        "BATCH",
        "MAX_EVENT_BYTES",
        "ATTEMPTS",
        "LONGEST_PAUSE_SECONDS",
        "SESSION_SECONDS",
        "HANDLE_SECONDS",
    ),
    "SFM_WEBHOOK": ("URL", "SECRET", "SECRET_FILE", "BATCH", "TOPICS", "TIMEOUT_MS", "ALLOW_HTTP"),
    "SFM_AUDIT": ("FILE", "POSTGRES_URL", "POSTGRES_URL_FILE", "MAX_BYTES", "REMEMBER", "TOPICS", "TIMEOUT_MS"),
    "SFM_MIRROR": (
        "TARGET",
        "STATE",
        "SOURCE",
        "NAMESPACES",
        "LINKS",
        "LINKERS",
        "RELOAD",
        "TOKEN",
        "TOKEN_FILE",
        "SOURCE_TOKEN",
        "SOURCE_TOKEN_FILE",
        "TIMEOUT_MS",
        "ALLOW_HTTP",
    ),
}
READ_ELSEWHERE = frozenset(f"{prefix}_{name}" for prefix, names in _ELSEWHERE.items() for name in names)
_OUR_CONSUMERS = frozenset({"AUDIT", "MIRROR", "WEBHOOK"})
# What Kubernetes gives each pod for a service called sfm-..., unless `enableServiceLinks` is false.
_SERVICE_LINK = re.compile(
    r"\w+_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)", re.ASCII
)
_SERVICE_URL = re.compile(r"(tcp|udp|sctp)://\S+")
# Other services share the prefix SOMA_: of its names only a slip of the pen is refused.
_SLIP, _RESEMBLANCE = 0.9, 0.6


def _refuse_unknown() -> None:
    found: list[str] = []
    for place, source in {"the environment": EnvSettingsSource, ".env": DotEnvSettingsSource}.items():
        try:
            values = source(Settings).env_vars
        except (OSError, UnicodeError) as exc:
            raise SettingsError(f"{place} cannot be read: {exc}") from exc
        for name in _unknown((name.upper(), value or "") for name, value in values.items()):
            near = difflib.get_close_matches(name, _fields(), 1, _RESEMBLANCE)
            meant = f"; did you mean {near[0]}?" if near else ""
            found.append(f"{name} in {place} is no setting{meant}")
    if found:
        raise SettingsError("; ".join(found))


def _unknown(values: Iterable[tuple[str, str]]) -> list[str]:
    """The names that somebody took for a setting's."""
    found = []
    for name, value in sorted(values):
        if name in _fields() or name in READ_ELSEWHERE or _is_service_link(name, value):
            continue
        if name.startswith("SFM_") or (
            name.startswith("SOMA_") and difflib.get_close_matches(name, _fields(), 1, _SLIP)
        ):
            found.append(name)
    return [name for name in found if not name.startswith(_plugged_in())] if found else []


def _is_service_link(name: str, value: str) -> bool:
    return bool(_SERVICE_LINK.fullmatch(name) or (name.endswith("_PORT") and _SERVICE_URL.fullmatch(value)))


def _plugged_in() -> tuple[str, ...]:
    """What the options of other people's consumers begin with."""
    names = {name.upper() for name in entry_points(group="sfm_consumers.consumers").names}
    return tuple(f"SFM_{name}_" for name in names - _OUR_CONSUMERS)


@cache
def _fields() -> dict[str, str]:
    """Variable -> field."""
    return {name: field for field in Settings.model_fields for name in variable_names(field)}


def _yaml_values(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text()) or {}
    except (OSError, yaml.YAMLError) as exc:
        raise SettingsError(f"SFM_CONFIG: cannot read {path}: {exc}") from exc
    if not isinstance(values, dict):
        raise SettingsError(f"SFM_CONFIG: {path} must hold a mapping of setting names to values")
    fields = {field: field for field in Settings.model_fields} | _fields()
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise SettingsError(f"SFM_CONFIG: {path} has unknown settings: {', '.join(map(str, unknown))}")
    return {fields[name]: value for name, value in values.items()}


def _explain(exc: ValidationError) -> str:
    lines = []
    for error in exc.errors():
        field = str(error["loc"][0]) if error["loc"] else ""
        name = variable_names(field)[0] if field in Settings.model_fields else field
        lines.append(f"{name}: {error['msg']}" if name else error["msg"].removeprefix("Value error, "))
    return "; ".join(lines)
