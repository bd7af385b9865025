"""Asking a store all questions: latencies, answers checked against those of the stores before it."""

import gc
import inspect
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

from benchmarks.graph_data import Graph
from benchmarks.graph_questions import OPERATIONS, Answers, NotOffered, Question, Unfinished
from benchmarks.serving import percentiles, say

# A store that is slow at an operation is asked fewer questions of it, in the same order as the others.
WARM_UP_SECONDS = 1.0
WARM_UP_QUESTIONS = 10


@dataclass(frozen=True)
class Samples:
    """Seconds of each question in order, and which were given up after that time, by reason."""

    seconds: list[float]
    unfinished: dict[int, str]


@dataclass(frozen=True)
class Limits:
    """Seconds that one store may spend on the questions of one operation before no further one is asked."""

    seconds: float


async def measured(
    name: str, store: Any, graph: Graph, asked: dict[str, list[Question]], answers: Answers, limits: Limits
) -> dict[str, Samples | None]:
    """Samples by operation; None where the store does not offer it. Raises RuntimeError for a different answer."""
    found: dict[str, Samples | None] = {}
    gc.collect()
    # What the store holds is not looked through again at each collection: a large graph of objects takes seconds.
    gc.freeze()
    for operation in OPERATIONS:
        method = getattr(store, operation, None)
        try:
            found[operation] = (
                None if method is None else await _asked(name, operation, method, asked, answers, limits)
            )
        except NotOffered:
            found[operation] = None
        say(f"{name} {operation}: {report(found[operation])}")
    gc.unfreeze()
    return found


async def _asked(
    name: str,
    operation: str,
    method: Callable[..., Any],
    asked: dict[str, list[Question]],
    answers: Answers,
    limits: Limits,
) -> Samples:
    end = time.perf_counter() + WARM_UP_SECONDS
    for question in reversed(asked[operation][-WARM_UP_QUESTIONS:]):
        if time.perf_counter() < end:
            await _one(method, question)
    samples = Samples([], {})
    end = time.perf_counter() + limits.seconds
    for place, question in enumerate(asked[operation]):
        seconds, answer, given_up = await _one(method, question)
        samples.seconds.append(seconds)
        if given_up is None:
            answers.check(name, operation, question, answer)
        else:
            samples.unfinished[place] = given_up
        if time.perf_counter() > end:
            break
    return samples


async def _one(method: Callable[..., Any], question: Question) -> tuple[float, Any, str | None]:
    started = time.perf_counter()
    try:
        answer = method(*question.arguments)
        if inspect.isawaitable(answer):
            answer = await answer
    except Unfinished as exc:
        return time.perf_counter() - started, None, str(exc)
    return time.perf_counter() - started, answer, None


def report(samples: Samples | None) -> dict[str, Any] | str:
    """Percentiles for people and programs; `>= N` where questions were given up so early that no more is known."""
    if samples is None:
        return "not offered"
    known: dict[str, Any] = {"questions": len(samples.seconds), **_bounds(samples, range(len(samples.seconds)))}
    if samples.unfinished:
        reasons = list(samples.unfinished.values())
        known["unfinished"] = {reason: reasons.count(reason) for reason in sorted(set(reasons))}
    return known


def _bounds(samples: Samples, places: Sequence[int]) -> dict[str, Any]:
    """Percentiles over some questions. One that was given up would have taken longer than any that was answered."""
    seconds = [samples.seconds[place] for place in places]
    finished = percentiles([inf if place in samples.unfinished else samples.seconds[place] for place in places])
    lower = percentiles(seconds)
    return {name: f">= {lower[name]:g}" if value == inf else value for name, value in finished.items()}


def ratio(ours: Samples | None, theirs: Samples | None) -> float | str | None:
    """How many times longer theirs takes at p50, over the questions that both were asked; None without both."""
    if ours is None or theirs is None:
        return None
    places = range(min(len(ours.seconds), len(theirs.seconds)))
    mine, other = (_bounds(one, places)["p50_ms"] for one in (ours, theirs))
    if isinstance(mine, str):
        return None
    at_least = isinstance(other, str)
    value = float(f"{float(str(other).removeprefix('>= ')) / max(mine, 0.001):.3g}")
    return f">= {value:g}" if at_least else value
