"""Namespaces: the isolation border, with the identity of the model its vectors come from."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sfm_graph.domain import validate
from sfm_graph.errors import InvalidInput, ModelMismatch

MAX_DECLARED_PATHS = 16


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """What makes two vectors comparable: the same model name, revision and dimension."""

    name: str
    revision: str
    dimension: int

    def __str__(self) -> str:
        return f"{self.name}@{self.revision} ({self.dimension} dimensions)"


@dataclass(frozen=True, slots=True)
class NamespaceSettings:
    """What a namespace's owner declares: payload paths that `where` may compare by order (gt, gte, lt, lte)."""

    payload_paths: tuple[tuple[str, ...], ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The JSON form that is stored and shown."""
        return {"payload_paths": [".".join(path) for path in self.payload_paths]}


@dataclass(frozen=True, slots=True)
class StoredModel:
    """An embedding model known to the database."""

    id: int
    identity: ModelIdentity


@dataclass(frozen=True, slots=True)
class Namespace:
    """A namespace as stored. `model` is None until the first vector, or until one is declared."""

    id: int
    name: str
    settings: NamespaceSettings
    created_at: datetime
    model: StoredModel | None

    def require_model(self, identity: ModelIdentity) -> None:
        """Raises ModelMismatch when the namespace's vectors come from another model."""
        if self.model is not None and self.model.identity != identity:
            raise ModelMismatch(
                f"namespace {self.name!r} has vectors of {self.model.identity}, the service embeds with {identity}; "
                "give `embedding` yourself, or start the service with that model",
                namespace=self.name,
            )


@dataclass(frozen=True, slots=True)
class NamespaceCounts:
    """How much is in a namespace."""

    memories_by_kind: Mapping[str, int]
    links_by_type: Mapping[str, int]
    vectors: int
    # Vectors that are searched by an HNSW index; the others are scanned exactly.
    indexed_vectors: int


def namespace_settings(value: object) -> NamespaceSettings:
    """Settings from their JSON form. Raises InvalidInput."""
    if not isinstance(value, Mapping) or value.keys() - {"payload_paths"}:
        raise InvalidInput("settings take payload_paths", field="settings")
    paths = value.get("payload_paths") or []
    if not isinstance(paths, list | tuple) or len(paths) > MAX_DECLARED_PATHS:
        raise InvalidInput(f"payload_paths is a list of at most {MAX_DECLARED_PATHS} paths", field="payload_paths")
    return NamespaceSettings(tuple(_path(path) for path in paths))


def model_identity(value: object) -> ModelIdentity:
    """A model's identity from `{"name", "revision", "dimension"}`. Raises InvalidInput."""
    if not isinstance(value, Mapping) or value.keys() - {"name", "revision", "dimension"}:
        raise InvalidInput("model takes name, revision and dimension", field="model")
    return ModelIdentity(
        validate.name(value.get("name"), "model.name", max_chars=256),
        validate.name(value.get("revision", "1"), "model.revision", max_chars=256),
        validate.integer(value.get("dimension"), "model.dimension", low=1, high=validate.MAX_EMBEDDING_DIMENSION),
    )


def _path(value: object) -> tuple[str, ...]:
    path = tuple(validate.name(value, "payload_paths", max_chars=512).split("."))
    if not all(path):
        raise InvalidInput("a payload path looks like a.b.c", field="payload_paths")
    return path
