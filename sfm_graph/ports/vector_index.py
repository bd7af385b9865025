"""What keeps vectors outside of Postgres and finds the nearest. It may lack or still hold what it likes: Postgres is
asked what is true of every memory that it names."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Collection:
    """Vectors that compare with each other: those of one model in one database.

    `log`: the id of the database's change log, so that two databases, or one before and after a restore from a dump,
    may share a server. `model_id`: of the model's row.
    """

    log: str
    model_id: int
    dimension: int


@dataclass(frozen=True, slots=True)
class Points:
    """Rows of `embeddings`, as parallel arrays: ids, namespaces' ids, memory ids, and whether it is a window's.

    A row is replaced under another id, never updated.
    """

    ids: Ints
    namespace_ids: Ints
    memory_ids: Ints
    windows: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.ids)

    def at(self, places: Sequence[int] | Ints | NDArray[np.bool_] | slice) -> "Points":
        """Some of them, by place or mask."""
        return Points(self.ids[places], self.namespace_ids[places], self.memory_ids[places], self.windows[places])


@dataclass(frozen=True, slots=True)
class Near:
    """The memories of the nearest points, nearest first, a memory once for each of its points, and the scores.

    `all_of_them`: there may be no others. Scores are inner products as the index computes them.
    """

    memory_ids: Ints
    scores: NDArray[np.float64]
    all_of_them: bool


class VectorIndex(Protocol):
    """Finds. Safe to share between tasks of one event loop; every method raises VectorIndexUnavailable."""

    async def nearest(
        self, collection: Collection, namespace_id: int, vector: NDArray[np.float32], limit: int, *,
        windows: bool, exact: bool = False,
    ) -> Near | None:  # fmt: skip
        """Up to `limit` points of a namespace nearest to a unit vector; `windows`: of windows, else of texts' parts.

        `exact`: compares with every point. None: the collection is not ready.
        """
        ...

    async def ping(self) -> None:
        """One round trip."""
        ...

    async def aclose(self) -> None:
        """Let go of connections."""
        ...


class VectorIndexWriter(Protocol):
    """Keeps the points. Every method returns when its effect is there to be found, may be repeated, and raises
    VectorIndexUnavailable."""

    async def collections(self, log: str) -> dict[Collection, bool]:
        """The collections of a log; True: ready to be searched."""
        ...

    async def create(self, collection: Collection) -> None:
        """Make a collection unless it is there; nobody searches it until `publish`."""
        ...

    async def publish(self, collection: Collection) -> None:
        """Have a collection searched from now on."""
        ...

    async def put(self, collection: Collection, points: Points, vectors: NDArray[np.float32]) -> None:
        """Store points, `vectors` of shape (points, dimension); at most some hundred at a time."""
        ...

    async def remove(self, collection: Collection, ids: Ints) -> None:
        """Remove points by id; unknown ones are no error."""
        ...

    async def remove_namespace(self, collection: Collection, namespace_id: int) -> None:
        """Remove all points of a namespace."""
        ...

    async def of_memories(self, collection: Collection, memory_ids: Ints) -> Points:
        """The points of memories, at most some hundred of these at a time, in any order."""
        ...

    async def page(self, collection: Collection, after: int, limit: int) -> Points:
        """The next points with an id above `after`, by id."""
        ...


class ServedVectorIndex(VectorIndex, VectorIndexWriter, Protocol):
    """Both sides of an index."""
