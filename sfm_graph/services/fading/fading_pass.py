"""One pass over what is due in a namespace: looks, then summaries, forgetting and erasing, in small transactions.

What takes time to reckon, a summary or its search columns, is a step of its own at the pass's pace, one memory at a
time: a request that meets a pass waits for one of these at most.

Each transaction looks again at what it has locked, and notes what it did with what it did: a pass that dies, or meets
another one, leaves every memory either as it was or a whole step further.
"""

import asyncio
from collections.abc import Sequence, Set
from dataclasses import replace
from datetime import datetime, timedelta

from sfm_graph.domain.fading import Act, FadingRules, Step
from sfm_graph.domain.fading_steps import Faded, Verdict, summarised, verdict
from sfm_graph.domain.identity import MemoryId, MemoryRef
from sfm_graph.domain.memory import Memory, NewMemory
from sfm_graph.domain.namespace import Namespace
from sfm_graph.errors import SfmError
from sfm_graph.services.fading.agreeing import agreed, told
from sfm_graph.services.fading.outcome import Outcome, only
from sfm_graph.services.fading.pace import Pace
from sfm_graph.services.fading.removing import remove
from sfm_graph.services.hooks import NO_HOOKS, Hooks
from sfm_graph.services.indexing import Indexing, IndexingRules
from sfm_graph.services.memory_batch import MemoryBatch
from sfm_graph.services.settling import Settling
from sfm_graph.services.store_plan import Update
from sfm_graph.store import fading, memories, namespaces
from sfm_graph.store.database import Database, Session, WriteSession
from sfm_graph.store.fading import Move
from sfm_graph.store.search_columns import SearchColumns

# In one transaction.
SUMMARISED_AT_ONCE = 5
# What could not be summarised, for want of an embedder, or hooks did not let go, is not tried again before.
POSTPONED = timedelta(hours=1)

Judged = list[tuple[Faded, Verdict]]


async def judge(session: Session, target: Namespace, rules: FadingRules, ids: Sequence[int], now: datetime) -> Judged:
    """Verdicts on memories, by what the database says of them now."""
    return [(one, verdict(rules, one, now)) for one in await fading.of(session, target.id, ids)]


class FadingPass:
    """Does what is due in one namespace after the other."""

    def __init__(self, database: Database, indexing: Indexing, settling: Settling, hooks: Hooks = NO_HOOKS) -> None:
        self._database = database
        self._indexing = indexing
        self._settling = settling
        self._hooks = hooks

    async def run(self, namespace: str, now: datetime, limit: int, pace: Pace) -> list[Outcome]:
        """Look at up to `limit` memories that are due, and as many forgotten ones; what was done to them.

        Raises the last refusal, after all else was done.
        """
        async with pace.step():
            outcomes = await self._look(namespace, now, limit)
        done: list[Outcome] = []
        trouble: SfmError | None = None
        for act, work, size in (
            (Act.SUMMARISE, self._summarise, SUMMARISED_AT_ONCE),
            (Act.FORGET, self._forget, pace.removed_at_once),
            (Act.ERASE, self._erase, pace.removed_at_once),
        ):
            for some in _cut_up([one.id for one in outcomes if one.act is act], size):
                try:
                    done += only(outcomes, await work(namespace, some, now, pace))
                except SfmError as error:
                    trouble = error
                    await self._postpone(namespace, some, now)
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
            await _check(session, target, rules, [one.id for one, said in waiting if said.later], now)
            return found

        found = await self._database.write(work)
        return [Outcome.of(one, said) for one, said in found if said.act is not None]

    async def _forget(self, namespace: str, ids: Sequence[MemoryId], now: datetime, pace: Pace) -> list[MemoryId]:
        let_go, refusal = await agreed(self._hooks, namespace, "fade", ids)
        if refusal is not None:
            await self._postpone(namespace, [one for one in ids if one not in let_go], now)
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

            gone, due = await remove(session, target, self._settling, let_go, still, now)
            return gone

        async with pace.step():
            gone = await self._database.write(work)
            await self._settling.finish(namespace, due)
        await told(self._hooks, namespace, "fade", gone)
        return gone

    async def _erase(self, namespace: str, ids: Sequence[MemoryId], now: datetime, pace: Pace) -> list[MemoryId]:
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

        async with pace.step():
            return await self._database.write(work)

    async def _summarise(self, namespace: str, ids: Sequence[MemoryId], now: datetime, pace: Pace) -> list[MemoryId]:
        target, prior = await self._still_to_summarise(namespace, ids, now)
        if target is None or not prior:
            return []
        rules = self._indexing.rules(target)
        made, columns = await self._summaries(list(prior.values()), rules, pace)
        due: Set[int] = frozenset()

        async def work(session: WriteSession) -> list[MemoryId]:
            nonlocal due
            target, fades = await _fading(session, namespace)
            if target is None or fades is None or self._indexing.rules(target) != rules:
                return []
            batch = MemoryBatch(session, target, self._indexing, self._settling)
            await batch.hold([MemoryRef(id=one) for one in prior], columns)
            locked = await memories.lock(session, target.id, namespace, [MemoryRef(id=one) for one in prior])
            same = [one.memory.id for one in locked if one.memory.version == prior[one.memory.id].version]
            judged = await judge(session, target, fades, same, now)
            chosen = [one for one, said in judged if said.act is Act.SUMMARISE]
            stamps = await _replace(batch, chosen, prior, made, columns)
            due = await batch.settle()
            await fading.move(session, target.id, [_cut(one, fades, stamps, now) for one in chosen])
            return [one.id for one in chosen]

        async with pace.step():
            done = await self._database.write(work)
            await self._settling.finish(namespace, due)
        return done

    async def _still_to_summarise(
        self, namespace: str, ids: Sequence[MemoryId], now: datetime
    ) -> tuple[Namespace | None, dict[MemoryId, Memory]]:
        """Those that no other pass has summarised meanwhile: making a summary is what takes longest."""
        async with self._database.read() as session:
            target = await namespaces.by_name(session, namespace)
            if target is None or target.settings.fading is None:
                return target, {}
            judged = await judge(session, target, target.settings.fading, ids, now)
            still = [one.id for one, said in judged if said.act is Act.SUMMARISE]
            return target, await memories.by_ids(session, target.id, namespace, still)

    async def _summaries(
        self, whole: Sequence[Memory], rules: IndexingRules, pace: Pace
    ) -> tuple[dict[int, NewMemory], dict[int, SearchColumns]]:
        """What becomes of memories that are not short already, by id."""
        made: dict[int, NewMemory] = {}
        columns: dict[int, SearchColumns] = {}
        for one in whole:
            async with pace.step():
                # A text of 1,000 characters takes milliseconds: it is worth a thread.
                cut = await asyncio.to_thread(summarised, one, rules.language)
            if cut is not None:
                async with pace.step():
                    made[one.id], (columns[one.id],) = cut, await self._indexing.columns([cut], rules)
        return made, columns

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


async def _check(
    session: WriteSession, target: Namespace, rules: FadingRules, ids: Sequence[MemoryId], now: datetime
) -> None:
    """Look again at what was put off: another writer may have made it fade sooner between the look and the note."""
    if ids:
        found = await fading.of(session, target.id, ids)
        again = [(one.id, verdict(rules, replace(one, due_at=now), now)) for one in found]
        await fading.sooner(session, target.id, [(id_, said.later or now) for id_, said in again])


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
