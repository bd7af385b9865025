"""Getting, listing and looking up memories, in one view."""

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sfm_graph.domain import validate
from sfm_graph.domain.access import Scope
from sfm_graph.domain.identity import Coordinate, MemoryRef
from sfm_graph.domain.memory import Memory, MemoryKind
from sfm_graph.domain.page import (
    OrderBy,
    OrderField,
    Page,
    cut_page,
    decode_cursor,
    encode_cursor,
    fingerprint,
)
from sfm_graph.domain.where import InBox, Where, ordered_paths
from sfm_graph.domain.words import words
from sfm_graph.errors import InvalidCursor, InvalidInput, MemoryNotFound
from sfm_graph.services.access.guard import needs
from sfm_graph.services.view import View
from sfm_graph.store import memories, search


class MemoryReads:
    """The queries about memories themselves."""

    @needs(Scope.READ)
    async def get(self, view: View, namespace: str, ref: MemoryRef) -> Memory:
        """One memory. Raises MemoryNotFound."""
        memory = (await self.look_up(view, namespace, [ref]))[0]
        if memory is None:
            raise MemoryNotFound(f"no memory with {ref} in {namespace!r}", namespace=namespace)
        return memory

    @needs(Scope.READ)
    async def find_many(self, view: View, namespace: str, refs: Sequence[MemoryRef]) -> list[Memory | None]:
        """The memories behind references, in order, None where there is none."""
        found = await view.namespace(namespace)
        if found is None:
            return [None] * len(refs)
        return await memories.find(view.session, found.id, namespace, refs)

    @needs(Scope.READ)
    async def look_up(self, view: View, namespace: str, refs: Sequence[MemoryRef]) -> list[Memory | None]:
        """As `find_many`; where a moment of validity was asked for, None also for what was not valid then."""
        found = await self.find_many(view, namespace, refs)
        if view.as_of.valid is None:
            return found
        return [one if one is not None and one.is_valid(view.now) else None for one in found]

    @needs(Scope.READ)
    async def list(
        self, view: View, namespace: str, *, where: Where, order: OrderBy, first: int, after: str | None
    ) -> Page[Memory]:
        """A page of the memories that a filter keeps. Raises InvalidCursor for another listing's cursor.

        As every listing: also of what is not valid now, but as of a moment of validity only of what was valid then.
        """
        query = fingerprint("list", namespace, where, order, view.as_of)
        place = _place(decode_cursor(query, after), order)
        found = await view.namespace(namespace)
        if found is None:
            return Page((), (), False)
        require_declared(where, found.settings.payload_paths)
        kept = view.filtered(where)
        rows = await search.list_memories(view.session, found.id, namespace, kept, order, place, first + 1)
        return cut_page(rows, [encode_cursor(query, _place_of(row, order)) for row in rows], first)

    @needs(Scope.READ)
    async def in_box(
        self,
        view: View,
        namespace: str,
        box: InBox,
        *,
        kind: MemoryKind | None,
        first: int,
        after: str | None,
    ) -> Page[Memory]:
        """A page of the memories in a coordinate box, in coordinate order."""
        query = fingerprint("box", namespace, box, kind, view.as_of)
        place = decode_cursor(query, after)
        found = await view.namespace(namespace)
        if found is None:
            return Page((), (), False)
        last: Coordinate | None = validate.coordinate(place) if place else None
        rows = await search.in_box(
            view.session,
            found.id,
            namespace,
            box.low,
            box.high,
            kind.value if kind else None,
            last,
            first + 1,
            view.as_of.valid,
        )
        return cut_page(rows, [encode_cursor(query, row.coordinate) for row in rows], first)

    @needs(Scope.READ)
    async def with_words(
        self, view: View, namespace: str, term: str, *, exact: bool, case_sensitive: bool, first: int,
        after: str | None,
    ) -> Page[Memory]:  # fmt: skip
        """A page of the memories that hold every word of `term`, by id; as word prefixes unless `exact`."""
        validate.text(term, "term", max_chars=1_000)
        wanted = words(term)
        if not wanted:
            raise InvalidInput("term holds no word to search for", field="term")
        query = fingerprint("words", namespace, term, exact, case_sensitive, view.as_of)
        place = decode_cursor(query, after)
        found = await view.namespace(namespace)
        if found is None:
            return Page((), (), False)
        rows = await search.with_words(
            view.session, found.id, namespace, list(dict.fromkeys(wanted)), prefix=not exact,
            pattern=_pattern(term, exact=exact) if case_sensitive else None,
            after=_row_id(place), limit=first + 1, valid=view.as_of.valid,
        )  # fmt: skip
        return cut_page(rows, [encode_cursor(query, [row.id]) for row in rows], first)


def require_declared(where: Where, declared: Sequence[tuple[str, ...]]) -> None:
    """Raises InvalidInput when the filter orders by a payload path that the namespace has not declared."""
    undeclared = ordered_paths(where) - set(declared)
    if undeclared:
        path = ".".join(min(undeclared))
        raise InvalidInput(
            f"gt, gte, lt and lte need the payload path {path!r} to be declared in the namespace's payload_paths",
            field="where",
        )


def _pattern(term: str, *, exact: bool) -> str:
    # Postgres word boundaries: \m and \M. re.escape writes what its regular expressions read the same way.
    parts = [rf"\m{re.escape(word)}{chr(92) + 'M' if exact else ''}" for word in re.findall(r"\w+", term)]
    return "".join(f"(?=.*{part})" for part in parts)


def _row_id(place: Sequence[Any] | None) -> int:
    if not place:
        return 0
    if len(place) != 1 or isinstance(place[0], bool) or not isinstance(place[0], int) or not 0 <= place[0] < 2**63:
        raise InvalidCursor("the cursor is damaged; start without one")
    return place[0]


def _place_of(memory: Memory, order: OrderBy) -> list[Any]:
    match order.field:
        case OrderField.ID:
            return [memory.id]
        case OrderField.COORDINATE:
            return [memories.array_text(memory.coordinate), memory.id]
        case OrderField.CREATED_AT | OrderField.UPDATED_AT:
            moment: datetime = getattr(memory, order.field.value)
            return [moment.isoformat(), memory.id]
        case _:
            return [getattr(memory, order.field.value), memory.id]


def _place(place: list[Any] | None, order: OrderBy) -> list[Any] | None:
    """The place of a decoded cursor, its types checked: a forged one must not reach the database as an error."""
    if place is None:
        return None
    damaged = InvalidCursor("the cursor is damaged; start without one")
    _row_id(place[-1:])
    if len(place) != (1 if order.field is OrderField.ID else 2):
        raise damaged
    value = place[0]
    match order.field:
        case OrderField.ID:
            return place
        case OrderField.IMPORTANCE:
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise damaged
        case OrderField.COORDINATE:
            try:
                validate.coordinate_from_text(str(value).strip("{}"))
            except InvalidInput as exc:
                raise damaged from exc
        case OrderField.CREATED_AT | OrderField.UPDATED_AT:
            try:
                validate.moment(value, "cursor")
            except InvalidInput as exc:
                raise damaged from exc
        case OrderField.KEY:
            validate.text(value, "cursor", max_chars=validate.MAX_KEY_CHARS)
    return place
