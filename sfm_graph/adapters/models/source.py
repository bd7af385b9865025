"""Where the files of a model come from: a local directory, or a revision of a repository on the Hugging Face hub."""

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sfm_graph.errors import SettingsError

_COMMIT = re.compile(r"[0-9a-f]{40}")
_HUB_NAME = re.compile(r"([\w.-]+/[\w.-]+)(?:/([\w./-]+\.onnx))?", re.ASCII)
_BLOCK_BYTES = 1024**2


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model as the settings name it, with the variables that did, for messages.

    `model` is a local directory, a file in one, a hub's `owner/name` or a file in that, `owner/name/path.onnx`.
    """

    model: str
    revision: str | None = None
    allow_unpinned: bool = False
    model_variable: str = "SFM_EMBEDDING_MODEL"
    revision_variable: str = "SOMA_MODEL_REV"

    def wrong(self, why: str) -> SettingsError:
        """The error that stops the start because of this model."""
        return SettingsError(f"{self.model_variable}: {self.model}: {why}")


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """The local files of a model. `file` is the one that the settings name in it, if they do."""

    source: ModelSource
    path: Path
    name: str
    file: str | None = None


def fetch(source: ModelSource, patterns: Sequence[str]) -> ModelFolder:
    """The folder of a model, downloaded when it is on the hub and not here yet. Blocks.

    `patterns` are the files wanted of a hub's repository. Raises SettingsError.
    """
    path = Path(source.model).expanduser()
    if path.is_dir():
        return ModelFolder(source, path, _base_name(path))
    if path.is_file():
        # Exports for the hub keep their models in a folder `onnx` beside the tokenizer.
        home = path.parent.parent if path.parent.name == "onnx" else path.parent
        return ModelFolder(source, home, f"{_base_name(home)}/{path.stem}", str(path.relative_to(home)))
    if path.is_absolute() or source.model.startswith((".", "~")):
        raise source.wrong("there is no such file or directory")
    name = _HUB_NAME.fullmatch(source.model)
    if name is None:
        raise source.wrong("neither a local directory nor a name like owner/name on the hub")
    repository, file = name.group(1), name.group(2)
    folder = _download(source, repository, [*patterns, *([file, f"{file}_data"] if file else [])])
    return ModelFolder(source, folder, f"{repository}/{Path(file).stem}" if file else repository, file)


def content_hash(files: Iterable[Path], *figures: object) -> str:
    """16 hexadecimal digits that tell models apart: of the files' bytes, in order, and of figures beside them."""
    digest = hashlib.sha256(repr(figures).encode())
    for path in files:
        digest.update(path.stat().st_size.to_bytes(8, "big"))
        with path.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
    return digest.hexdigest()[:16]


def _download(source: ModelSource, repository: str, patterns: list[str]) -> Path:
    if not source.allow_unpinned and not _COMMIT.fullmatch(source.revision or ""):
        raise source.wrong(
            f"a model is downloaded only at a pinned revision: set {source.revision_variable} to a commit of "
            f"{repository} (40 hexadecimal digits), or SOMA_ALLOW_UNPINNED_HF=true to take what the hub has now"
        )
    try:
        import huggingface_hub
    except ImportError as exc:
        raise source.wrong("the hub's client is not installed: pip install 'sfm-graph[fastembed]'") from exc
    try:
        return Path(huggingface_hub.snapshot_download(repository, revision=source.revision, allow_patterns=patterns))
    except Exception as exc:
        raise source.wrong(f"cannot be downloaded: {type(exc).__name__}: {exc}") from exc


def _base_name(path: Path) -> str:
    return os.path.basename(os.path.abspath(path)) or "model"
