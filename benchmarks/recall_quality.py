"""What the service recalls of questions with known answers, over HTTP; with each leg alone and each part off.

DIR holds `docs.jsonl` ({namespace, id, text, metadata: title, aliases, speaker, session, position, date}) and
`questions.jsonl` ({id, namespace, question, gold: [ids], category, gold_missing}). A question is asked in its own
namespace. Those of the category `adversarial`, without gold or with incomplete gold are left out.
"""

import argparse
import json
import re
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.ingest import blocks, post
from benchmarks.recall_quality_figures import DEPTH, figures, of_question, table
from benchmarks.serving import Service, ask, say, serving

Weights = dict[str, float]
PARTS = (
    "dense", "lexical", "window", "name", "author", "date", "link", "shared_name", "importance", "recency",
)  # fmt: skip
_NOTHING: Weights = dict.fromkeys(PARTS, 0.0)
_ONLY_LEGS: Weights = {part: 0.0 for part in PARTS if part not in ("dense", "lexical")}
ALONE: dict[str, Weights] = {
    "dense alone": {**_NOTHING, "dense": 1.0},
    "BM25 alone": {**_NOTHING, "lexical": 1.0},
}
LEGS: dict[str, Weights] = {
    "dense and BM25": _ONLY_LEGS,
    "windows' dense alone": {**_NOTHING, "dense": 1.0, "window": 1.0},
    "windows' BM25 alone": {**_NOTHING, "lexical": 1.0, "window": 1.0},
    "windows' dense and BM25": {**_ONLY_LEGS, "window": 1.0},
}
WITHOUT: dict[str, Weights] = {
    "without dense": {"dense": 0.0},
    "without BM25": {"lexical": 0.0},
    "without windows": {"window": 0.0},
    "without names": {"name": 0.0},
    "without authors": {"author": 0.0},
    "without dates": {"date": 0.0},
    "without links": {"link": 0.0},
    "without shared names": {"shared_name": 0.0},
    "without links, shared names": {"link": 0.0, "shared_name": 0.0},
    "without importance": {"importance": 0.0},
}
_REFUSED = re.compile(r": 4(?:00|22) ")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, action="append", metavar="DIR", help="may be repeated")
    parser.add_argument(
        "--model", type=Path, metavar="DIR", help="model.onnx and tokenizer.json; the hashing embedder without"
    )
    parser.add_argument("--ablations", action="store_true", help="every leg alone and every part off, too")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw recall@5 of what was asked")


@dataclass(frozen=True)
class DataSet:
    """Lines to import, and the questions to ask of them; `left_out`: reason -> questions."""

    name: str
    lines: list[bytes]
    namespaces: int
    questions: list[dict[str, Any]]
    left_out: Counter[str]


async def run(options: argparse.Namespace) -> dict[str, Any]:
    more, without = (LEGS, WITHOUT) if options.ablations else ({}, {})
    asked = ALONE | more | {"all parts": {}} | without
    sets = {folder.name: _read(folder) for folder in options.data}
    if len(sets) < len(options.data):
        raise ValueError("two data folders have the same name")
    result = {
        "embedder": options.model.name if options.model else "hashing",
        "data": {one.name: _measured(one, asked, options.model) for one in sets.values()},
    }
    if options.plot:
        from benchmarks.recall_quality_plot import plot

        plot(result["data"], f"recall@5, {result['embedder']} embedder", options.plot)
    return result


def _measured(data: DataSet, asked: dict[str, Weights], model: Path | None) -> dict[str, Any]:
    """A service of its own for each data set: two of them may use the same namespace."""
    settings = {"SFM_EMBEDDER": "fastembed", "SFM_EMBEDDING_MODEL": str(model)} if model else {}
    say(f"{data.name}: {len(data.lines)} memories, {len(data.questions)} questions")
    with serving(**settings) as service:
        seconds = _import(service, data)
        say(f"imported in {seconds:.1f} s")
        found = _recalls(service.connection(), data.questions, asked)
    for text in table(found):
        say(text)
    return {
        "memories": len(data.lines),
        "namespaces": data.namespaces,
        "questions": len(data.questions),
        "left_out": dict(data.left_out),
        "import_seconds": round(seconds, 1),
        "recall": found,
    }


def _read(folder: Path) -> DataSet:
    lines = [one + b"\n" for one in (folder / "docs.jsonl").read_bytes().splitlines() if one.strip()]
    known: dict[str, set[str]] = defaultdict(set)
    for document in map(json.loads, lines):
        known[document["namespace"]].add(str(document["id"]))
    questions, left_out = [], Counter[str]()
    for question in map(json.loads, (folder / "questions.jsonl").read_bytes().splitlines()):
        reason = _reason_to_leave_out(question)
        if reason:
            left_out[reason] += 1
            continue
        strangers = set(question["gold"]) - known[question["namespace"]]
        if strangers:
            raise ValueError(f"{folder}: gold of question {question['id']} is not in docs.jsonl: {sorted(strangers)}")
        questions.append(question)
    if not questions:
        raise ValueError(f"{folder} holds no question to ask")
    return DataSet(folder.name, lines, len(known), questions, left_out)


def _reason_to_leave_out(question: dict[str, Any]) -> str | None:
    if question["category"] == "adversarial":
        return "adversarial"
    if not question["gold"]:
        return "no gold"
    return "incomplete gold" if question.get("gold_missing") else None


def _import(service: Service, data: DataSet) -> float:
    started = time.perf_counter()
    report = post(service.connection(), "/import", [b"".join(block) for block in blocks(data.lines, 200)])
    if report["failed"] or report["memories"]["created"] != len(data.lines):
        raise RuntimeError(f"not every document was imported: {str(report)[:500]}")
    return time.perf_counter() - started


def _recalls(
    connection: HTTPConnection, questions: Sequence[dict[str, Any]], asked: dict[str, Weights]
) -> dict[str, dict[str, Any]]:
    """What was asked -> its figures, or `refused`: the answer of a service that lacks such a weight."""
    found: dict[str, dict[str, Any]] = {}
    columns = (TextColumn("{task.description:28}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not sys.stderr.isatty()) as shown:
        whole = shown.add_task("questions", total=len(asked) * len(questions))
        for name, weights in asked.items():
            shown.update(whole, description=name)
            refusal = _refusal(connection, questions[0], weights)
            if refusal:
                found[name] = {"refused": refusal}
                shown.advance(whole, len(questions))
                continue
            rows = []
            for question in questions:
                rows.append(of_question(_recalled(connection, question, weights), question["gold"]))
                shown.advance(whole)
            found[name] = figures(questions, rows)
    refused = [name for name, one in found.items() if "refused" in one]
    if refused:
        say(f"left out, since the service refuses the weights of it: {', '.join(refused)}")
        say(found[refused[0]]["refused"])
    return found


def _refusal(connection: HTTPConnection, question: dict[str, Any], weights: Weights) -> str | None:
    try:
        _recalled(connection, question, weights)
    except RuntimeError as error:
        # Without weights there is nothing that an older service could lack.
        if weights and _REFUSED.search(str(error)):
            return str(error)
        raise
    return None


def _recalled(connection: HTTPConnection, question: dict[str, Any], weights: Weights) -> list[str]:
    """The keys of the best memories, best first."""
    body = {"namespace": question["namespace"], "query": question["question"], "top_k": DEPTH}
    answer = ask(connection, "POST", "/recall_with_scores", body | ({"weights": weights} if weights else {}))
    return [hit["memory"]["key"] for hit in answer["results"]]
