"""What a linker is: a small plug-in that says which links memories shall have.

`docs/linkers.md` tells how to write one.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Self

from sfm_graph.domain.cues import Cues, own_text
from sfm_graph.domain.identity import MemoryId
from sfm_graph.domain.memory import Memory, MemoryKind, NewMemory
from sfm_graph.domain.names import Name
from sfm_graph.domain.windows import Place
from sfm_graph.store.linking import Known

if TYPE_CHECKING:
    from sfm_graph.services.linking.scope import Scope


@dataclass(frozen=True, slots=True)
class Text:
    """What linkers read of a memory. `own`: its content without the title that it may begin with."""

    id: MemoryId
    kind: MemoryKind
    title: str | None
    own: str
    payload: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Written:
    """A memory as a transaction leaves it behind."""

    text: Text
    cues: Cues
    valid_from: datetime | None
    valid_to: datetime | None

    @classmethod
    def of(cls, memory_id: MemoryId, memory: NewMemory | Memory, cues: Cues) -> Self:
        """A memory with the id it has."""
        own = own_text(memory.title, memory.content)
        text = Text(memory_id, memory.kind, memory.title, own, memory.payload or {})
        return cls(text, cues, memory.valid_from, memory.valid_to)

    @property
    def place(self) -> Place | None:
        """Where it stands in a sequence."""
        cues = self.cues
        return Place(cues.sequence, cues.position, self.text.id) if cues.sequence is not None else None


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What memories touched before they were replaced or removed."""

    # Of those that were stored; a memory that is missing here is new.
    known: Mapping[MemoryId, Known] = field(default_factory=dict)
    # Linker -> memories that it wants to look at afterwards.
    touched: Mapping[str, Set[MemoryId]] = field(default_factory=dict)

    def joined(self, later: "Surroundings") -> "Surroundings":
        """These and what was noted later in the same transaction; what was noted first of a memory stands."""
        both = self.touched.keys() | later.touched.keys()
        touched = {name: self.touched.get(name, set()) | later.touched.get(name, set()) for name in both}
        return Surroundings({**later.known, **self.known}, touched)


@dataclass(frozen=True)
class Writes:
    """What a transaction did to a namespace's memories: all of `written` and `before` that is not written is gone."""

    written: Mapping[MemoryId, Written]
    before: Surroundings

    @property
    def any(self) -> bool:
        """Whether anything was written or removed."""
        return bool(self.written or self.before.known)

    @cached_property
    def fresh(self) -> frozenset[MemoryId]:
        """New memories: nothing is linked out of them yet."""
        return frozenset(self.written.keys() - self.before.known.keys())

    @cached_property
    def gone(self) -> frozenset[MemoryId]:
        """Removed memories. Their links went with them."""
        return frozenset(self.before.known.keys() - self.written.keys())

    @cached_property
    def lost(self) -> Mapping[MemoryId, Set[Name]]:
        """Names that memories no longer have; those of a memory that became or stopped being an ENTITY are lost."""
        return {id_: lost for id_, old in self.before.known.items() if (lost := old.names - self._kept(id_))}

    @cached_property
    def renamed(self) -> frozenset[Name]:
        """Names that more, fewer or other memories have than before."""
        gained = (self._names(id_) - self._kept(id_) for id_ in self.written)
        return frozenset().union(*gained, *self.lost.values())

    @cached_property
    def places(self) -> Sequence[Place]:
        """Places in sequences that memories left or took."""
        places = {one.place for one in self.written.values()} | {one.place for one in self.before.known.values()}
        return sorted(place for place in places if place is not None)

    def has_kind(self, kind: MemoryKind) -> bool:
        """Whether a memory that was written, replaced or removed is or was of a kind."""
        kinds = (known.kind for known in self.before.known.values())
        return kind in kinds or any(one.text.kind is kind for one in self.written.values())

    def _names(self, id_: MemoryId) -> Set[Name]:
        return set(self.written[id_].cues.names)

    def _kept(self, id_: MemoryId) -> Set[Name]:
        now, old = self.written.get(id_), self.before.known.get(id_)
        if now is None or old is None or (now.text.kind is MemoryKind.ENTITY) is not (old.kind is MemoryKind.ENTITY):
            return set()
        return old.names & (self._names(id_) | {name for name in old.names if name[0].startswith("=")})


@dataclass(frozen=True, slots=True)
class WantedLink:
    """A link that a linker wants; of several with the same ends the first of least weight (a cost >= 0) counts."""

    source: MemoryId
    target: MemoryId
    weight: float = 1.0
    properties: Mapping[str, Any] = field(default_factory=dict)


class Hold(IntEnum):
    """What other writers of the namespace may do while a transaction links, from here to its commit."""

    # Anything.
    NOTHING = 0
    # Anything but what needs EXCLUSIVE.
    SHARED = 1
    # Nothing that needs SHARED or EXCLUSIVE.
    EXCLUSIVE = 2


class Linker(ABC):
    """Says which links of one type memories shall have; what is stored is brought in line by the service.

    Linkers are made once for a process, without arguments; they keep no state.
    """

    # Marks the links that it made, and switches it per namespace; at most 64 characters.
    name: ClassVar[str]
    link_type: ClassVar[str]
    on_by_default: ClassVar[bool] = False

    def hold(self, writes: Writes) -> Hold:
        """What it has to hold against other writers.

        Two transactions that each write one end of a link must not miss each other: the one that changes what others
        look up needs EXCLUSIVE, one that only looks up SHARED. What is read after the lock is what the others left.
        """
        return Hold.EXCLUSIVE

    async def touched(self, scope: "Scope", ids: Sequence[MemoryId]) -> Set[MemoryId]:
        """Called before memories are replaced or removed: others to look at afterwards, besides `affected`."""
        return frozenset()

    async def affected(self, scope: "Scope", writes: Writes) -> Set[MemoryId]:
        """The memories, besides the written ones, whose links may change by these writes."""
        return frozenset()

    @abstractmethod
    async def wanted(self, scope: "Scope", sources: Sequence[MemoryId]) -> Iterable[WantedLink]:
        """All links that it wants out of these memories (up to 1,000), and no others; not of those without any."""
