"""The searchable side of memories in bulk: what a hot text index is built from."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Documents:
    """Memories ascending by id. `terms` of row i: `term_ids[starts[i]:starts[i + 1]]`."""

    ids: NDArray[np.int64]
    lengths: NDArray[np.float32]
    valid_from: NDArray[np.float64]
    valid_to: NDArray[np.float64]
    starts: NDArray[np.int64]
    term_ids: NDArray[np.uint32]
    term_counts: NDArray[np.float32]
    # Owner of each vector, ascending; shape (m,), and the vectors, shape (m, D).
    vector_ids: NDArray[np.int64]
    vectors: NDArray[np.float32]
