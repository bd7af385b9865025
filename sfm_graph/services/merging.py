"""Merging memories: one stays, with the links of all."""

from collections.abc import Sequence, Set
from typing import Any

from sfm_graph.domain.access import Scope
from sfm_graph.domain.identity import MemoryId, MemoryRef
from sfm_graph.domain.link import NewLink
from sfm_graph.domain.memory import Memory
from sfm_graph.domain.merging import MergeResult, merged_memory, moved_links
from sfm_graph.domain.namespace import Namespace
from sfm_graph.domain.states import memory_from_state, memory_state
from sfm_graph.errors import InvalidInput, LegalHold, MemoryNotFound, Overloaded, TooLarge
from sfm_graph.services import link_batch
from sfm_graph.services.access.guard import needs
from sfm_graph.services.idempotency import IdempotencyKey, kept_answer, once
from sfm_graph.services.indexing import Indexing
from sfm_graph.services.memory_batch import MemoryBatch
from sfm_graph.services.settling import Settling
from sfm_graph.services.store_plan import Update
from sfm_graph.store import memories, namespaces
from sfm_graph.store.database import Database, Session, WriteSession
from sfm_graph.store.rows import link_from_row

MAX_MERGED = 100
MAX_LINKS = 10_000
ATTEMPTS = 5


class _Stale(Exception):
    """One of the memories, or the namespace's rules, changed between the reading and the writing."""


class Merging:
    """The mutation that makes one memory out of several."""

    def __init__(self, database: Database, indexing: Indexing, settling: Settling) -> None:
        self._database = database
        self._indexing = indexing
        self._settling = settling

    @needs(Scope.WRITE)
    async def merge(
        self, namespace: str, into: MemoryRef, others: Sequence[MemoryRef], *, key: IdempotencyKey | None = None
    ) -> MergeResult:
        """Merge 1 to 100 memories into another one, in one transaction: they are forgotten, and it takes over their
        links, what it lacks of their payloads, their importance, their titles as aliases, and their accesses.

        `domain/merging.py` says how. Raises MemoryNotFound, LegalHold for one that must not be forgotten,
        InvalidInput for one that would be merged into itself, TooLarge for more than 10,000 links, Overloaded when
        they keep changing.
        """
        if not 1 <= len(others) <= MAX_MERGED:
            raise InvalidInput(f"from 1 to {MAX_MERGED} memories can be merged at once", field="from")
        for _ in range(ATTEMPTS):
            try:
                result, due = await self._try(namespace, into, others, key)
            except _Stale:
                continue
            await self._settling.finish(namespace, due)
            return result
        raise Overloaded("other writers kept changing the same memories; try again")

    async def _try(
        self, namespace: str, into: MemoryRef, others: Sequence[MemoryRef], key: IdempotencyKey | None
    ) -> tuple[MergeResult, Set[int]]:
        async with self._database.read() as session:
            known = await namespaces.by_name(session, namespace)
            if known is None:
                raise MemoryNotFound(f"no memory with {into} in {namespace!r}", namespace=namespace)
            if key is not None and (answer := await kept_answer(session, known.id, "merge", key)) is not None:
                return _decoded(namespace, answer), frozenset()
            kept, merged = await _found(session, known, into, others)
        made = merged_memory(kept, merged)
        rules = self._indexing.rules(known)
        (columns,) = await self._indexing.words_only([made], rules)
        due: Set[int] = frozenset()
        refs = [MemoryRef(id=one.id) for one in (kept, *merged)]

        async def work(session: WriteSession) -> MergeResult:
            target = await namespaces.lock_existing(session, namespace)
            if target is None or self._indexing.rules(target) != rules:
                raise _Stale

            async def merge() -> MergeResult:
                nonlocal due
                batch = MemoryBatch(session, target, self._indexing, self._settling)
                await batch.hold(refs, {0: columns})
                located = await memories.lock(session, target.id, namespace, refs)
                if {one.memory.id: one.memory for one in located} != {one.id: one for one in (kept, *merged)}:
                    raise _Stale
                gone = {one.id for one in merged}
                links, dropped = await _links(session, target, kept.id, gone)
                await session.run("merge_accesses", namespace_id=target.id, kept_id=kept.id, ids=sorted(gone))
                done = await batch.write([], [(0, Update(kept, made))], {0: columns})
                await batch.remove(sorted(gone))
                due = await batch.settle()
                await link_batch.make(session, target, dict(enumerate(links)), {}, partial=False, skip=True)
                return MergeResult(done[0].memory, tuple(sorted(gone)), len(links), dropped)

            return await once(
                session, target.id, "merge", key, merge, _encoded, lambda answer: _decoded(namespace, answer)
            )

        return await self._database.write(work), due


async def _found(
    session: Session, target: Namespace, into: MemoryRef, others: Sequence[MemoryRef]
) -> tuple[Memory, list[Memory]]:
    """The memory to keep, and the others in their order, each once."""
    refs = [into, *others]
    ids = await memories.locate(session, target.id, refs)
    for ref in refs:
        if ref not in ids:
            raise MemoryNotFound(f"no memory with {ref} in {target.name!r}", namespace=target.name)
    found = await memories.by_ids(session, target.id, target.name, set(ids.values()))
    merged = [found[id_] for id_ in dict.fromkeys(ids[ref] for ref in others)]
    kept = found[ids[into]]
    if kept in merged:
        raise InvalidInput("a memory cannot be merged into itself", field="from")
    for one in merged:
        if one.legal_hold:
            raise LegalHold("a memory under legal hold cannot be merged into another", id=one.global_id)
    return kept, merged


async def _links(
    session: WriteSession, target: Namespace, kept: MemoryId, gone: Set[MemoryId]
) -> tuple[list[NewLink], int]:
    rows = await session.mapped(
        "merge_links", lambda row: link_from_row(target.name, row), namespace_id=target.id, ids=[kept, *gone],
        limit=MAX_LINKS + 1,
    )  # fmt: skip
    if len(rows) > MAX_LINKS:
        raise TooLarge(f"the memories have more than {MAX_LINKS} links", limit=MAX_LINKS)
    touching = [one for one in rows if one.source_id in gone or one.target_id in gone]
    own = [one for one in rows if one.source_id not in gone and one.target_id not in gone]
    return moved_links(kept, gone, touching, own)


def _encoded(result: MergeResult) -> dict[str, Any]:
    return {
        "memory": memory_state(result.memory), "merged": list(result.merged), "moved": result.moved,
        "dropped": result.dropped,
    }  # fmt: skip


def _decoded(namespace: str, kept: dict[str, Any]) -> MergeResult:
    merged = tuple(MemoryId(one) for one in kept["merged"])
    return MergeResult(memory_from_state(namespace, kept["memory"]), merged, kept["moved"], kept["dropped"])
