"""ONNX models of a few numbers, with tokenizers of a few words, in the layout of real ones."""

from pathlib import Path

import numpy as np
import onnx
import orjson
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
WORDS = ["cat", "kitten", "dog", "car", "engine", "the"]
VOCABULARY = {word: at for at, word in enumerate([*SPECIAL, *WORDS])}
INPUTS = ["input_ids", "attention_mask", "token_type_ids"]

# One row per word; what [CLS] and [SEP] add is the same for every text.
TABLE = np.zeros((len(VOCABULARY), 4), np.float32)
TABLE[VOCABULARY["[CLS]"]] = [0, 0, 0, 0.1]
TABLE[VOCABULARY["cat"]] = [2, 0, 0, 0]
TABLE[VOCABULARY["kitten"]] = [1.8, 0.4, 0, 0]
TABLE[VOCABULARY["dog"]] = [1, 2, 0, 0]
TABLE[VOCABULARY["car"]] = [0, 0, 3, 0]
TABLE[VOCABULARY["engine"]] = [0, 0.2, 2, 0]


def write_tokenizer(folder: Path, *, max_tokens: int | None = None) -> None:
    tokenizer = Tokenizer(WordLevel(VOCABULARY, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, VOCABULARY[name]) for name in ("[CLS]", "[SEP]")],
    )
    if max_tokens is not None:
        tokenizer.enable_truncation(max_tokens)
    tokenizer.save(str(folder / "tokenizer.json"))


def write_embedding_model(
    folder: Path, *, pooled: bool = True, file: str = "model.onnx", table: NDArray[np.float32] = TABLE
) -> Path:
    """A folder whose model gives each word's row of the table, or with `pooled` the mean of a text's rows."""
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder)
    tokens = helper.make_node("Gather", ["table", "input_ids"], ["last_hidden_state"])
    mean = helper.make_node("ReduceMean", ["last_hidden_state", "axes"], ["embedding"], keepdims=0)
    output = ("embedding", ["batch", table.shape[1]]) if pooled else ("last_hidden_state", ["batch", "n", 4])
    _save(path, [tokens, mean] if pooled else [tokens], output, {"table": table, "axes": np.array([1])})
    return folder


def write_cross_encoder(folder: Path, *, logits: int = 1) -> Path:
    """A folder whose model adds the first numbers of the text's words and subtracts those of the query's."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder)
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["weights"]),
        helper.make_node("Cast", ["token_type_ids"], ["types"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["types", "two"], ["doubled"]),
        helper.make_node("Sub", ["doubled", "one"], ["signs"]),
        helper.make_node("Mul", ["weights", "signs"], ["signed"]),
        helper.make_node("ReduceSum", ["signed", "axes"], ["sum"], keepdims=1),
        helper.make_node("Concat", ["sum"] if logits == 1 else ["zero_of", "sum"], ["logits"], axis=1),
    ]
    if logits == 2:
        nodes.insert(6, helper.make_node("Sub", ["sum", "sum"], ["zero_of"]))
    arrays = {
        "table": TABLE[:, 0].copy(),
        "two": np.array(2, np.float32),
        "one": np.array(1, np.float32),
        "axes": np.array([1]),
    }
    _save(folder / "model.onnx", nodes, ("logits", ["batch", logits]), arrays)
    return folder


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(orjson.dumps(value))


def _save(
    path: Path, nodes: list[onnx.NodeProto], output: tuple[str, list[str | int]], arrays: dict[str, NDArray]
) -> None:
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "n"]) for name in INPUTS],
        [helper.make_tensor_value_info(output[0], TensorProto.FLOAT, output[1])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
