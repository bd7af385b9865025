"""The searchable side of memories in bulk: what a hot text index is built from."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Lists:
    """A list of keys for each row: row i has `keys[starts[i]:starts[i + 1]]`, each key once.

    `counts`, parallel to `keys`: how often; empty where each counts once.
    """

    starts: NDArray[np.int64]
    keys: NDArray[np.int64 | np.uint32]
    counts: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class OwnedVectors:
    """Unit vectors of shape (m, D) and the memory that owns each, ascending; a memory may own several."""

    owners: NDArray[np.int64]
    vectors: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Documents:
    """Memories ascending by id, n of them; arrays of shape (n,) unless said otherwise.

    Times are seconds since 1970, infinite where open. `authors`: a name's id, -1 for none; `dates`: packed, 0 for
    none; `window_lengths`: -1 for a memory without a window of its own.
    """

    ids: NDArray[np.int64]
    lengths: NDArray[np.float32]
    window_lengths: NDArray[np.float32]
    valid_from: NDArray[np.float64]
    valid_to: NDArray[np.float64]
    authors: NDArray[np.int64]
    dates: NDArray[np.int32]
    importances: NDArray[np.float64]
    created: NDArray[np.float64]
    terms: Lists
    window_terms: Lists
    proper_names: Lists
    names: Lists
    vectors: OwnedVectors
    window_vectors: OwnedVectors
