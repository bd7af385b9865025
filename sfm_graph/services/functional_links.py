"""Functional link types in one transaction: room is made for links that open, so that one is open afterwards.

Who opens such a link holds the memory that it leaves, `for no key update`, before any other lock of a link: two of
them come one after the other. Links of linkers neither close others nor are closed.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from sfm_graph.domain.functional_links import ALWAYS, OpenLink, Room, make_room
from sfm_graph.domain.identity import LinkId, MemoryId, MemoryRef
from sfm_graph.domain.link import Link
from sfm_graph.domain.namespace import Namespace
from sfm_graph.errors import Conflict
from sfm_graph.store import links, memories
from sfm_graph.store.database import LostRace, WriteSession
from sfm_graph.store.links import LinkRow

Closing = tuple[LinkId, LinkRow]


@dataclass(slots=True)
class FunctionalLinks:
    """One transaction's: `hold` before the ends of links are resolved, `require_held` after."""

    _session: WriteSession
    _scope: Namespace
    _held: set[MemoryId] = field(default_factory=set)

    def concerns(self, type_: str) -> bool:
        """Whether a link type is functional here."""
        return type_ in self._scope.settings.functional_types

    async def hold(self, sources: Iterable[MemoryRef]) -> None:
        """Hold memories that links of functional types are to leave, by id."""
        refs = list(dict.fromkeys(sources))
        if refs:
            found = await memories.locate(self._session, self._scope.id, refs)
            self._held |= await memories.hold(
                self._session, self._scope.id, {found[ref] for ref in refs if ref in found}
            )

    async def hold_sources(self, ids: Sequence[LinkId]) -> None:
        """Hold the memories that stored links of functional types leave."""
        if ids and self._scope.settings.functional_types:
            found = await links.by_ids(self._session, self._scope.id, self._scope.name, ids)
            await self.hold(MemoryRef(id=one.source_id) for one in found.values() if self.concerns(one.type))

    def require_held(self, rows: Iterable[LinkRow]) -> None:
        """Raises LostRace where a reference has come to name another memory since `hold`."""
        if any(self.concerns(row.type) and row.source_id not in self._held for row in rows):
            raise LostRace("a memory that a link leaves became another one")

    def pairs(self, rows: Iterable[LinkRow]) -> list[tuple[MemoryId, str]]:
        """Of rows that open functional links the source and the type: whose open links have to be locked."""
        return [(row.source_id, row.type) for row in rows if row.valid_to is None and self.concerns(row.type)]

    def room_for(
        self, row: LinkRow, found: Mapping[tuple[Any, ...], Link], *, begins_now: bool = True
    ) -> tuple[LinkRow, list[Closing]]:
        """A row as it is to be written, and the links that it closes. `found`: locked links by identity.

        `begins_now`: where it has no beginning and others are open; else it is older than they. Raises Conflict.
        """
        if not self.pairs([row]):
            return row, []
        others = {one.id: one for one in found.values() if _stands_beside(one, row)}
        stored = found.get(row.identity)
        room = make_room(
            self._scope.name,
            row.target_id,
            row.valid_from if begins_now else row.valid_from or ALWAYS,
            [OpenLink(one.id, one.target_id, one.valid_from) for one in others.values()],
            datetime.now(UTC),
            ended=stored.valid_to if stored is not None else None,
        )
        return replace(row, valid_from=room.begin, valid_to=room.end), _closings(room, others, row.agent)

    async def require_alone(self, reopened: Sequence[tuple[LinkId, LinkRow]]) -> None:
        """Raises Conflict where a link that is to be open again would not be the only one."""
        rows = [row for _, row in reopened]
        pairs = self.pairs(rows)
        if not pairs:
            return
        self.require_held(rows)
        found = await links.lock(self._session, self._scope.id, self._scope.name, [], open_of=pairs)
        for link_id, row in reopened:
            others = [one for one in found if one.id != link_id and _is_open(one, row)]
            twins = [one for one, other in reopened if one != link_id and (other.source_id, other.type) == _pair(row)]
            if self.pairs([row]) and (others or twins):
                raise Conflict(
                    f"another link of the functional type {row.type!r} is open; end it first",
                    namespace=self._scope.name,
                )


def _pair(row: LinkRow) -> tuple[MemoryId, str]:
    return row.source_id, row.type


def _is_open(link: Link, row: LinkRow) -> bool:
    return link.valid_to is None and link.maker is None and (link.source_id, link.type) == _pair(row)


def _stands_beside(link: Link, row: LinkRow) -> bool:
    """Whether a link is open and not the one that the row replaces by its own beginning."""
    return _is_open(link, row) and (row.valid_from is None or links.identity_of(link) != row.identity)


def _closings(room: Room, others: Mapping[LinkId, Link], agent: str | None) -> list[Closing]:
    found = [others[one] for one in room.closed]
    return [
        (one.id, LinkRow(
            one.source_id, one.target_id, one.type, one.weight, one.properties, one.valid_from, room.at, agent
        ))
        for one in found
    ]  # fmt: skip
