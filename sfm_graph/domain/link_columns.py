"""Links in bulk, as walks need them: what a hot graph is built from."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Postgres counts microseconds from 2000-01-01 UTC; open ends of a validity are the extremes.
ALWAYS_FROM = np.iinfo(np.int64).min
ALWAYS_TO = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class LinkColumns:
    """Links ascending by id, one per place, all columns of shape (n,).

    `types` are places in `type_names`; `weights` are costs >= 0; `valid_from`, `valid_to` are microseconds since
    2000-01-01 UTC, both None when every link is always valid.
    """

    ids: NDArray[np.int64]
    sources: NDArray[np.int64]
    targets: NDArray[np.int64]
    types: NDArray[np.int64]
    weights: NDArray[np.float64]
    type_names: Sequence[str]
    valid_from: NDArray[np.int64] | None = None
    valid_to: NDArray[np.int64] | None = None
