"""Having the memories that are stored already looked at once, when a namespace begins to fade or gets a limit."""

from sfm_graph.domain.fading import DEFAULT_RULES, due_at
from sfm_graph.domain.namespace import Namespace, NamespaceSettings
from sfm_graph.services.fading.pace import Pace
from sfm_graph.store import fading, namespaces
from sfm_graph.store.database import Database, WriteSession

CLEARED_AT_ONCE = 5_000
# Of one call; the next one goes on.
BATCHES = 10


async def settings_changed(session: WriteSession, target: Namespace, wanted: NamespaceSettings) -> None:
    """In the transaction that changes settings, before it does: count, and have memories looked at, if need be.

    Writers wait until it is committed, so that none of them goes on by the old settings.
    """
    old = target.settings
    if (old.fading, old.max_memories) == (wanted.fading, wanted.max_memories):
        return
    await session.run("namespace_take", namespace_id=target.id)
    if wanted.max_memories is None:
        await session.run("memory_counts_end", namespace_id=target.id)
    elif old.max_memories is None:
        await session.run("memory_counts_begin", namespace_id=target.id)
    if old.fading != wanted.fading or old.watches_memories != wanted.watches_memories:
        await session.run("fading_job_begin", namespace_id=target.id)


async def backfill(database: Database, namespace: str, pace: Pace) -> None:
    """Go on with a namespace's look at all memories: some batches, each of them kept."""
    for _ in range(BATCHES):

        async def work(session: WriteSession) -> bool:
            target = await namespaces.lock_existing(session, namespace)
            row = await session.row("fading_job", namespace_id=target.id) if target else None
            if target is None or row is None:
                return False
            if target.settings.watches_memories:
                return await _fill(session, target, row[0], pace.looked_at_once)
            return await _clear(session, target)

        async with pace.step():
            more = await database.write(work)
        if not more:
            return


async def _fill(session: WriteSession, target: Namespace, after: int, limit: int) -> bool:
    """Note when the next `limit` memories are due; whether there may be more."""
    ids = await fading.page(session, target.id, after, limit)
    rules = target.settings.fading or DEFAULT_RULES
    found = await fading.of(session, target.id, ids)
    await fading.fill(session, target.id, [(one.id, due_at(rules, one.vitals)) for one in found if one.vitals])
    return await _go_on(session, target, ids[-1] if len(ids) == limit else None)


async def _clear(session: WriteSession, target: Namespace) -> bool:
    gone = await fading.clear(session, target.id, CLEARED_AT_ONCE)
    return await _go_on(session, target, 0 if gone == CLEARED_AT_ONCE else None)


async def _go_on(session: WriteSession, target: Namespace, after: int | None) -> bool:
    if after is None:
        await session.run("fading_job_end", namespace_id=target.id)
    else:
        await session.run("fading_job_move", namespace_id=target.id, after=after)
    return after is not None
