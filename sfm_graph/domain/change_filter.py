"""Which changes a reader wants."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

from sfm_graph.domain import inputs, validate
from sfm_graph.domain.change import Change, Operation
from sfm_graph.domain.identity import Entity, MemoryRef
from sfm_graph.errors import InvalidInput

K = TypeVar("K", bound=StrEnum)

# Around a memory: a set that is looked up again with every page of changes.
MAX_AROUND_HOPS = 3

ALL_ENTITIES = frozenset(Entity)
STREAMED_OPERATIONS = frozenset(Operation) - {Operation.REINDEX}


@dataclass(frozen=True, slots=True)
class ChangeFilter:
    """Changes of these entities, by these operations; of links only those of these types (None: any).

    `around` keeps changes of memories within `hops` of a memory, and of links that touch one of them: by the links
    that there are when the changes are read; of a memory that is gone by then, by those that it had, until it is
    erased. The end of the namespace always passes.
    """

    entities: frozenset[Entity] = ALL_ENTITIES
    operations: frozenset[Operation] = STREAMED_OPERATIONS
    link_types: frozenset[str] | None = None
    around: MemoryRef | None = None
    hops: int = 1

    def admits(self, change: Change) -> bool:
        """Whether a change is wanted, `around` left aside."""
        if change.entity is Entity.NAMESPACE:
            return True
        if change.entity not in self.entities or change.operation not in self.operations:
            return False
        if change.entity is Entity.LINK and self.link_types is not None:
            state = change.after() or change.before()
            return state is not None and state["type"] in self.link_types
        return True


def change_filter(
    *,
    entities: Sequence[str] | None = None,
    operations: Sequence[str] | None = None,
    link_types: Sequence[str] | None = None,
    around: MemoryRef | None = None,
    hops: Any = 1,
) -> ChangeFilter:
    """A checked filter; None and an empty list mean any. `link_types` alone mean changes of links only.

    Raises InvalidInput.
    """
    chosen = frozenset(_member(ALL_ENTITIES, one, "entities") for one in entities or ())
    done = frozenset(_member(STREAMED_OPERATIONS, one, "operations") for one in operations or ())
    types = frozenset(inputs.link_types(link_types)) or None
    if not chosen:
        chosen = ALL_ENTITIES if types is None else frozenset({Entity.LINK})
    return ChangeFilter(
        chosen,
        done or STREAMED_OPERATIONS,
        types,
        around,
        validate.integer(hops, "hops", low=0, high=MAX_AROUND_HOPS),
    )


def _member(kinds: frozenset[K], value: object, name: str) -> K:
    for kind in kinds:
        if isinstance(value, str) and kind == value.lower():
            return kind
    raise InvalidInput(f"{name}: one of {', '.join(sorted(kinds))}, not {str(value)[:40]!r}", field=name)
