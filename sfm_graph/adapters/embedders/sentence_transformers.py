"""Models of the sentence-transformers library, on its device of choice, in threads of this process."""

import importlib
from collections.abc import Sequence
from functools import partial
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sfm_graph.adapters.embedders.learned import LearnedEmbedder
from sfm_graph.adapters.models.source import ModelFolder, ModelSource, content_hash, fetch
from sfm_graph.adapters.models.worker import Worker
from sfm_graph.domain.namespace import ModelIdentity
from sfm_graph.errors import EmbedderUnavailable

# Weights as safetensors only: other formats run code when they are loaded.
_PATTERNS = ("*.json", "*.txt", "*.model", "*.safetensors")
_BATCH = 16
_MAX_CHARS = 16_384


class SentenceTransformersEmbedder(LearnedEmbedder):
    """Embeds with a SentenceTransformer."""

    def __init__(self, model: Any, identity: ModelIdentity, worker: Worker) -> None:
        super().__init__(identity)
        self._model = model
        self._worker = worker

    @classmethod
    async def open(cls, source: ModelSource) -> Self:
        """Loads the model, from the hub if need be. Raises SettingsError."""
        return await Worker.opened("embed", partial(cls._load, source))

    @classmethod
    def _load(cls, source: ModelSource, worker: Worker) -> Self:
        try:
            library = importlib.import_module("sentence_transformers")
        except ImportError as exc:
            raise source.wrong("needs more packages: pip install 'sfm-graph[sentence-transformers]'") from exc
        folder = fetch(source, _PATTERNS)
        if folder.file is not None:
            raise source.wrong("is a file; name the directory of the model")
        try:
            model = library.SentenceTransformer(str(folder.path), model_kwargs={"use_safetensors": True})
            width = _encode(model, ["probe"]).shape[1]
        except Exception as exc:
            raise source.wrong(f"cannot be loaded: {exc}") from exc
        return cls(model, ModelIdentity(folder.name, _revision(folder), width), worker)

    async def aclose(self) -> None:
        """Ends the threads."""
        await self._worker.aclose()

    async def _vectors(self, texts: Sequence[str]) -> NDArray[np.floating]:
        vectors = np.empty((len(texts), self.identity.dimension))
        for start in range(0, len(texts), _BATCH):
            batch = slice(start, start + _BATCH)
            vectors[batch] = await self._worker.run(self._embed_batch, texts[batch])
        return vectors

    def _embed_batch(self, texts: Sequence[str]) -> NDArray[np.floating]:
        cut = [text[:_MAX_CHARS].encode("utf-8", "replace").decode() for text in texts]
        try:
            return _encode(self._model, cut)
        except Exception as exc:
            raise EmbedderUnavailable(f"the embedding model failed: {type(exc).__name__}: {exc}") from exc


def _encode(model: Any, texts: list[str]) -> NDArray[np.floating]:
    encoded = model.encode(texts, batch_size=_BATCH, show_progress_bar=False, convert_to_numpy=True)
    return np.asarray(encoded, np.float32)


def _revision(folder: ModelFolder) -> str:
    """A hash of the weights and of every configuration file, by their names."""
    files = sorted({path for pattern in _PATTERNS for path in folder.path.rglob(pattern)})
    return content_hash(files, *(str(path.relative_to(folder.path)) for path in files))
