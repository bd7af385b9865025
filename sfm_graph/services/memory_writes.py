"""Storing, updating, forgetting and erasing memories. Each call is one transaction."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sfm_graph.domain import inputs, validate
from sfm_graph.domain.identity import MemoryId, MemoryRef
from sfm_graph.domain.memory import (
    BulkResult,
    FailedItem,
    Memory,
    MemoryPatch,
    NewMemory,
    StoredMemory,
    WriteOperation,
)
from sfm_graph.domain.namespace import Namespace, StoredModel
from sfm_graph.domain.states import memory_from_state, memory_state
from sfm_graph.domain.where import Where
from sfm_graph.errors import MemoryNotFound, ModelMismatch, SfmError, TooLarge, VersionConflict
from sfm_graph.services.idempotency import IdempotencyKey, once
from sfm_graph.services.indexing import Indexing
from sfm_graph.services.store_plan import (
    Decision,
    Insert,
    Keep,
    Update,
    decide,
    index_located,
    references,
    require_version,
    waves,
)
from sfm_graph.store import memories, namespaces, search
from sfm_graph.store.database import Database, WriteSession
from sfm_graph.store.memories import Stamp
from sfm_graph.store.search_columns import SearchColumns

# A patch re-reads and tries again when somebody else changed the memory between its read and its write.
PATCH_ATTEMPTS = 5

_TEXT_FIELDS = frozenset({"title", "content", "embedding"})

Bulk = BulkResult[StoredMemory]


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
        _bounded(items)
        given: dict[int, NewMemory] = {}
        failed: dict[int, SfmError] = {}
        for index, fields in enumerate(items):
            try:
                given[index] = inputs.something_to_remember(inputs.new_memory(fields))
            except SfmError as error:
                _refuse(failed, index, error, partial)
        columns = dict(zip(given, await self._indexing.columns(list(given.values())), strict=True))

        async def work(session: WriteSession) -> Bulk:
            target = await namespaces.lock(session, namespace)

            async def store() -> Bulk:
                batch = _Batch(session, target, self._indexing, skip_unchanged=skip_unchanged, partial=partial)
                return await batch.store(given, columns, dict(failed))

            return await once(
                session,
                target.id,
                "store",
                key,
                store,
                _encode_bulk,
                lambda kept: _decode_bulk(namespace, kept),
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
        for _ in range(PATCH_ATTEMPTS):
            try:
                return await self._try_update(namespace, patches, key)
            except _Stale:
                continue
        raise VersionConflict("other writers kept changing the same memories; try again")

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
                done = await _Batch(session, target, self._indexing).write([], list(enumerate(updates)), columns)
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
            target = await namespaces.lock(session, namespace)

            async def forget() -> list[MemoryId]:
                found = await search.matching_ids(session, target.id, where, validate.MAX_BULK_ITEMS + 1)
                if len(found) > validate.MAX_BULK_ITEMS:
                    raise TooLarge(f"the filter matches more than {validate.MAX_BULK_ITEMS} memories; narrow it")
                refs = [MemoryRef(id=MemoryId(one)) for one in found.tolist()]
                await memories.lock(session, target.id, namespace, refs)
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
            target = await namespaces.lock(session, namespace)

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


class _Batch:
    """One transaction's stores into one namespace."""

    def __init__(
        self,
        session: WriteSession,
        target: Namespace,
        indexing: Indexing,
        *,
        skip_unchanged: bool = False,
        partial: bool = False,
    ) -> None:
        self._session = session
        self._target = target
        self._indexing = indexing
        self._skip_unchanged = skip_unchanged
        self._partial = partial

    async def store(
        self,
        given: Mapping[int, NewMemory],
        columns: Mapping[int, SearchColumns],
        failed: dict[int, SfmError],
    ) -> Bulk:
        done: dict[int, StoredMemory] = {}
        places = list(given)
        for wave in waves(list(given.values())):
            decisions: dict[int, Decision] = {}
            indexes = [places[place] for place in wave]
            wanted = [ref for index in indexes for ref in references(given[index])]
            located = await memories.lock(self._session, self._target.id, self._target.name, wanted) if wanted else []
            stored = index_located(located)
            for index in indexes:
                decision = decide(given[index], stored, skip_unchanged=self._skip_unchanged)
                if isinstance(decision, SfmError):
                    _refuse(failed, index, decision, self._partial)
                else:
                    decisions[index] = decision
            done |= await self._carry_out(decisions, columns)
        return BulkResult(
            tuple(done[index] for index in sorted(done)),
            tuple(FailedItem(index, failed[index].code, failed[index].message) for index in sorted(failed)),
        )

    async def _carry_out(
        self, decisions: Mapping[int, Decision], columns: Mapping[int, SearchColumns]
    ) -> dict[int, StoredMemory]:
        inserts = [(index, one) for index, one in decisions.items() if isinstance(one, Insert)]
        updates = [(index, one) for index, one in decisions.items() if isinstance(one, Update)]
        done = await self.write(inserts, updates, columns)
        for index, one in decisions.items():
            if isinstance(one, Keep):
                done[index] = StoredMemory(one.prior, WriteOperation.UNCHANGED)
        return done

    async def write(
        self,
        inserts: Sequence[tuple[int, Insert]],
        updates: Sequence[tuple[int, Update]],
        columns: Mapping[int, SearchColumns],
    ) -> dict[int, StoredMemory]:
        """Write rows and search columns, by place in the request; an update without new columns keeps its old."""
        session, target = self._session, self._target
        done: dict[int, StoredMemory] = {}
        searched: list[tuple[int, MemoryId, NewMemory]] = []
        if inserts:
            ids = await memories.new_ids(session, len(inserts))
            rows = [(memory_id, one.memory) for memory_id, (_, one) in zip(ids, inserts, strict=True)]
            stamps = await memories.insert(session, target.id, rows)
            for memory_id, (index, insert) in zip(ids, inserts, strict=True):
                memory = _memory(target.name, memory_id, insert.memory, stamps[memory_id])
                done[index] = StoredMemory(memory, WriteOperation.CREATED)
                searched.append((index, memory_id, insert.memory))
        if updates:
            stamps = await memories.update(session, target.id, [(one.prior.id, one.memory) for _, one in updates])
            replaced = [(index, one.prior.id, one.memory) for index, one in updates if index in columns]
            await memories.delete_search(session, target.id, [memory_id for _, memory_id, _ in replaced])
            searched += replaced
            for index, update in updates:
                memory = _memory(target.name, update.prior.id, update.memory, stamps[update.prior.id])
                done[index] = StoredMemory(memory, WriteOperation.UPDATED)
        if searched:
            computed = any(memory.embedding is None for _, _, memory in searched)
            model = await self._model([columns[index] for index, _, _ in searched], computed=computed)
            rows_of_search = [(memory_id, columns[index]) for index, memory_id, _ in searched]
            await memories.insert_search(session, target.id, model.id, rows_of_search)
        return done

    async def _model(self, columns: Sequence[SearchColumns], *, computed: bool) -> StoredModel:
        """The model that the batch's vectors belong to. Raises ModelMismatch; vectors are never mixed."""
        if computed or self._target.model is None:
            self._target.require_model(self._indexing.identity)
        model = self._target.model
        if model is None:
            model = await namespaces.model(self._session, self._indexing.identity)
            await namespaces.set_model(self._session, self._target, model)
            self._target = replace(self._target, model=model)
        for one in columns:
            if one.vectors and one.dimension != model.identity.dimension:
                raise ModelMismatch(
                    f"a vector has {one.dimension} dimensions, the namespace's model is {model.identity}",
                    namespace=self._target.name,
                )
        return model


def _memory(namespace: str, memory_id: MemoryId, stored: NewMemory, stamp: Stamp) -> Memory:
    return Memory(
        memory_id, namespace, stored.key, stored.coordinate or (), stored.kind, stored.title, stored.content,
        stored.payload or {}, stored.importance, stamp.version, stamp.created_at, stamp.updated_at,
        stored.valid_from, stored.valid_to,
    )  # fmt: skip


def _merged(memory: Memory, patch: MemoryPatch) -> NewMemory:
    merged = NewMemory(
        memory.coordinate, memory.key, memory.kind, memory.title, memory.content, memory.payload,
        memory.importance, memory.valid_from, memory.valid_to,
    )  # fmt: skip
    merged = replace(merged, **patch.changes)
    validate.period(merged.valid_from, merged.valid_to)
    return inputs.something_to_remember(merged)


def _refuse(failed: dict[int, SfmError], index: int, error: SfmError, partial: bool) -> None:
    error.details.setdefault("index", index)
    if not partial:
        raise error
    failed[index] = error


def _bounded(items: Sequence[object]) -> None:
    if len(items) > validate.MAX_BULK_ITEMS:
        raise TooLarge(f"{len(items)} items; one transaction takes at most {validate.MAX_BULK_ITEMS}")


def _encode_bulk(result: Bulk) -> dict[str, Any]:
    return {
        "stored": [[memory_state(one.memory), one.operation] for one in result.stored],
        "failed": [[one.index, one.code, one.message] for one in result.failed],
    }


def _decode_bulk(namespace: str, kept: Mapping[str, Any]) -> Bulk:
    return BulkResult(
        tuple(StoredMemory(memory_from_state(namespace, one), WriteOperation(done)) for one, done in kept["stored"]),
        tuple(FailedItem(*one) for one in kept["failed"]),
    )
