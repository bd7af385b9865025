"""When new memories are first to be looked at, and changed ones."""

from collections.abc import Sequence

from sfm_graph.domain.fading import DEFAULT_RULES, Vitals, due_at
from sfm_graph.domain.identity import MemoryId
from sfm_graph.domain.memory import NewMemory
from sfm_graph.domain.namespace import Namespace
from sfm_graph.services.store_plan import Update
from sfm_graph.store import fading
from sfm_graph.store.database import WriteSession
from sfm_graph.store.memories import Stamp


async def begin(
    session: WriteSession, target: Namespace, inserted: Sequence[tuple[MemoryId, NewMemory, Stamp]]
) -> None:
    """Note when memories that this transaction inserts are due; nothing where they neither fade nor are too many.

    In a namespace that only has a limit, memories are in the order in which they would fade by default.
    """
    if not target.settings.watches_memories:
        return
    rules = target.settings.fading or DEFAULT_RULES
    await fading.put(
        session, target.id,
        [
            (id_, due_at(rules, Vitals(memory.kind, memory.importance, stamp.updated_at)))
            for id_, memory, stamp in inserted
        ],
    )  # fmt: skip


async def hasten(session: WriteSession, target: Namespace, updated: Sequence[tuple[Update, Stamp]]) -> None:
    """Note when memories that this transaction updates are due, where they have come to fade sooner than is noted.

    Only another kind or a lower importance does that; accesses and links only put off, and are left to the look.
    """
    if not target.settings.watches_memories:
        return
    rules = target.settings.fading or DEFAULT_RULES
    await fading.sooner(
        session, target.id,
        [
            (one.prior.id, due_at(rules, Vitals(one.memory.kind, one.memory.importance, stamp.updated_at)))
            for one, stamp in updated
            if one.memory.kind is not one.prior.kind or one.memory.importance < one.prior.importance
        ],
    )  # fmt: skip
