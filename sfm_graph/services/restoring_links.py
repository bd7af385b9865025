"""Links that come back under their ids, in one transaction."""

from collections.abc import Mapping, Sequence
from typing import Any

from sfm_graph.domain.identity import LinkId, MemoryRef
from sfm_graph.domain.link import Link
from sfm_graph.domain.namespace import Namespace
from sfm_graph.errors import Conflict, LinkNotFound, MemoryNotFound, VersionConflict
from sfm_graph.services.functional_links import Closing, FunctionalLinks
from sfm_graph.services.link_batch import version_conflict, waves
from sfm_graph.store import links, memories
from sfm_graph.store.database import WriteSession
from sfm_graph.store.links import LinkRow


async def bring_back(session: WriteSession, scope: Namespace, last: Sequence[Link]) -> list[Link]:
    """Bring back forgotten links as they last were, where both ends exist and nothing stands in their place.

    Of a functional type, one ends where a link begins that is open now.
    """
    functional = FunctionalLinks(session, scope)
    await functional.hold(MemoryRef(id=one.source_id) for one in last if functional.concerns(one.type))
    ends = await memories.resolve(
        session, scope.id, [MemoryRef(id=end) for one in last for end in (one.source_id, one.target_id)]
    )
    stored = await links.lock_ids(session, scope.id, scope.name, [one.id for one in last])
    rows = {
        place: row_of(one)
        for place, one in enumerate(last)
        if one.id not in stored and {MemoryRef(id=one.source_id), MemoryRef(id=one.target_id)} <= ends.keys()
    }
    functional.require_held(rows.values())
    done: list[Link] = []
    for wave in waves(rows, functional):
        found = await _locked(session, scope, functional, list(wave.values()))
        fitting = [
            (fitted, last[place])
            for place, row in wave.items()
            if (fitted := _fitted(functional, row, found)) is not None
        ]
        if fitting:
            done += await links.insert(
                session, scope.id, scope.name, [row for row, _ in fitting], again=[link for _, link in fitting]
            )
    return sorted(done, key=lambda one: one.id)


async def bring_one_back(session: WriteSession, scope: Namespace, last: Link, wanted: Link) -> Link:
    """Bring back a forgotten link as the version `wanted`, after its version `last`.

    Raises MemoryNotFound without one of its ends, Conflict where another link stands in its place.
    """
    functional = FunctionalLinks(session, scope)
    await functional.hold([MemoryRef(id=wanted.source_id)] if functional.concerns(wanted.type) else [])
    refs = [MemoryRef(id=wanted.source_id), MemoryRef(id=wanted.target_id)]
    ends = await memories.resolve(session, scope.id, refs)
    if not ends.keys() >= set(refs):
        raise MemoryNotFound("a memory that the link joined is gone; restore it first", namespace=scope.name)
    row = row_of(wanted)
    functional.require_held([row])
    found = await _locked(session, scope, functional, [row])
    row, _ = functional.room_for(row, found, begins_now=False)
    if row.identity in found:
        raise Conflict("there is such a link again, with another id", namespace=scope.name)
    return (await links.insert(session, scope.id, scope.name, [row], again=[last]))[0]


async def put_back(
    session: WriteSession, scope: Namespace, link_id: LinkId, wanted: Link, expected_version: int | None
) -> Link | None:
    """Give a stored link its earlier weight, properties and end; None when it is not stored. Raises VersionConflict,
    and Conflict where it would be the second open one of a functional type."""
    functional = FunctionalLinks(session, scope)
    if wanted.valid_to is None:
        await functional.hold_sources([link_id])
    stored = (await links.lock_ids(session, scope.id, scope.name, [link_id])).get(link_id)
    if stored is None:
        return None
    conflict: VersionConflict | None = version_conflict(expected_version, stored)
    if conflict is not None:
        raise conflict
    row = row_of(wanted)
    if stored.valid_to is not None and row.valid_to is None:
        await functional.require_alone([(link_id, row)])
    return (await links.update(session, scope.id, scope.name, [(link_id, row)]))[0]


def row_of(link: Link) -> LinkRow:
    """A link as it is written."""
    return LinkRow(
        link.source_id, link.target_id, link.type, link.weight, link.properties, link.valid_from, link.valid_to,
        link.agent,
    )  # fmt: skip


def missing_link(namespace: str) -> LinkNotFound:
    """The error of a link of which nothing is kept."""
    return LinkNotFound(f"no such link in {namespace!r}", namespace=namespace)


async def _locked(
    session: WriteSession, scope: Namespace, functional: FunctionalLinks, rows: Sequence[LinkRow]
) -> dict[tuple[Any, ...], Link]:
    found = await links.lock(session, scope.id, scope.name, rows, open_of=functional.pairs(rows))
    return {links.identity_of(one): one for one in found}


def _fitted(functional: FunctionalLinks, row: LinkRow, found: Mapping[tuple[Any, ...], Link]) -> LinkRow | None:
    """The row as it fits beside the links that there are; None where one stands in its place."""
    if row.identity in found:
        return None
    closed: list[Closing]
    try:
        row, closed = functional.room_for(row, found, begins_now=False)
    except Conflict:
        return None
    # What was said since it was forgotten holds: it comes back without closing anything.
    return None if closed else row
