"""Merging memories: one stays, with the links of all."""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Any

from sfm_graph.domain.access import Scope
from sfm_graph.domain.identity import Entity, MemoryId, MemoryRef
from sfm_graph.domain.link import NewLink, StoredLink
from sfm_graph.domain.memory import Memory, NewMemory, WriteOperation
from sfm_graph.domain.merging import OWN_KEYS, MergeResult, merged_memory, moved_links
from sfm_graph.domain.namespace import Namespace
from sfm_graph.domain.states import memory_from_state, memory_state
from sfm_graph.errors import InvalidInput, LegalHold, MemoryNotFound, Overloaded, TooLarge
from sfm_graph.services import link_batch
from sfm_graph.services.access.guard import needs
from sfm_graph.services.asking import asked_made, id_items, link_items, memory_done, ref_item, stored_link_items
from sfm_graph.services.hooks import NO_HOOKS, Hooks
from sfm_graph.services.idempotency import IdempotencyKey, kept_answer, once
from sfm_graph.services.indexing import Indexing
from sfm_graph.services.memory_batch import MemoryBatch
from sfm_graph.services.screening import WriteRules, screen_links, screen_made
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

    def __init__(self, database: Database, indexing: Indexing, settling: Settling, hooks: Hooks = NO_HOOKS) -> None:
        self._database = database
        self._indexing = indexing
        self._settling = settling
        self._hooks = hooks

    @needs(Scope.WRITE)
    async def merge(
        self, namespace: str, into: MemoryRef, others: Sequence[MemoryRef], *, key: IdempotencyKey | None = None
    ) -> MergeResult:
        """Merge 1 to 100 memories into another one, in one transaction: they are forgotten, and it takes over their
        links, what it lacks of their payloads, their importance, their titles as aliases, and their accesses.

        `domain/merging.py` says how. Raises MemoryNotFound, LegalHold for one that must not be forgotten,
        InvalidInput for one that would be merged into itself, TooLarge for more than 10,000 links, HookRefused and
        ContentRefused for what comes of it, Overloaded when they keep changing.
        """
        if not 1 <= len(others) <= MAX_MERGED:
            raise InvalidInput(f"from 1 to {MAX_MERGED} memories can be merged at once", field="from")
        for _ in range(ATTEMPTS):
            try:
                plan = await self._plan(namespace, into, others, key)
                if isinstance(plan, MergeResult):
                    return plan
                result, links, due = await self._carry_out(namespace, plan, key)
            except _Stale:
                continue
            await self._settling.finish(namespace, due)
            await self._told(namespace, plan, result, links)
            return result
        raise Overloaded("other writers kept changing the same memories; try again")

    async def _plan(
        self, namespace: str, into: MemoryRef, others: Sequence[MemoryRef], key: IdempotencyKey | None
    ) -> "_Plan | MergeResult":
        """What to do, as hooks and the content policy let it be done; or the answer kept for the key."""
        async with self._database.read() as session:
            known = await namespaces.by_name(session, namespace)
            if known is None:
                raise MemoryNotFound(f"no memory with {into} in {namespace!r}", namespace=namespace)
            if key is not None and (answer := await kept_answer(session, known.id, "merge", key)) is not None:
                return _decoded(namespace, answer)
            kept, merged = await _found(session, known, into, others)
            seen = None
            if self._hooks.on("before_link"):
                seen = (await _links(session, "merge_links_seen", known, kept.id, {one.id for one in merged}))[0]
        whole = merged_memory(kept, merged)
        made = await asked_made(self._hooks, namespace, "merge", whole, MemoryRef(id=kept.id))
        gone = sorted(one.id for one in merged)
        await self._hooks.before(
            "before_forget", namespace, "merge", lambda: id_items(Entity.MEMORY, namespace, gone)
        )
        if seen:
            await self._hooks.before(
                "before_link", namespace, "merge", lambda: link_items(namespace, dict(enumerate(seen)))
            )
        rules = self._rules(known)
        made = await screen_made(made, rules.policy, OWN_KEYS)
        reworded = (made.title, made.content) != (whole.title, whole.content)
        return _Plan(kept, merged, made, reworded, seen, rules)

    def _rules(self, target: Namespace) -> WriteRules:
        return WriteRules(self._indexing.rules(target), target.settings.content_policy)

    async def _carry_out(
        self, namespace: str, plan: "_Plan", key: IdempotencyKey | None
    ) -> tuple[MergeResult, Sequence[StoredLink], Set[int]]:
        """One transaction; the links that moved, and whose window vectors are due."""
        kept = plan.kept
        make = self._indexing.columns if plan.reworded else self._indexing.words_only
        (columns,) = await make([plan.made], plan.rules.indexing)
        due: Set[int] = frozenset()
        moved: Sequence[StoredLink] = ()

        async def work(session: WriteSession) -> MergeResult:
            target = await namespaces.lock_existing(session, namespace)
            if target is None or self._rules(target) != plan.rules:
                raise _Stale

            async def merge() -> MergeResult:
                nonlocal due, moved
                batch = MemoryBatch(session, target, self._indexing, self._settling)
                await batch.hold(plan.refs, {0: columns})
                located = await memories.lock(session, target.id, namespace, plan.refs)
                if {one.memory.id: one.memory for one in located} != {one.id: one for one in (kept, *plan.merged)}:
                    raise _Stale
                gone = {one.id for one in plan.merged}
                links, dropped = await _links(session, "merge_links", target, kept.id, gone)
                if plan.seen is not None and links != plan.seen:
                    raise _Stale
                said = await screen_links(dict(enumerate(links)), plan.rules.policy, {}, partial=False)
                await session.run("merge_accesses", namespace_id=target.id, kept_id=kept.id, ids=sorted(gone))
                done = await batch.write([], [(0, Update(kept, plan.made))], {0: columns})
                await batch.remove(sorted(gone))
                due = await batch.settle()
                moved = (await link_batch.make(session, target, said, {}, partial=False, skip=True)).stored
                return MergeResult(done[0].memory, tuple(sorted(gone)), len(links), dropped)

            return await once(
                session, target.id, "merge", key, merge, _encoded, lambda answer: _decoded(namespace, answer)
            )

        return await self._database.write(work), moved, due

    async def _told(self, namespace: str, plan: "_Plan", result: MergeResult, links: Sequence[StoredLink]) -> None:
        await self._hooks.after(
            "after_store", namespace, "merge",
            lambda: [ref_item(namespace, MemoryRef(id=plan.kept.id))],
            lambda: [memory_done(result.memory, WriteOperation.UPDATED.value)],
        )  # fmt: skip
        gone = list(id_items(Entity.MEMORY, namespace, result.merged))
        await self._hooks.after("after_forget", namespace, "merge", lambda: gone, lambda: gone)
        if links:
            items = list(stored_link_items(links))
            await self._hooks.after("after_link", namespace, "merge", lambda: items, lambda: items)


@dataclass(frozen=True, slots=True)
class _Plan:
    """A merge that hooks were asked about. `reworded`: they, or the content policy, have changed the text.

    `seen`: the links that they were shown; None: none had to be.
    """

    kept: Memory
    merged: Sequence[Memory]
    made: NewMemory
    reworded: bool
    seen: Sequence[NewLink] | None
    rules: WriteRules

    @property
    def refs(self) -> list[MemoryRef]:
        """All of them."""
        return [MemoryRef(id=one.id) for one in (self.kept, *self.merged)]


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
            name = one.key or one.global_id
            raise LegalHold(f"memory {name} is under legal hold and cannot be merged", id=one.global_id)
    return kept, merged


async def _links(
    session: Session, statement: str, target: Namespace, kept: MemoryId, gone: Set[MemoryId]
) -> tuple[list[NewLink], int]:
    rows = await session.mapped(
        statement, lambda row: link_from_row(target.name, row), namespace_id=target.id, ids=[kept, *gone],
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
