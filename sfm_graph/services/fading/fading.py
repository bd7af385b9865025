"""What becomes of memories in time: rounds in the background, and the same on request."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from sfm_graph.domain import validate
from sfm_graph.domain.access import Scope
from sfm_graph.domain.fading import MAX_DECAY, Act, Reason
from sfm_graph.domain.identity import MemoryId
from sfm_graph.domain.namespace import Namespace
from sfm_graph.errors import NamespaceNotFound, Unavailable
from sfm_graph.services.access.guard import needs
from sfm_graph.services.fading.agreeing import agreed, told
from sfm_graph.services.fading.backfill import backfill
from sfm_graph.services.fading.fading_pass import POSTPONED, FadingPass, judge
from sfm_graph.services.fading.outcome import Decay, Outcome, only
from sfm_graph.services.fading.pace import AT_ONCE, IN_BACKGROUND, MAKING_ROOM, Pace
from sfm_graph.services.fading.removing import remove
from sfm_graph.services.fading.room import Room, candidates
from sfm_graph.services.hooks import NO_HOOKS, Hooks
from sfm_graph.services.settling import Settling
from sfm_graph.services.tasks import attempted, kept_running, repeated
from sfm_graph.store import fading, namespaces
from sfm_graph.store.database import Database, Session, WriteSession

# Of a namespace in a round; what is left comes next.
LOOKED_AT = 100
EVICTED = 1_000
EXPIRED = 100
# After so long a round begins no further pass: others wait for the next one, too.
ROUND_SECONDS = 10.0
# Looked at, at most, to foresee what a pass would do.
FORESEEN = 10_000
BACKFILLED_NAMESPACES = 10
# Expired memories that hooks keep, which this process does not ask about again for a while.
MAX_PUT_OFF = 10_000
# How long it takes at least from one crowding to the next look, so that inserts at the limit share one.
_PAUSE_SECONDS = 0.05


def _now() -> datetime:
    return datetime.now(UTC)


class Fading:
    """Lets memories fade, expire, and make room."""

    def __init__(
        self, database: Database, settling: Settling, fading_pass: FadingPass, room: Room,
        clock: Callable[[], datetime] = _now, pace: Pace = IN_BACKGROUND, interval_ms: int = 2_000,
        hooks: Hooks = NO_HOOKS,
    ) -> None:  # fmt: skip
        """`clock`: what time it is for memories that fade. `pace`: of rounds, which come `interval_ms` apart."""
        self._database = database
        self._settling = settling
        self._pass = fading_pass
        self._room = room
        self._clock = clock
        self._pace = pace
        self._interval = interval_ms / 1000
        self._hooks = hooks
        self._put_off: dict[tuple[str, MemoryId], datetime] = {}
        self._crowded: set[str] = set()
        self._woken = asyncio.Event()
        # What failed last, None when nothing did.
        self.problem: str | None = None
        room.on_crowded = self._wake

    def _wake(self, namespace: str) -> None:
        self._crowded.add(namespace)
        self._woken.set()

    async def run(self) -> None:
        """Make room where this process's writers have gone over a limit, until cancelled. No defect ends it."""
        await kept_running("fading", self._run, self._report)

    async def _made_room(self, namespace: str) -> None:
        await self._room.trim(namespace, self._clock(), EVICTED, pace=MAKING_ROOM)

    async def run_rounds(self) -> None:
        """Do what is due at the pace of the background, until cancelled."""
        await repeated("fading", self.round, self._interval, self._report)

    def _report(self, problem: str | None) -> None:
        self.problem = problem

    async def _run(self) -> None:
        while True:
            await self._woken.wait()
            # What wakes is a transaction that is about to be committed.
            await asyncio.sleep(_PAUSE_SECONDS)
            self._woken.clear()
            crowded, self._crowded = self._crowded, set()
            troubles = [await self._troubles(self._made_room(namespace)) for namespace in crowded]
            self.problem = next(filter(None, troubles), None)

    async def round(self) -> None:
        """Do some of all that is due. Raises Unavailable with the last trouble, after all was tried."""
        troubles = [await self._troubles(self._expire(None, EXPIRED, self._pace))]
        for name in await fading.names(self._database, "fading_jobs", limit=BACKFILLED_NAMESPACES):
            troubles.append(await self._troubles(backfill(self._database, name, self._pace)))
        for name in await fading.names(self._database, "memory_counts_over"):
            troubles.append(await self._troubles(self._made_room(name)))
        troubles += await self._passes()
        self.problem = next(filter(None, reversed(troubles)), None)
        if self.problem is not None:
            raise Unavailable(self.problem)

    async def _passes(self) -> list[str | None]:
        """One pass over each namespace in which something is due, in any order, while there is time."""
        names = await fading.names(self._database, "fading_namespaces", now=self._clock())
        begun, troubles = time.monotonic(), []
        for name in random.sample(names, len(names)):
            if time.monotonic() - begun < ROUND_SECONDS:
                work = self._pass.run(name, self._clock(), LOOKED_AT, self._pace)
                troubles.append(await self._troubles(work))
        return troubles

    @staticmethod
    async def _troubles(work: Awaitable[object]) -> str | None:
        return await attempted("fading", work)

    @needs(Scope.ADMIN)
    async def decay(self, namespace: str, *, dry_run: bool = False, limit: object = None) -> Decay:
        """Do up to `limit` (1 to 1,000, default 100) of what is due in a namespace now, or say what it is.

        What is due is not all known while memories wait to be looked at for the first time: then there is `more`.
        Raises NamespaceNotFound.
        """
        most = 100 if limit is None else validate.integer(limit, "limit", low=1, high=MAX_DECAY)
        if not dry_run:
            await backfill(self._database, namespace, AT_ONCE)
        foreseen = await self._foreseen(namespace, most + 1)
        if dry_run:
            more = len(foreseen) > most or await self._unknown(namespace)
            return Decay(namespace, True, tuple(foreseen[:most]), more)
        now = self._clock()
        done = only(foreseen, await self._expire(namespace, most, AT_ONCE))
        if len(done) < most:
            done += await self._pass.run(namespace, now, most - len(done), AT_ONCE)
        if len(done) < most:
            done += await self._room.trim(namespace, now, most - len(done))
        more = bool(await self._foreseen(namespace, 1)) or await self._unknown(namespace)
        return Decay(namespace, False, tuple(done), more)

    async def _unknown(self, namespace: str) -> bool:
        """Whether memories wait to be looked at for the first time."""
        async with self._database.read() as session:
            return bool((await session.one("fading_job_stands", namespace=namespace))[0])

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

    async def _expire(self, namespace: str | None, limit: int, pace: Pace) -> list[MemoryId]:
        """Forget what has expired, of one namespace or of all."""
        async with self._database.read() as session:
            put_off = [id_ for _, id_ in self._still_put_off()]
            found = await fading.expired(session, self._clock(), limit, namespace, put_off)
        gone: list[MemoryId] = []
        for name, ids in found.items():
            for at in range(0, len(ids), pace.removed_at_once):
                some = await self._let_go(name, ids[at : at + pace.removed_at_once])
                async with pace.step():
                    gone += await self._forget_expired(name, some)
        return gone

    async def _let_go(self, namespace: str, ids: list[MemoryId]) -> list[MemoryId]:
        """Those that hooks do not keep; the others are put off."""
        kept, refusal = await agreed(self._hooks, namespace, "expire", ids)
        if refusal is not None:
            self._put_off = self._still_put_off()
            self._put_off |= {(namespace, one): self._clock() + POSTPONED for one in ids if one not in kept}
            self._put_off = dict(list(self._put_off.items())[-MAX_PUT_OFF:])
        return kept

    def _still_put_off(self) -> dict[tuple[str, MemoryId], datetime]:
        now = self._clock()
        return {one: until for one, until in self._put_off.items() if until > now}

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
        await told(self._hooks, namespace, "expire", gone)
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
