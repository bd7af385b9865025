"""Sequences: each memory of a sequence leads to the next."""

from collections.abc import Iterable, Sequence, Set

from sfm_graph.domain.identity import MemoryId
from sfm_graph.services.linking.linker import Hold, Linker, WantedLink, Writes
from sfm_graph.services.linking.scope import Scope


class SequenceOrder(Linker):
    """A link of type `next` from each memory to the one after it in its sequence, by position and id."""

    name = "sequence"
    link_type = "next"
    on_by_default = True

    def hold(self, writes: Writes) -> Hold:
        """Nothing of the namespace: sequences are held one by one."""
        return Hold.NOTHING

    async def affected(self, scope: Scope, writes: Writes) -> Set[MemoryId]:
        """Those right before the places that were left or taken."""
        if not writes.places:
            return set()
        await scope.hold_sequences(writes.places)
        return await scope.right_before(writes.places)

    async def wanted(self, scope: Scope, sources: Sequence[MemoryId]) -> Iterable[WantedLink]:
        """The link to the next one."""
        return [WantedLink(*ends) for ends in (await scope.right_after(sources)).items()]
