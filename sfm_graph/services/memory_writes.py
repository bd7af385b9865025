"""Storing, updating, forgetting and erasing memories. Each call is one transaction."""

from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from dataclasses import replace
from typing import Any, TypeAlias

from sfm_graph.domain import inputs, validate
from sfm_graph.domain.access import Scope
from sfm_graph.domain.identity import Entity, MemoryId, MemoryRef
from sfm_graph.domain.memory import (
    BulkResult,
    Memory,
    MemoryPatch,
    NewMemory,
    StoredMemory,
    WriteOperation,
)
from sfm_graph.domain.namespace import Namespace
from sfm_graph.domain.states import memory_from_state, memory_state
from sfm_graph.domain.where import Where
from sfm_graph.errors import MemoryNotFound, Overloaded, TooLarge, VersionConflict
from sfm_graph.services.access.guard import needs
from sfm_graph.services.asking import asked_memories, asked_patches, id_items, memory_done, ref_item, stored_items
from sfm_graph.services.fading.room import Room
from sfm_graph.services.hooks import NO_HOOKS, Hooks
from sfm_graph.services.idempotency import IdempotencyKey, kept_answer, once
from sfm_graph.services.indexing import Indexing
from sfm_graph.services.memory_batch import (
    Bulk,
    CheckedMemories,
    MemoryBatch,
    PreparedMemories,
    check_memories,
    decode_bulk,
    encode_bulk,
)
from sfm_graph.services.memory_reads import require_declared
from sfm_graph.services.offload import offload
from sfm_graph.services.screening import WriteRules, screen, screen_patches
from sfm_graph.services.settling import Settlement, Settling
from sfm_graph.services.store_plan import Update, index_located, require_version
from sfm_graph.store import history, memories, namespaces, search
from sfm_graph.store.database import Database, WriteSession
from sfm_graph.store.search_columns import SearchColumns
from sfm_graph.telemetry.stages import stage

# A patch re-reads and tries again when somebody else changed the memory between its read and its write.
PATCH_ATTEMPTS = 5

# The namespace's rules may change between the making of columns and their storing, but not over and over.
RULES_ATTEMPTS = 5
MAX_KNOWN_RULES = 10_000

_TEXT_FIELDS = frozenset({"title", "content", "embedding"})
# Cues come from these too, and linkers look at them.
_WORD_FIELDS = _TEXT_FIELDS | {"kind", "payload", "valid_from"}

# What else a transaction does once its memories are written.
Also: TypeAlias = Callable[[WriteSession, Namespace, Sequence[StoredMemory]], Awaitable[None]]


class MemoryWrites:
    """The mutations of memories."""

    def __init__(
        self, database: Database, indexing: Indexing, settling: Settling, hooks: Hooks = NO_HOOKS,
        room: Room | None = None,
    ) -> None:  # fmt: skip
        self._database = database
        self._room = room or Room(database, settling)
        self._indexing = indexing
        self._settling = settling
        self._hooks = hooks
        # As last seen, by namespace: right nearly always, and checked by every write.
        self._rules: dict[str, WriteRules] = {}

    @needs(Scope.WRITE)
    async def store(
        self, namespace: str, fields: Mapping[str, Any], *, key: IdempotencyKey | None = None
    ) -> StoredMemory:
        """Store one memory; at an existing key or coordinate it updates that memory."""
        return (await self.store_many(namespace, [fields], key=key)).stored[0]

    @needs(Scope.WRITE)
    async def store_many(
        self,
        namespace: str,
        items: Sequence[Mapping[str, Any]],
        *,
        partial: bool = False,
        skip_unchanged: bool = False,
        key: IdempotencyKey | None = None,
        also: Also | None = None,
    ) -> Bulk:
        """Store up to 10,000 memories in one transaction, as if one after the other.

        The first refused item refuses all with its error, `details["index"]` its place; with `partial` it is
        reported and the others are stored. `skip_unchanged` leaves a memory alone that would replace itself.
        `also` is done in the same transaction.
        """
        validate.namespace(namespace)
        _bounded(items)
        checked = await offload(len(items), check_memories, items, partial=partial)
        checked = await asked_memories(self._hooks, namespace, checked, partial=partial)
        prepared = await self._with_columns(checked, self._last_rules(namespace), partial=partial)
        return await self.store_prepared(
            namespace, prepared, partial=partial, skip_unchanged=skip_unchanged, key=key, also=also
        )

    @needs(Scope.WRITE)
    async def prepare_changed(
        self, namespace: str, items: Sequence[Mapping[str, Any]], *, pending: Set[MemoryRef]
    ) -> tuple[PreparedMemories, int]:
        """Prepare a batch of an import: only what is not stored just so. Also how many are.

        A memory without key and coordinate gets a key made of what it says. `pending`: what writes under way may
        still change; these are prepared in any case.
        """
        validate.namespace(namespace)
        _bounded(items)
        checked = await offload(len(items), check_memories, items, partial=True, content_keys=True)
        checked = await asked_memories(self._hooks, namespace, checked, partial=True)
        async with self._database.read() as session:
            target = await namespaces.by_name(session, namespace)
            stored = await memories.digests(session, target.id, checked.references()) if target else {}
        rules = self._rules_of(target)
        # What is stored has been screened: only what has been, too, equals it.
        failed = dict(checked.failed)
        said = CheckedMemories(await screen(checked.given, rules.policy, failed, partial=True), failed)
        changed = await offload(len(items), said.without_stored, stored, pending)
        raw = CheckedMemories({index: checked.given[index] for index in changed.given}, failed)
        prepared = await self._with_columns(raw, rules, partial=True, said=changed)
        return prepared, len(said.given) - len(changed.given)

    async def _with_columns(
        self, checked: CheckedMemories, rules: WriteRules, *, partial: bool, said: CheckedMemories | None = None
    ) -> PreparedMemories:
        """A batch screened by the rules, unless it has been (`said`), with its search columns."""
        if said is None:
            failed = dict(checked.failed)
            said = CheckedMemories(await screen(checked.given, rules.policy, failed, partial=partial), failed)
        with stage("write.prepare"):
            columns = await self._indexing.columns(list(said.given.values()), rules.indexing)
        made = dict(zip(said.given, columns, strict=True))
        return PreparedMemories(said.given, made, said.failed, rules, checked)

    def _last_rules(self, namespace: str) -> WriteRules:
        return self._rules.get(namespace) or self._rules_of(None)

    def _rules_of(self, target: Namespace | None) -> WriteRules:
        return WriteRules(self._indexing.rules(target), target.settings.content_policy if target else None)

    def _require_rules(self, target: Namespace, made_by: WriteRules) -> None:
        """Raises _OtherRules when something was prepared by other rules than the namespace's."""
        rules = self._rules_of(target)
        if self._rules.get(target.name) != rules:
            if len(self._rules) >= MAX_KNOWN_RULES:
                self._rules.pop(next(iter(self._rules)))
            self._rules[target.name] = rules
        if rules != made_by:
            raise _OtherRules(rules)

    @needs(Scope.WRITE)
    async def store_prepared(
        self,
        namespace: str,
        prepared: PreparedMemories,
        *,
        partial: bool,
        skip_unchanged: bool,
        key: IdempotencyKey | None = None,
        also: Also | None = None,
    ) -> Bulk:
        """Store what `prepare` made ready, in one transaction; nothing left to store makes none."""
        if not prepared.given and key is None:
            return BulkResult((), prepared.failed_items())

        async def attempt(made_room: bool) -> tuple[Bulk, Set[int]]:
            nonlocal prepared
            for _ in range(RULES_ATTEMPTS):
                try:
                    return await self._store(namespace, prepared, partial, skip_unchanged, key, also, made_room)
                except _OtherRules as other:
                    prepared = await self._with_columns(prepared.checked, other.rules, partial=partial)
            raise Overloaded("the namespace's settings kept changing; try again")

        bulk, due = await self._room.within_limit(namespace, attempt)
        await self._settling.finish(namespace, due)
        await self._told_stored(namespace, "store", bulk.stored)
        return bulk

    async def _told_stored(self, namespace: str, operation: str, stored: Sequence[StoredMemory]) -> None:
        if stored and self._hooks.on("after_store"):
            given = [ref_item(namespace, MemoryRef(id=one.memory.id)) for one in stored]
            await self._hooks.after("after_store", namespace, operation, lambda: given, lambda: stored_items(stored))

    async def _store(
        self,
        namespace: str,
        prepared: PreparedMemories,
        partial: bool,
        skip_unchanged: bool,
        key: IdempotencyKey | None,
        also: Also | None,
        made_room: bool,
    ) -> tuple[Bulk, Set[int]]:
        """One transaction; whose window vectors are due. Raises Full when there is no room for what it adds."""
        due: Set[int] = frozenset()

        async def work(session: WriteSession) -> Bulk:
            target = await namespaces.lock(session, namespace)
            self._require_rules(target, prepared.rules)
            added = 0

            async def store() -> Bulk:
                nonlocal due, added
                batch = MemoryBatch(
                    session, target, self._indexing, self._settling, skip_unchanged=skip_unchanged, partial=partial
                )
                bulk = await batch.store(prepared)
                added = sum(one.operation is WriteOperation.CREATED for one in bulk.stored)
                due = await batch.settle()
                if also is not None:
                    await also(session, target, bulk.stored)
                return bulk

            bulk = await once(
                session,
                target.id,
                "store",
                key,
                store,
                encode_bulk,
                lambda kept: decode_bulk(namespace, kept),
            )
            await self._room.require(session, target, added, made=made_room)
            return bulk

        return await self._database.write(work), due

    @needs(Scope.WRITE)
    async def update(
        self, namespace: str, ref: MemoryRef, fields: Mapping[str, Any], *, key: IdempotencyKey | None = None
    ) -> Memory:
        """Replace only the given fields of a memory. Raises MemoryNotFound, VersionConflict."""
        patch = inputs.memory_patch(ref, fields)
        return (await self.update_many(namespace, [patch], key=key))[0]

    @needs(Scope.WRITE)
    async def update_many(
        self,
        namespace: str,
        patches: Sequence[MemoryPatch],
        *,
        key: IdempotencyKey | None = None,
        also: Also | None = None,
    ) -> list[Memory]:
        """Apply up to 10,000 partial updates in one transaction, all or none; no memory may be named twice.

        `also` is done in the same transaction.
        """
        _bounded(patches)
        if key is not None and (kept := await self._kept_update(namespace, key)) is not None:
            return kept
        asked = await asked_patches(self._hooks, namespace, patches)
        for _ in range(PATCH_ATTEMPTS):
            try:
                updated, due = await self._try_update(namespace, asked, key, also)
            except (_Stale, _OtherRules):
                continue
            await self._settling.finish(namespace, due)
            await self._told_updated(namespace, asked, updated)
            return updated
        raise VersionConflict("other writers kept changing the same memories; try again")

    async def _told_updated(self, namespace: str, asked: Sequence[MemoryPatch], updated: Sequence[Memory]) -> None:
        await self._hooks.after(
            "after_store", namespace, "update",
            lambda: (ref_item(namespace, patch.ref) for patch in asked),
            lambda: (memory_done(one, WriteOperation.UPDATED.value) for one in updated),
        )  # fmt: skip

    async def _kept_update(self, namespace: str, key: IdempotencyKey) -> list[Memory] | None:
        """The answer kept for a key: it holds even when the memory has been forgotten since."""
        async with self._database.read() as session:
            target = await namespaces.by_name(session, namespace)
            kept = await kept_answer(session, target.id, "update", key) if target else None
        return None if kept is None else [memory_from_state(namespace, one) for one in kept]

    async def _try_update(
        self, namespace: str, patches: Sequence[MemoryPatch], key: IdempotencyKey | None, also: Also | None
    ) -> tuple[list[Memory], Set[int]]:
        """One attempt; whose window vectors are due."""
        prior = await self._read(namespace, [patch.ref for patch in patches])
        rules = self._last_rules(namespace)
        merged = {
            place: (patch, _merged(old, patch))
            for place, (old, patch) in enumerate(zip(prior, patches, strict=True))
        }  # fmt: skip
        said = (await screen_patches(merged, rules.policy)).values()
        patches = [patch for patch, _ in said]
        updates = [Update(old, memory) for old, (_, memory) in zip(prior, said, strict=True)]
        columns = await self._patch_columns(patches, updates, rules)
        due: Set[int] = frozenset()

        async def work(session: WriteSession) -> list[Memory]:
            target = await namespaces.lock(session, namespace)
            self._require_rules(target, rules)

            async def apply() -> list[Memory]:
                nonlocal due
                batch = MemoryBatch(session, target, self._indexing, self._settling)
                await batch.hold([MemoryRef(id=prior[place].id) for place in columns], columns)
                await _unchanged_since(session, target, patches, prior)
                done = await batch.write([], list(enumerate(updates)), columns)
                due = await batch.settle()
                if also is not None:
                    await also(session, target, [done[place] for place in range(len(patches))])
                return [done[place].memory for place in range(len(patches))]

            return await once(
                session, target.id, "update", key, apply,
                lambda done: [memory_state(one) for one in done],
                lambda kept: [memory_from_state(namespace, one) for one in kept],
            )  # fmt: skip

        return await self._database.write(work), due

    async def _patch_columns(
        self, patches: Sequence[MemoryPatch], updates: Sequence[Update], rules: WriteRules
    ) -> dict[int, SearchColumns]:
        """New search columns by place: all of them for a new text, else words and cues where a cue may change."""
        texts = [place for place, patch in enumerate(patches) if patch.changes.keys() & _TEXT_FIELDS]
        others = [
            place for place, patch in enumerate(patches)
            if patch.changes.keys() & _WORD_FIELDS and not patch.changes.keys() & _TEXT_FIELDS
        ]  # fmt: skip
        made = await self._indexing.columns([updates[place].memory for place in texts], rules.indexing)
        words = await self._indexing.words_only([updates[place].memory for place in others], rules.indexing)
        return dict(zip([*texts, *others], [*made, *words], strict=True))

    @needs(Scope.WRITE)
    async def forget_many(
        self, namespace: str, refs: Sequence[MemoryRef], *, expected_version: int | None = None,
        key: IdempotencyKey | None = None,
    ) -> list[MemoryId]:  # fmt: skip
        """Take memories with their links out of every answer, in one transaction. The ids of those that existed."""
        return await self._remove(namespace, refs, "forget", expected_version, key, erase=False)

    @needs(Scope.WRITE)
    async def erase_many(
        self, namespace: str, refs: Sequence[MemoryRef], *, expected_version: int | None = None,
        key: IdempotencyKey | None = None,
    ) -> list[MemoryId]:  # fmt: skip
        """Forget, and purge what the change log says.

        A forgotten memory is found by its id, or by the key or the coordinate that it last had.

        The ids of memories that existed or that the log knew.
        """
        return await self._remove(namespace, refs, "erase", expected_version, key, erase=True)

    @needs(Scope.WRITE)
    async def forget_where(
        self, namespace: str, where: Where, *, key: IdempotencyKey | None = None
    ) -> list[MemoryId]:
        """Forget every memory that the filter keeps. Raises TooLarge when there are more than 10,000.

        With a hook that is asked before, what matches only after it was asked stays.
        """
        due: Set[int] = frozenset()
        approved = await self._approved(namespace, where)

        async def work(session: WriteSession) -> list[MemoryId]:
            target = await namespaces.lock_existing(session, namespace)
            if target is None:
                return []

            async def forget() -> list[MemoryId]:
                require_declared(where, target.settings.payload_paths)
                limit = validate.MAX_BULK_ITEMS
                found = await search.matching_ids(session, target.id, where, limit + 1)
                if len(found) > limit:
                    raise TooLarge(f"the filter matches more than {limit} memories; narrow it")
                settlement = self._settling.begin(session, target)
                await settlement.hold([MemoryRef(id=MemoryId(one)) for one in found.tolist()])
                held = await settlement.hold_rows(found.tolist())
                # Once more, of what others did to them until they were held.
                kept = held.intersection((await search.matching_ids(session, target.id, where)).tolist())
                if approved is not None:
                    kept &= approved
                nonlocal due
                gone, due = await _delete(settlement, sorted(kept))
                return gone

            return await once(session, target.id, "forget_where", key, forget, list, list)

        gone = await self._database.write(work)
        await self._settling.finish(namespace, due)
        await self._told_gone(namespace, "forget_where", gone)
        return gone

    async def _approved(self, namespace: str, where: Where) -> set[int] | None:
        """The memories that hooks were asked about; None: there is no such hook."""
        if not self._hooks.on("before_forget"):
            return None
        async with self._database.read() as session:
            target = await namespaces.by_name(session, namespace)
            if target is None:
                return set()
            require_declared(where, target.settings.payload_paths)
            limit = validate.MAX_BULK_ITEMS + 1
            found = (await search.matching_ids(session, target.id, where, limit)).tolist()
        await self._hooks.before(
            "before_forget", namespace, "forget_where", lambda: id_items(Entity.MEMORY, namespace, found)
        )
        return set(found)

    async def _told_gone(self, namespace: str, operation: str, gone: Sequence[MemoryId]) -> None:
        if gone and self._hooks.on("after_forget"):
            ids = list(id_items(Entity.MEMORY, namespace, gone))
            await self._hooks.after("after_forget", namespace, operation, lambda: ids, lambda: ids)

    async def _read(self, namespace: str, refs: Sequence[MemoryRef]) -> list[Memory]:
        async with self._database.read() as session:
            target = await namespaces.by_name(session, namespace)
            found = await memories.find(session, target.id, namespace, refs) if target else [None] * len(refs)
        missing = [str(ref) for ref, memory in zip(refs, found, strict=True) if memory is None]
        if missing:
            raise MemoryNotFound(f"no memory with {missing[0]} in {namespace!r}", namespace=namespace)
        return [memory for memory in found if memory is not None]

    async def _remove(
        self,
        namespace: str,
        refs: Sequence[MemoryRef],
        operation: str,
        expected_version: int | None,
        key: IdempotencyKey | None,
        *,
        erase: bool,
    ) -> list[MemoryId]:
        _bounded(refs)
        await self._hooks.before(
            "before_forget", namespace, operation, lambda: (ref_item(namespace, ref) for ref in refs)
        )
        due: Set[int] = frozenset()

        async def work(session: WriteSession) -> list[MemoryId]:
            target = await namespaces.lock_existing(session, namespace)
            if target is None:
                return []

            async def remove() -> list[MemoryId]:
                nonlocal due
                settlement = self._settling.begin(session, target)
                if erase:
                    await history.lock(session, target.id)
                await settlement.hold(refs)
                located = await memories.lock(session, target.id, namespace, refs)
                for one in located:
                    conflict = require_version(expected_version, one.memory)
                    if conflict:
                        raise conflict
                ids = {one.memory.id for one in located}
                if ids:
                    _, due = await _delete(settlement, sorted(ids))
                if erase:
                    ids |= await _forgotten(session, target, refs, located)
                    await memories.erase_log(session, target.id, sorted(ids))
                return sorted(ids)

            return await once(session, target.id, operation, key, remove, list, list)

        gone = await self._database.write(work)
        await self._settling.finish(namespace, due)
        await self._told_gone(namespace, operation, gone)
        return gone


class _Stale(Exception):
    """A memory changed between the read of a patch and its write."""


class _OtherRules(Exception):
    """Search columns were made by other rules than the namespace's."""

    def __init__(self, rules: WriteRules) -> None:
        super().__init__()
        self.rules = rules


async def _delete(settlement: Settlement, ids: Sequence[int]) -> tuple[list[MemoryId], Set[int]]:
    """Delete locked memories; whose window vectors are due."""
    gone = await settlement.remove(ids)
    return gone, await settlement.after()


async def _forgotten(
    session: WriteSession, target: Namespace, refs: Sequence[MemoryRef], located: Sequence[memories.Located]
) -> set[MemoryId]:
    """The memories behind references that are not stored but that the log knows."""
    stored = index_located(located)
    named = await history.forgotten(session, target.id, (ref for ref in refs if ref not in stored))
    known = await memories.was_known(session, target.id, sorted(named))
    # What was brought back has another key or place now, which nobody named.
    back = await memories.locate(session, target.id, [MemoryRef(id=MemoryId(one)) for one in known])
    return {MemoryId(one) for one in known - set(back.values())}


async def _unchanged_since(
    session: WriteSession, target: Namespace, patches: Sequence[MemoryPatch], prior: Sequence[Memory]
) -> None:
    refs = [MemoryRef(id=memory.id) for memory in prior]
    if len(set(refs)) < len(refs):
        raise VersionConflict("one batch of updates names a memory twice")
    located = {one.memory.id: one.memory for one in await memories.lock(session, target.id, target.name, refs)}
    for memory, patch in zip(prior, patches, strict=True):
        now = located.get(memory.id)
        if now is None:
            raise MemoryNotFound(f"no memory with {patch.ref} in {target.name!r}", namespace=target.name)
        conflict = require_version(patch.expected_version, now)
        if conflict:
            raise conflict
        if now.version != memory.version:
            raise _Stale


def _merged(memory: Memory, patch: MemoryPatch) -> NewMemory:
    merged = NewMemory(
        memory.coordinate, memory.key, memory.kind, memory.title, memory.content, memory.payload,
        memory.importance, memory.valid_from, memory.valid_to, expires_at=memory.expires_at,
    )  # fmt: skip
    if memory.expires_at is not None and memory.valid_to == memory.expires_at:
        # It ended there because the memory did.
        merged = replace(merged, valid_to=None)
    merged = inputs.ending(replace(merged, **patch.changes))
    validate.period(merged.valid_from, merged.valid_to)
    return inputs.something_to_remember(merged)


def _bounded(items: Sequence[object]) -> None:
    if len(items) > validate.MAX_BULK_ITEMS:
        raise TooLarge(f"{len(items)} items; one transaction takes at most {validate.MAX_BULK_ITEMS}")
