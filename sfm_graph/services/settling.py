"""What follows from a write of memories in the same transaction: windows of their sequences, links of linkers.

All that write memories take locks in one order, or they would wait for each other:

1. the sequences that memories leave or join, all at once, in the order of their hashes (`Settlement.hold`);
2. the rows of the memories, by id, `for no key update`: links may still be made to them;
3. the names of the namespace, exclusively by those who change names, else shared, once (`remove` or `after`).

Words and windows are written under 1 and 2. Links are made, and memories are removed, under 3; who removes locks the
rows once more, `for update`, by id: callers who link memories hold theirs by id, too, and take neither 1 nor 3.

A memory that changes its sequence between the look-up of 1 and the lock of 2 has its new sequence locked late. Two
transactions may then wait for each other, and the database has one of them repeated.
"""

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, field

from sfm_graph.domain.cues import Cues
from sfm_graph.domain.identity import Entity, MemoryId, MemoryRef, encode_global_id
from sfm_graph.domain.memory import NewMemory
from sfm_graph.domain.namespace import Namespace
from sfm_graph.domain.windows import Place
from sfm_graph.errors import LegalHold
from sfm_graph.services.linking.linker import Surroundings, Writes, Written
from sfm_graph.services.linking.linking import Linking
from sfm_graph.services.windows import Windows
from sfm_graph.store import memories
from sfm_graph.store import windows as store
from sfm_graph.store.database import WriteSession

# Of many held memories a refusal names so many.
_NAMED = 10


class Settling:
    """Begins the settlement of each transaction that writes memories."""

    def __init__(self, windows: Windows, linking: Linking) -> None:
        self._windows = windows
        self._linking = linking

    def begin(self, session: WriteSession, target: Namespace) -> "Settlement":
        """A settlement of what this transaction does to a namespace."""
        return Settlement(session, target, self._windows, self._linking)

    async def finish(self, namespace: str, due: Set[int]) -> None:
        """After the commit: make the window vectors that `Settlement.after` said are due."""
        if due:
            await self._windows.fill(namespace, due)


@dataclass(slots=True)
class Settlement:
    """One transaction's: `hold` first; `before` rows are replaced, `wrote` for each, or `remove`; `after` once."""

    _session: WriteSession
    _target: Namespace
    _windows: Windows
    _linking: Linking
    _written: dict[MemoryId, Written] = field(default_factory=dict)
    _places: set[Place] = field(default_factory=set)
    _surroundings: Surroundings = field(default_factory=Surroundings)
    _sequences: set[str] = field(default_factory=set)
    _names_held: bool = False

    def of(self, target: Namespace) -> None:
        """The namespace as the transaction has changed it: it has a model now."""
        self._target = target

    async def hold(self, refs: Sequence[MemoryRef], joined: Iterable[str | None] = ()) -> None:
        """Hold the sequences that memories stand in and will join; before any memory's row is locked."""
        sequences = {one for one in joined if one is not None}
        if refs or sequences:
            self._sequences |= await store.hold(self._session, self._target.id, sequences, refs)

    async def hold_rows(self, ids: Sequence[int]) -> set[int]:
        """Lock memories' rows against changes; the ids of those that exist."""
        return {
            row[0] for row in await self._session.rows("memory_hold", namespace_id=self._target.id, ids=list(ids))
        }

    async def before(self, ids: Sequence[int]) -> None:
        """Note what locked memories are, and touch, that are about to be replaced."""
        await self._note(ids)
        await self._touch(ids)

    async def remove(self, ids: Sequence[int]) -> list[MemoryId]:
        """Remove locked memories; the ids of those that existed. Raises LegalHold when one of them is held."""
        await self._note(ids)
        await self.hold_names()
        await self._touch(ids)
        await self._take(ids)
        return await memories.delete(self._session, self._target.id, ids)

    async def _take(self, ids: Sequence[int]) -> None:
        """The one way to the removal of memories: nobody gets past a hold."""
        taken = await self._session.rows("memory_take", namespace_id=self._target.id, ids=list(ids))
        held = [encode_global_id(Entity.MEMORY, self._target.name, row_id) for row_id, is_held in taken if is_held]
        if held:
            which = f"memory {held[0]} is" if len(held) == 1 else f"{len(held)} of the memories are"
            raise LegalHold(f"{which} under legal hold", namespace=self._target.name, ids=held[:_NAMED])

    def wrote(self, memory_id: MemoryId, memory: NewMemory, cues: Cues) -> None:
        """Note a memory whose text or cues were written."""
        self._written[memory_id] = Written.of(memory_id, memory, cues)
        if cues.sequence is not None:
            self._places.add(Place(cues.sequence, cues.position, memory_id))

    async def after(self) -> Set[int]:
        """Bring windows and links in line. The memories whose window vectors are due."""
        await self._hold_late()
        due = await self._windows.settle(self._session, self._target, self._written.keys(), sorted(self._places))
        await self.hold_names()
        # Again, for what others linked until the names were held.
        await self._touch(sorted(self._surroundings.known.keys() & self._written.keys()))
        await self._linking.after(self._session, self._target, self._writes())
        return due

    async def _note(self, ids: Sequence[int]) -> None:
        self._places.update(await store.places(self._session, self._target.id, ids))
        await self._hold_late()
        noted = await self._linking.known(self._session, self._target, [MemoryId(one) for one in ids])
        self._surroundings = self._surroundings.joined(noted)

    async def _touch(self, ids: Sequence[int]) -> None:
        touched = await self._linking.touched(self._session, self._target, [MemoryId(one) for one in ids])
        self._surroundings = self._surroundings.joined(touched)

    async def _hold_late(self) -> None:
        missing = {place.sequence for place in self._places} - self._sequences
        if missing:
            await store.lock(self._session, self._target.id, missing)
            self._sequences |= missing

    async def hold_names(self) -> None:
        """Hold the namespace's names; what is written is noted by then."""
        if not self._names_held:
            await self._linking.hold(self._session, self._target, self._writes())
            self._names_held = True

    def _writes(self) -> Writes:
        return Writes(self._written, self._surroundings)
