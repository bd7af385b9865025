"""Versions of memories and links, of forgotten ones too, and what differs between two of them."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from sfm_graph.domain import validate
from sfm_graph.domain.access import Scope
from sfm_graph.domain.identity import Entity, LinkId, MemoryRef
from sfm_graph.domain.link import Link
from sfm_graph.domain.memory import Memory
from sfm_graph.domain.page import Page, cut_page, decode_cursor, encode_cursor, fingerprint
from sfm_graph.domain.states import link_from_state, link_state, memory_from_state, memory_state
from sfm_graph.domain.versions import Difference, Version, differences
from sfm_graph.errors import LinkNotFound, MemoryNotFound, VersionNotFound
from sfm_graph.services.access.guard import needs
from sfm_graph.services.view import View
from sfm_graph.store import history, links, memories
from sfm_graph.store.database import Session
from sfm_graph.store.history import NEWEST, OLDEST, Subject

V = TypeVar("V", Memory, Link)


class History:
    """The queries about what memories and links were. They show what is known now, in a view of the past as well."""

    @needs(Scope.READ)
    async def of_memory(
        self, view: View, namespace: str, ref: MemoryRef, *, first: int, after: str | None
    ) -> Page[Version[Memory]]:
        """A page of a memory's versions, the newest first; a forgotten one is found by id, last key or coordinate.

        Raises MemoryNotFound where nothing is kept, as of an erased one.
        """
        subject = await _memory(view.present().session, await _namespace_id(view, namespace), namespace, ref)
        page = await _page(view, subject, partial(memory_from_state, namespace), first, after)
        if not page.items and after is None:
            raise _missing(namespace, ref)
        return page

    @needs(Scope.READ)
    async def of_link(
        self, view: View, namespace: str, link_id: LinkId, *, first: int, after: str | None
    ) -> Page[Version[Link]]:
        """As above of a link. Raises LinkNotFound."""
        subject = Subject(await _namespace_id(view, namespace) or 0, Entity.LINK, link_id)
        page = await _page(view, subject, partial(link_from_state, namespace), first, after)
        if not page.items and after is None:
            raise LinkNotFound(f"no such link in {namespace!r}", namespace=namespace)
        return page

    @needs(Scope.READ)
    async def diff(self, view: View, namespace: str, ref: MemoryRef, before: int, after: int) -> list[Difference]:
        """What differs between two versions of a memory, by path; see `differences`.

        Raises MemoryNotFound, VersionNotFound for a version that is not kept.
        """
        session = view.present().session
        subject = await _memory(session, await _namespace_id(view, namespace), namespace, ref)
        states = [await _state(session, namespace, subject, ref, version) for version in (before, after)]
        return differences(*states)


async def find_memory(session: Session, namespace_id: int, namespace: str, ref: MemoryRef) -> Subject:
    """The memory behind a reference, stored or forgotten. Raises MemoryNotFound for a key or place of none."""
    found = await memories.locate(session, namespace_id, [ref])
    memory_id = found.get(ref) or next(iter(await history.forgotten(session, namespace_id, [ref])), None)
    if memory_id is None:
        raise _missing(namespace, ref)
    return history.memory_subject(namespace_id, memory_id)


def version_number(value: object, field: str) -> int:
    """A version's number. Raises InvalidInput."""
    return validate.integer(value, field, low=1, high=2**31 - 1)


async def _memory(session: Session, namespace_id: int | None, namespace: str, ref: MemoryRef) -> Subject:
    if namespace_id is None:
        raise _missing(namespace, ref)
    return await find_memory(session, namespace_id, namespace, ref)


async def _namespace_id(view: View, namespace: str) -> int | None:
    found = await view.namespace(namespace)
    return found.id if found else None


async def _page(
    view: View, subject: Subject, read: Callable[[Mapping[str, Any]], V], first: int, after: str | None
) -> Page[Version[V]]:
    query = fingerprint("history", subject)
    place = decode_cursor(query, after)
    before = validate.integer(place[0], "cursor", low=OLDEST, high=NEWEST) if place else NEWEST
    session = view.present().session
    found, more = await history.page(session, subject, read, before, first)
    if not found and after is None:
        # Nothing has changed it since the log begins.
        present = await _present(session, subject)
        return cut_page([] if present is None else [Version(read(present), None, None, None, None)], [""], first)
    cursors = tuple(encode_cursor(query, [one.place]) for one in found)
    return Page(tuple(one.version for one in found), cursors, more)


async def _present(session: Session, subject: Subject) -> dict[str, Any] | None:
    if subject.entity is Entity.LINK:
        link = (await links.by_ids(session, subject.namespace_id, "", [subject.id])).get(LinkId(subject.id))
        return link_state(link) if link else None
    return next(
        (
            memory_state(one)
            for one in (await memories.by_ids(session, subject.namespace_id, "", [subject.id])).values()
        ),
        None,
    )


async def _state(session: Session, namespace: str, subject: Subject, ref: MemoryRef, version: int) -> dict[str, Any]:
    found = await history.state(session, subject, version)
    if found is not None:
        return found[0]
    present = await _present(session, subject)
    if present is not None and present["version"] == version:
        return present
    if present is None and await history.state(session, subject, None) is None:
        raise _missing(namespace, ref)
    raise VersionNotFound(f"version {version} is not kept", namespace=namespace, version=version)


def _missing(namespace: str, ref: MemoryRef) -> MemoryNotFound:
    return MemoryNotFound(f"nothing is kept of a memory with {ref} in {namespace!r}", namespace=namespace)
