"""Namespaces: the isolation border, with the identity of the model its vectors come from."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sfm_graph.domain import validate
from sfm_graph.domain.consolidation import ConsolidationRules, consolidation_rules
from sfm_graph.domain.content_policy import ContentPolicy, content_policy
from sfm_graph.domain.cues import DEFAULT_CUE_FIELDS, CueFields, cue_fields
from sfm_graph.domain.fading import FadingRules, fading_rules, max_memories
from sfm_graph.domain.functional_links import functional_types
from sfm_graph.domain.words import ENGLISH, LANGUAGES
from sfm_graph.errors import InvalidInput

MAX_DECLARED_PATHS = 16
MAX_LINKERS = 50


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
    """What a namespace's owner declares."""

    # Paths that `where` may compare by order (gt, gte, lt, lte).
    payload_paths: tuple[tuple[str, ...], ...] = ()
    # Whose rules reduce words to stems; a Snowball language, or "none". Fixed once something is stored.
    language: str = ENGLISH
    # Where in payloads cues are found.
    cues: CueFields = DEFAULT_CUE_FIELDS
    # Linkers switched on or off by name; one that is not named is on if it is by default.
    linkers: tuple[tuple[str, bool], ...] = ()
    # Link types of which one link at most is open from a memory: one that opens closes the others.
    functional_types: tuple[str, ...] = ()
    # What memories and links may say; None: anything.
    content_policy: ContentPolicy | None = None
    # How episodes become semantic memories in the background; None: they do not.
    consolidation: ConsolidationRules | None = None
    # Whether the predictor reads what is stored for entities and relations.
    extraction: bool = False

    # How memories fade; None: they do not.
    fading: FadingRules | None = None
    # How many memories are kept; None: any number.
    max_memories: int | None = None

    @property
    def watches_memories(self) -> bool:
        """Whether it is kept in mind when memories are next to be looked at."""
        return self.fading is not None or self.max_memories is not None

    def as_json(self) -> dict[str, Any]:
        """The JSON form that is stored and shown."""
        return {
            "fading": None if self.fading is None else self.fading.as_json(),
            "max_memories": self.max_memories,
            "payload_paths": [".".join(path) for path in self.payload_paths],
            "language": self.language,
            "cues": self.cues.as_json(),
            "linkers": dict(self.linkers),
            "functional_types": list(self.functional_types),
            "extraction": self.extraction,
            "consolidation": None if self.consolidation is None else self.consolidation.as_json(),
            "content_policy": None if self.content_policy is None else self.content_policy.as_json(),
        }


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


@dataclass(frozen=True, slots=True)
class NamespaceCounts:
    """How much is in a namespace."""

    memories_by_kind: Mapping[str, int]
    links_by_type: Mapping[str, int]
    vectors: int
    # Vectors that are searched by an HNSW index; the others are scanned exactly.
    indexed_vectors: int


DEFAULT_SETTINGS = NamespaceSettings()


def namespace_settings(value: object, base: NamespaceSettings = DEFAULT_SETTINGS) -> NamespaceSettings:
    """Settings from their JSON form; what is not given, or null, is as in `base`. Raises InvalidInput."""
    readers: dict[str, Callable[[object], Any]] = {
        "payload_paths": _paths,
        "language": _language,
        "cues": cue_fields,
        "linkers": _linkers,
        "functional_types": functional_types,
        "content_policy": content_policy,
        "extraction": _extraction,
        "fading": lambda one: fading_rules(one, base.fading),
        "max_memories": max_memories,
        "consolidation": consolidation_rules,
    }
    if not isinstance(value, Mapping) or value.keys() - readers.keys():
        raise InvalidInput(f"settings take {', '.join(sorted(readers))}", field="settings")
    return replace(base, **{name: readers[name](one) for name, one in value.items() if one is not None})


def _paths(value: object) -> tuple[tuple[str, ...], ...]:
    if not isinstance(value, list | tuple) or len(value) > MAX_DECLARED_PATHS:
        raise InvalidInput(f"payload_paths is a list of at most {MAX_DECLARED_PATHS} paths", field="payload_paths")
    return tuple(_path(path) for path in value)


def _language(value: object) -> str:
    if not isinstance(value, str) or value not in LANGUAGES:
        raise InvalidInput(f"language is one of {', '.join(sorted(LANGUAGES))}", field="language")
    return value


def _linkers(value: object) -> tuple[tuple[str, bool], ...]:
    if not isinstance(value, Mapping) or len(value) > MAX_LINKERS:
        raise InvalidInput("linkers maps names of linkers to true or false", field="linkers")
    if not all(isinstance(on, bool) for on in value.values()):
        raise InvalidInput("a linker is true (on) or false (off)", field="linkers")
    return tuple(sorted((validate.name(name, "linkers", max_chars=64), bool(on)) for name, on in value.items()))


def _extraction(value: object) -> bool:
    if not isinstance(value, bool):
        raise InvalidInput("extraction is true (on) or false (off)", field="extraction")
    return value


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
