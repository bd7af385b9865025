"""Memory ids as small numbers: what the arrays of a hot graph refer to."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

# So few ids are looked up one by one sooner than together.
FEW = 4
# A range of ids at most this many times their number is looked up in a table instead of being sorted.
SPARSEST_RANGE = 16


@dataclass(frozen=True, slots=True)
class Nodes:
    """The memories of a graph, numbered from 0: those of the last build ascending by id, then others as they came.

    `base` is ascending; `late` is in order of arrival and `late_order` sorts it.
    """

    base: Ints
    late: Ints
    late_order: Ints

    def __len__(self) -> int:
        return len(self.base) + len(self.late)

    @property
    def nbytes(self) -> int:
        """Resident bytes."""
        return self.base.nbytes + self.late.nbytes + self.late_order.nbytes

    def ids(self, nodes: NDArray[np.integer]) -> Ints:
        """The memory ids of nodes, in their order."""
        if not len(self.late):
            found: Ints = self.base[nodes]
            return found
        return np.where(
            nodes < len(self.base),
            self.base[np.minimum(nodes, len(self.base) - 1)] if len(self.base) else 0,
            self.late[np.maximum(nodes - len(self.base), 0)],
        )

    def find(self, ids: Ints) -> Ints:
        """The node of each memory id; -1 where the graph has none."""
        if len(ids) <= FEW and not len(self.late):
            return np.array([self._find_in_base(one) for one in ids.tolist()], np.int64)
        found = _places(self.base, ids)
        if len(self.late):
            # Through the order, not in a sorted copy: a look-up must not cost what all late nodes do.
            places = np.minimum(self.late.searchsorted(ids, sorter=self.late_order), len(self.late) - 1)
            late = self.late_order[places]
            found = np.where((found < 0) & (self.late[late] == ids), late + len(self.base), found)
        return found

    def _find_in_base(self, memory_id: int) -> int:
        place = int(self.base.searchsorted(memory_id))
        return place if place < len(self.base) and self.base[place] == memory_id else -1

    def extended(self, ids: Ints) -> "Nodes":
        """With a node for each of these memory ids that has none."""
        unknown = np.unique(ids[self.find(ids) < 0])
        if not len(unknown):
            return self
        late = np.concatenate([self.late, unknown])
        return Nodes(self.base, late, np.argsort(late, kind="stable"))


def numbered(*columns: Ints) -> tuple[Nodes, list[NDArray[np.int32]]]:
    """Nodes for all ids in the columns, and each column as nodes. O(n) for ids of one insertion, else O(n log n)."""
    lowest = min((int(column.min()) for column in columns if len(column)), default=0)
    highest = max((int(column.max()) for column in columns if len(column)), default=-1)
    span = highest - lowest + 1
    nothing = np.empty(0, np.int64)
    if span > SPARSEST_RANGE * max(1, sum(map(len, columns))):
        base, inverse = np.unique(np.concatenate(columns), return_inverse=True)
        ends = np.cumsum([len(column) for column in columns])[:-1]
        return Nodes(base, nothing, nothing), [one.astype(np.int32) for one in np.split(inverse, ends)]
    present = np.zeros(span, np.bool_)
    for column in columns:
        present[column - lowest] = True
    number = np.cumsum(present, dtype=np.int32) - np.int32(1)
    return Nodes(np.flatnonzero(present) + lowest, nothing, nothing), [number[column - lowest] for column in columns]


def _places(ascending: Ints, ids: Ints) -> Ints:
    if not len(ascending):
        return np.full(len(ids), -1, np.int64)
    places = np.searchsorted(ascending, ids)
    places[places == len(ascending)] = 0
    return np.where(ascending[places] == ids, places, -1)
