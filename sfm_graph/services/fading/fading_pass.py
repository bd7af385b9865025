"""One pass over what is due in a namespace: looks, then summaries, forgetting and erasing, in small transactions.

Each transaction looks again at what it has locked, and notes what it did with what it did: a pass that dies, or meets
another one, leaves every memory either as it was or a whole step further.
"""

import asyncio
from collections.abc import Sequence, Set
from datetime import datetime, timedelta

from sfm_graph.domain.fading import Act, FadingRules, Step
from sfm_graph.domain.fading_steps import Faded, Verdict, summarised, verdict
from sfm_graph.domain.identity import MemoryId, MemoryRef
from sfm_graph.domain.memory import Memory, NewMemory
from sfm_graph.domain.namespace import Namespace
from sfm_graph.errors import SfmError
from sfm_graph.services.fading.outcome import Outcome, only
from sfm_graph.services.fading.removing import REMOVED_AT_ONCE, remove
from sfm_graph.services.indexing import Indexing
from sfm_graph.services.memory_batch import MemoryBatch
from sfm_graph.services.settling import Settling
from sfm_graph.services.store_plan import Update
from sfm_graph.store import fading, memories, namespaces
from sfm_graph.store.database import Database, Session, WriteSession
from sfm_graph.store.fading import Move
from sfm_graph.store.search_columns import SearchColumns

# Making search columns of a summary takes up to 2 ms on the event loop.
SUMMARISED_AT_ONCE = 5
# What could not be summarised, for want of an embedder, is not tried again before.
POSTPONED = timedelta(hours=1)

Judged = list[tuple[Faded, Verdict]]


async def judge(session: Session, target: Namespace, rules: FadingRules, ids: Sequence[int], now: datetime) -> Judged:
    """Verdicts on memories, by what the database says of them now."""
    return [(one, verdict(rules, one, now)) for one in await fading.of(session, target.id, ids)]


class FadingPass:
    """Does what is due in one namespace after the other."""

    def __init__(self, database: Database, indexing: Indexing, settling: Settling) -> None:
        self._database = database
        self._indexing = indexing
        self._settling = settling

    async def run(self, namespace: str, now: datetime, limit: int) -> list[Outcome]:
        """Look at up to `limit` memories that are due, and as many forgotten ones; what was done to them.

        Raises the last refusal, after all else was done.
        """
        outcomes = await self._look(namespace, now, limit)
        done: list[Outcome] = []
        trouble: SfmError | None = None
        for act, work, size in (
            (Act.SUMMARISE, self._summarise, SUMMARISED_AT_ONCE),
            (Act.FORGET, self._forget, REMOVED_AT_ONCE),
            (Act.ERASE, self._erase, REMOVED_AT_ONCE),
        ):
            for some in _cut_up([one.id for one in outcomes if one.act is act], size):
                try:
                    done += only(outcomes, await work(namespace, some, now))
                except SfmError as error:
                    trouble = error
                    await self._postpone(namespace, some, now)
                # Others are waiting, too.
                await asyncio.sleep(0)
        if trouble is not None:
            raise trouble
        return done

    async def _look(self, namespace: str, now: datetime, limit: int) -> list[Outcome]:
        """What is to be done; what is not due after all is noted."""

        async def work(session: WriteSession) -> Judged:
            target, rules = await _fading(session, namespace)
            if target is None or rules is None:
                return []
            found = await judge(session, target, rules, await fading.due(session, target.id, now, limit), now)
            waiting = [(one, said) for one, said in found if said.act is None]
            await fading.move(session, target.id, [moved(one, said.later) for one, said in waiting if said.later])
            await fading.drop(
                session, target.id, [one.id for one, said in waiting if said.later is None], forgotten=True
            )
            return found

        found = await self._database.write(work)
        return [Outcome.of(one, said) for one, said in found if said.act is not None]

    async def _forget(self, namespace: str, ids: Sequence[MemoryId], now: datetime) -> list[MemoryId]:
        due: Set[int] = frozenset()

        async def work(session: WriteSession) -> list[MemoryId]:
            nonlocal due
            target, rules = await _fading(session, namespace)
            if target is None or rules is None:
                return []

            async def still(held: Sequence[int]) -> list[MemoryId]:
                return [
                    one.id for one, said in await judge(session, target, rules, held, now) if said.act is Act.FORGET
                ]

            gone, due = await remove(session, target, self._settling, ids, still, now)
            return gone

        gone = await self._database.write(work)
        await self._settling.finish(namespace, due)
        return gone

    async def _erase(self, namespace: str, ids: Sequence[MemoryId], now: datetime) -> list[MemoryId]:
        async def work(session: WriteSession) -> list[MemoryId]:
            target, rules = await _fading(session, namespace)
            if target is None or rules is None:
                return []
            judged = await judge(session, target, rules, ids, now)
            gone = [one.id for one, said in judged if said.act is Act.ERASE]
            if gone:
                await memories.erase_log(session, target.id, gone)
                await fading.drop(session, target.id, gone, forgotten=True)
            return gone

        return await self._database.write(work)

    async def _summarise(self, namespace: str, ids: Sequence[MemoryId], now: datetime) -> list[MemoryId]:
        async with self._database.read() as session:
            target = await namespaces.by_name(session, namespace)
            prior = await memories.by_ids(session, target.id, namespace, ids) if target else {}
        if target is None:
            return []
        # A text of 1,000 characters takes milliseconds: it is worth a thread.
        made: dict[int, NewMemory] = {}
        for one in prior.values():
            cut = await asyncio.to_thread(summarised, one, target.settings.language)
            made |= {} if cut is None else {one.id: cut}
        rules = self._indexing.rules(target)
        columns = dict(zip(made, await self._indexing.columns(list(made.values()), rules), strict=True))
        due: Set[int] = frozenset()

        async def work(session: WriteSession) -> list[MemoryId]:
            nonlocal due
            target, fades = await _fading(session, namespace)
            if target is None or fades is None or self._indexing.rules(target) != rules:
                return []
            batch = MemoryBatch(session, target, self._indexing, self._settling)
            await batch.hold([MemoryRef(id=one) for one in ids], columns)
            locked = await memories.lock(session, target.id, namespace, [MemoryRef(id=one) for one in ids])
            same = [one.memory.id for one in locked if one.memory.version == prior[one.memory.id].version]
            judged = await judge(session, target, fades, same, now)
            chosen = [one for one, said in judged if said.act is Act.SUMMARISE]
            stamps = await _replace(batch, chosen, prior, made, columns)
            due = await batch.settle()
            await fading.move(session, target.id, [_cut(one, fades, stamps, now) for one in chosen])
            return [one.id for one in chosen]

        done = await self._database.write(work)
        await self._settling.finish(namespace, due)
        return done

    async def _postpone(self, namespace: str, ids: Sequence[MemoryId], now: datetime) -> None:
        async def work(session: WriteSession) -> None:
            target = await namespaces.lock_existing(session, namespace)
            if target is not None:
                await fading.postpone(session, target.id, ids, now + POSTPONED)

        await self._database.write(work)


def _cut_up(ids: Sequence[MemoryId], size: int) -> list[Sequence[MemoryId]]:
    return [ids[at : at + size] for at in range(0, len(ids), size)]


async def _fading(session: WriteSession, namespace: str) -> tuple[Namespace | None, FadingRules | None]:
    target = await namespaces.lock_existing(session, namespace)
    return target, target.settings.fading if target else None


def moved(faded: Faded, later: datetime) -> Move:
    """The same, due later."""
    return Move(faded.id, later, faded.step, faded.stepped_at, faded.touched_at)


async def _replace(
    batch: MemoryBatch, chosen: Sequence[Faded], prior: dict[MemoryId, Memory], made: dict[int, NewMemory],
    columns: dict[int, SearchColumns],
) -> dict[MemoryId, datetime]:  # fmt: skip
    """Put summaries in the place of memories; when each was, by id."""
    updates = [(int(one.id), Update(prior[one.id], made[one.id])) for one in chosen if one.id in made]
    done = await batch.write([], updates, columns)
    return {one.memory.id: one.memory.updated_at for one in done.values()}


def _cut(faded: Faded, rules: FadingRules, stamps: dict[MemoryId, datetime], now: datetime) -> Move:
    touched = faded.vitals.touched if faded.vitals else None
    return Move(faded.id, now + rules.grace, Step.SUMMARISED, stamps.get(faded.id), touched)
