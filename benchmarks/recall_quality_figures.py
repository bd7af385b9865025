"""The figures of recall on questions with known answers: their definitions, means, errors, and a table of them."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any
from zlib import crc32

DEPTH = 20
KS = (2, 5, 10, 20)
MEASURES = (*(f"recall@{k}" for k in KS), "all@5", "ndcg@10", "mrr")


def of_question(ranked: Sequence[str], gold: Sequence[str]) -> dict[str, float]:
    """Each measure of one answer, in [0, 1]; `ranked` are ids, best first, `gold` is not empty.

    recall@k: the part of the gold among the first k. all@5: 1 when the first 5 hold all of it. ndcg@10: gains of 1
    discounted by log2(1 + rank), against the best order there is. mrr: 1 / rank of the first gold, 0 below rank 20.
    """
    wanted = set(gold)
    ranks = [rank for rank, one in enumerate(ranked[:DEPTH], start=1) if one in wanted]
    found = {f"recall@{k}": sum(rank <= k for rank in ranks) / len(wanted) for k in KS}
    found["all@5"] = float(sum(rank <= 5 for rank in ranks) == len(wanted))
    ideal = sum(_gain(rank) for rank in range(1, min(10, len(wanted)) + 1))
    found["ndcg@10"] = sum(_gain(rank) for rank in ranks if rank <= 10) / ideal
    found["mrr"] = 1 / ranks[0] if ranks else 0.0
    return found


def _gain(rank: int) -> float:
    return 1 / math.log2(rank + 1)


def half_of(question_id: str) -> str:
    """Which half a question is in, `even` or `odd`: always the same, whatever else is asked."""
    return "odd" if crc32(question_id.encode()) & 1 else "even"


def figures(questions: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Means over questions and their standard errors, in %: of all, of either half, of each category.

    `rows` are what `of_question` says of each question, in order. Without a second question there is no error.
    """

    def summaries(group: Callable[[Mapping[str, Any]], str]) -> dict[str, Any]:
        names = [group(question) for question in questions]
        return {
            name: _summary([row for row, own in zip(rows, names, strict=True) if own == name])
            for name in sorted(set(names))
        }

    return {
        "all": _summary(rows),
        "halves": summaries(lambda question: half_of(str(question["id"]))),
        "categories": summaries(lambda question: str(question["category"])),
    }


def _summary(rows: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    means: dict[str, Any] = {"questions": len(rows)}
    for measure in MEASURES:
        values = [100 * row[measure] for row in rows]
        error = round(stdev(values) / math.sqrt(len(values)), 2) if len(values) > 1 else None
        means[measure] = {"mean": round(fmean(values), 2), "error": error}
    return means


def table(found: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Lines of text: every measure of all questions, then recall@5 of each half and category."""
    measured = {name: one for name, one in found.items() if "refused" not in one}
    yield _line("", *MEASURES, "error of @5")
    for name, one in measured.items():
        means = [_mean(one["all"], measure) for measure in MEASURES]
        yield _line(name, *means, str(one["all"]["recall@5"]["error"]))
    some = next(iter(measured.values()), None)
    if some is None:
        return
    halves, categories = list(some["halves"]), list(some["categories"])
    counts = [some["halves"][half]["questions"] for half in halves]
    counts += [some["categories"][category]["questions"] for category in categories]
    yield ""
    yield _line("recall@5 of", *halves, *categories)
    yield _line("questions", *map(str, counts))
    for name, one in measured.items():
        groups = [one["halves"][half] for half in halves] + [one["categories"][each] for each in categories]
        yield _line(name, *(_mean(group, "recall@5") for group in groups))


def _mean(summary: Mapping[str, Any], measure: str) -> str:
    return f"{summary[measure]['mean']:.1f}"


def _line(name: str, *cells: str) -> str:
    return f"{name:28}" + "".join(f" {cell[:16]:>{max(9, len(cell[:16]))}}" for cell in cells)
