"""Bringing memories and links back to an earlier version, forgotten ones under the ids that they had."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from sfm_graph.domain import inputs, validate
from sfm_graph.domain.access import Scope
from sfm_graph.domain.identity import LinkId, MemoryId, MemoryRef
from sfm_graph.domain.link import Link, StoredLink
from sfm_graph.domain.memory import Memory, NewMemory, StoredMemory, WriteOperation
from sfm_graph.domain.namespace import Namespace
from sfm_graph.domain.states import link_from_state, link_state, memory_from_state, memory_state
from sfm_graph.domain.versions import Restored
from sfm_graph.errors import Conflict, KeyTaken, MemoryNotFound, TooLarge, VersionConflict, VersionNotFound
from sfm_graph.services.access.guard import needs
from sfm_graph.services.asking import asked_made, memory_done, ref_item, stored_link_fields, stored_link_items
from sfm_graph.services.fading.room import Room
from sfm_graph.services.history import find_memory
from sfm_graph.services.hooks import NO_HOOKS, Hooks
from sfm_graph.services.idempotency import IdempotencyKey, kept_answer, once
from sfm_graph.services.indexing import Indexing
from sfm_graph.services.memory_batch import MemoryBatch
from sfm_graph.services.restoring_links import bring_back, bring_one_back, missing_link, put_back
from sfm_graph.services.screening import WriteRules, screen, screen_stored_links
from sfm_graph.services.settling import Settling
from sfm_graph.services.store_plan import Insert, Update, index_located, require_version
from sfm_graph.store import history, memories, namespaces
from sfm_graph.store.database import Database, Session, WriteSession
from sfm_graph.store.history import Subject, link_subject
from sfm_graph.store.memories import Located
from sfm_graph.store.search_columns import SearchColumns
from sfm_graph.store.vector_types import HalfVector

# What was read may change before it is written, but not over and over.
ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a restoration is to do. `prior`: the memory as stored, None of a forgotten one; `last`: its last one."""

    subject: Subject
    prior: Memory | None
    last: Memory
    wanted: NewMemory
    # In force at the version that is wanted; empty: made anew, or as stored.
    vectors: tuple[HalfVector, ...]
    rules: WriteRules
    # That come back with it, as hooks were shown them; None: none had to be.
    links: tuple[Link, ...] | None = None

    @property
    def changes_nothing(self) -> bool:
        """Whether the memory is stored just so."""
        if self.prior is None or self.vectors:
            return False
        return inputs.digest(self.wanted) == inputs.digest(_new(self.prior, self.prior, datetime.now(UTC)))

    def references(self) -> list[MemoryRef]:
        """The stored memories that it may meet."""
        keys = [] if self.wanted.key is None else [MemoryRef(key=self.wanted.key)]
        return [MemoryRef(id=self.last.id), MemoryRef(coordinate=self.last.coordinate), *keys]


class Restoring:
    """The mutations that undo others."""

    def __init__(
        self, database: Database, indexing: Indexing, settling: Settling, hooks: Hooks = NO_HOOKS,
        room: Room | None = None,
    ) -> None:  # fmt: skip
        self._database = database
        self._indexing = indexing
        self._settling = settling
        self._hooks = hooks
        self._room = room or Room(database, settling)

    @needs(Scope.WRITE)
    async def restore(
        self,
        namespace: str,
        ref: MemoryRef,
        *,
        version: int | None = None,
        links: bool = True,
        expected_version: int | None = None,
        key: IdempotencyKey | None = None,
    ) -> Restored:
        """Make a memory what it was at a version, the last one that is kept by default, as its next version.

        A forgotten one, found by id, last key or coordinate, comes back under its id, with the `links` of callers
        that were forgotten together with it, where their other end exists. A time to live that has passed is left
        out. Raises MemoryNotFound, VersionNotFound, VersionConflict; KeyTaken and Conflict where another memory has
        its key or place now, TooLarge for more than 10,000 links, HookRefused, ContentRefused.
        """
        for _ in range(ATTEMPTS):
            try:
                kept, plan = await self._read(namespace, ref, version, key, links=links)
                if kept is not None or plan is None:
                    return _decode(namespace, kept)
                plan = await self._agreed(namespace, plan)
                columns = await self._columns(plan)
                restored, due = await self._write(namespace, plan, columns, links, expected_version, key)
            except _Stale:
                continue
            await self._settling.finish(namespace, due)
            await self._told(namespace, restored)
            return restored
        raise VersionConflict("other writers kept changing the same memory; try again")

    @needs(Scope.WRITE)
    async def restore_link(
        self,
        namespace: str,
        link_id: LinkId,
        *,
        version: int | None = None,
        expected_version: int | None = None,
        key: IdempotencyKey | None = None,
    ) -> StoredLink:
        """As above for a link of which both ends exist: its weight, properties and validity.

        Raises LinkNotFound, VersionNotFound, VersionConflict, MemoryNotFound without an end; Conflict where another
        link stands in its place, or of a functional type begins at the same moment; HookRefused, ContentRefused.
        """
        for _ in range(ATTEMPTS):
            seen = await self._seen(namespace, link_id, version)
            try:
                done = await self._write_link(namespace, link_id, version, expected_version, key, seen)
            except _Stale:
                continue
            await self._told_links(namespace, [done])
            return done
        raise VersionConflict("other writers kept changing the same link; try again")

    async def _seen(self, namespace: str, link_id: LinkId, version: int | None) -> Link | None:
        """The version of a link that is wanted, as hooks agreed to it; None: none was asked. Raises HookRefused."""
        if not self._hooks.on("before_link"):
            return None
        async with self._database.read() as session:
            scope = await namespaces.by_name(session, namespace)
            subject = None if scope is None else link_subject(scope.id, link_id)
            found = None if subject is None else await history.state(session, subject, version)
        if found is None:
            return None
        seen = link_from_state(namespace, found[0])
        await self._hooks.before("before_link", namespace, "restore", lambda: stored_link_fields(namespace, [seen]))
        return seen

    async def _write_link(
        self, namespace: str, link_id: LinkId, version: int | None, expected_version: int | None,
        key: IdempotencyKey | None, seen: Link | None,
    ) -> StoredLink:  # fmt: skip
        must_be_seen = self._hooks.on("before_link")

        async def work(session: WriteSession) -> StoredLink:
            scope = await namespaces.lock_existing(session, namespace)
            if scope is None:
                raise missing_link(namespace)

            async def restore() -> StoredLink:
                await history.lock(session, scope.id)
                wanted, newest = await _wanted_link(session, scope, link_id, version)
                if must_be_seen and wanted != seen:
                    raise _Stale
                return await _restore_link(session, scope, wanted, newest, expected_version)

            return await once(
                session, scope.id, "restore_link", key, restore,
                lambda done: [link_state(done.link), done.operation],
                lambda kept: StoredLink(link_from_state(namespace, kept[0]), WriteOperation(kept[1])),
            )  # fmt: skip

        return await self._database.write(work)

    async def _read(
        self, namespace: str, ref: MemoryRef, version: int | None, key: IdempotencyKey | None, *, links: bool
    ) -> tuple[Any, _Plan | None]:
        """The answer kept for the key, or what to do."""
        async with self._database.read() as session:
            target = await namespaces.by_name(session, namespace)
            if target is None:
                raise MemoryNotFound(f"there is no namespace {namespace!r}", namespace=namespace)
            if key is not None and (kept := await kept_answer(session, target.id, "restore", key)) is not None:
                return kept, None
            subject = await find_memory(session, target.id, namespace, ref)
            plan = await self._plan(session, target, subject, version)
            if links and plan.prior is None and self._hooks.on("before_link"):
                plan = replace(plan, links=await _gone_links(session, target, plan.last.id))
        return None, plan

    async def _agreed(self, namespace: str, plan: _Plan) -> _Plan:
        """The plan as hooks and the policy of now let it be carried out. Raises HookRefused, ContentRefused."""
        wanted = await asked_made(self._hooks, namespace, "restore", plan.wanted, MemoryRef(id=plan.last.id))
        plan = _reworded(plan, wanted)
        if plan.links:
            shown = plan.links
            await self._hooks.before(
                "before_link", namespace, "restore", lambda: stored_link_fields(namespace, shown)
            )
        return _reworded(plan, (await screen({0: plan.wanted}, plan.rules.policy, {}, partial=False))[0])

    async def _told(self, namespace: str, restored: Restored) -> None:
        if restored.operation is WriteOperation.UNCHANGED:
            return
        memory = restored.memory
        await self._hooks.after(
            "after_store", namespace, "restore",
            lambda: [ref_item(namespace, MemoryRef(id=memory.id))],
            lambda: [memory_done(memory, restored.operation.value)],
        )  # fmt: skip
        if restored.links:
            await self._told_links(namespace, [StoredLink(one, WriteOperation.CREATED) for one in restored.links])

    async def _told_links(self, namespace: str, done: Sequence[StoredLink]) -> None:
        await self._hooks.after(
            "after_link", namespace, "restore",
            lambda: stored_link_fields(namespace, [one.link for one in done]), lambda: stored_link_items(done),
        )  # fmt: skip

    async def _plan(self, session: Session, target: Namespace, subject: Subject, version: int | None) -> _Plan:
        prior = (await memories.by_ids(session, target.id, target.name, [subject.id])).get(_id(subject))
        last = prior or await _last(session, target.name, subject)
        if last is None:
            raise MemoryNotFound(f"nothing is kept of memory {subject.id} in {target.name!r}", namespace=target.name)
        if version is None or (prior is not None and version == prior.version):
            state, at = last, None
        else:
            state, at = await _wanted(session, target.name, subject, version)
        if state is last and prior is None:
            at = (await history.state(session, subject, None) or (None, None))[1]
        vectors = [] if state is prior else await _vectors(session, target, prior, state, at)
        wanted = _new(state, last, datetime.now(UTC))
        if vectors and not self._indexing.knows(target):
            # Given by the caller then, so it stands for the text again.
            wanted = replace(wanted, embedding=np.frombuffer(vectors[0].data[4:], ">f2").astype(np.float32))
        return _Plan(subject, prior, last, wanted, tuple(vectors), self._rules(target))

    def _rules(self, target: Namespace) -> WriteRules:
        return WriteRules(self._indexing.rules(target), target.settings.content_policy)

    async def _columns(self, plan: _Plan) -> SearchColumns:
        prior, rules = plan.prior, plan.rules.indexing
        if plan.vectors:
            made = (await self._indexing.words_only([plan.wanted], rules))[0]
            return replace(made, vectors=plan.vectors, dimension=rules.model.dimension)
        if prior is not None and (prior.title, prior.content) == (plan.wanted.title, plan.wanted.content):
            return (await self._indexing.words_only([plan.wanted], rules))[0]
        return (await self._indexing.columns([plan.wanted], rules))[0]

    async def _write(
        self,
        namespace: str,
        plan: _Plan,
        columns: SearchColumns,
        links: bool,
        expected_version: int | None,
        key: IdempotencyKey | None,
    ) -> tuple[Restored, Set[int]]:
        """One transaction, and again once there is room; whose window vectors are due."""

        async def attempt(made_room: bool) -> tuple[Restored, Set[int]]:
            return await self._try(namespace, plan, columns, links, expected_version, key, made_room)

        return await self._room.within_limit(namespace, attempt)

    async def _try(
        self, namespace: str, plan: _Plan, columns: SearchColumns, links: bool, expected_version: int | None,
        key: IdempotencyKey | None, made_room: bool,
    ) -> tuple[Restored, Set[int]]:  # fmt: skip
        due: Set[int] = frozenset()

        async def work(session: WriteSession) -> Restored:
            target = await namespaces.lock_existing(session, namespace)
            if target is None or self._rules(target) != plan.rules:
                raise _Stale
            added = 0

            async def restore() -> Restored:
                nonlocal due, added
                if plan.prior is None:
                    await history.lock(session, target.id)
                batch = MemoryBatch(session, target, self._indexing, self._settling)
                await batch.hold([MemoryRef(id=plan.last.id)], {0: columns})
                located = index_located(await memories.lock(session, target.id, namespace, plan.references()))
                await _require_planned(session, namespace, plan, located)
                conflict = require_version(expected_version, plan.last)
                if conflict is not None:
                    raise conflict
                if plan.changes_nothing:
                    return Restored(plan.last, WriteOperation.UNCHANGED)
                stored = await _put(batch, plan, columns)
                again = await self._links(session, target, plan, batch) if links else ()
                due = await batch.settle()
                added = stored.operation is WriteOperation.CREATED
                return Restored(stored.memory, stored.operation, again)

            restored = await once(
                session, target.id, "restore", key, restore, _encode, lambda kept: _decode(namespace, kept)
            )
            await self._room.require(session, target, added, made=made_room)
            return restored

        return await self._database.write(work), due

    async def _links(
        self, session: WriteSession, target: Namespace, plan: _Plan, batch: MemoryBatch
    ) -> tuple[Link, ...]:
        if plan.prior is not None:
            return ()
        found = await _gone_links(session, target, plan.last.id)
        if plan.links is not None and found != plan.links:
            raise _Stale
        said = await screen_stored_links(found, plan.rules.policy)
        # As all that make links where memories are written: after the names, so that nobody waits in a circle.
        await batch.hold_names()
        return tuple(await bring_back(session, target, said))


class _Stale(Exception):
    """What was read is not so any more when it is written."""


async def _gone_links(session: Session, target: Namespace, memory_id: MemoryId) -> tuple[Link, ...]:
    """Callers' links that were forgotten together with a memory. Raises TooLarge."""
    most = validate.MAX_BULK_ITEMS
    states = await history.links_with(session, target.id, memory_id, most + 1)
    if len(states) > most:
        raise TooLarge(f"more than {most} links were forgotten with the memory; restore it without `links`")
    return tuple(link_from_state(target.name, one) for one in states)


def _reworded(plan: _Plan, wanted: NewMemory) -> _Plan:
    """The plan with what is wanted instead; another text has none of the vectors that were kept."""
    same = (wanted.title, wanted.content) == (plan.wanted.title, plan.wanted.content)
    return replace(plan, wanted=wanted, vectors=plan.vectors if same else ())


async def _put(batch: MemoryBatch, plan: _Plan, columns: SearchColumns) -> StoredMemory:
    if plan.prior is None:
        return (await batch.write([(0, Insert(plan.wanted, plan.last))], [], {0: columns}))[0]
    return (await batch.write([], [(0, Update(plan.prior, plan.wanted))], {0: columns}))[0]


async def _require_planned(
    session: WriteSession, namespace: str, plan: _Plan, located: Mapping[MemoryRef, Located]
) -> None:
    """Raises _Stale where the memory is not as it was read, KeyTaken and Conflict where another has its names."""
    stored = located.get(MemoryRef(id=plan.last.id))
    if (stored.memory.version if stored else None) != (plan.prior.version if plan.prior else None):
        raise _Stale
    if plan.prior is None:
        last = await _last(session, namespace, plan.subject)
        if last is None or last.version != plan.last.version:
            raise _Stale
    by_key = located.get(MemoryRef(key=plan.wanted.key)) if plan.wanted.key is not None else None
    if by_key is not None and by_key.memory.id != plan.last.id:
        raise KeyTaken("another memory has its key now", key=plan.wanted.key, id=by_key.memory.global_id)
    by_place = located.get(MemoryRef(coordinate=plan.last.coordinate))
    if by_place is not None and by_place.memory.id != plan.last.id:
        raise Conflict("another memory stands at its coordinate now", id=by_place.memory.global_id)


async def _wanted_link(
    session: WriteSession, scope: Namespace, link_id: LinkId, version: int | None
) -> tuple[Link, Link]:
    """The version of a link that is wanted, and its last one. Raises LinkNotFound, VersionNotFound."""
    subject = link_subject(scope.id, link_id)
    last = await history.state(session, subject, None)
    if last is None:
        raise missing_link(scope.name)
    found = last if version is None else await history.state(session, subject, version)
    if found is None:
        raise VersionNotFound(f"version {version} is not kept", namespace=scope.name, version=version)
    return link_from_state(scope.name, found[0]), link_from_state(scope.name, last[0])


async def _restore_link(
    session: WriteSession, scope: Namespace, wanted: Link, newest: Link, expected_version: int | None
) -> StoredLink:
    (wanted,) = await screen_stored_links([wanted], scope.settings.content_policy)
    updated = await put_back(session, scope, newest.id, wanted, expected_version)
    if updated is not None:
        return StoredLink(updated, WriteOperation.UPDATED)
    if expected_version not in (None, newest.version):
        raise VersionConflict(
            f"version {expected_version} was expected, {newest.version} was forgotten",
            expected=expected_version, actual=newest.version,
        )  # fmt: skip
    return StoredLink(await bring_one_back(session, scope, newest, wanted), WriteOperation.CREATED)


async def _vectors(
    session: Session, target: Namespace, prior: Memory | None, state: Memory, at: datetime | None
) -> list[HalfVector]:
    """The vectors of a version where they are kept and are not those that stand for the same text now."""
    if target.model is None:
        return []
    found = await history.vectors(session, target.id, state.id, target.model.id, at)
    same_text = prior is not None and (prior.title, prior.content) == (state.title, state.content)
    return [] if same_text and all(same for _, same in found) else [vector for vector, _ in found]


async def _last(session: Session, namespace: str, subject: Subject) -> Memory | None:
    found = await history.state(session, subject, None)
    return None if found is None else memory_from_state(namespace, found[0])


async def _wanted(session: Session, namespace: str, subject: Subject, version: int) -> tuple[Memory, datetime | None]:
    found = await history.state(session, subject, version)
    if found is None:
        raise VersionNotFound(f"version {version} is not kept", namespace=namespace, version=version)
    return memory_from_state(namespace, found[0]), found[1]


def _new(state: Memory, last: Memory, now: datetime) -> NewMemory:
    """What to store for a version, at the place and key that the memory last had."""
    expires = state.expires_at if state.expires_at is not None and state.expires_at > now else None
    return NewMemory(
        last.coordinate, last.key or state.key, state.kind, state.title, state.content, state.payload,
        state.importance, state.valid_from, state.valid_to, expires_at=expires, agent=state.agent,
    )  # fmt: skip


def _id(subject: Subject) -> Any:
    return subject.id


def _encode(restored: Restored) -> dict[str, Any]:
    return {
        "memory": memory_state(restored.memory),
        "operation": restored.operation,
        "links": [link_state(one) for one in restored.links],
    }


def _decode(namespace: str, kept: Mapping[str, Any]) -> Restored:
    return Restored(
        memory_from_state(namespace, kept["memory"]),
        WriteOperation(kept["operation"]),
        tuple(link_from_state(namespace, one) for one in kept["links"]),
    )
