"""What turns text into vectors."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sfm_graph.domain.namespace import ModelIdentity

# Of models trained on texts, ours or a caller's: an exact scan of so many in memory takes 3.5 ms.
LEARNED_EXACT_SCAN_LIMIT = 100_000
# Measured on questions about passages and conversations: docs/decisions/0006.
LEARNED_DENSE_SHARE = 0.55


class Embedder(Protocol):
    """Embeds texts; safe to share between tasks of one event loop."""

    @property
    def identity(self) -> ModelIdentity: ...

    @property
    def exact_scan_limit(self) -> int:
        """A namespace of up to this many vectors is always scanned exactly, not through an index."""
        ...

    @property
    def dense_share(self) -> float:
        """The dense leg's share in a fusion with BM25 that was measured to serve best, in [0, 1]."""
        ...

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """One row per text, in order: shape (len(texts), dimension).

        Rows have the Euclidean length 1; a text without any feature (no word in it) has a row of zeros.
        Raises EmbedderUnavailable.
        """
        ...

    async def aclose(self) -> None:
        """Release what the model holds. May be called twice."""
        ...
