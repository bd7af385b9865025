"""Making, listing and revoking copies."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sfm_graph.domain import validate
from sfm_graph.domain.access import Scope
from sfm_graph.domain.copying import Copied, Copy, Provenance
from sfm_graph.domain.identity import MemoryId, MemoryRef
from sfm_graph.domain.link import Link
from sfm_graph.domain.memory import Memory, StoredMemory, WriteOperation
from sfm_graph.domain.namespace import Namespace
from sfm_graph.domain.page import Page, cut_page, decode_cursor, encode_cursor
from sfm_graph.errors import Conflict, InvalidInput, NamespaceNotFound, NotFound, SfmError, TooLarge
from sfm_graph.ports.policy import Action
from sfm_graph.services.access.guard import caller, needs
from sfm_graph.services.copying.batches import batches, require_room
from sfm_graph.services.copying.carrying import carried, link_request, named
from sfm_graph.services.copying.selection import selected, selection
from sfm_graph.services.links import BulkLinks, Links
from sfm_graph.services.memory_writes import MemoryWrites
from sfm_graph.services.traversal import Traversal
from sfm_graph.services.view import View, Views
from sfm_graph.store import copies as store
from sfm_graph.store import memories, namespaces
from sfm_graph.store.copies import What
from sfm_graph.store.database import Database, WriteSession

# Others may take a key between its choice and the write, but not over and over.
ATTEMPTS = 5
MAX_LINKS = validate.MAX_BULK_ITEMS
WITHDRAWN = "it was ended from the source namespace"
_MAX_ID = 2**63 - 1


class _Taken(Exception):
    """A key or coordinate that was free has been taken since."""


class Copies:
    """Copies memories, with the links among them, into another namespace."""

    def __init__(
        self, database: Database, views: Views, traversal: Traversal, memory_writes: MemoryWrites, made_links: Links
    ) -> None:
        self._database = database
        self._views = views
        self._traversal = traversal
        self._writes = memory_writes
        self._links = made_links

    @needs(Scope.WRITE, target="source")
    async def copy(self, namespace: str, source: str, given: Mapping[str, Any], *, follow: bool = False) -> Copy:
        """Copy memories of `source` into `namespace`, which needs the right to read the one and to write the other.

        given: as `selection.selection` says. `follow` keeps the copies in step with their sources from then on. What
        is selected is read and stored in batches of about 4 MB, so that what is changed meanwhile may be copied as it
        is by then. A copy that fails leaves nothing, unless the process dies in it: what it stored by then is in the
        listed copy. Raises NamespaceNotFound, MemoryNotFound, InvalidInput, TooLarge for more than 10,000 memories or
        links or 256 MB, ContentRefused, HookRefused.
        """
        validate.namespace(source)
        if source == namespace:
            raise InvalidInput("a copy leads to another namespace", field="source")
        await caller().require(Action("copies.copy", Scope.READ, source, namespace))
        chosen = selection(source, given)
        async with self._views.open() as view:
            scope = await view.existing_namespace(source)
            ids = await selected(view, source, chosen, self._traversal)
            sizes = await store.sized(view.session, scope.id, ids)
            require_room(sizes)
            joined = await store.links_among(view.session, scope.id, source, ids, MAX_LINKS + 1)
            seen = view.snapshot.text
        if len(joined) > MAX_LINKS:
            raise TooLarge(f"more than {MAX_LINKS} links join the selected memories; select fewer", field="limit")
        target_id, copy_id = await self._begun(namespace, scope, chosen.shown, seen)
        try:
            here: dict[int, int] = {}
            for some in batches([one.id for one in sizes], [one.size for one in sizes]):
                here |= await self._stored(namespace, copy_id, await self._read(scope, some))
            there = [one for one in joined if {one.source_id, one.target_id} <= here.keys()]
            await self._linked(namespace, copy_id, there, here)
            if follow:
                await self._database.write(lambda session: store.follow(session, target_id, copy_id))
        except (SfmError, asyncio.CancelledError):
            await self._undone(namespace, target_id, copy_id)
            raise
        return await self._get(namespace, copy_id)

    async def _begun(self, namespace: str, scope: Namespace, shown: Mapping[str, Any], seen: str) -> tuple[int, int]:
        """The row ids of the target and of a new copy into it."""
        principal = caller().principal.name

        async def work(session: WriteSession) -> tuple[int, int]:
            target = await namespaces.lock(session, namespace)
            made = await store.create(session, target.id, scope.id, shown, seen=seen, created_by=principal)
            if made is None:
                raise NamespaceNotFound(f"there is no namespace {scope.name!r}", namespace=scope.name)
            return target.id, made

        return await self._database.write(work)

    async def _read(self, source: Namespace, ids: Sequence[int]) -> list[Memory]:
        """Those of the memories that are still there, in the order of ids."""
        async with self._database.read() as session:
            found = await memories.by_ids(session, source.id, source.name, ids)
        return [found[MemoryId(one)] for one in ids if MemoryId(one) in found]

    async def _stored(self, namespace: str, copy_id: int, found: Sequence[Memory]) -> dict[int, int]:
        """Store the copies; their ids by those of their sources."""
        here: dict[int, int] = {}

        async def record(session: WriteSession, target: Namespace, stored: Sequence[StoredMemory]) -> None:
            if any(one.operation is not WriteOperation.CREATED for one in stored):
                raise _Taken
            pairs = [
                Copied(source.id, one.memory.id, source.version, one.memory.version)
                for source, one in zip(found, stored, strict=True)
            ]
            await store.put(session, What.MEMORIES, target.id, copy_id, pairs)
            here.clear()
            here.update((one.source_id, one.here) for one in pairs)

        for _ in range(ATTEMPTS if found else 0):
            taken = await self._taken(namespace, found)
            items = [{**carried(one), **named(one, copy_id, taken)} for one in found]
            try:
                await self._writes.store_many(namespace, items, also=record)
            except _Taken:
                continue
            return here
        if found:
            raise Conflict("other writers kept taking the same keys; try again", namespace=namespace)
        return here

    async def _taken(self, namespace: str, found: Sequence[Memory]) -> Mapping[MemoryRef, MemoryId]:
        names = [MemoryRef(coordinate=one.coordinate) for one in found]
        names += [MemoryRef(key=one.key) for one in found if one.key is not None]
        async with self._database.read() as session:
            target = await namespaces.by_name(session, namespace)
            return await memories.locate(session, target.id, names) if target else {}

    async def _linked(self, namespace: str, copy_id: int, joined: Sequence[Link], here: Mapping[int, int]) -> None:
        if not joined:
            return

        async def record(session: WriteSession, target: Namespace, bulk: BulkLinks) -> None:
            pairs = [
                Copied(source.id, one.link.id, source.version, one.link.version)
                for source, one in zip(joined, bulk.stored, strict=True)
            ]
            await store.put(session, What.LINKS, target.id, copy_id, pairs)

        requests = [link_request(one, namespace, here) for one in joined]
        await self._links.link_many(namespace, requests, also=record, as_service=True)

    async def _undone(self, namespace: str, target_id: int, copy_id: int) -> None:
        """Take back what a copy that fails has stored: nobody was told of it."""
        await self._forgotten(namespace, target_id, copy_id)

        async def work(session: WriteSession) -> None:
            await store.drop(session, target_id, copy_id)

        await self._database.write(work)

    async def _forgotten(self, namespace: str, target_id: int, copy_id: int, *, edited: bool = True) -> None:
        """Forget what was copied. `edited` False: but for what was changed here since, which stays with the copy."""
        async with self._database.read() as session:
            stored = await store.copied(session, What.MEMORIES, target_id, copy_id)
            if not edited:
                ids = [one.here for one in stored]
                now = await memories.by_ids(session, target_id, namespace, ids)
                stored = [
                    one
                    for one in stored
                    if (found := now.get(MemoryId(one.here))) is None or found.version == one.version
                ]
        refs = [MemoryRef(id=MemoryId(one.here)) for one in stored]
        if refs:
            await self._writes.forget_many(namespace, refs)
        sources = [one.source_id for one in stored]

        async def work(session: WriteSession) -> None:
            await store.release(session, What.MEMORIES, target_id, copy_id, sources)
            joined = await store.copied(session, What.LINKS, target_id, copy_id)
            await store.release(session, What.LINKS, target_id, copy_id, [one.source_id for one in joined])

        await self._database.write(work)

    async def _get(self, namespace: str, copy_id: int) -> Copy:
        async with self._database.read() as session:
            target = await namespaces.by_name(session, namespace)
            found = await store.page(session, target.id, 0, 1, id=copy_id) if target else []
        if not found:
            raise NotFound(f"there is no copy {copy_id} in {namespace!r}", namespace=namespace)
        return found[0]

    @needs(Scope.READ)
    async def list(self, view: View, namespace: str, *, first: int, after: str | None) -> Page[Copy]:
        """A page of the copies into a namespace, by id, revoked ones too. The name of a source that the caller may
        not read is left out."""
        place = decode_cursor("copies", after)
        last = validate.integer(place[0], "cursor", low=0, high=_MAX_ID) if place else 0
        found = await view.namespace(namespace)
        rows = await store.page(view.session, found.id, last, first + 1) if found else []
        return cut_page([_shown(row) for row in rows], [encode_cursor("copies", [row.id]) for row in rows], first)

    @needs(Scope.ADMIN)
    async def list_out(self, view: View, namespace: str, *, first: int, after: str | None) -> Page[Copy]:
        """A page of the copies from a namespace, by id, with the names of where they lead to, revoked ones too."""
        place = decode_cursor("copies_out", after)
        last = validate.integer(place[0], "cursor", low=0, high=_MAX_ID) if place else 0
        found = await view.namespace(namespace)
        rows = await store.page_out(view.session, found.id, last, first + 1) if found else []
        return cut_page(rows, [encode_cursor("copies_out", [row.id]) for row in rows], first)

    @needs(Scope.READ)
    async def provenance(self, view: View, namespace: str, ids: Sequence[MemoryId]) -> dict[MemoryId, Provenance]:
        """What memories are copies of; those that are none are missing. A source's name is told as in `list`."""
        found = await view.namespace(namespace)
        if found is None or not ids:
            return {}
        told = await store.provenance(view.session, found.id, ids)
        reach = caller().principal.grant.reach
        return {
            one: source if source.namespace and reach.covers(source.namespace) else replace(source, namespace=None)
            for one, source in told.items()
        }

    @needs(Scope.WRITE, target="copy_id")
    async def revoke(self, namespace: str, copy_id: int, *, forget: bool = False) -> Copy:
        """Keep a copy in step no longer; with `forget` forget the copied memories, too,
        but for those that were changed here: `memories` of the answer counts them. Again it changes nothing.

        Raises NotFound, and what forgetting raises (LegalHold, HookRefused): the copy is revoked all the same.
        """
        checked = validate.integer(copy_id, "copy", low=1, high=_MAX_ID)

        async def work(session: WriteSession) -> int:
            target = await namespaces.lock_existing(session, namespace)
            if target is None or not await store.stop(session, target.id, checked):
                raise NotFound(f"there is no copy {checked} in {namespace!r}", namespace=namespace)
            return target.id

        target_id = await self._database.write(work)
        if forget:
            await self._forgotten(namespace, target_id, checked, edited=False)
        return _shown(await self._get(namespace, checked))

    @needs(Scope.ADMIN, target="copy_id")
    async def withdraw(self, namespace: str, copy_id: int) -> Copy:
        """Keep a copy from a namespace in step no longer; what was copied stays. Again it changes nothing.

        Raises NotFound.
        """
        checked = validate.integer(copy_id, "copy", low=1, high=_MAX_ID)

        async def work(session: WriteSession) -> bool:
            source = await namespaces.lock_existing(session, namespace)
            return source is not None and bool(await store.withdraw(session, source.id, checked, WITHDRAWN))

        if not await self._database.write(work):
            raise NotFound(f"there is no copy {checked} from {namespace!r}", namespace=namespace)
        async with self._database.read() as session:
            source = await namespaces.by_name(session, namespace)
            found = await store.page_out(session, source.id, checked - 1, 1) if source else []
        if not found or found[0].id != checked:
            raise NotFound(f"there is no copy {checked} from {namespace!r}", namespace=namespace)
        return found[0]


def _shown(one: Copy) -> Copy:
    if one.source is None or caller().principal.grant.reach.covers(one.source):
        return one
    return replace(one, source=None, selection={})
