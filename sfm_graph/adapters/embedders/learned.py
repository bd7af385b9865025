"""What the embedders with a trained model have in common."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sfm_graph.domain.namespace import ModelIdentity
from sfm_graph.domain.validate import MAX_EMBEDDING_DIMENSION
from sfm_graph.domain.words import words
from sfm_graph.errors import EmbedderUnavailable, SettingsError
from sfm_graph.ports.embedder import LEARNED_DENSE_SHARE, LEARNED_EXACT_SCAN_LIMIT

_PIECE_CHARS = 1_024


class LearnedEmbedder(ABC):
    """An Embedder but for the model: keeps texts without words from it and makes rows of length 1."""

    def __init__(self, identity: ModelIdentity) -> None:
        """Raises SettingsError for vectors that are too long to be stored."""
        if identity.dimension > MAX_EMBEDDING_DIMENSION:
            raise SettingsError(f"vectors have at most {MAX_EMBEDDING_DIMENSION} dimensions, not those of {identity}")
        self._identity = identity

    @property
    def identity(self) -> ModelIdentity:
        return self._identity

    @property
    def exact_scan_limit(self) -> int:
        return LEARNED_EXACT_SCAN_LIMIT

    @property
    def dense_share(self) -> float:
        return LEARNED_DENSE_SHARE

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """As the port says. Raises EmbedderUnavailable."""
        vectors = np.zeros((len(texts), self._identity.dimension), np.float32)
        telling = [row for row, text in enumerate(texts) if _has_word(text)]
        if telling:
            vectors[telling] = unit_rows(await self._vectors([texts[row] for row in telling]))
        return vectors

    @abstractmethod
    async def _vectors(self, texts: Sequence[str]) -> NDArray[np.floating]:
        """The model's vectors of texts with words in them, in order; any length. Raises EmbedderUnavailable."""


def unit_rows(rows: NDArray[np.floating]) -> NDArray[np.float64]:
    """Rows of length 1; rows of zeros stay. Raises EmbedderUnavailable for NaN and infinity."""
    largest = np.abs(rows).max(axis=1, keepdims=True, initial=0.0).astype(np.float64)
    if not np.isfinite(largest).all():
        raise EmbedderUnavailable("the embedding model gave numbers that are not finite")
    # By the largest number first, so that no square overflows or vanishes.
    scaled = rows / np.where(largest == 0.0, 1.0, largest)
    lengths = np.sqrt(np.einsum("ij,ij->i", scaled, scaled))[:, np.newaxis]
    unit: NDArray[np.float64] = scaled / np.where(lengths == 0.0, 1.0, lengths)
    return unit


def _has_word(text: str) -> bool:
    return any(words(text[start : start + _PIECE_CHARS]) for start in range(0, len(text), _PIECE_CHARS))
