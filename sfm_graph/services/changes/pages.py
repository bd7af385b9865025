"""What readers of the stream are given."""

from collections.abc import Iterable
from dataclasses import dataclass

from sfm_graph.domain.change import Change
from sfm_graph.domain.position import ChangeLog, Position
from sfm_graph.domain.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class StreamedChange:
    """A change, and the cursor behind it."""

    change: Change
    cursor: str


@dataclass(frozen=True, slots=True)
class ChangePage:
    """Changes in order, those of one memory or link as they were made; where to go on; whether more are there now."""

    changes: tuple[StreamedChange, ...]
    cursor: str
    more: bool


@dataclass(frozen=True, slots=True)
class Cursors:
    """Makes the cursors of one namespace's readers."""

    log: ChangeLog
    namespace_id: int

    def at(self, position: Position) -> str:
        """The cursor of a place."""
        return self.log.encode(self.namespace_id, position)

    def streamed(self, changes: Iterable[Change], position: Position, until: Snapshot) -> list[StreamedChange]:
        """Changes of a delta that was read from `position` and goes up to `until`, each with its cursor."""
        return [StreamedChange(one, self.at(position.within(until, one.id))) for one in changes]
