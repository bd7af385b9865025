"""Every setting of the service: one frozen class, one table in `docs/settings.md`.

A value comes from, in this order: an explicit argument, the environment, a `.env` file, the YAML file named by
`--config` or `SFM_CONFIG`, the default here. Nothing else in the package reads the environment.
"""

import os
from enum import StrEnum
from pathlib import Path
from typing import Any, Self, cast
from urllib.parse import urlsplit

import yaml
from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

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


class EventBusKind(StrEnum):
    """Where the relay sends events."""

    NONE = "none"
    KAFKA = "kafka"
    REDIS = "redis"


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
    return AliasChoices(*names)


class Settings(BaseSettings):
    """The settings of one process. Frozen; units are in the names."""

    model_config = SettingsConfigDict(
        frozen=True, extra="ignore", env_file=".env", populate_by_name=True, env_ignore_empty=True
    )

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

    # Changes are kept so long for readers that come back, and longer while a relay has not passed them on.
    change_retention_days: int = Field(30, ge=1, le=3_650, validation_alias=_names("SFM_CHANGE_RETENTION_DAYS"))
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
    # Entries of a stream that consumers may still read; older ones go.
    redis_stream_length: int = Field(1_000_000, ge=1_000, validation_alias=_names("SFM_REDIS_STREAM_LENGTH"))

    qdrant_url: str | None = Field(None, validation_alias=_names("QDRANT_URL"))
    qdrant_host: str | None = Field(None, validation_alias=_names("QDRANT_HOST"))
    qdrant_port: int = Field(6333, ge=1, le=65_535, validation_alias=_names("QDRANT_PORT"))
    qdrant_tls: bool = Field(False, validation_alias=_names("QDRANT_TLS"))
    qdrant_tls_cert: Path | None = Field(None, validation_alias=_names("QDRANT_TLS_CERT"))
    qdrant_api_key: SecretStr | None = Field(None, validation_alias=_names("SFM_QDRANT_API_KEY"))

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

    @field_validator("embedding_url", "old_embedding_url", "reranker_url", "qdrant_url")
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
    def host_names(self) -> frozenset[str]:
        """The Host header names that are answered, lower case, without ports."""
        return frozenset(name.strip().lower() for name in self.allowed_hosts.split(",") if name.strip())


def _need(variable: str, kind: EmbedderKind | None, prefix: str, model: str | None, url: str | None) -> None:
    if kind in (None, EmbedderKind.HASHING):
        return
    if not model:
        raise ValueError(f"{prefix}_MODEL is required when {variable} is {kind}")
    if kind is EmbedderKind.OPENAI and not url:
        raise ValueError(f"{prefix}_URL is required when {variable} is {kind}")


def load_settings(config: Path | None = None, **explicit: Any) -> Settings:
    """Read the settings; `explicit` wins over everything, by field name.

    Raises SettingsError naming the environment variable at fault.
    """
    config = config or (Path(os.environ["SFM_CONFIG"]) if os.environ.get("SFM_CONFIG") else None)
    from_file = _yaml_values(config) if config else {}
    given = {name: value for name, value in explicit.items() if value is not None}
    try:
        # What the environment sets must win over the file, and pydantic ranks init arguments first.
        environment = Settings(**given).model_dump(exclude_unset=True)
        return Settings(**{**from_file, **environment, **given})
    except ValidationError as exc:
        raise SettingsError(_explain(exc)) from exc


def variable_names(field: str) -> list[str]:
    """The environment variables that set a field, the preferred one first."""
    alias = cast(AliasChoices, Settings.model_fields[field].validation_alias)
    return [str(choice) for choice in alias.choices]


def _yaml_values(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text()) or {}
    except (OSError, yaml.YAMLError) as exc:
        raise SettingsError(f"SFM_CONFIG: cannot read {path}: {exc}") from exc
    if not isinstance(values, dict):
        raise SettingsError(f"SFM_CONFIG: {path} must hold a mapping of setting names to values")
    fields = {name: field for field in Settings.model_fields for name in (field, *variable_names(field))}
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
