"""Forgetting memories that fade, expire or are too many, in one transaction."""

from collections.abc import Awaitable, Callable, Sequence, Set
from datetime import datetime

from sfm_graph.domain.fading import Step
from sfm_graph.domain.identity import MemoryId, MemoryRef
from sfm_graph.domain.namespace import Namespace
from sfm_graph.services.settling import Settling
from sfm_graph.store import fading
from sfm_graph.store.database import WriteSession
from sfm_graph.store.fading import Move

# In one transaction, at most: it holds the names of its namespace, which others that write names wait for.
REMOVED_AT_ONCE = 50

Still = Callable[[Sequence[int]], Awaitable[list[MemoryId]]]


async def remove(
    session: WriteSession, target: Namespace, settling: Settling, ids: Sequence[MemoryId], still: Still, now: datetime
) -> tuple[list[MemoryId], Set[int]]:
    """Forget those of the memories that, once they are held, are `still` to be; and whose window vectors are due."""
    if not ids:
        return [], frozenset()
    settlement = settling.begin(session, target)
    await settlement.hold([MemoryRef(id=one) for one in ids])
    held = await settlement.hold_rows(ids)
    chosen = await still(sorted(held))
    gone = await settlement.remove(chosen) if chosen else []
    # What others removed is not to be looked at either.
    await _note(session, target, gone, sorted({*ids} - held), now)
    return gone, await settlement.after()


async def _note(
    session: WriteSession, target: Namespace, gone: Sequence[MemoryId], absent: Sequence[MemoryId], now: datetime
) -> None:
    erase_after = target.settings.fading.erase_after if target.settings.fading else None
    if erase_after is None:
        await fading.drop(session, target.id, [*gone, *absent])
    else:
        await fading.move(session, target.id, [Move(one, now + erase_after, Step.FORGOTTEN) for one in gone])
        await fading.drop(session, target.id, absent)
