"""Carrying out one plan: the consolidating memory and the links to its sources, in one transaction."""

from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import blake2b

from sfm_graph.domain import inputs, validate
from sfm_graph.domain.consolidation import KEY_PREFIX, SOURCE_LINK, SUPERSEDES_LINK
from sfm_graph.domain.identity import MemoryId, MemoryRef
from sfm_graph.domain.link import NewLink, StoredLink
from sfm_graph.domain.memory import Memory, MemoryKind, NewMemory, StoredMemory, WriteOperation
from sfm_graph.domain.namespace import Namespace
from sfm_graph.services.asking import asked_made, link_items, ref_item, stored_items, stored_link_items
from sfm_graph.services.consolidation.plans import Plan
from sfm_graph.services.fading.room import Room
from sfm_graph.services.hooks import NO_HOOKS, Hooks
from sfm_graph.services.indexing import Indexing
from sfm_graph.services.memory_batch import MemoryBatch
from sfm_graph.services.screening import WriteRules, screen_made
from sfm_graph.services.settling import Settling
from sfm_graph.services.store_plan import Insert, Update, free_coordinate
from sfm_graph.store import consolidation as store
from sfm_graph.store import links, memories, namespaces
from sfm_graph.store.database import Database, WriteSession
from sfm_graph.store.links import LinkRow
from sfm_graph.store.search_columns import SearchColumns

OPERATION = "consolidate"
# What is said of a consolidation itself in the payload of its memory.
OWN_KEYS = frozenset({"sources", "from", "to", "method"})


class Stale(Exception):
    """What a plan was made of has changed since."""


class Writing:
    """Writes what plans say."""

    def __init__(
        self, database: Database, indexing: Indexing, settling: Settling, hooks: Hooks = NO_HOOKS,
        room: Room | None = None,
    ) -> None:  # fmt: skip
        self._database = database
        self._indexing = indexing
        self._settling = settling
        self._hooks = hooks
        self._room = room or Room(database, settling)

    async def carry_out(
        self,
        target: Namespace,
        plan: Plan,
        sources: Sequence[Memory],
        prior: Memory | None,
        content: str,
        method: str,
    ) -> Memory:
        """Store the memory and its links. Raises Stale when the sources or what consolidates them have changed,
        HookRefused and ContentRefused for what hooks or the content policy refuse.

        `sources` in the order of the plan's; `prior`: the memory of `plan.into`.
        """
        made = await self._agreed(target.name, plan, consolidated(sources, prior, content, method, gone=plan.gone))
        rules = self._rules(target)
        made = await screen_made(made, rules.policy, OWN_KEYS)
        (columns,) = await self._indexing.columns([made], rules.indexing)

        async def attempt(made_room: bool) -> Written:
            async def work(session: WriteSession) -> Written:
                return await self._write(session, target.name, plan, made, columns, rules, made_room)

            return await self._database.write(work)

        written = await self._room.within_limit(target.name, attempt)
        await self._settling.finish(target.name, written.due)
        await self._told(target.name, written)
        return written.stored.memory

    def _rules(self, target: Namespace) -> WriteRules:
        return WriteRules(self._indexing.rules(target), target.settings.content_policy)

    async def _agreed(self, namespace: str, plan: Plan, made: NewMemory) -> NewMemory:
        """The memory as hooks let it be stored, with its links. Raises HookRefused."""
        stored = MemoryRef(id=plan.into.id) if plan.into else None
        ended = [ref_item(namespace, MemoryRef(id=one.id)) for one in plan.superseded]
        now = datetime.now(UTC).isoformat()
        agreed = await asked_made(
            self._hooks, namespace, OPERATION, made, stored, [{**one, "valid_to": now} for one in ended]
        )
        await self._hooks.before(
            "before_link", namespace, OPERATION,
            lambda: link_items(namespace, dict(enumerate(_links_of(plan, stored or MemoryRef(key=made.key))))),
        )  # fmt: skip
        return agreed

    async def _told(self, namespace: str, written: "Written") -> None:
        done = [written.stored, *written.ended]
        await self._hooks.after(
            "after_store", namespace, OPERATION,
            lambda: [ref_item(namespace, MemoryRef(id=one.memory.id)) for one in done], lambda: stored_items(done),
        )  # fmt: skip
        if written.links:
            items = list(stored_link_items(written.links))
            await self._hooks.after("after_link", namespace, OPERATION, lambda: items, lambda: items)

    async def _write(
        self, session: WriteSession, namespace: str, plan: Plan, made: NewMemory, columns: SearchColumns,
        rules: WriteRules, made_room: bool,
    ) -> "Written":  # fmt: skip
        target = await namespaces.lock_existing(session, namespace)
        if target is None or self._rules(target) != rules:
            raise Stale
        await store.take_turn(session, target.id)
        batch = MemoryBatch(session, target, self._indexing, self._settling)
        refs = [MemoryRef(id=one.id) for one in (*([plan.into] if plan.into else []), *plan.superseded)]
        await batch.hold(refs, {0: columns})
        prior = {one.memory.id: one.memory for one in await memories.lock(session, target.id, namespace, refs)}
        ids = [one.id for one in plan.sources]
        await store.hold(session, target.id, ids)
        await _require_unchanged(session, target, plan, ids)
        if plan.into is None:
            key = await _free_key(session, target, str(made.key))
            inserts = [(0, Insert(replace(made, key=key, coordinate=free_coordinate())))]
            updates = []
        else:
            old = prior[plan.into.id]
            inserts, updates = [], [(0, Update(old, replace(made, key=old.key, coordinate=old.coordinate)))]
        updates += [
            (place, Update(prior[one.id], _ended(prior[one.id])))
            for place, one in enumerate(plan.superseded, start=1)
        ]
        done = await batch.write(inserts, updates, {0: columns})
        due = await batch.settle()
        linked = await _link(session, target, plan, done[0].memory.id)
        await self._room.require(session, target, int(plan.into is None), made=made_room)
        ended = [done[place] for place in sorted(done) if place]
        return Written(done[0], ended, linked, due)


@dataclass(frozen=True, slots=True)
class Written:
    """What one transaction wrote; `ended`: memories that are no longer valid; `due`: for `Settling.finish`."""

    stored: StoredMemory
    ended: Sequence[StoredMemory]
    links: Sequence[StoredLink]
    due: Set[int]


def _links_of(plan: Plan, memory: MemoryRef) -> list[NewLink]:
    """The links that lead from the memory afterwards."""
    derived = [NewLink(memory, MemoryRef(id=one.id), SOURCE_LINK, 1.0, {"text": one.text}) for one in plan.sources]
    return derived + [NewLink(memory, MemoryRef(id=one.id), SUPERSEDES_LINK) for one in plan.superseded]


async def _require_unchanged(session: WriteSession, target: Namespace, plan: Plan, ids: Sequence[MemoryId]) -> None:
    rows = await store.episodes(session, target.id, ids)
    standing = await store.standing(session, target.id, ids)
    if sorted(rows) != sorted(plan.sources) or tuple(standing) != plan.standing:
        raise Stale


async def _free_key(session: WriteSession, target: Namespace, key: str) -> str:
    """The key, or one that follows it where a memory that is no longer valid, or a caller's own, has it."""
    for wanted in (key, *(f"{key}:{number}" for number in range(2, 100))):
        if not await memories.locate(session, target.id, [MemoryRef(key=wanted)]):
            return wanted
    raise Stale


async def _link(session: WriteSession, target: Namespace, plan: Plan, memory_id: MemoryId) -> list[StoredLink]:
    wanted = {
        (SOURCE_LINK, one.id): LinkRow(memory_id, one.id, SOURCE_LINK, 1.0, {"text": one.text}, None, None)
        for one in plan.sources
    }
    kept = {one.id for one in plan.sources}
    gone = [old.id for old in (plan.into.links if plan.into else ()) if old.source not in kept]
    for ended in plan.superseded:
        wanted[SUPERSEDES_LINK, ended.id] = LinkRow(memory_id, ended.id, SUPERSEDES_LINK, 1.0, {}, None, None)
    if gone:
        await links.lock_ids(session, target.id, target.name, gone)
        await links.delete(session, target.id, gone)
    stored = {
        (one.type, one.target_id): one
        for one in await links.lock(session, target.id, target.name, list(wanted.values()))
    }
    fresh = [row for place, row in wanted.items() if place not in stored]
    changed = [
        (stored[place].id, row)
        for place, row in wanted.items()
        if place in stored and (stored[place].properties, stored[place].valid_to) != (row.properties, None)
    ]
    made = await links.insert(session, target.id, target.name, fresh) if fresh else []
    renewed = await links.update(session, target.id, target.name, changed) if changed else []
    return [
        *(StoredLink(one, WriteOperation.CREATED) for one in made),
        *(StoredLink(one, WriteOperation.UPDATED) for one in renewed),
    ]


def consolidated(
    sources: Sequence[Memory], prior: Memory | None, content: str, method: str, *, gone: int = 0
) -> NewMemory:
    """The memory that consolidates sources, given in the order of time. What callers gave a prior one stays.

    `gone`: how many others, which are no more, it says something of.
    """
    times = [one.valid_from or one.created_at for one in sources]
    payload = {
        **(prior.payload if prior else {}),
        "sources": len(sources) + gone, "from": times[0].isoformat(), "to": times[-1].isoformat(), "method": method,
    }  # fmt: skip
    starts = [times[0], *([prior.valid_from] if prior and prior.valid_from else [])]
    importances = [one.importance for one in sources] + ([prior.importance] if prior else [])
    valid_to = prior.valid_to if prior else None
    made = NewMemory(
        key=prior.key if prior else _key(sources), kind=MemoryKind.SEMANTIC, title=prior.title if prior else None,
        content=validate.text(content, "content", max_chars=validate.MAX_CONTENT_BYTES), payload=payload,
        importance=max(importances), valid_from=min(starts), valid_to=valid_to,
        expires_at=prior.expires_at if prior else None, agent=prior.agent if prior else None,
    )  # fmt: skip
    return inputs.something_to_remember(made)


def _key(sources: Sequence[Memory]) -> str:
    """Of the coordinates, which no memory ever changes: the same sources have the same key in every copy of them."""
    places = sorted(one.coordinate for one in sources)
    return KEY_PREFIX + blake2b(repr(places).encode(), digest_size=12).hexdigest()


def _ended(memory: Memory) -> NewMemory:
    """A memory that is no longer valid."""
    now = datetime.now(UTC)
    if memory.valid_from is not None:
        now = max(now, memory.valid_from + timedelta(microseconds=1))
    return NewMemory(
        memory.coordinate, memory.key, memory.kind, memory.title, memory.content, memory.payload, memory.importance,
        memory.valid_from, now, expires_at=memory.expires_at, agent=memory.agent,
    )  # fmt: skip
