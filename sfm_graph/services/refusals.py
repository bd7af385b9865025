"""Refused items of a bulk write: reported when it is partial, raised when it is not."""

from collections.abc import Mapping

from sfm_graph.domain.memory import FailedItem
from sfm_graph.errors import SfmError


def refuse(failed: dict[int, SfmError], index: int, error: SfmError, partial: bool) -> None:
    """Note a refused item of a partial bulk write; raise its error otherwise."""
    error.details.setdefault("index", index)
    if not partial:
        raise error
    failed[index] = error


def failed_items(failed: Mapping[int, SfmError]) -> tuple[FailedItem, ...]:
    """Refused items in the order of the request."""
    return tuple(FailedItem(index, failed[index].code, failed[index].message) for index in sorted(failed))
