"""Bringing the target in line with what the mirror knows of the source."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import islice

from sfm_consumers.effects.mirror_rows import LINK, MEMORY, Row, Touched
from sfm_consumers.effects.mirror_state import MirrorState
from sfm_consumers.effects.mirror_target import CHUNK, MirrorTarget

# Of ids at a time: bounds how many bodies are in memory.
STEP = 1_000
UNLINKING = 8


@dataclass(frozen=True, slots=True)
class RefusedRow:
    """What the target would not take."""

    entity: str
    id: int
    reason: str


class Writing:
    """Does what touched rows make possible. Not for several tasks at once.

    `named` maps the source's namespaces to the target's; `prepare` readies the target for an era of one.
    """

    def __init__(
        self,
        state: MirrorState,
        target: MirrorTarget,
        named: Callable[[str], str],
        prepare: Callable[[int, str], Awaitable[None]],
    ) -> None:
        self._state = state
        self._target = target
        self._named = named
        self._prepare = prepare
        # Something may have been left in the middle: then all that is open is looked at.
        self._unsure = True

    async def write(self, touched: Touched) -> list[RefusedRow]:
        """Write what can be written of the touched rows, and what waited for them. Raises Retry."""
        if self._unsure:
            touched = await asyncio.to_thread(self._state.everything_open)
        self._unsure = True
        await self._remove_ended()
        refused: list[RefusedRow] = []
        for era in sorted(touched.memories.keys() | touched.links.keys()):
            namespace = await asyncio.to_thread(self._state.namespace_of, era)
            if namespace is not None:
                refused += await self._write_era(
                    era, namespace, touched.memories.get(era, set()), touched.links.get(era, set())
                )
        # What was refused may have kept others waiting for its place.
        self._unsure = bool(refused)
        return refused

    async def _write_era(self, era: int, namespace: str, memories: set[int], links: set[int]) -> list[RefusedRow]:
        await self._prepare(era, namespace)
        target = self._named(namespace)
        for some in _steps(memories):
            freed = await self._remove(era, target, some)
            memories |= freed.memories.get(era, set())
        for some in _steps(links):
            freed = await self._unlink(era, target, some)
            links |= freed.links.get(era, set())
        refused: list[RefusedRow] = []
        for some in _steps(memories):
            links |= await self._store(era, target, some, refused)
        for some in _steps(links):
            await self._link(era, target, some, refused)
        return refused

    async def _remove(self, era: int, target: str, ids: Sequence[int]) -> Touched:
        gone = await asyncio.to_thread(self._state.memories_gone, era, ids)
        for erase in (False, True):
            rows = [row for row, erased in gone if erased is erase]
            if rows:
                await self._target.remove(target, rows, erase=erase)
        return await asyncio.to_thread(self._state.memories_removed, era, [row.id for row, _ in gone])

    async def _unlink(self, era: int, target: str, ids: Sequence[int]) -> Touched:
        gone = await asyncio.to_thread(self._state.links_gone, era, ids)
        for start in range(0, len(gone), UNLINKING):
            some = gone[start : start + UNLINKING]
            done = await asyncio.gather(
                *(self._unlink_one(target, row, source, end) for row, source, end in some), return_exceptions=True
            )
            for failure in done:
                if failure is not None:
                    raise failure
        return await asyncio.to_thread(self._state.links_removed, era, [row.id for row, _, _ in gone])

    async def _unlink_one(self, target: str, row: Row, source: str | None, end: str | None) -> None:
        link_id = row.remote
        if link_id is None and source is not None and end is not None:
            # Whether it was made was never answered: making it again tells its id.
            made = await self._target.link(target, [(row, source, end)])
            link_id = made.done[0][1] if made.done else None
        if link_id is not None:
            await self._target.unlink(target, link_id)

    async def _store(self, era: int, target: str, ids: Sequence[int], refused: list[RefusedRow]) -> set[int]:
        """Store memories; the links that may be made now."""
        rows = await asyncio.to_thread(self._state.memories_ready, era, ids)
        if not rows:
            return set()
        outcome = await self._target.store(target, rows)
        touched = await asyncio.to_thread(self._state.memories_written, era, outcome.done)
        for row, reason in outcome.refused:
            await asyncio.to_thread(self._state.refused, MEMORY, era, row, reason)
            refused.append(RefusedRow(MEMORY, row.id, reason))
        return touched.links.get(era, set())

    async def _link(self, era: int, target: str, ids: Sequence[int], refused: list[RefusedRow]) -> None:
        rows = await asyncio.to_thread(self._state.links_ready, era, ids)
        if not rows:
            return
        outcome = await self._target.link(target, rows)
        await asyncio.to_thread(self._state.links_written, era, outcome.done)
        for row, reason in outcome.refused:
            await asyncio.to_thread(self._state.refused, LINK, era, row, reason)
            refused.append(RefusedRow(LINK, row.id, reason))

    async def _remove_ended(self) -> None:
        """Erase what was written of namespaces that have ended, before anything else is written under their names."""
        while (ended := await asyncio.to_thread(self._state.ended_memories, CHUNK)) is not None:
            era, namespace, rows = ended
            if rows:
                await self._target.remove(self._named(namespace), rows, erase=True)
            await asyncio.to_thread(self._state.ended_removed, era, [row.id for row in rows] if rows else None)


def _steps(ids: set[int]) -> list[list[int]]:
    # A copy: the set grows while its steps are done, and what is added comes in a later round.
    rest = iter(sorted(ids))
    steps: list[list[int]] = []
    while some := list(islice(rest, STEP)):
        steps.append(some)
    return steps
