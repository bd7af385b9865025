"""Tokens in, arrays out: an ONNX graph and its tokenizer."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
from numpy.typing import NDArray

from sfm_graph.adapters.models.onnx_files import OnnxFiles
from sfm_graph.adapters.models.source import ModelSource

if TYPE_CHECKING:
    from onnxruntime import InferenceSession
    from tokenizers import Encoding, Tokenizer

_DTYPES = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}
_FILLED = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
_CHARS_PER_TOKEN = 32  # what a long text is cut by before it is tokenised; a token has 4 characters or so


class OnnxModel:
    """A loaded model. Blocks; its methods may be called from several threads at once."""

    def __init__(self, session: "InferenceSession", tokenizer: "Tokenizer", files: OnnxFiles) -> None:
        self._session = session
        self._tokenizer = tokenizer
        unknown = getattr(tokenizer.model, "unk_token", None)
        self._unknown = tokenizer.token_to_id(unknown) if unknown else None
        self._max_chars = files.max_tokens * _CHARS_PER_TOKEN
        self._inputs = {node.name: _DTYPES[node.type] for node in session.get_inputs()}
        self.outputs: list[str] = [node.name for node in session.get_outputs()]

    @classmethod
    def load(cls, files: OnnxFiles) -> Self:
        """Reads the graph and the tokenizer. Raises SettingsError."""
        source = files.folder.source
        try:
            import onnxruntime
            from tokenizers import Tokenizer
        except ImportError as exc:
            raise source.wrong("ONNX models need more packages: pip install 'sfm-graph[fastembed]'") from exc
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = _usable_cores()
        options.log_severity_level = 3
        # Threads that spin between two batches would take the cores from Postgres and the event loop.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            tokenizer = Tokenizer.from_file(str(files.tokenizer))
            tokenizer.no_padding()
            tokenizer.enable_truncation(files.max_tokens)
            session = onnxruntime.InferenceSession(str(files.graph), options, providers=["CPUExecutionProvider"])
        except Exception as exc:
            raise source.wrong(f"cannot be loaded: {exc}") from exc
        for node in session.get_inputs():
            if node.name not in _FILLED or node.type not in _DTYPES:
                raise source.wrong(f"its input {node.name} of {node.type} is none that a text could fill")
        return cls(session, tokenizer, files)

    def encode(self, texts: Sequence[str | tuple[str, str]]) -> "list[Encoding]":
        """The tokens of texts, or of pairs of them, cut to what the model sees."""
        cut = [self._cut(text) if isinstance(text, str) else tuple(map(self._cut, text)) for text in texts]
        return self._tokenizer.encode_batch(cut)

    def tells(self, encoding: "Encoding") -> bool:
        """Whether the model knows anything of a text: a token that is neither special nor the one for unknowns."""
        tokens = zip(encoding.ids, encoding.special_tokens_mask, strict=True)
        return any(not special and token != self._unknown for token, special in tokens)

    def run(self, encoding: "Encoding", outputs: Sequence[str]) -> list[NDArray[Any]]:
        """The named outputs for one text, shape (1, ...).

        Never a batch: padding changes the rounding, in 8-bit models a lot (cosine 0.98 between a text's vectors
        alone and among 15 others), and one text after the other is no slower on the processor.
        """
        feed = {name: np.array([getattr(encoding, _FILLED[name])], kind) for name, kind in self._inputs.items()}
        return cast("list[NDArray[Any]]", self._session.run(list(outputs), feed))

    def probe(self, text: str | tuple[str, str], source: ModelSource) -> dict[str, NDArray[Any]]:
        """All outputs for a text, or a pair, by name. Raises SettingsError for a model that cannot be run."""
        try:
            (encoding,) = self.encode([text])
            return dict(zip(self.outputs, self.run(encoding, self.outputs), strict=True))
        except Exception as exc:  # the runtime's errors have no base of their own
            raise source.wrong(f"cannot be run: {exc}") from exc

    def _cut(self, text: str) -> str:
        # Halves of surrogate pairs are what no tokenizer takes.
        return text[: self._max_chars].encode("utf-8", "replace").decode()


def _usable_cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return os.cpu_count() or 1
