"""What recall's rules find on questions with known answers: recall@k and nDCG, in all and with each part off.

DIR holds `docs.jsonl` ({namespace, id, text, metadata: title, speaker, session, position, date}) and
`questions.jsonl` ({id, namespace, question, gold: [ids], category}). Questions of the category `adversarial`, without
gold, or with gold that is not among the documents are left out.
"""

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import recall_rules_index as rules
from benchmarks.serving import say
from sfm_graph.adapters.embedders.hashing import HashingEmbedder

# Texts to unit vectors, one a row.
Embed = Callable[[Sequence[str]], Awaitable[np.ndarray]]
KS = (2, 5, 10, 20)
BATCH = 16
PARTS_OFF: dict[str, dict[str, float]] = {
    "all parts": {},
    "without windows": {"window": 0.0},
    "without names": {"name": 0.0},
    "without authors and dates": {"author": 0.0, "date": 0.0},
    "without mentions": {"mention": 0.0},
    "without shared names": {"shared": 0.0},
    "without links": {"mention": 0.0, "shared": 0.0},
}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--model", type=Path, metavar="DIR", help="model.onnx and tokenizer.json; the hashing embedder without"
    )


async def run(options: argparse.Namespace) -> dict[str, Any]:
    embed = _onnx(options.model) if options.model else HashingEmbedder().embed
    chosen = rules.Weights(dense=0.55 if options.model else 0.2)
    spaces = await _spaces(options.data, embed)
    asked = sum(len(questions) for *_, questions in spaces)
    say(f"{len(spaces)} namespaces, {asked} questions")
    found = {part: _scores(spaces, replace(chosen, **off)) for part, off in PARTS_OFF.items()}
    return {
        "data": options.data.name,
        "questions": asked,
        "embedder": str(options.model or "hashing"),
        "recall": found,
    }


async def _spaces(folder: Path, embed: Embed) -> list[tuple[Any, ...]]:
    """For each namespace its index, ids, cosines of each question to memories and to windows, and the questions."""
    documents: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for one in _lines(folder / "docs.jsonl"):
        documents[one["namespace"]].append(one)
    questions: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for one in _lines(folder / "questions.jsonl"):
        if one["category"] != "adversarial" and one["gold"] and not one.get("gold_missing"):
            questions[one["namespace"]].append(one)
    spaces = []
    for namespace, found in documents.items():
        memories = [_memory(one) for one in found]
        index = rules.build_index(memories)
        queries = await embed([one["question"] for one in questions[namespace]])
        own = await embed([rules.embedded_text(one) for one in memories])
        windows = await embed([rules.window_text(memories, one) for one in index.windows])
        say(f"{namespace}: {len(memories)} memories")
        spaces.append(
            (index, [one.id for one in memories], queries @ own.T, queries @ windows.T, questions[namespace])
        )
    return spaces


def _memory(one: dict[str, Any]) -> rules.Memory:
    known = one["metadata"]
    session = known.get("session")
    return rules.Memory(
        one["id"], one["text"], title=known.get("title") or "", author=known.get("speaker") or "",
        sequence="" if session is None else str(session), position=known.get("position") or 0,
        date=known.get("date") or "",
    )  # fmt: skip


def _scores(spaces: list[tuple[Any, ...]], weights: rules.Weights) -> dict[str, float]:
    sums: dict[str, float] = defaultdict(float)
    count = 0
    for index, ids, own, windows, questions in spaces:
        for place, question in enumerate(questions):
            hits = rules.recall(
                index, question["question"], own[place].astype(float), windows[place].astype(float), max(KS), weights
            )
            ranked, gold = [ids[row] for row, _ in hits], set(question["gold"])
            for k in KS:
                sums[f"recall@{k}"] += len(gold & set(ranked[:k])) / len(gold)
            sums["all@5"] += gold <= set(ranked[:5])
            ideal = sum(1 / math.log2(rank + 2) for rank in range(min(10, len(gold))))
            gains = sum(1 / math.log2(rank + 2) for rank, one in enumerate(ranked[:10]) if one in gold)
            sums["ndcg@10"] += gains / ideal
            count += 1
    return {measure: round(100 * total / count, 1) for measure, total in sums.items()}


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _onnx(folder: Path) -> Embed:
    import onnxruntime
    from tokenizers import Tokenizer

    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(256)
    tokenizer.enable_padding()
    known: dict[str, np.ndarray] = {}

    async def embed(texts: Sequence[str]) -> np.ndarray:
        unknown = sorted({text for text in texts if text not in known}, key=len)
        for start in range(0, len(unknown), BATCH):
            batch = unknown[start : start + BATCH]
            encoded = tokenizer.encode_batch(batch)
            inputs = {
                "input_ids": np.array([one.ids for one in encoded], np.int64),
                "attention_mask": np.array([one.attention_mask for one in encoded], np.int64),
                "token_type_ids": np.array([one.type_ids for one in encoded], np.int64),
            }
            known.update(zip(batch, session.run(None, inputs)[0], strict=True))
        return np.array([known[text] for text in texts])

    return embed
