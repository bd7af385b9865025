"""What is made of a model's answer about a text: entities that the text names, and links between them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sfm_graph.domain import validate
from sfm_graph.domain.names import name_of
from sfm_graph.domain.prompts import SHARE, Prompt, closed, lists, texts

AGENT: Final = "extraction"
# From a memory to an entity that it is about.
ABOUT: Final = "about"
MAX_ENTITIES: Final = 30
MAX_RELATIONS: Final = 60
LEAST_CONFIDENCE: Final = 0.5
_MAX_NAME_CHARS: Final = 200
# Links that mean something to the service itself: no model makes them.
RESERVED_TYPES: Final = frozenset({
    ABOUT, "supersedes", "contradicts", "derived_from", "copied_from", "predicted_from", "outcome_of", "evidenced_by",
    "duplicate_of", "mentions", "next", "refers_to", "similar", "related",
})  # fmt: skip

_SCHEMA: Final = closed(
    entities=lists(closed(name=texts(_MAX_NAME_CHARS), type=texts(60)), MAX_ENTITIES),
    relations=lists(
        closed(
            source=texts(_MAX_NAME_CHARS), type=texts(60), target=texts(_MAX_NAME_CHARS), confidence=SHARE
        ),
        MAX_RELATIONS,
    ),
)  # fmt: skip
_INSTRUCTION: Final = (
    "List the people, organisations, places, products and other named things in the text in `material`, each by a"
    " name as the text spells it, with its type in one word; and the relations between them that the text states:"
    " source and target by those names, type as a verb phrase such as works_at or lives_in, and your confidence from"
    " 0 to 1."
)


@dataclass(frozen=True, slots=True)
class FoundEntity:
    """Someone or something that a text names. `key`: of the memory that stands for it."""

    key: str
    name: str
    type: str


@dataclass(frozen=True, slots=True)
class FoundRelation:
    """A link between two entities, by their keys. `confidence` in [0.5, 1]."""

    source: str
    target: str
    type: str
    confidence: float

    @property
    def weight(self) -> float:
        """A cost from 1 to 3, so that the link's strength is half of the confidence."""
        return 2 / self.confidence - 1


@dataclass(frozen=True, slots=True)
class Extracted:
    """All that was found in one text."""

    entities: tuple[FoundEntity, ...]
    relations: tuple[FoundRelation, ...]


def question(text: str) -> Prompt:
    """What is asked about a text."""
    return Prompt("extract", _INSTRUCTION, [text], _SCHEMA, max_tokens=2_000)


def grounded(answer: Mapping[str, Any], text: str) -> Extracted:
    """Of an answer that matches the schema, what the text bears out.

    An entity whose name is not in the text, word for word in any case, is left out with its relations; so are types
    of links that mean something to the service, and what the model itself does not believe.
    """
    said = f" {' '.join(name_of(text))} "
    entities = {one.key: one for one in map(_entity, answer["entities"]) if f" {one.key[len(_PREFIX) :]} " in said}
    entities = {key: one for key, one in entities.items() if len(key) <= validate.MAX_KEY_CHARS}
    relations: dict[tuple[str, str, str], FoundRelation] = {}
    for one in map(_relation, answer["relations"]):
        known = one.source in entities and one.target in entities and one.source != one.target
        if known and one.type and one.type not in RESERVED_TYPES and one.confidence >= LEAST_CONFIDENCE:
            before = relations.get(ends := (one.source, one.type, one.target))
            if before is None or before.confidence < one.confidence:
                relations[ends] = one
    return Extracted(tuple(entities.values()), tuple(relations.values()))


_PREFIX: Final = "entity:"


def entity_key(name: str) -> str:
    """The key of an entity by its name: the same for every spelling of case, accents and spaces."""
    return _PREFIX + " ".join(name_of(name))


def _entity(given: Mapping[str, Any]) -> FoundEntity:
    return FoundEntity(entity_key(given["name"]), _printable(given["name"]), _printable(given["type"]))


def _relation(given: Mapping[str, Any]) -> FoundRelation:
    type_ = "_".join(name_of(given["type"]))[: validate.MAX_LINK_TYPE_CHARS]
    return FoundRelation(entity_key(given["source"]), entity_key(given["target"]), type_, float(given["confidence"]))


def _printable(text: str) -> str:
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())
