"""The mirror's words for memories and links: as they were seen in the source, and as something to do about them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

MEMORY, LINK = "memory", "link"
MEMORY_FIELDS = ("key", "coordinate", "kind", "title", "content", "payload", "importance", "valid_from", "valid_to")
LINK_FIELDS = ("type", "weight", "properties", "valid_from", "valid_to")


@dataclass(frozen=True, slots=True)
class Cut:
    """What an event is about that was too large for the bus: only the source knows its state.

    `global_id`: by which the source's GraphQL finds it.
    """

    era: int
    namespace: str
    global_id: str


@dataclass(slots=True)
class Touched:
    """Ids by era whose rows there is something to do about; and what has to be read, by entity and id."""

    memories: dict[int, set[int]] = field(default_factory=dict)
    links: dict[int, set[int]] = field(default_factory=dict)
    cut: dict[tuple[str, int], Cut] = field(default_factory=dict)

    def add(self, entity: str, era: int, ids: Iterable[int]) -> None:
        """Note rows of an era."""
        rows = self.memories if entity == MEMORY else self.links
        rows.setdefault(era, set()).update(ids)


@dataclass(frozen=True, slots=True)
class Seen:
    """An entity as an event or a reading of the source shows it. state: None when it is gone."""

    entity: str
    id: int
    state: Mapping[str, Any] | None
    erased: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """A memory or link that something is to be done about."""

    id: int
    version: int
    body: dict[str, Any]
    remote: str | None
    place: list[float] | None
    tried: bool = False
