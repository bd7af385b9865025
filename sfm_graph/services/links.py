"""Making, changing, removing and reading links. Each mutation is one transaction."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from sfm_graph.domain import validate
from sfm_graph.domain.access import Scope
from sfm_graph.domain.identity import Entity, LinkId, MemoryId, MemoryRef
from sfm_graph.domain.link import Link, LinkPatch, StoredLink
from sfm_graph.domain.memory import WriteOperation
from sfm_graph.domain.namespace import Namespace
from sfm_graph.domain.page import Page, cut_page, decode_cursor, encode_cursor, fingerprint
from sfm_graph.domain.states import link_from_state, link_state
from sfm_graph.domain.walk import WalkFilter
from sfm_graph.domain.where import EVERYTHING, Where
from sfm_graph.errors import LinkNotFound, MemoryNotFound, TooLarge, VersionConflict
from sfm_graph.services.access.guard import needs
from sfm_graph.services.asking import (
    callers_links,
    id_items,
    link_items,
    link_patch_items,
    ref_item,
    require_callers_patches,
    signed_link_patches,
    signed_links,
    stored_link_items,
)
from sfm_graph.services.functional_links import FunctionalLinks
from sfm_graph.services.hooks import NO_HOOKS, Hooks
from sfm_graph.services.idempotency import IdempotencyKey, once
from sfm_graph.services.link_batch import (
    BulkLinks,
    LinkRequest,
    checked,
    decode_bulk,
    encode_bulk,
    make,
    version_conflict,
)
from sfm_graph.services.offload import offload
from sfm_graph.services.screening import screen_document, screen_links
from sfm_graph.services.view import View
from sfm_graph.store import links, memories, namespaces
from sfm_graph.store.database import Database, WriteSession
from sfm_graph.store.links import LinkRow

__all__ = ["BulkLinks", "LinkRequest", "Links"]

# What else a transaction does once its links are written.
Also: TypeAlias = Callable[[WriteSession, Namespace, BulkLinks], Awaitable[None]]


class Links:
    """The mutations and listings of links."""

    def __init__(self, database: Database, hooks: Hooks = NO_HOOKS) -> None:
        self._database = database
        self._hooks = hooks

    @needs(Scope.WRITE)
    async def link(
        self,
        namespace: str,
        source: Any,
        target: Any,
        fields: Mapping[str, Any],
        *,
        key: IdempotencyKey | None = None,
    ) -> StoredLink:
        """Link two memories that exist; the same source, target, type and valid_from again updates the link.

        A link of a linker becomes the caller's: the linker leaves it alone from then on.
        """
        return (await self.link_many(namespace, [LinkRequest(source, target, fields)], key=key)).stored[0]

    @needs(Scope.WRITE)
    async def link_many(
        self,
        namespace: str,
        requests: Sequence[LinkRequest],
        *,
        partial: bool = False,
        skip_unchanged: bool = False,
        key: IdempotencyKey | None = None,
        also: Also | None = None,
        as_service: bool = False,
    ) -> BulkLinks:
        """Make up to 10,000 links in one transaction, as if one after the other.

        The first refused one refuses all with its error (MemoryNotFound for an unknown end), `details["index"]` its
        place; with `partial` it is reported and the others are made. `also` is done in the same transaction.
        `as_service`: they may be signed with the name of the service's own extraction.
        """
        validate.namespace(namespace)
        if len(requests) > validate.MAX_BULK_ITEMS:
            raise TooLarge(f"{len(requests)} links; one transaction takes at most {validate.MAX_BULK_ITEMS}")
        asked, failed = await offload(len(requests), checked, namespace, requests, partial)
        signed = signed_links(asked)
        given = signed if as_service else callers_links(signed, failed, partial=partial)
        await self._hooks.before("before_link", namespace, "link", lambda: link_items(namespace, given))

        async def work(session: WriteSession) -> BulkLinks:
            scope = await namespaces.lock(session, namespace)

            async def make_all() -> BulkLinks:
                refused = dict(failed)
                said = await screen_links(given, scope.settings.content_policy, refused, partial=partial)
                bulk = await make(session, scope, said, refused, partial=partial, skip=skip_unchanged)
                if also is not None:
                    await also(session, scope, bulk)
                return bulk

            return await once(
                session, scope.id, "link", key, make_all, encode_bulk, lambda kept: decode_bulk(namespace, kept)
            )

        bulk = await self._database.write(work)
        await self._hooks.after(
            "after_link", namespace, "link",
            lambda: link_items(namespace, given), lambda: stored_link_items(bulk.stored),
        )  # fmt: skip
        return bulk

    @needs(Scope.WRITE)
    async def update_many(
        self,
        namespace: str,
        patches: Sequence[LinkPatch],
        *,
        key: IdempotencyKey | None = None,
        as_service: bool = False,
    ) -> list[Link]:
        """Change weight, properties or valid_to of links, all or none; `as_service` as above.

        Raises LinkNotFound, VersionConflict.
        """
        signed = signed_link_patches(patches)
        if not as_service:
            require_callers_patches(signed)
        await self._hooks.before("before_link", namespace, "update", lambda: link_patch_items(namespace, signed))

        async def work(session: WriteSession) -> list[Link]:
            scope = await namespaces.lock_existing(session, namespace)
            if scope is None:
                raise LinkNotFound(f"no such link in {namespace!r}", namespace=namespace)

            async def change() -> list[Link]:
                return await _change(session, scope, await _screened(scope, signed))

            return await once(
                session, scope.id, "update_link", key, change,
                lambda done: [link_state(one) for one in done],
                lambda kept: [link_from_state(namespace, one) for one in kept],
            )  # fmt: skip

        done = await self._database.write(work)
        await self._hooks.after(
            "after_link", namespace, "update",
            lambda: link_patch_items(namespace, signed),
            lambda: stored_link_items([StoredLink(one, WriteOperation.UPDATED) for one in done]),
        )  # fmt: skip
        return done

    @needs(Scope.WRITE)
    async def unlink_many(
        self, namespace: str, ids: Sequence[LinkId], *, key: IdempotencyKey | None = None
    ) -> list[LinkId]:
        """Remove links by id. The ids of those that existed."""
        await self._hooks.before("before_link", namespace, "unlink", lambda: id_items(Entity.LINK, namespace, ids))

        async def work(session: WriteSession) -> list[LinkId]:
            scope = await namespaces.lock_existing(session, namespace)
            if scope is None:
                return []

            async def remove() -> list[LinkId]:
                await links.lock_ids(session, scope.id, namespace, ids)
                return sorted(await links.delete(session, scope.id, ids))

            return await once(session, scope.id, "unlink", key, remove, list, list)

        return await self._told_gone(namespace, await self._database.write(work))

    async def _told_gone(self, namespace: str, gone: list[LinkId]) -> list[LinkId]:
        if gone and self._hooks.on("after_link"):
            ids = list(id_items(Entity.LINK, namespace, gone))
            await self._hooks.after("after_link", namespace, "unlink", lambda: ids, lambda: ids)
        return gone

    @needs(Scope.WRITE)
    async def unlink_between(
        self, namespace: str, source: MemoryRef, target: MemoryRef, type_: str | None,
        *, key: IdempotencyKey | None = None,
    ) -> list[LinkId]:  # fmt: skip
        """Remove the links from one memory to another, of one type or of any.

        All or none. Raises MemoryNotFound, and TooLarge when there are more than 10,000.
        """
        ends = {"source": ref_item(namespace, source), "target": ref_item(namespace, target), "type": type_}
        await self._hooks.before("before_link", namespace, "unlink", lambda: [ends])

        async def work(session: WriteSession) -> list[LinkId]:
            scope = await namespaces.lock_existing(session, namespace)
            if scope is None:
                raise MemoryNotFound(f"no memory with {source} in {namespace!r}", namespace=namespace)

            async def remove() -> list[LinkId]:
                found = await memories.resolve(session, scope.id, [source, target])
                for ref in (source, target):
                    if ref not in found:
                        raise MemoryNotFound(f"no memory with {ref} in {namespace!r}", namespace=namespace)
                return await _unlink_between(session, scope, found[source], found[target], type_)

            return await once(session, scope.id, "unlink", key, remove, list, list)

        return await self._told_gone(namespace, await self._database.write(work))

    @needs(Scope.READ)
    async def by_ids(self, view: View, namespace: str, ids: Sequence[LinkId]) -> dict[LinkId, Link]:
        """Links by id; unknown ids are missing from the answer."""
        found = await view.namespace(namespace)
        return await links.by_ids(view.session, found.id, namespace, ids) if found else {}

    @needs(Scope.READ)
    async def pages_of(
        self,
        view: View,
        namespace: str,
        ids: Sequence[MemoryId],
        walk: WalkFilter,
        first: int,
        after: str | None,
        where: Where = EVERYTHING,
    ) -> dict[MemoryId, Page[Link]]:
        """For each memory a page of its links that a filter keeps, by id; as of a moment of validity, of those that
        were valid then."""
        query = fingerprint("links", namespace, walk, where, view.as_of)
        where = view.filtered(where)
        place = decode_cursor(query, after)
        last = validate.integer(place[0], "cursor", low=0, high=2**63 - 1) if place else 0
        found = await view.namespace(namespace)
        if found is None:
            return {}
        if where == EVERYTHING:
            rows = await links.of_memories(view.session, found.id, namespace, ids, walk, last, first + 1)
        else:
            rows = await links.kept_of_memories(view.session, found.id, namespace, where, ids, walk, last, first + 1)
        return {
            one: cut_page(rows.get(one, []), [encode_cursor(query, [row.id]) for row in rows.get(one, [])], first)
            for one in ids
        }


async def _screened(scope: Namespace, patches: Sequence[LinkPatch]) -> list[LinkPatch]:
    """Patches whose properties the namespace's content policy lets be stored."""
    policy = scope.settings.content_policy
    said: list[LinkPatch] = []
    for patch in patches:
        one = patch
        if policy is not None and "properties" in patch.changes:
            properties = await screen_document(patch.changes["properties"], policy)
            one = replace(patch, changes={**patch.changes, "properties": properties})
        said.append(one)
    return said


async def _unlink_between(
    session: WriteSession, scope: Namespace, source: MemoryId, target: MemoryId, type_: str | None
) -> list[LinkId]:
    ids = await links.between(session, scope.id, source, target, type_, validate.MAX_BULK_ITEMS + 1)
    if len(ids) > validate.MAX_BULK_ITEMS:
        raise TooLarge(
            f"more than {validate.MAX_BULK_ITEMS} links lead from one memory to the other; name their type, or"
            " remove them by id",
            limit=validate.MAX_BULK_ITEMS,
        )
    return sorted(await links.delete(session, scope.id, ids))


async def _change(session: WriteSession, scope: Namespace, patches: Sequence[LinkPatch]) -> list[Link]:
    functional = FunctionalLinks(session, scope)
    opening = [one.id for one in patches if "valid_to" in one.changes and one.changes["valid_to"] is None]
    await functional.hold_sources(opening)
    stored = await links.lock_ids(session, scope.id, scope.name, [patch.id for patch in patches])
    if len({patch.id for patch in patches}) < len(patches):
        raise VersionConflict("one batch of updates names a link twice")
    rows: list[tuple[LinkId, LinkRow]] = []
    for patch in patches:
        link = stored.get(patch.id)
        if link is None:
            raise LinkNotFound(f"no such link in {scope.name!r}", namespace=scope.name)
        conflict = version_conflict(patch.expected_version, link)
        if conflict is not None:
            raise conflict
        row = LinkRow(
            link.source_id, link.target_id, link.type, patch.changes.get("weight", link.weight),
            patch.changes.get("properties", link.properties), link.valid_from,
            patch.changes.get("valid_to", link.valid_to), patch.changes.get("agent"),
        )  # fmt: skip
        validate.period(row.valid_from, row.valid_to)
        rows.append((link.id, row))
    await functional.require_alone([(one, row) for one, row in rows if stored[one].valid_to and row.valid_to is None])
    changed = {one.id: one for one in await links.update(session, scope.id, scope.name, rows)}
    return [changed[patch.id] for patch in patches]
