"""What a folder of an ONNX model holds: the graph, the tokenizer, and the figures that go with them."""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import orjson

from sfm_graph.adapters.models.source import ModelFolder, content_hash
from sfm_graph.errors import SettingsError

# Tried in this order.
_GRAPHS = (
    "model.onnx",
    "onnx/model.onnx",
    "model_optimized.onnx",
    "model_quantized.onnx",
    "onnx/model_quantized.onnx",
    "model_int8.onnx",
)
_SIDE_FILES = (
    "tokenizer.json",
    "config.json",
    "tokenizer_config.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
)
HUB_PATTERNS = (*_GRAPHS[:3], *(f"{name}_data" for name in _GRAPHS[:3]), *_SIDE_FILES)

# Memories are cut into parts of some 200 words: more tokens than this would only cost time and memory.
MAX_TOKENS = 512
_DEFAULT_TOKENS = 256


@dataclass(frozen=True)
class OnnxFiles:
    """The files of one ONNX model, found and readable. Raises SettingsError where they are not."""

    folder: ModelFolder

    @cached_property
    def graph(self) -> Path:
        """The ONNX file: the one that is named, one of the usual names, or the only one there is."""
        root = self.folder.path
        usual = [root / name for name in ((self.folder.file,) if self.folder.file else _GRAPHS)]
        found = [path for path in usual if path.is_file()] or list(root.glob("*.onnx"))
        if not found:
            raise self.folder.source.wrong("there is no model.onnx in it")
        if found[0] not in usual and len(found) > 1:
            raise self.folder.source.wrong(f"name one of {', '.join(sorted(path.name for path in found))}")
        return found[0]

    @cached_property
    def tokenizer(self) -> Path:
        """tokenizer.json."""
        path = self.folder.path / "tokenizer.json"
        if not path.is_file():
            raise self.folder.source.wrong("there is no tokenizer.json in it")
        return path

    @cached_property
    def max_tokens(self) -> int:
        """Tokens of a text that the model sees: what its own files say, 256 when they say nothing, 512 at most."""
        said = (
            self._config("sentence_bert_config.json").get("max_seq_length"),
            (self._config("tokenizer.json").get("truncation") or {}).get("max_length"),
            self._config("tokenizer_config.json").get("model_max_length"),
            self._config("config.json").get("max_position_embeddings"),
        )
        # A tokenizer without a limit says so with a number like 1e30.
        given = (int(tokens) for tokens in said if isinstance(tokens, int | float) and tokens >= 1)
        return min(next(given, _DEFAULT_TOKENS), MAX_TOKENS)

    @cached_property
    def pooling(self) -> str:
        """How token vectors become one: "mean" or "cls", as sentence-transformers configures it; else "mean"."""
        config = self._config("1_Pooling/config.json")
        modes = config.get("pooling_mode") or [
            re.sub("^pooling_mode_(.*?)(_tokens?)?$", r"\1", key)
            for key, on in config.items()
            if key.startswith("pooling_mode_") and on is True
        ]
        mode = ",".join([modes] if isinstance(modes, str) else map(str, modes)) or "mean"
        if mode not in ("mean", "cls"):
            raise self.folder.source.wrong(f"pooling by {mode} is not supported, only mean and cls")
        return mode

    def revision(self) -> str:
        """A hash of everything that the vectors depend on. Reads the whole model: 0.1 s for 90 MB."""
        beside = sorted(self.graph.parent.glob(f"{self.graph.name}?data"))  # weights outside of the graph's file
        return content_hash([self.graph, *beside, self.tokenizer], self.max_tokens, self.pooling)

    def _config(self, name: str) -> dict[str, Any]:
        """A JSON object, empty when there is no such file."""
        path = self.folder.path / name
        try:
            config = orjson.loads(path.read_bytes()) if path.is_file() else {}
        except (OSError, ValueError) as exc:
            raise SettingsError(f"{self.folder.source.model_variable}: cannot read {path}: {exc}") from exc
        return config if isinstance(config, dict) else {}
