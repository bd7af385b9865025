"""What becomes of memories in time: rounds in the background, and the same on request."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from sfm_graph.domain import validate
from sfm_graph.domain.access import Scope
from sfm_graph.domain.fading import MAX_DECAY, Act, Reason
from sfm_graph.domain.identity import MemoryId
from sfm_graph.domain.namespace import Namespace
from sfm_graph.errors import NamespaceNotFound, SfmError, Unavailable
from sfm_graph.services.access.guard import needs
from sfm_graph.services.fading.backfill import backfill
from sfm_graph.services.fading.fading_pass import FadingPass, judge
from sfm_graph.services.fading.outcome import Decay, Outcome, only
from sfm_graph.services.fading.removing import REMOVED_AT_ONCE, remove
from sfm_graph.services.fading.room import Room, candidates
from sfm_graph.services.settling import Settling
from sfm_graph.store import fading, namespaces
from sfm_graph.store.database import Database, Session, WriteSession

log = logging.getLogger(__name__)

# Of a namespace in a round; what is left comes next.
LOOKED_AT = 500
EVICTED = 1_000
EXPIRED = 500
# Looked at, at most, to foresee what a pass would do.
FORESEEN = 10_000
BACKFILLED_NAMESPACES = 10
# How long it takes at least from one crowding to the next look, so that inserts at the limit share one.
_PAUSE_SECONDS = 0.05


def _now() -> datetime:
    return datetime.now(UTC)


class Fading:
    """Lets memories fade, expire, and make room."""

    def __init__(
        self, database: Database, settling: Settling, fading_pass: FadingPass, room: Room,
        clock: Callable[[], datetime] = _now,
    ) -> None:  # fmt: skip
        """`clock`: what time it is for memories that fade."""
        self._database = database
        self._settling = settling
        self._pass = fading_pass
        self._room = room
        self._clock = clock
        self._crowded: set[str] = set()
        self._woken = asyncio.Event()
        room.on_crowded = self._wake

    def _wake(self, namespace: str) -> None:
        self._crowded.add(namespace)
        self._woken.set()

    async def run(self) -> None:
        """Make room where this process's writers have gone over a limit, until cancelled."""
        while True:
            await self._woken.wait()
            # What wakes is a transaction that is about to be committed.
            await asyncio.sleep(_PAUSE_SECONDS)
            self._woken.clear()
            crowded, self._crowded = self._crowded, set()
            for namespace in crowded:
                await self._troubles(self._room.trim(namespace, self._clock(), EVICTED))

    async def round(self) -> None:
        """Do some of all that is due. Raises Unavailable with the last trouble, after all was tried."""
        troubles = [await self._troubles(self._expire(None, EXPIRED))]
        for name in await fading.names(self._database, "fading_jobs", limit=BACKFILLED_NAMESPACES):
            troubles.append(await self._troubles(backfill(self._database, name)))
        for name in await fading.names(self._database, "fading_namespaces", now=self._clock()):
            troubles.append(await self._troubles(self._pass.run(name, self._clock(), LOOKED_AT)))
        for name in await fading.names(self._database, "memory_counts_over"):
            troubles.append(await self._troubles(self._room.trim(name, self._clock(), EVICTED)))
        found = [one for one in troubles if one is not None]
        if found:
            raise Unavailable(found[-1])

    @staticmethod
    async def _troubles(work: Awaitable[object]) -> str | None:
        try:
            await work
        except SfmError as error:
            log.warning("fading: %s", error.message)
            return error.message
        return None

    @needs(Scope.ADMIN)
    async def decay(self, namespace: str, *, dry_run: bool = False, limit: object = None) -> Decay:
        """Do up to `limit` (1 to 1,000, default 100) of what is due in a namespace now, or say what it is.

        Raises NamespaceNotFound.
        """
        most = 100 if limit is None else validate.integer(limit, "limit", low=1, high=MAX_DECAY)
        foreseen = await self._foreseen(namespace, most + 1)
        if dry_run:
            return Decay(namespace, True, tuple(foreseen[:most]), len(foreseen) > most)
        now = self._clock()
        done = only(foreseen, await self._expire(namespace, most))
        if len(done) < most:
            done += await self._pass.run(namespace, now, most - len(done))
        if len(done) < most:
            done += await self._room.trim(namespace, now, most - len(done))
        return Decay(namespace, False, tuple(done), bool(await self._foreseen(namespace, 1)))

    async def _foreseen(self, namespace: str, limit: int) -> list[Outcome]:
        """What would be done, in order: what has expired, what has faded, what is too much."""
        now = self._clock()
        async with self._database.read() as session:
            target = await namespaces.by_name(session, namespace)
            if target is None:
                raise NamespaceNotFound(f"there is no namespace {namespace!r}", namespace=namespace)
            ids = (await fading.expired(session, now, limit, namespace)).get(namespace, [])
            found = [
                Outcome(one.id, Act.FORGET, Reason.EXPIRED, None, one.key, one.title)
                for one in await fading.of(session, target.id, ids)
            ]
            found += await _faded(session, target, now, limit)
            if target.settings.max_memories is not None:
                excess = await fading.count(session, target.id) - target.settings.max_memories
                found += (await candidates(session, target, min(excess, limit), now))[0]
        return list({one.id: one for one in reversed(found)}.values())[::-1][:limit]

    async def _expire(self, namespace: str | None, limit: int) -> list[MemoryId]:
        """Forget what has expired, of one namespace or of all."""
        async with self._database.read() as session:
            found = await fading.expired(session, self._clock(), limit, namespace)
        gone: list[MemoryId] = []
        for name, ids in found.items():
            for at in range(0, len(ids), REMOVED_AT_ONCE):
                gone += await self._forget_expired(name, ids[at : at + REMOVED_AT_ONCE])
                await asyncio.sleep(0)
        return gone

    async def _forget_expired(self, namespace: str, ids: list[MemoryId]) -> list[MemoryId]:
        now = self._clock()

        async def work(session: WriteSession) -> tuple[list[MemoryId], set[int]]:
            target = await namespaces.lock_existing(session, namespace)
            if target is None:
                return [], set()

            async def still(held: object) -> list[MemoryId]:
                rows = await session.rows("fading_still_expired", namespace_id=target.id, ids=held, now=now)
                return [row[0] for row in rows]

            gone, due = await remove(session, target, self._settling, ids, still, now)
            return gone, set(due)

        gone, due = await self._database.write(work)
        await self._settling.finish(namespace, due)
        return gone


async def _faded(session: Session, target: Namespace, now: datetime, limit: int) -> list[Outcome]:
    rules = target.settings.fading
    if rules is None:
        return []
    # Of what is noted as due, some was accessed or linked since: it is no more than put off.
    ids = await fading.due(session, target.id, now, FORESEEN)
    found: list[Outcome] = []
    for at in range(0, len(ids), LOOKED_AT):
        judged = await judge(session, target, rules, ids[at : at + LOOKED_AT], now)
        found += [Outcome.of(one, said) for one, said in judged if said.act]
        if len(found) >= limit:
            break
    return found[:limit]
