"""What follows from a write of memories in the same transaction: windows of their sequences, links of linkers."""

from collections.abc import Sequence, Set
from dataclasses import dataclass, field

from sfm_graph.domain.cues import Cues
from sfm_graph.domain.identity import MemoryId
from sfm_graph.domain.memory import NewMemory
from sfm_graph.domain.namespace import Namespace
from sfm_graph.domain.windows import Place
from sfm_graph.services.linking.linker import Surroundings, Writes, Written
from sfm_graph.services.linking.linking import Linking
from sfm_graph.services.windows import Windows
from sfm_graph.store import windows as store
from sfm_graph.store.database import WriteSession


class Settling:
    """Begins the settlement of each transaction that writes memories."""

    def __init__(self, windows: Windows, linking: Linking) -> None:
        self._windows = windows
        self._linking = linking

    def begin(self, session: WriteSession, target: Namespace) -> "Settlement":
        """A settlement of what this transaction does to a namespace."""
        return Settlement(session, target, self._windows, self._linking)

    async def hold_for_removal(self, session: WriteSession, target: Namespace, ids: Sequence[int]) -> None:
        """To call before memories are locked that will be removed: against deadlocks with other writers.

        Sequences first, then what linkers hold, as `Settlement.after` takes them.
        """
        stand = await store.places(session, target.id, ids)
        await _lock_sequences(session, target, {place.sequence for place in stand})
        await self._linking.hold_for_removal(session, target)

    async def finish(self, namespace: str) -> None:
        """After the commit: make the window vectors that are due."""
        await self._windows.fill(namespace)


@dataclass(slots=True)
class Settlement:
    """One transaction's: `before` rows are replaced or removed, `wrote` for each row written, `after` once."""

    _session: WriteSession
    _target: Namespace
    _windows: Windows
    _linking: Linking
    _written: dict[MemoryId, Written] = field(default_factory=dict)
    _places: set[Place] = field(default_factory=set)
    _surroundings: Surroundings | None = None

    def of(self, target: Namespace) -> None:
        """The namespace as the transaction has changed it: it has a model now."""
        self._target = target

    async def before(self, ids: Sequence[int], joined: Set[str | None] = frozenset()) -> None:
        """Note what memories touch that are about to be removed, or replaced and to stand in sequences `joined`.

        Their sequences are held before their words are: whoever holds a sequence writes words of its memories.
        """
        stood = await store.places(self._session, self._target.id, ids)
        await _lock_sequences(self._session, self._target, joined | {place.sequence for place in stood})
        self._places.update(stood)
        noted = await self._linking.before(self._session, self._target, [MemoryId(one) for one in ids])
        self._surroundings = noted if self._surroundings is None else self._surroundings.joined(noted)

    def wrote(self, memory_id: MemoryId, memory: NewMemory, cues: Cues) -> None:
        """Note a memory whose text or cues were written."""
        self._written[memory_id] = Written.of(memory_id, memory, cues)
        if cues.sequence is not None:
            self._places.add(Place(cues.sequence, cues.position, memory_id))

    async def after(self) -> bool:
        """Bring windows and links in line. Whether window vectors are due."""
        writes = Writes(self._written, self._surroundings or Surroundings())
        # Sequences before names, as in a removal: in another order two writers would wait for each other.
        due = await self._windows.settle(self._session, self._target, self._written.keys(), sorted(self._places))
        await self._linking.hold(self._session, self._target, writes)
        await self._linking.after(self._session, self._target, writes)
        return due


async def _lock_sequences(session: WriteSession, target: Namespace, sequences: Set[str | None]) -> None:
    known = [one for one in sequences if one is not None]
    if known:
        await store.lock(session, target.id, known)
