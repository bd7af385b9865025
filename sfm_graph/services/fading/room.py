"""A namespace's limit of memories: what is over it is forgotten, that which fades first at first.

How many there are is counted in slots by triggers, so that neither a look nor a store scans anything. What is a
hundredth over is made room for in the background. Who finds 5 % over makes room itself and tries again; who stores
much at once, compared with the limit, asks one after the other. So a limit is never exceeded by more than 10 %, as
long as no more than 64 writers store little at the same moment.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence, Set
from datetime import UTC, datetime
from typing import TypeVar
from weakref import WeakValueDictionary

from sfm_graph.domain.fading import DEFAULT_RULES, Act, Reason, due_at, retention
from sfm_graph.domain.fading_steps import LATER, Faded
from sfm_graph.domain.identity import MemoryId
from sfm_graph.domain.namespace import Namespace
from sfm_graph.errors import HookRefused, LegalHold, Overloaded, TooLarge
from sfm_graph.services.fading.agreeing import agreed, told
from sfm_graph.services.fading.fading_pass import moved
from sfm_graph.services.fading.outcome import Outcome, only
from sfm_graph.services.fading.pace import AT_ONCE, Pace
from sfm_graph.services.fading.removing import REMOVED_AT_ONCE, remove
from sfm_graph.services.hooks import NO_HOOKS, Hooks
from sfm_graph.services.settling import Settling
from sfm_graph.store import fading, namespaces
from sfm_graph.store.database import Database, Session, WriteSession

T = TypeVar("T")

# Of the limit: what is let go before the background is woken, and before writers make room themselves.
WAKING_SHARE, FULL_SHARE = 100, 20
# The other 5 % is for so many writers that do not see each other yet.
UNSEEN_WRITERS = 64
# Looked at in search of one transaction's worth: those that were accessed since are put off.
MOST_CANDIDATES = 500
_LOOKS = 20
_ATTEMPTS = 30
_ROUNDS = 200
# How often hooks that keep all are asked about others.
_ASKED = 3
# What hooks see of it.
OPERATION = "make_room"


class Full(Exception):
    """A transaction would exceed the limit too far by the memories that it `added`: first others have to go."""

    def __init__(self, added: int) -> None:
        super().__init__()
        self.added = added


class Room:
    """Keeps namespaces within their limits."""

    def __init__(self, database: Database, settling: Settling, hooks: Hooks = NO_HOOKS) -> None:
        self._database = database
        self._settling = settling
        self._hooks = hooks
        self._gates: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        # Called with the name of a namespace that has come to hold too many.
        self.on_crowded: Callable[[str], None] | None = None

    async def within_limit(self, namespace: str, attempt: Callable[[bool], Awaitable[T]]) -> T:
        """What `attempt` answers; who finds no room makes some, one writer of this process after the other.

        It is told whether room was made for it. Raises LegalHold when all that could go is held, HookRefused when
        hooks keep what they are asked about, Overloaded when others keep taking the room.
        """
        try:
            return await attempt(False)
        except Full as full:
            added = full.added
        gate = self._gates.setdefault(namespace, asyncio.Lock())
        async with gate:
            for turn in range(_ATTEMPTS):
                made = await self._make(namespace, added)
                try:
                    return await attempt(made)
                except Full as full:
                    added = full.added
                await asyncio.sleep(random.uniform(0, 0.002 * turn))  # noqa: S311 - jitter, not a secret
        raise Overloaded(f"namespace {namespace!r} stayed full; try again")

    async def require(self, session: WriteSession, target: Namespace, added: int, *, made: bool) -> None:
        """The last thing that a transaction does that has added memories. `made`: room was made for them before.

        Raises Full; TooLarge for more than there may be at all.
        """
        limit = target.settings.max_memories
        if limit is None or not added:
            return
        if added > limit:
            raise TooLarge(f"{added} new memories; namespace {target.name!r} keeps at most {limit}", limit=limit)
        most = limit + limit // FULL_SHARE
        count = await fading.count(session, target.id)
        if count > most or added * UNSEEN_WRITERS * FULL_SHARE > limit:
            await session.run("fading_last", namespace_id=target.id)
            count = await fading.count(session, target.id)
        # Where there were far too many before, since the limit was lowered, it is enough that they become fewer.
        if count > most and not (made and count - added > most):
            raise Full(added)
        if count > limit + limit // WAKING_SHARE and self.on_crowded is not None:
            self.on_crowded(target.name)

    async def _make(self, namespace: str, added: int) -> bool:
        """Forget until `added` more fit, or twice as many; whether at least as many as are to be added went.

        Raises LegalHold when all that could go is held.
        """
        gone = len(await self.trim(namespace, datetime.now(UTC), max(2 * added, REMOVED_AT_ONCE), spare=added))
        if gone:
            return gone >= added
        async with self._database.read() as session:
            target = await namespaces.by_name(session, namespace)
            limit = target.settings.max_memories if target else None
            if target is None or limit is None or await fading.count(session, target.id) + added <= limit:
                return False
            held = await session.rows("namespace_held", namespace_id=target.id)
        if held:
            raise LegalHold(f"namespace {namespace!r} is full, and what could go is held", namespace=namespace)
        return False

    async def evict(
        self, namespace: str, now: datetime, most: int, *, spare: int = 0, at_once: int = REMOVED_AT_ONCE
    ) -> list[Outcome]:
        """Forget up to `most` memories that are over the limit, or would be with `spare` more: one transaction.

        Fewer than there are when others took them meanwhile. Raises HookRefused when hooks keep all that they are
        asked about.
        """
        most = min(most, at_once)
        chosen, kept = await self._agreed(namespace, now, most, spare)
        due: Set[int] = frozenset()

        async def work(session: WriteSession) -> list[Outcome]:
            nonlocal due
            target = await namespaces.lock_existing(session, namespace)
            if target is None or target.settings.max_memories is None:
                return []
            victims = await self._over(session, target, now, most, spare, kept)
            victims = victims if chosen is None else [one for one in victims if one.id in chosen]

            async def still(held: Sequence[int]) -> list[MemoryId]:
                return [one.id for one in await fading.of(session, target.id, held) if one.vitals and not one.held]

            gone, due = await remove(session, target, self._settling, [one.id for one in victims], still, now)
            return only(victims, gone)

        gone = await self._database.write(work)
        await self._settling.finish(namespace, due)
        await told(self._hooks, namespace, OPERATION, [one.id for one in gone])
        return gone

    async def _agreed(self, namespace: str, now: datetime, most: int, spare: int) -> tuple[Set[int] | None, Set[int]]:
        """What hooks let go of what is over the limit, and what they keep; None: they need not be asked."""
        if not self._hooks.on("before_forget"):
            return None, frozenset()
        kept: set[int] = set()
        refusal: HookRefused | None = None

        async def look(session: WriteSession) -> list[Outcome]:
            target = await namespaces.lock_existing(session, namespace)
            return [] if target is None else await self._over(session, target, now, most, spare, kept)

        for _ in range(_ASKED):
            found = [one.id for one in await self._database.write(look)]
            let_go, refused = await agreed(self._hooks, namespace, OPERATION, found)
            refusal = refused or refusal
            kept |= {*found} - {*let_go}
            if let_go or not found:
                break
        if refusal is not None and not let_go:
            raise refusal
        return {*let_go}, kept

    async def _over(
        self, session: WriteSession, target: Namespace, now: datetime, most: int, spare: int, kept: Set[int]
    ) -> list[Outcome]:
        """What is to go of what is over the limit, some of it."""
        limit = target.settings.max_memories
        if limit is None:
            return []
        await session.run("fading_alone", namespace_id=target.id)
        excess = min(most, await fading.count(session, target.id) + spare - limit)
        return await self._victims(session, target, excess, now, kept)

    @staticmethod
    async def _victims(
        session: WriteSession, target: Namespace, excess: int, now: datetime, kept: Set[int]
    ) -> list[Outcome]:
        for _ in range(_LOOKS):
            victims, others = await candidates(session, target, excess, now, kept)
            await fading.move(session, target.id, [moved(one, at) for one, at in others])
            if victims or not others:
                return victims
        return []

    async def trim(
        self, namespace: str, now: datetime, most: int, *, spare: int = 0, pace: Pace = AT_ONCE
    ) -> list[Outcome]:
        """Forget up to `most` of what is over the limit, in small transactions."""
        gone: list[Outcome] = []
        for _ in range(_ROUNDS):
            try:
                async with pace.step():
                    some = await self.evict(
                        namespace, now, most - len(gone), spare=spare, at_once=pace.removed_at_once
                    )
            except HookRefused:
                if not gone:
                    raise
                break
            gone += some
            if not some or len(gone) >= most:
                break
        return gone


async def candidates(
    session: Session, target: Namespace, excess: int, now: datetime, kept: Set[int] = frozenset()
) -> tuple[list[Outcome], list[tuple[Faded, datetime]]]:
    """Up to `excess` memories that fade first, and others with other moments than are noted for them.

    What was noted of a memory is when it faded if it was not touched since; so each is reckoned anew, and goes only
    if it still comes before all that were not looked at. `kept`: memories that stay as held ones do.
    """
    if excess <= 0:
        return [], []
    rules = target.settings.fading or DEFAULT_RULES
    asked = min(2 * excess + 16, MOST_CANDIDATES)
    noted = await fading.least(session, target.id, asked)
    if not noted:
        return [], []
    last = noted[-1][1]
    bound = last if len(noted) == asked else datetime.max.replace(tzinfo=UTC)
    reckoned: list[tuple[datetime, Faded]] = []
    for one in await fading.of(session, target.id, [id_ for id_, _ in noted]):
        # What is gone has nothing to wait for: it is dropped with those that go.
        late = (one.held or one.id in kept) and one.vitals is not None
        at = max(now, last) + LATER if late else due_at(rules, one.vitals) if one.vitals else last
        reckoned.append((at, one))
    reckoned.sort(key=lambda pair: (pair[0], pair[1].id))
    victims = [
        Outcome(
            one.id, Act.FORGET, Reason.CROWDED_OUT, retention(rules, one.vitals, now) if one.vitals else None,
            one.key, one.title,
        )
        for at, one in reckoned if at <= bound and not one.held and one.id not in kept
    ][:excess]  # fmt: skip
    chosen = {one.id for one in victims}
    return victims, [(one, at) for at, one in reckoned if one.id not in chosen and at != one.due_at and one.vitals]
