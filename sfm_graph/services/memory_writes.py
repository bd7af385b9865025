"""Storing, updating, forgetting and erasing memories. Each call is one transaction."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from typing import Any

from sfm_graph.domain import inputs, validate
from sfm_graph.domain.identity import MemoryId, MemoryRef
from sfm_graph.domain.memory import (
    BulkResult,
    Memory,
    MemoryPatch,
    NewMemory,
    StoredMemory,
)
from sfm_graph.domain.namespace import Namespace
from sfm_graph.domain.states import memory_from_state, memory_state
from sfm_graph.domain.where import Where
from sfm_graph.errors import MemoryNotFound, TooLarge, VersionConflict
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
from sfm_graph.services.store_plan import Update, require_version
from sfm_graph.store import memories, namespaces, search
from sfm_graph.store.database import Database, WriteSession

# A patch re-reads and tries again when somebody else changed the memory between its read and its write.
PATCH_ATTEMPTS = 5

_TEXT_FIELDS = frozenset({"title", "content", "embedding"})


class MemoryWrites:
    """The mutations of memories."""

    def __init__(self, database: Database, indexing: Indexing) -> None:
        self._database = database
        self._indexing = indexing

    async def store(
        self, namespace: str, fields: Mapping[str, Any], *, key: IdempotencyKey | None = None
    ) -> StoredMemory:
        """Store one memory; at an existing key or coordinate it updates that memory."""
        return (await self.store_many(namespace, [fields], key=key)).stored[0]

    async def store_many(
        self,
        namespace: str,
        items: Sequence[Mapping[str, Any]],
        *,
        partial: bool = False,
        skip_unchanged: bool = False,
        key: IdempotencyKey | None = None,
    ) -> Bulk:
        """Store up to 10,000 memories in one transaction, as if one after the other.

        The first refused item refuses all with its error, `details["index"]` its place; with `partial` it is
        reported and the others are stored. `skip_unchanged` leaves a memory alone that would replace itself.
        """
        validate.namespace(namespace)
        prepared = await self.prepare(items, partial=partial)
        return await self.store_prepared(namespace, prepared, partial=partial, skip_unchanged=skip_unchanged, key=key)

    async def prepare(
        self, items: Sequence[Mapping[str, Any]], *, partial: bool, content_keys: bool = False
    ) -> PreparedMemories:
        """Validate up to 10,000 memories and make their search columns; reads and writes nothing."""
        _bounded(items)
        checked = await offload(len(items), check_memories, items, partial=partial, content_keys=content_keys)
        return await self._with_columns(checked)

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
        async with self._database.read() as session:
            target = await namespaces.by_name(session, namespace)
            stored = await memories.digests(session, target.id, checked.references()) if target else {}
        changed = await offload(len(items), checked.without_stored, stored, pending)
        prepared = await self._with_columns(changed)
        return prepared, len(checked.given) - len(changed.given)

    async def _with_columns(self, checked: CheckedMemories) -> PreparedMemories:
        columns = await self._indexing.columns(list(checked.given.values()))
        return PreparedMemories(checked.given, dict(zip(checked.given, columns, strict=True)), checked.failed)

    async def store_prepared(
        self,
        namespace: str,
        prepared: PreparedMemories,
        *,
        partial: bool,
        skip_unchanged: bool,
        key: IdempotencyKey | None = None,
    ) -> Bulk:
        """Store what `prepare` made ready, in one transaction; nothing left to store makes none."""
        if not prepared.given and key is None:
            return BulkResult((), prepared.failed_items())

        async def work(session: WriteSession) -> Bulk:
            target = await namespaces.lock(session, namespace)

            async def store() -> Bulk:
                batch = MemoryBatch(session, target, self._indexing, skip_unchanged=skip_unchanged, partial=partial)
                return await batch.store(prepared)

            return await once(
                session,
                target.id,
                "store",
                key,
                store,
                encode_bulk,
                lambda kept: decode_bulk(namespace, kept),
            )

        return await self._database.write(work)

    async def update(
        self, namespace: str, ref: MemoryRef, fields: Mapping[str, Any], *, key: IdempotencyKey | None = None
    ) -> Memory:
        """Replace only the given fields of a memory. Raises MemoryNotFound, VersionConflict."""
        patch = inputs.memory_patch(ref, fields)
        return (await self.update_many(namespace, [patch], key=key))[0]

    async def update_many(
        self, namespace: str, patches: Sequence[MemoryPatch], *, key: IdempotencyKey | None = None
    ) -> list[Memory]:
        """Apply up to 10,000 partial updates in one transaction, all or none; no memory may be named twice."""
        _bounded(patches)
        if key is not None and (kept := await self._kept_update(namespace, key)) is not None:
            return kept
        for _ in range(PATCH_ATTEMPTS):
            try:
                return await self._try_update(namespace, patches, key)
            except _Stale:
                continue
        raise VersionConflict("other writers kept changing the same memories; try again")

    async def _kept_update(self, namespace: str, key: IdempotencyKey) -> list[Memory] | None:
        """The answer kept for a key: it holds even when the memory has been forgotten since."""
        async with self._database.read() as session:
            target = await namespaces.by_name(session, namespace)
            kept = await kept_answer(session, target.id, "update", key) if target else None
        return None if kept is None else [memory_from_state(namespace, one) for one in kept]

    async def _try_update(
        self, namespace: str, patches: Sequence[MemoryPatch], key: IdempotencyKey | None
    ) -> list[Memory]:
        prior = await self._read(namespace, [patch.ref for patch in patches])
        updates = [Update(old, _merged(old, patch)) for old, patch in zip(prior, patches, strict=True)]
        texts = [place for place, patch in enumerate(patches) if patch.changes.keys() & _TEXT_FIELDS]
        made = await self._indexing.columns([updates[place].memory for place in texts])
        columns = dict(zip(texts, made, strict=True))

        async def work(session: WriteSession) -> list[Memory]:
            target = await namespaces.lock(session, namespace)

            async def apply() -> list[Memory]:
                await _unchanged_since(session, target, patches, prior)
                done = await MemoryBatch(session, target, self._indexing).write([], list(enumerate(updates)), columns)
                return [done[place].memory for place in range(len(patches))]

            return await once(
                session, target.id, "update", key, apply,
                lambda done: [memory_state(one) for one in done],
                lambda kept: [memory_from_state(namespace, one) for one in kept],
            )  # fmt: skip

        return await self._database.write(work)

    async def forget_many(
        self, namespace: str, refs: Sequence[MemoryRef], *, expected_version: int | None = None,
        key: IdempotencyKey | None = None,
    ) -> list[MemoryId]:  # fmt: skip
        """Take memories with their links out of every answer, in one transaction. The ids of those that existed."""
        return await self._remove(namespace, refs, "forget", expected_version, key, erase=False)

    async def erase_many(
        self, namespace: str, refs: Sequence[MemoryRef], *, expected_version: int | None = None,
        key: IdempotencyKey | None = None,
    ) -> list[MemoryId]:  # fmt: skip
        """Forget, and purge what the change log says. A forgotten memory is erased by its id.

        The ids of memories that existed or that the log knew.
        """
        return await self._remove(namespace, refs, "erase", expected_version, key, erase=True)

    async def forget_where(
        self, namespace: str, where: Where, *, key: IdempotencyKey | None = None
    ) -> list[MemoryId]:
        """Forget every memory that the filter keeps. Raises TooLarge when there are more than 10,000."""

        async def work(session: WriteSession) -> list[MemoryId]:
            target = await namespaces.lock_existing(session, namespace)
            if target is None:
                return []

            async def forget() -> list[MemoryId]:
                require_declared(where, target.settings.payload_paths)
                limit = validate.MAX_BULK_ITEMS
                found = await search.matching_ids(session, target.id, where, limit + 1, lock=True)
                if len(found) > limit:
                    raise TooLarge(f"the filter matches more than {limit} memories; narrow it")
                return await memories.delete(session, target.id, found.tolist())

            return await once(session, target.id, "forget_where", key, forget, list, list)

        return await self._database.write(work)

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

        async def work(session: WriteSession) -> list[MemoryId]:
            target = await namespaces.lock_existing(session, namespace)
            if target is None:
                return []

            async def remove() -> list[MemoryId]:
                located = await memories.lock(session, target.id, namespace, refs)
                for one in located:
                    conflict = require_version(expected_version, one.memory)
                    if conflict:
                        raise conflict
                ids = {one.memory.id for one in located}
                if ids:
                    await memories.delete(session, target.id, sorted(ids))
                if erase:
                    named = {ref.id for ref in refs if ref.id is not None}
                    ids |= {MemoryId(one) for one in await memories.was_known(session, target.id, sorted(named))}
                    await memories.erase_log(session, target.id, sorted(ids))
                return sorted(ids)

            return await once(session, target.id, operation, key, remove, list, list)

        return await self._database.write(work)


class _Stale(Exception):
    """A memory changed between the read of a patch and its write."""


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
        memory.importance, memory.valid_from, memory.valid_to,
    )  # fmt: skip
    merged = replace(merged, **patch.changes)
    validate.period(merged.valid_from, merged.valid_to)
    return inputs.something_to_remember(merged)


def _bounded(items: Sequence[object]) -> None:
    if len(items) > validate.MAX_BULK_ITEMS:
        raise TooLarge(f"{len(items)} items; one transaction takes at most {validate.MAX_BULK_ITEMS}")
