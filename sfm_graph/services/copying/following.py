"""Keeping copies in step with their sources: what the change log says has changed there is compared and carried over.

What is compared are versions, so that a step that is repeated, by this process or another, changes nothing. A copy
that others have changed since is left as it is, and said to be in conflict.
"""

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from sfm_graph.domain import inputs
from sfm_graph.domain.access import Scope
from sfm_graph.domain.copying import Copied, Copy, Sized
from sfm_graph.domain.identity import Entity, LinkId, MemoryId, MemoryRef, encode_global_id
from sfm_graph.domain.link import Link, LinkPatch
from sfm_graph.domain.memory import Memory, MemoryPatch, StoredMemory
from sfm_graph.domain.namespace import Namespace
from sfm_graph.domain.snapshot import Snapshot
from sfm_graph.errors import DatabaseUnavailable, MemoryNotFound, Overloaded, SfmError, Unavailable, VersionConflict
from sfm_graph.services.access.keys import Keys
from sfm_graph.services.copying.batches import BATCH, batches
from sfm_graph.services.copying.carrying import carried, link_request
from sfm_graph.services.links import BulkLinks, Links
from sfm_graph.services.memory_writes import MemoryWrites
from sfm_graph.services.tasks import attempted, heed_cancellation, kept_running
from sfm_graph.services.view import View, Views
from sfm_graph.store import copies as store
from sfm_graph.store import links, memories
from sfm_graph.store.copies import What
from sfm_graph.store.database import Database, WriteSession

log = logging.getLogger(__name__)

COPIES_AT_ONCE: Final = 100
# What failed is tried again so soon, and twice as late each time.
FIRST_PAUSE_SECONDS: Final = 5.0
LONGEST_PAUSE_SECONDS: Final = 60.0
MAX_RETRIES: Final = 10_000
MAX_LINKS: Final = 10_000


@dataclass(slots=True)
class _Step:
    """What one copy needs: of memories and links those that changed, are gone, and are new."""

    seen: str
    changed: list[tuple[Copied, Sized]] = field(default_factory=list)
    gone: list[Copied] = field(default_factory=list)
    changed_links: list[tuple[Copied, Link]] = field(default_factory=list)
    gone_links: list[Copied] = field(default_factory=list)
    new_links: list[Link] = field(default_factory=list)
    here: Mapping[int, int] = field(default_factory=dict)
    troubles: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Retry:
    """When a copy that failed is tried again, on the monotonic clock, and how long it waits; seconds."""

    at: float
    pause: float


_NEVER: Final = _Retry(0.0, 0.0)


class Following:
    """The background work of copies that follow."""

    def __init__(
        self, database: Database, views: Views, memory_writes: MemoryWrites, made_links: Links, keys: Keys, *,
        poll_seconds: float,
    ) -> None:  # fmt: skip
        self._database = database
        self._views = views
        self._writes = memory_writes
        self._links = made_links
        self._keys = keys
        self._poll_seconds = poll_seconds
        self.problem: str | None = None
        # By the ids of namespace and copy.
        self._retries: dict[tuple[int, int], _Retry] = {}

    async def run(self) -> None:
        """Follow until cancelled; what fails is shown in `problem` and tried again."""
        await kept_running("copies", self._run, self._defect)

    def _defect(self, problem: str) -> None:
        self.problem = problem

    async def _run(self) -> None:
        while True:
            heed_cancellation()
            try:
                await self.round()
                self.problem = None
            except SfmError as error:
                self.problem = error.message
                log.warning("copies: %s", error.message)
            await asyncio.sleep(self._poll_seconds)

    async def round(self) -> int:
        """Bring every copy over whose source has changed; how many there were. What is wrong with one stops no other:
        it is noted there, and tried again later. Raises DatabaseUnavailable, Overloaded."""
        count, last = 0, None
        while True:
            async with self._database.read() as session:
                found = await store.due(session, COPIES_AT_ONCE, last)
            ready = [one for one in found if not self._waits(one)]
            for one in ready:
                await self._attempt(one)
            count += len(ready)
            if len(found) < COPIES_AT_ONCE:
                return count
            last = found[-1]

    def _waits(self, one: Copy) -> bool:
        return time.monotonic() < self._retries.get((one.namespace_id, one.id), _NEVER).at

    async def _attempt(self, one: Copy) -> None:
        """Follow one copy; why that failed is noted in it, unless the database is at fault."""
        broken: list[Unavailable] = []

        async def work() -> None:
            try:
                await self._follow(one)
            except (DatabaseUnavailable, Overloaded) as error:
                broken.append(error)

        problem = await attempted(f"copy {one.id} into {one.namespace!r}", work())
        if broken:
            raise broken[0]
        place = (one.namespace_id, one.id)
        before = self._retries.pop(place, _NEVER)
        if problem is not None:
            pause = min(max(2 * before.pause, FIRST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)
            if len(self._retries) < MAX_RETRIES:
                self._retries[place] = _Retry(time.monotonic() + pause, pause)
            await self._database.write(lambda session: store.failed(session, one, problem[:1_000]))

    async def _follow(self, one: Copy) -> None:
        denied = await self._denied(one)
        if denied is not None:
            await self._database.write(lambda session: store.stop(session, one.namespace_id, one.id, denied))
            return
        async with self._views.open() as view:
            step = await self._compared(view, one)
        if step is None:
            return
        await self._carry(one, step)
        error = "; ".join(step.troubles)[:1_000] or None
        await self._database.write(lambda session: store.moved(session, one, step.seen, error))

    async def _denied(self, one: Copy) -> str | None:
        """Why who made the copy may no longer read the source or write here: of a key it can be found out."""
        kind, _, number = one.created_by.partition(":")
        if kind != "key" or one.source is None:
            return None
        grant = await self._keys.grant_of(int(number))
        if grant is None:
            return f"the API key {number} that made the copy is revoked or has expired"
        for scope, namespace in ((Scope.READ, one.source), (Scope.WRITE, one.namespace)):
            if scope not in grant.scopes or not grant.reach.covers(namespace):
                return f"the API key {number} that made the copy may no longer {scope.value} {namespace!r}"
        return None

    async def _compared(self, view: View, one: Copy) -> _Step | None:
        """What has to be carried over; None when the source is gone, which ends the copy."""
        scope = await view.namespace(one.source) if one.source is not None else None
        if scope is None or scope.id != one.source_id:
            return None
        step = _Step(view.snapshot.text)
        changed: list[int] | None = None
        changed_links: list[int] | None = None
        if await view.is_in_log(scope, Snapshot(one.seen)):
            changed, changed_links = await _changes(view, scope, one.seen)
        await self._compare_memories(view, one, scope, step, changed)
        await self._compare_links(view, one, scope, step, changed_links)
        return step

    async def _compare_memories(
        self, view: View, one: Copy, scope: Namespace, step: _Step, changed: Sequence[int] | None
    ) -> None:
        held = await store.copied(view.session, What.MEMORIES, one.namespace_id, one.id)
        step.here = {each.source_id: each.here for each in held}
        wanted = None if changed is None else set(changed)
        looked_at = [each for each in held if wanted is None or each.source_id in wanted]
        sizes = await store.sized(view.session, scope.id, [each.source_id for each in looked_at])
        found = {each.id: each for each in sizes}
        for each in looked_at:
            memory = found.get(each.source_id)
            if memory is None:
                step.gone.append(each)
            elif memory.version != each.source_version:
                step.changed.append((each, memory))

    async def _compare_links(
        self, view: View, one: Copy, scope: Namespace, step: _Step, changed: Sequence[int] | None
    ) -> None:
        ids = sorted(step.here)
        present = await store.links_among(view.session, scope.id, scope.name, ids, MAX_LINKS, changed)
        held = {
            each.source_id: each
            for each in await store.copied(view.session, What.LINKS, one.namespace_id, one.id, changed)
        }
        for link in present:
            known = held.pop(link.id, None)
            if known is None:
                step.new_links.append(link)
            elif known.source_version != link.version:
                step.changed_links.append((known, link))
        # Those of memories that are gone go with them.
        step.gone_links += held.values()

    async def _carry(self, one: Copy, step: _Step) -> None:
        changed = [known for known, _ in step.changed]
        for some in batches(changed, [memory.size for _, memory in step.changed]):
            await self._update(one, step, await self._read(one, some))
        for each in step.gone_links:
            await self._unlink(one, step, each)
        for each in step.gone:
            await self._forget(one, step, each)
        for known, link in step.changed_links:
            await self._relink(one, step, known, link)
        gone = {each.source_id for each in step.gone}
        new = [link for link in step.new_links if gone.isdisjoint((link.source_id, link.target_id))]
        await self._link(one, step, new)

    async def _read(self, one: Copy, some: Sequence[Copied]) -> list[tuple[Copied, Memory]]:
        """What was copied with its source as it is; what is gone since is left for the next time."""
        if one.source is None:
            return []
        async with self._database.read() as session:
            ids = [each.source_id for each in some]
            found = await memories.by_ids(session, one.source_id, one.source, ids)
        return [(each, found[MemoryId(each.source_id)]) for each in some if MemoryId(each.source_id) in found]

    async def _update(self, one: Copy, step: _Step, some: Sequence[tuple[Copied, Memory]]) -> None:
        """Carry over a batch in one transaction; one by one where that is refused."""

        async def record(session: WriteSession, target: Namespace, stored: Sequence[StoredMemory]) -> None:
            pairs = [
                Copied(known.source_id, known.here, memory.version, now.memory.version)
                for (known, memory), now in zip(some, stored, strict=True)
            ]
            await store.put(session, What.MEMORIES, target.id, one.id, pairs)

        if not some:
            return
        patches = [_patch(known, memory) for known, memory in some]
        try:
            await self._writes.update_many(one.namespace, patches, also=record)
        except Unavailable:
            raise
        except SfmError as error:
            if len(some) > 1:
                for each in some:
                    await self._update(one, step, [each])
            else:
                await self._note(one, step, What.MEMORIES, some[0][0], error)

    async def _forget(self, one: Copy, step: _Step, known: Copied) -> None:
        try:
            ref = MemoryRef(id=MemoryId(known.here))
            await self._writes.forget_many(one.namespace, [ref], expected_version=known.version)
        except Unavailable:
            raise
        except SfmError as error:
            await self._note(one, step, What.MEMORIES, known, error)
        else:
            await self._release(one, What.MEMORIES, [known.source_id])

    async def _link(self, one: Copy, step: _Step, new: Sequence[Link]) -> None:
        for start in range(0, len(new), BATCH):
            some = new[start : start + BATCH]
            requests = [link_request(link, one.namespace, step.here) for link in some]

            async def record(
                session: WriteSession, target: Namespace, bulk: BulkLinks, some: Sequence[Link] = some
            ) -> None:
                # A link whose ends are gone here was refused, and one of a functional type may begin elsewhere.
                refused = {each.index for each in bulk.failed}
                made = [each for index, each in enumerate(some) if index not in refused]
                pairs = [
                    Copied(source.id, now.link.id, source.version, now.link.version)
                    for source, now in zip(made, bulk.stored, strict=True)
                ]
                await store.put(session, What.LINKS, target.id, one.id, pairs)

            try:
                done = await self._links.link_many(
                    one.namespace, requests, partial=True, also=record, as_service=True
                )
            except Unavailable:
                raise
            except SfmError as error:
                step.troubles.append(f"links could not be made: {error.message}")
                continue
            step.troubles += [
                f"a link could not be made: {each.message}"
                for each in done.failed
                if each.code != MemoryNotFound.code
            ]

    async def _relink(self, one: Copy, step: _Step, known: Copied, link: Link) -> None:
        patch = LinkPatch(
            LinkId(known.here),
            {"weight": link.weight, "properties": dict(link.properties), "valid_to": link.valid_to,
             **({} if link.agent is None else {"agent": link.agent})},
            known.version,
        )  # fmt: skip
        try:
            (now,) = await self._links.update_many(one.namespace, [patch], as_service=True)
        except Unavailable:
            raise
        except SfmError as error:
            await self._note(one, step, What.LINKS, known, error)
            return
        pair = Copied(known.source_id, known.here, link.version, now.version)
        await self._database.write(lambda session: store.put(session, What.LINKS, one.namespace_id, one.id, [pair]))

    async def _unlink(self, one: Copy, step: _Step, known: Copied) -> None:
        async with self._database.read() as session:
            stored = await links.by_ids(session, one.namespace_id, one.namespace, [known.here])
        now = stored.get(LinkId(known.here))
        name = f"link {encode_global_id(Entity.LINK, one.namespace, known.here)}"
        if now is not None and now.version != known.version:
            step.troubles.append(f"{name}: it was changed in {one.namespace!r}")
            return
        try:
            await self._links.unlink_many(one.namespace, [LinkId(known.here)])
        except Unavailable:
            raise
        except SfmError as error:
            step.troubles.append(f"{name}: {error.message}")
            return
        await self._release(one, What.LINKS, [known.source_id])

    async def _note(self, one: Copy, step: _Step, what: What, known: Copied, error: SfmError) -> None:
        """Say that something was not carried over, unless another process did, or it was forgotten here."""
        async with self._database.read() as session:
            now = await store.copied(session, what, one.namespace_id, one.id, [known.source_id])
            if what is What.MEMORIES:
                there: Iterable[Memory | Link] = (
                    await memories.by_ids(session, one.namespace_id, one.namespace, [known.here])
                ).values()
            else:
                there = (await links.by_ids(session, one.namespace_id, one.namespace, [known.here])).values()
        if not now or now[0] != known:
            return
        stored = next(iter(there), None)
        if stored is None:
            await self._release(one, what, [known.source_id])
            return
        step.troubles.append(_trouble(one, stored, error))

    async def _release(self, one: Copy, what: What, sources: Sequence[int]) -> None:
        await self._database.write(lambda session: store.release(session, what, one.namespace_id, one.id, sources))


def _trouble(one: Copy, stored: Memory | Link, error: SfmError) -> str:
    name = f"link {stored.global_id}" if isinstance(stored, Link) else f"memory {stored.key or stored.global_id}"
    reason = f"it was changed in {one.namespace!r}" if isinstance(error, VersionConflict) else error.message
    return f"{name}: {reason}"


def _patch(known: Copied, memory: Memory) -> MemoryPatch:
    ref = MemoryRef(id=MemoryId(known.here))
    return inputs.memory_patch(ref, {**carried(memory), "expected_version": known.version})


async def _changes(view: View, scope: Namespace, since: str) -> tuple[list[int], list[int]]:
    """The ids of the memories and of the links of a namespace that have changed since a snapshot."""
    (found,) = await view.session.one("changed_memories", namespace_id=scope.id, since=since)
    joined, _ = await view.session.one("changed_links", namespace_id=scope.id, since=since)
    return list(found or []), sorted(set(joined or []))
