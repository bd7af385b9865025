"""Whether the versions of an export end in what there is: otherwise what is restored from them would be made up."""

from array import array
from collections.abc import Mapping
from typing import Any

from sfm_graph.domain.everything import VersionLine, link_fields, memory_fields
from sfm_graph.domain.identity import Entity
from sfm_graph.domain.link import Link
from sfm_graph.domain.memory import Memory
from sfm_graph.errors import InvalidInput

_GONE = 0
# No hash of Python's is -1.
_NO_VERSION = -1


class Endings:
    """What each memory and link is, and what its last version says: 16 bytes for each."""

    def __init__(self) -> None:
        self._present = {Entity.MEMORY: array("q"), Entity.LINK: array("q")}
        self._last = {Entity.MEMORY: array("q"), Entity.LINK: array("q")}

    def is_now(self, entity: Entity, state: Memory | Link | None) -> None:
        """Note the next memory or link; None: there is none by this number."""
        self._present[entity].append(_digest(state))
        self._last[entity].append(_NO_VERSION)

    def became(self, version: VersionLine) -> None:
        """Note a version of a memory or link that was noted."""
        self._last[version.entity][version.number - 1] = _digest(version.after)

    def require_fitting(self) -> None:
        """Raises InvalidInput for versions that do not end in what there is."""
        for entity, present in self._present.items():
            for number, (state, last) in enumerate(zip(present, self._last[entity], strict=True), start=1):
                if last not in (_NO_VERSION, state):
                    raise InvalidInput(
                        f"the versions of {entity.value} {number} do not end in what it is", field="number"
                    )


def _digest(state: Memory | Link | None) -> int:
    if state is None:
        return _GONE
    fields: Mapping[str, Any] = memory_fields(state) if isinstance(state, Memory) else link_fields(state)
    return hash(_frozen(fields)) or 1


def _frozen(value: Any) -> Any:
    if isinstance(value, Mapping):
        return frozenset((name, _frozen(one)) for name, one in value.items())
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value
