"""Predictions and their outcomes: what a predictor is asked, what is predicted without one, and how wrong it was."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from typing import Any, Final

from sfm_graph.domain import validate
from sfm_graph.domain.memory import Memory
from sfm_graph.domain.prompts import SHARE, Prompt, closed, lists, texts
from sfm_graph.errors import InvalidInput

MAX_PREDICTIONS: Final = 10
MAX_CONTEXT_CHARS: Final = 10_000
MAX_PREDICTION_CHARS: Final = 1_000
MAX_OUTCOME_CHARS: Final = 10_000
# Memories that a prediction rests on, and past episodes that are looked at for what followed them.
MAX_EVIDENCE: Final = 12
MAX_EPISODES: Final = 30
PREDICTED_FROM: Final = "predicted_from"
OUTCOME_OF: Final = "outcome_of"
# Links whose target came after their source.
FOLLOWING_TYPES: Final = ("next", "precedes", "followed_by", "leads_to", "causes")

_SCHEMA: Final = closed(
    predictions=lists(
        closed(
            prediction=texts(MAX_PREDICTION_CHARS), confidence=SHARE,
            because=lists({"type": "integer", "minimum": 0, "maximum": MAX_EVIDENCE}, MAX_EVIDENCE),
        ),
        MAX_PREDICTIONS,
    )
)  # fmt: skip
_INSTRUCTION: Final = (
    "The first text in `material` says what is going on now; the others are memories of the past, some of which may"
    " have nothing to do with it. Predict what happens next: at most `first` different predictions, the likeliest"
    " first, each in one sentence, with your honest confidence from 0 to 1 that it will come true, and in `because`"
    " the places in `material`, counted from 0, of the memories that speak for it."
)


class Method(StrEnum):
    """Who made a prediction. STRUCTURAL: it is what followed similar episodes, its confidence how often it did."""

    PREDICTOR = "predictor"
    STRUCTURAL = "structural"


class JudgedBy(StrEnum):
    """How it is known whether a prediction came true. COSINE: by the likeness of the outcome's text to its own."""

    CALLER = "caller"
    COSINE = "cosine"


@dataclass(frozen=True, slots=True)
class Foreseen:
    """Something that may happen next. `confidence` in [0, 1]; `evidence`: what it rests on, of the memories given."""

    text: str
    confidence: float
    evidence: tuple[Memory, ...]


@dataclass(frozen=True, slots=True)
class Prediction:
    """A prediction as stored."""

    memory: Memory
    confidence: float
    method: Method


@dataclass(frozen=True, slots=True)
class Foresight:
    """What was predicted. `reason`: why the predictor did not make it, None when it did."""

    predictions: tuple[Prediction, ...]
    method: Method
    reason: str | None = None


def question(context: str, evidence: Sequence[Memory], first: int) -> Prompt:
    """What a predictor is asked."""
    material = [context, *(text_of(one) for one in evidence)]
    return Prompt("predict", _INSTRUCTION, material, _SCHEMA, max_tokens=200 + 150 * first, facts={"first": first})


def foreseen(answer: Mapping[str, Any], evidence: Sequence[Memory], first: int) -> list[Foreseen]:
    """The predictions of an answer that matches the schema, the likeliest first, no two of them alike."""
    found: dict[str, Foreseen] = {}
    for one in answer["predictions"]:
        text = " ".join(one["prediction"].split())
        because = dict.fromkeys(place - 1 for place in one["because"] if 0 < place <= len(evidence))
        if text and text.casefold() not in found:
            found[text.casefold()] = Foreseen(text, float(one["confidence"]), tuple(evidence[p] for p in because))
    return sorted(found.values(), key=lambda one: -one.confidence)[:first]


def followed(episodes: Mapping[int, Sequence[Memory]], sources: Mapping[int, Memory], first: int) -> list[Foreseen]:
    """What followed past episodes, the most frequent first.

    episodes: of each that something followed, what did. The confidence of a text is the share of these episodes
    that it followed, in (0, 1]; texts are the same that differ in case and spaces only.
    """
    counts: Counter[str] = Counter()
    said: dict[str, str] = {}
    behind: dict[str, dict[int, Memory]] = {}
    for episode, after in episodes.items():
        for folded, memory in {_folded(one): one for one in after if text_of(one)}.items():
            counts[folded] += 1
            said.setdefault(folded, text_of(memory)[:MAX_PREDICTION_CHARS])
            behind.setdefault(folded, {}).update({episode: sources[episode], memory.id: memory})
    whole = sum(1 for after in episodes.values() if after)
    ranked = sorted(counts.items(), key=lambda one: (-one[1], one[0]))[:first]
    return [
        Foreseen(said[one], count / whole, tuple(list(behind[one].values())[:MAX_EVIDENCE])) for one, count in ranked
    ]


def text_of(memory: Memory) -> str:
    """What a memory says: its title and its content."""
    parts = (
        [memory.title, memory.content] if memory.title and memory.title not in memory.content else [memory.content]
    )
    return " ".join(" ".join(part for part in parts if part).split())


def _folded(memory: Memory) -> str:
    return text_of(memory).casefold()


def confidence_of(prediction: Memory) -> float:
    """The confidence that a memory predicts with. Raises InvalidInput for one that is no prediction."""
    value = prediction.payload.get("confidence")
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and "prediction" in prediction.payload and 0 <= float(value or 0) <= 1:
        return float(value or 0)
    raise InvalidInput(
        "the memory is no prediction: its payload has no `prediction` and `confidence` from 0 to 1",
        field="prediction",
    )


def correctness(correct: object, value: object) -> float | None:
    """How far a prediction came true, in [0, 1], as a caller says it: by true or false, or by a number; None where it
    is not said.

    Raises InvalidInput for both, and for anything else.
    """
    if correct is not None and value is not None:
        raise InvalidInput("give either correct or value", field="correct")
    if correct is not None:
        if not isinstance(correct, bool):
            raise InvalidInput("correct must be true or false", field="correct")
        return float(correct)
    if value is None:
        return None
    checked = validate.number(value, "value")
    if not 0 <= checked <= 1:
        raise InvalidInput("value must be from 0 (it did not come true) to 1 (it did)", field="value")
    return checked


def brier(confidence: float, correct: float) -> float:
    """The squared distance of a confidence from what came true, both in [0, 1]: 0 is right, 1 as wrong as can be."""
    return (confidence - correct) ** 2


def outcome_key(prediction_id: int, key: str) -> str:
    """The key of an outcome: the same for the same prediction and caller's key."""
    digest = blake2b(key.encode(), digest_size=16, person=b"outcome").hexdigest()
    return f"outcome:{prediction_id}:{digest}"


def context_text(value: object) -> str | None:
    """What is going on, checked. Raises InvalidInput, TooLarge."""
    return None if value is None else validate.text(value, "context", max_chars=MAX_CONTEXT_CHARS).strip() or None


def texts_of(memories: Iterable[Memory]) -> list[str]:
    """What memories say."""
    return [text_of(one) for one in memories]
