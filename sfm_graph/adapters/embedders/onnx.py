"""Embedding models in ONNX form, on the processor, in threads of this process."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from sfm_graph.adapters.embedders.learned import LearnedEmbedder
from sfm_graph.adapters.models.onnx_files import HUB_PATTERNS, OnnxFiles
from sfm_graph.adapters.models.onnx_model import OnnxModel
from sfm_graph.adapters.models.source import ModelSource, fetch
from sfm_graph.adapters.models.worker import Worker
from sfm_graph.domain.namespace import ModelIdentity
from sfm_graph.errors import EmbedderUnavailable

if TYPE_CHECKING:
    from tokenizers import Encoding

# What a query waits for behind two imports, and what a cancelled import still computes.
_GROUP_TEXTS = 4


class OnnxEmbedder(LearnedEmbedder):
    """Embeds texts one by one: a text has the same vector alone and among others."""

    def __init__(self, model: OnnxModel, output: str, pooling: str, identity: ModelIdentity, worker: Worker) -> None:
        super().__init__(identity)
        self._model = model
        self._output = output
        self._pooling = pooling
        self._worker = worker

    @classmethod
    async def open(cls, source: ModelSource) -> Self:
        """Loads the model, from the hub if need be. Raises SettingsError."""
        return await Worker.opened("embed", partial(cls._load, source))

    @classmethod
    def _load(cls, source: ModelSource, worker: Worker) -> Self:
        files = OnnxFiles(fetch(source, HUB_PATTERNS))
        model = OnnxModel.load(files)
        output, width = _embedding_output(model, source)
        identity = ModelIdentity(files.folder.name, files.revision(), width)
        return cls(model, output, files.pooling, identity, worker)

    async def aclose(self) -> None:
        """Ends the threads."""
        await self._worker.aclose()

    async def _vectors(self, texts: Sequence[str]) -> NDArray[np.floating]:
        vectors = np.empty((len(texts), self.identity.dimension))
        for start in range(0, len(texts), _GROUP_TEXTS):
            group = slice(start, start + _GROUP_TEXTS)
            vectors[group] = await self._worker.run(self._embed_group, texts[group])
        return vectors

    def _embed_group(self, texts: Sequence[str]) -> NDArray[np.float64]:
        try:
            return np.stack([self._embed_one(encoding) for encoding in self._model.encode(texts)])
        except Exception as exc:
            raise EmbedderUnavailable(f"the embedding model failed: {type(exc).__name__}: {exc}") from exc

    def _embed_one(self, encoding: "Encoding") -> NDArray[np.float64]:
        if not self._model.tells(encoding):
            return np.zeros(self.identity.dimension)
        (array,) = self._model.run(encoding, [self._output])
        tokens: NDArray[np.float64] = np.atleast_2d(array[0].astype(np.float64))
        vector: NDArray[np.float64] = tokens[0] if self._pooling == "cls" else tokens.mean(axis=0)
        return vector


def _embedding_output(model: OnnxModel, source: ModelSource) -> tuple[str, int]:
    """The output that holds embeddings, one a text or else one a token, and their dimension."""
    arrays = model.probe("probe", source)
    # BERT's "pooler_output" was trained for another purpose than to be compared.
    for dimensions in (2, 3):
        for name, array in arrays.items():
            if array.ndim == dimensions and array.dtype.kind == "f" and name != "pooler_output":
                return name, array.shape[-1]
    raise source.wrong("none of its outputs is an embedding")
