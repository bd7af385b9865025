"""Making, changing, removing and reading links. Each mutation is one transaction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sfm_graph.domain import inputs, validate
from sfm_graph.domain.access import Scope
from sfm_graph.domain.identity import LinkId, MemoryId, MemoryRef
from sfm_graph.domain.link import Link, LinkPatch, NewLink, StoredLink
from sfm_graph.domain.memory import BulkResult, FailedItem, WriteOperation
from sfm_graph.domain.namespace import Namespace
from sfm_graph.domain.page import Page, cut_page, decode_cursor, encode_cursor, fingerprint
from sfm_graph.domain.states import link_from_state, link_state
from sfm_graph.domain.walk import WalkFilter
from sfm_graph.domain.where import EVERYTHING, Where
from sfm_graph.errors import LinkNotFound, MemoryNotFound, SfmError, TooLarge, VersionConflict
from sfm_graph.services.access.guard import needs
from sfm_graph.services.idempotency import IdempotencyKey, once
from sfm_graph.services.offload import offload
from sfm_graph.services.refusals import failed_items, refuse
from sfm_graph.services.view import View
from sfm_graph.store import links, memories, namespaces
from sfm_graph.store.database import Database, WriteSession
from sfm_graph.store.links import LinkRow

BulkLinks = BulkResult[StoredLink]


@dataclass(frozen=True, slots=True)
class LinkRequest:
    """One link to make as a caller describes it: raw references and fields, validated by the service."""

    source: Any
    target: Any
    fields: Mapping[str, Any]


class Links:
    """The mutations and listings of links."""

    def __init__(self, database: Database) -> None:
        self._database = database

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
    ) -> BulkLinks:
        """Make up to 10,000 links in one transaction, as if one after the other.

        The first refused one refuses all with its error (MemoryNotFound for an unknown end), `details["index"]` its
        place; with `partial` it is reported and the others are made.
        """
        validate.namespace(namespace)
        if len(requests) > validate.MAX_BULK_ITEMS:
            raise TooLarge(f"{len(requests)} links; one transaction takes at most {validate.MAX_BULK_ITEMS}")
        given, failed = await offload(len(requests), _checked, namespace, requests, partial)

        async def work(session: WriteSession) -> BulkLinks:
            scope = await namespaces.lock(session, namespace)

            async def make() -> BulkLinks:
                return await _make(session, scope, given, dict(failed), partial=partial, skip=skip_unchanged)

            return await once(
                session, scope.id, "link", key, make, _encode_bulk, lambda kept: _decode_bulk(namespace, kept)
            )

        return await self._database.write(work)

    @needs(Scope.WRITE)
    async def update_many(
        self, namespace: str, patches: Sequence[LinkPatch], *, key: IdempotencyKey | None = None
    ) -> list[Link]:
        """Change weight, properties or valid_to of links, all or none. Raises LinkNotFound, VersionConflict."""

        async def work(session: WriteSession) -> list[Link]:
            scope = await namespaces.lock_existing(session, namespace)
            if scope is None:
                raise LinkNotFound(f"no such link in {namespace!r}", namespace=namespace)

            async def change() -> list[Link]:
                return await _change(session, scope, patches)

            return await once(
                session, scope.id, "update_link", key, change,
                lambda done: [link_state(one) for one in done],
                lambda kept: [link_from_state(namespace, one) for one in kept],
            )  # fmt: skip

        return await self._database.write(work)

    @needs(Scope.WRITE)
    async def unlink_many(
        self, namespace: str, ids: Sequence[LinkId], *, key: IdempotencyKey | None = None
    ) -> list[LinkId]:
        """Remove links by id. The ids of those that existed."""

        async def work(session: WriteSession) -> list[LinkId]:
            scope = await namespaces.lock_existing(session, namespace)
            if scope is None:
                return []

            async def remove() -> list[LinkId]:
                await links.lock_ids(session, scope.id, namespace, ids)
                return sorted(await links.delete(session, scope.id, ids))

            return await once(session, scope.id, "unlink", key, remove, list, list)

        return await self._database.write(work)

    @needs(Scope.WRITE)
    async def unlink_between(
        self, namespace: str, source: MemoryRef, target: MemoryRef, type_: str | None,
        *, key: IdempotencyKey | None = None,
    ) -> list[LinkId]:  # fmt: skip
        """Remove the links from one memory to another, of one type or of any.

        All or none. Raises MemoryNotFound, and TooLarge when there are more than 10,000.
        """

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

        return await self._database.write(work)

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
        """For each memory a page of its links that a filter keeps, by id."""
        query = fingerprint("links", namespace, walk, where)
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


def _checked(
    namespace: str, requests: Sequence[LinkRequest], partial: bool
) -> tuple[dict[int, NewLink], dict[int, SfmError]]:
    """What is asked for and what is refused, by place in the request; about 0.01 ms for each."""
    given: dict[int, NewLink] = {}
    failed: dict[int, SfmError] = {}
    for index, request in enumerate(requests):
        try:
            source = inputs.memory_ref(namespace, request.source)
            target = inputs.memory_ref(namespace, request.target)
            given[index] = inputs.new_link(source, target, request.fields)
        except SfmError as error:
            refuse(failed, index, error, partial)
    return given, failed


async def _make(
    session: WriteSession,
    scope: Namespace,
    given: Mapping[int, NewLink],
    failed: dict[int, SfmError],
    *,
    partial: bool,
    skip: bool,
) -> BulkLinks:
    ends = await memories.resolve(
        session, scope.id, [ref for one in given.values() for ref in (one.source, one.target)]
    )
    rows = await offload(len(given), _rows, scope, given, ends, failed, partial)
    done: dict[int, StoredLink] = {}
    for wave in _waves(rows):
        prior = {
            links.identity_of(one): one
            for one in await links.lock(session, scope.id, scope.name, list(wave.values()))
        }
        done |= await _write_wave(session, scope, given, wave, prior, failed, partial=partial, skip=skip)
    return BulkResult(
        tuple(done[index] for index in sorted(done)),
        failed_items(failed),
    )


def _rows(
    scope: Namespace,
    given: Mapping[int, NewLink],
    ends: Mapping[MemoryRef, MemoryId],
    failed: dict[int, SfmError],
    partial: bool,
) -> dict[int, LinkRow]:
    """The links with their ends resolved; what misses an end is noted, or raised."""
    rows: dict[int, LinkRow] = {}
    for index, one in given.items():
        missing = [ref for ref in (one.source, one.target) if ref not in ends]
        if missing:
            error = MemoryNotFound(
                f"cannot link: no memory with {missing[0]} in {scope.name!r}", namespace=scope.name
            )
            refuse(failed, index, error, partial)
        else:
            rows[index] = LinkRow(
                ends[one.source], ends[one.target], one.type, one.weight, one.properties or {},
                one.valid_from, one.valid_to,
            )  # fmt: skip
    return rows


async def _write_wave(
    session: WriteSession,
    scope: Namespace,
    given: Mapping[int, NewLink],
    wave: Mapping[int, LinkRow],
    prior: Mapping[tuple[Any, ...], Link],
    failed: dict[int, SfmError],
    *,
    partial: bool,
    skip: bool,
) -> dict[int, StoredLink]:
    inserts: dict[int, LinkRow] = {}
    updates: dict[int, tuple[LinkId, LinkRow]] = {}
    done: dict[int, StoredLink] = {}
    for index, row in wave.items():
        stored = prior.get(row.identity)
        conflict = _version_conflict(given[index].expected_version, stored)
        if conflict is not None:
            refuse(failed, index, conflict, partial)
        elif stored is None:
            inserts[index] = row
        elif skip and _same(stored, row):
            done[index] = StoredLink(stored, WriteOperation.UNCHANGED)
        else:
            updates[index] = (stored.id, row)
    written: dict[tuple[Any, ...], Link] = {}
    if inserts:
        made = await links.insert(session, scope.id, scope.name, list(inserts.values()))
        written |= {links.identity_of(one): one for one in made}
    if updates:
        changed = await links.update(session, scope.id, scope.name, list(updates.values()))
        written |= {links.identity_of(one): one for one in changed}
    for index, row in inserts.items():
        done[index] = StoredLink(written[row.identity], WriteOperation.CREATED)
    for index, (_, row) in updates.items():
        done[index] = StoredLink(written[row.identity], WriteOperation.UPDATED)
    return done


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
    stored = await links.lock_ids(session, scope.id, scope.name, [patch.id for patch in patches])
    if len({patch.id for patch in patches}) < len(patches):
        raise VersionConflict("one batch of updates names a link twice")
    rows: list[tuple[LinkId, LinkRow]] = []
    for patch in patches:
        link = stored.get(patch.id)
        if link is None:
            raise LinkNotFound(f"no such link in {scope.name!r}", namespace=scope.name)
        conflict = _version_conflict(patch.expected_version, link)
        if conflict is not None:
            raise conflict
        row = LinkRow(
            link.source_id, link.target_id, link.type, patch.changes.get("weight", link.weight),
            patch.changes.get("properties", link.properties), link.valid_from,
            patch.changes.get("valid_to", link.valid_to),
        )  # fmt: skip
        validate.period(row.valid_from, row.valid_to)
        rows.append((link.id, row))
    changed = {one.id: one for one in await links.update(session, scope.id, scope.name, rows)}
    return [changed[patch.id] for patch in patches]


def _waves(rows: Mapping[int, LinkRow]) -> list[dict[int, LinkRow]]:
    """Rows grouped so that no group holds an identity twice; one group after the other equals one by one."""
    result: list[dict[int, LinkRow]] = []
    times: dict[tuple[Any, ...], int] = {}
    for index, row in rows.items():
        wave = times.get(row.identity, 0)
        times[row.identity] = wave + 1
        if wave == len(result):
            result.append({})
        result[wave][index] = row
    return result


def _version_conflict(expected: int | None, stored: Link | None) -> VersionConflict | None:
    actual = stored.version if stored else None
    if expected is None or expected == actual:
        return None
    return VersionConflict(f"version {expected} was expected, {actual} is stored", expected=expected, actual=actual)


def _same(stored: Link, row: LinkRow) -> bool:
    same = (stored.weight, stored.properties, stored.valid_to) == (row.weight, row.properties, row.valid_to)
    return same and stored.maker is None


def _encode_bulk(result: BulkLinks) -> dict[str, Any]:
    return {
        "stored": [[link_state(one.link), one.operation] for one in result.stored],
        "failed": [[one.index, one.code, one.message] for one in result.failed],
    }


def _decode_bulk(namespace: str, kept: Mapping[str, Any]) -> BulkLinks:
    return BulkResult(
        tuple(StoredLink(link_from_state(namespace, one), WriteOperation(done)) for one, done in kept["stored"]),
        tuple(FailedItem(*one) for one in kept["failed"]),
    )
