"""How far the consolidation of a namespace has come: through all episodes once, then along the change log."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Self

from sfm_graph.domain.change import Change, Operation
from sfm_graph.domain.consolidation import SOURCE_LINK, SUPERSEDES_LINK, ConsolidationRules
from sfm_graph.domain.identity import Entity, MemoryId
from sfm_graph.domain.memory import MemoryKind
from sfm_graph.domain.position import ChangeLog, Position
from sfm_graph.domain.snapshot import Snapshot
from sfm_graph.store.consolidation import microseconds

# Before every moment.
BEGINNING = -(2**62)
# How it is kept; what begins with `_` is for nobody else.
_PLACE = "_place"


@dataclass(frozen=True, slots=True)
class Progress:
    """`scan`: the time and id that the way through all episodes has come to, None once it is done. `position`: from
    where on the change log is read after that. Both hold for these rules and this log alone."""

    rules: Mapping[str, Any]
    epoch: str
    position: Position
    scan: tuple[int, int] | None

    @classmethod
    def begin(cls, rules: ConsolidationRules, log: ChangeLog, snapshot: str) -> Self:
        """Through all episodes, as the log is now."""
        return cls(rules.as_json(), str(log.epoch), Position(Snapshot(snapshot)), (BEGINNING, 0))

    @classmethod
    def kept(cls, state: Mapping[str, Any], rules: ConsolidationRules, log: ChangeLog) -> Self | None:
        """What was noted; None where it is of no use any more."""
        place = state.get(_PLACE)
        if not place or place["rules"] != rules.as_json() or place["epoch"] != str(log.epoch):
            return None
        until = Snapshot(place["until"]) if place["until"] else None
        position = Position(Snapshot(place["seen"]), until, place["last_id"])
        scan = place["scan"]
        return (
            cls(place["rules"], place["epoch"], position, tuple(scan) if scan else None)
            if (log.keeps(position.seen))
            else None
        )

    def as_json(self) -> dict[str, Any]:
        """What is noted."""
        until = self.position.until
        return {
            "scanned": self.scan is None,
            _PLACE: {
                "rules": dict(self.rules), "epoch": self.epoch, "seen": self.position.seen.text,
                "until": until.text if until else None, "last_id": self.position.last_id,
                "scan": list(self.scan) if self.scan else None,
            },
        }  # fmt: skip

    def at(self, scan: tuple[int, int] | None) -> Self:
        """Further on the way through all episodes, or at its end."""
        return replace(self, scan=scan)

    def read(self, position: Position) -> Self:
        """Further in the log."""
        return replace(self, position=position)


def places(change: Change) -> Iterator[tuple[int, MemoryId]]:
    """Where in time a change of an episode has to be looked at: where it was, and where it is. Nothing follows from
    its removal."""
    if change.entity is not Entity.MEMORY or change.operation is Operation.FORGET:
        return
    for state in (change.before(), change.after()):
        if state and state["kind"] == MemoryKind.EPISODIC:
            moment = datetime.fromisoformat(state["valid_from"] or state["created_at"])
            yield microseconds(moment), MemoryId(change.entity_id)


def ends(change: Change) -> Iterator[MemoryId]:
    """The memories that a link joins or joined, if it says something about what belongs together."""
    if change.entity is not Entity.LINK:
        return
    for state in (change.before(), change.after()):
        if state and state["type"] not in (SOURCE_LINK, SUPERSEDES_LINK):
            yield MemoryId(state["source_id"])
            yield MemoryId(state["target_id"])
