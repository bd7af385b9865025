"""What reads a query and a text together and says how well they fit."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Reranker(Protocol):
    """Scores texts for a query; safe to share between tasks of one event loop. Takes no account of deadlines."""

    @property
    def name(self) -> str:
        """The model's name, for explanations."""
        ...

    async def scores(self, query: str, texts: Sequence[str]) -> NDArray[np.float64]:
        """One score per text, in order: shape (len(texts),), in [0, 1], higher is better.

        Scores of one query compare with each other, not with those of another. Raises RerankerUnavailable.
        """
        ...

    async def aclose(self) -> None:
        """Release what the model holds. May be called twice."""
        ...
