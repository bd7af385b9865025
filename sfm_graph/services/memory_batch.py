"""One transaction's stores into one namespace: a batch made ready, and carried out."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

from sfm_graph.domain import inputs
from sfm_graph.domain.identity import MemoryId, MemoryRef
from sfm_graph.domain.memory import BulkResult, FailedItem, Memory, NewMemory, StoredMemory, WriteOperation
from sfm_graph.domain.namespace import Namespace, StoredModel
from sfm_graph.domain.states import memory_from_state, memory_state
from sfm_graph.errors import ModelMismatch, SfmError
from sfm_graph.services.fading.beginning import begin, hasten
from sfm_graph.services.indexing import Indexing
from sfm_graph.services.offload import offload
from sfm_graph.services.refusals import failed_items, refuse
from sfm_graph.services.screening import WriteRules
from sfm_graph.services.settling import Settling
from sfm_graph.services.store_plan import Decision, Insert, Keep, Update, decide, index_located, references, waves
from sfm_graph.store import memories, namespaces
from sfm_graph.store.database import LostRace, WriteSession
from sfm_graph.store.memories import Located, Stamp
from sfm_graph.store.search_columns import SearchColumns

Bulk = BulkResult[StoredMemory]


@dataclass(frozen=True, slots=True)
class CheckedMemories:
    """A batch of stores after validation, by place in the request; together they cover every item."""

    given: Mapping[int, NewMemory]
    failed: Mapping[int, SfmError]

    def references(self) -> list[MemoryRef]:
        """The stored memories that the batch may meet."""
        return [ref for memory in self.given.values() for ref in references(memory)]

    def without_stored(
        self, stored: Mapping[MemoryRef, tuple[MemoryId, bytes]], pending: Set[MemoryRef]
    ) -> "CheckedMemories":
        """The batch without the memories that would replace themselves. `stored`: ids and digests."""
        changed: dict[int, NewMemory] = {}
        touched = set(pending)
        for index, memory in self.given.items():
            names = references(memory)
            found = {stored.get(name) for name in names}
            same = len(found) == 1 and memory.expected_version is None and touched.isdisjoint(names)
            if same and (one := found.pop()) is not None and one[1] == inputs.digest(memory):
                continue
            changed[index] = memory
            touched.update(names)
        return CheckedMemories(changed, self.failed)


@dataclass(frozen=True, slots=True)
class PreparedMemories:
    """A batch of stores that needs only the database: what was refused, and what to store with its columns."""

    given: Mapping[int, NewMemory]
    columns: Mapping[int, SearchColumns]
    failed: Mapping[int, SfmError]
    # What it was prepared by; the namespace's rules may have changed when it is stored.
    rules: WriteRules
    # The batch before it was screened by those rules.
    checked: CheckedMemories

    def failed_items(self) -> tuple[FailedItem, ...]:
        """The refused items as callers see them."""
        return failed_items(self.failed)


def check_memories(
    items: Sequence[Mapping[str, Any]], *, partial: bool, content_keys: bool = False
) -> CheckedMemories:
    """Validate a batch; about 0.02 ms for each item. The first refused item refuses all unless `partial`.

    With `content_keys` a memory without key and coordinate gets a key made of what it says.
    """
    given: dict[int, NewMemory] = {}
    failed: dict[int, SfmError] = {}
    for index, fields in enumerate(items):
        try:
            memory = inputs.something_to_remember(inputs.new_memory(fields))
        except SfmError as error:
            refuse(failed, index, error, partial)
            continue
        if content_keys and memory.key is None and memory.coordinate is None:
            memory = replace(memory, key=f"content:{inputs.digest(memory).hex()}")
        given[index] = memory
    return CheckedMemories(given, failed)


class MemoryBatch:
    """One transaction's stores into one namespace."""

    def __init__(
        self,
        session: WriteSession,
        target: Namespace,
        indexing: Indexing,
        settling: Settling,
        *,
        skip_unchanged: bool = False,
        partial: bool = False,
    ) -> None:
        self._session = session
        self._target = target
        self._indexing = indexing
        self._settlement = settling.begin(session, target)
        self._skip_unchanged = skip_unchanged
        self._partial = partial

    async def store(self, prepared: PreparedMemories) -> Bulk:
        """Store a prepared batch as if one memory after the other; `settle` follows."""
        await self.hold(CheckedMemories(prepared.given, {}).references(), prepared.columns)
        done: dict[int, StoredMemory] = {}
        given, failed = prepared.given, dict(prepared.failed)
        places = list(given)
        queue = [[places[place] for place in wave] for wave in waves(list(given.values()))]
        if len(queue) > 1:
            # All at once: rows are locked in the order of ids.
            await self._locked(prepared, list(given))
        put_off: list[int] = []
        while queue or put_off:
            indexes = put_off + (queue.pop(0) if queue else [])
            located = await self._locked(prepared, indexes)
            decisions, put_off = await offload(len(indexes), self._decided, indexes, prepared, located, failed)
            done |= await self._carry_out(decisions, prepared.columns)
        return BulkResult(
            tuple(done[index] for index in sorted(done)),
            failed_items(failed),
        )

    async def hold(self, refs: Sequence[MemoryRef], columns: Mapping[int, SearchColumns]) -> None:
        """Hold the sequences that memories stand in and will join; before their rows are locked."""
        await self._settlement.hold(refs, {one.cues.sequence for one in columns.values()})

    async def _locked(self, prepared: PreparedMemories, indexes: Sequence[int]) -> list[Located]:
        wanted = [ref for index in indexes for ref in references(prepared.given[index])]
        return await memories.lock(self._session, self._target.id, self._target.name, wanted) if wanted else []

    def _decided(
        self,
        indexes: Sequence[int],
        prepared: PreparedMemories,
        located: Sequence[Located],
        failed: dict[int, SfmError],
    ) -> tuple[dict[int, Decision], list[int]]:
        """What to do for each place; what is refused is noted, or raised.

        Places that name a memory of an earlier one by its other name are put off: they meet what that one leaves.
        """
        decisions: dict[int, Decision] = {}
        put_off: list[int] = []
        taken: set[MemoryId] = set()
        stored = index_located(located)
        for index in indexes:
            decision = decide(prepared.given[index], stored, skip_unchanged=self._skip_unchanged)
            met = {stored[ref].memory.id for ref in references(prepared.given[index]) if ref in stored}
            if met & taken:
                put_off.append(index)
                continue
            taken |= met
            if isinstance(decision, Insert | Update):
                decision = self._mismatch(decision.memory, prepared.columns[index]) or decision
            if isinstance(decision, SfmError):
                refuse(failed, index, decision, self._partial)
            else:
                decisions[index] = decision
        return decisions, put_off

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
        done = await self._insert(inserts, columns) if inserts else {}
        return done | (await self._update(updates, columns) if updates else {})

    async def hold_names(self) -> None:
        """Let nobody else change what memories are called; before links are made in the same transaction."""
        await self._settlement.hold_names()

    async def remove(self, ids: Sequence[int]) -> list[MemoryId]:
        """Remove locked memories, before `settle`; the ids of those that existed."""
        return await self._settlement.remove(ids)

    async def settle(self) -> Set[int]:
        """Bring windows and linkers' links in line with all that was written. Whose window vectors are due."""
        return await self._settlement.after()

    async def _insert(
        self, inserts: Sequence[tuple[int, Insert]], columns: Mapping[int, SearchColumns]
    ) -> dict[int, StoredMemory]:
        self._require_match([(one.memory, columns[index]) for index, one in inserts])
        model = await self._model()
        rows = [(one.memory, columns[index]) for index, one in inserts]
        again = [one.again for _, one in inserts]
        inserted = await memories.insert(self._session, self._target.id, model.id, rows, again)
        await begin(self._session, self._target, [
            (memory_id, memory, stamp) for (memory_id, stamp), (memory, _) in zip(inserted, rows, strict=True)
        ])  # fmt: skip
        for (memory_id, _), (memory, search) in zip(inserted, rows, strict=True):
            self._settlement.wrote(memory_id, memory, search.cues)
        return {
            index: StoredMemory(stored_memory(self._target.name, *written, one.memory), WriteOperation.CREATED)
            for written, (index, one) in zip(inserted, inserts, strict=True)
        }

    async def _update(
        self, updates: Sequence[tuple[int, Update]], columns: Mapping[int, SearchColumns]
    ) -> dict[int, StoredMemory]:
        session, target = self._session, self._target
        replaced = [(index, one) for index, one in updates if index in columns]
        self._require_match([(one.memory, columns[index]) for index, one in replaced])
        if replaced:
            await self._settlement.before([one.prior.id for _, one in replaced])
        stamps = await memories.update(session, target.id, [(one.prior.id, one.memory) for _, one in updates])
        await hasten(session, target, [(one, stamps[one.prior.id]) for _, one in updates])
        if replaced:
            model = await self._model()
            rows = [(one.prior.id, columns[index]) for index, one in replaced]
            await memories.replace_search(session, target.id, model.id, rows)
            for index, one in replaced:
                self._settlement.wrote(one.prior.id, one.memory, columns[index].cues)
        return {
            index: StoredMemory(
                stored_memory(target.name, one.prior.id, stamps[one.prior.id], one.memory, held=one.prior.legal_hold),
                WriteOperation.UPDATED,
            )
            for index, one in updates
        }

    def _require_match(self, written: Sequence[tuple[NewMemory, SearchColumns]]) -> None:
        for memory, columns in written:
            if mismatch := self._mismatch(memory, columns):
                raise mismatch

    async def _model(self) -> StoredModel:
        """The model that the namespace's vectors belong to; a namespace without one gets the service's."""
        model = self._target.model
        if model is None:
            model = await namespaces.model(self._session, self._indexing.identity)
            await namespaces.set_model(self._session, self._target, model)
            stored = await namespaces.by_name(self._session, self._target.name)
            if stored is None or stored.model != model:
                raise LostRace("another writer gave the namespace its model")
            self._target = stored
            self._settlement.of(stored)
        return model

    def _mismatch(self, memory: NewMemory, columns: SearchColumns) -> ModelMismatch | None:
        """Why a memory's vectors may not stand beside the namespace's; vectors are never mixed."""
        if memory.embedding is None and columns.vectors is not None:
            try:
                self._indexing.require_known(self._target)
            except ModelMismatch as error:
                return error
        model = self._target.model.identity if self._target.model else self._indexing.identity
        if columns.vectors and columns.dimension != model.dimension:
            return ModelMismatch(
                f"a vector has {columns.dimension} dimensions, the namespace's model is {model}",
                namespace=self._target.name,
            )
        return None


def stored_memory(
    namespace: str, memory_id: MemoryId, stamp: Stamp, stored: NewMemory, *, held: bool = False
) -> Memory:
    """The memory that a write left behind."""
    return Memory(
        memory_id, namespace, stored.key, stored.coordinate or (), stored.kind, stored.title, stored.content,
        stored.payload or {}, stored.importance, stamp.version, stamp.created_at, stamp.updated_at,
        stored.valid_from, stored.valid_to, stored.expires_at, held, stored.agent,
    )  # fmt: skip


def encode_bulk(result: Bulk) -> dict[str, Any]:
    """The JSON of a result that is kept for an idempotency key."""
    return {
        "stored": [[memory_state(one.memory), one.operation] for one in result.stored],
        "failed": [[one.index, one.code, one.message] for one in result.failed],
    }


def decode_bulk(namespace: str, kept: Mapping[str, Any]) -> Bulk:
    """The result that was kept."""
    return BulkResult(
        tuple(StoredMemory(memory_from_state(namespace, one), WriteOperation(done)) for one, done in kept["stored"]),
        tuple(FailedItem(*one) for one in kept["failed"]),
    )
