"""Cross-encoders in ONNX form, on the processor, in threads of this process."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from sfm_graph.adapters.models.onnx_files import HUB_PATTERNS, OnnxFiles
from sfm_graph.adapters.models.onnx_model import OnnxModel
from sfm_graph.adapters.models.source import ModelSource, fetch
from sfm_graph.adapters.models.worker import Worker
from sfm_graph.errors import RerankerUnavailable

if TYPE_CHECKING:
    from tokenizers import Encoding


class OnnxReranker:
    """A Reranker from a classifier of pairs: the sigmoid of its one logit, or the share of the second of two."""

    def __init__(self, model: OnnxModel, output: str, name: str, worker: Worker) -> None:
        self._model = model
        self._output = output
        self._name = name
        self._worker = worker

    @classmethod
    async def open(cls, source: ModelSource) -> Self:
        """Loads the model, from the hub if need be. Raises SettingsError."""
        return await Worker.opened("rerank", partial(cls._load, source))

    @classmethod
    def _load(cls, source: ModelSource, worker: Worker) -> Self:
        files = OnnxFiles(fetch(source, HUB_PATTERNS))
        model = OnnxModel.load(files)
        return cls(model, _logits_output(model, source), files.folder.name, worker)

    @property
    def name(self) -> str:
        return self._name

    async def scores(self, query: str, texts: Sequence[str]) -> NDArray[np.float64]:
        """As the port says. One text after the other, so that a cancelled call ends with the text it is at."""
        return np.array([await self._worker.run(self._score, query, text) for text in texts], np.float64)

    async def aclose(self) -> None:
        """Ends the threads."""
        await self._worker.aclose()

    def _score(self, query: str, text: str) -> float:
        try:
            (encoding,) = self._model.encode([(query, text)])
            score = _probability(_logits(self._model, self._output, encoding))
        except Exception as exc:
            raise RerankerUnavailable(f"the reranker failed: {type(exc).__name__}: {exc}") from exc
        if not np.isfinite(score):
            raise RerankerUnavailable("the reranker gave a score that is not finite")
        return score


def _logits(model: OnnxModel, output: str, encoding: "Encoding") -> NDArray[np.float64]:
    (array,) = model.run(encoding, [output])
    return array.reshape(-1).astype(np.float64)


def _probability(logits: NDArray[np.float64]) -> float:
    # Of two logits the softmax of the second is the sigmoid of their difference.
    logit = logits[0] if len(logits) == 1 else logits[1] - logits[0]
    return float(0.5 * (1.0 + np.tanh(0.5 * logit)))


def _logits_output(model: OnnxModel, source: ModelSource) -> str:
    arrays = model.probe(("probe", "probe"), source)
    for name, array in arrays.items():
        if array.dtype.kind == "f" and array.size in (1, 2) and array.ndim <= 2:
            return name
    raise source.wrong("is no cross-encoder: none of its outputs is one logit, or two, for each text")
