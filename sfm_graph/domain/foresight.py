"""Predictions and their outcomes: what a predictor is asked, what is predicted without one, and how wrong it was."""

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
# Episodes less like what is going on, from 0 to 1, are none to predict from.
LEAST_LIKENESS: Final = 0.3
# Facts are to come before predictions in recall.
PREDICTION_IMPORTANCE: Final = 0.1
MAX_HEADING_CHARS: Final = 100
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
    """Who made a prediction. STRUCTURAL: it is what followed similar episodes."""

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


def followed(
    episodes: Mapping[int, Sequence[Memory]],
    sources: Mapping[int, Memory],
    likeness: Mapping[int, float],
    first: int,
) -> list[Foreseen]:
    """What followed past episodes, the likeliest first.

    episodes: of each that something followed, what did. likeness: how like what is going on they are, in [0, 1];
    those below LEAST_LIKENESS are left out. An episode weighs as much as it is alike. The confidence of a text is the
    weight of the episodes that it followed, as a share of the weight of all, x the greatest likeness, in (0, 1].
    Texts are the same that differ in case and spaces only.
    """
    weights: dict[str, float] = {}
    said: dict[str, str] = {}
    behind: dict[str, dict[int, Memory]] = {}
    alike = {one: likeness[one] for one, after in episodes.items() if after and likeness[one] >= LEAST_LIKENESS}
    for episode in alike:
        for folded, memory in {_folded(one): one for one in episodes[episode] if text_of(one)}.items():
            weights[folded] = weights.get(folded, 0.0) + alike[episode]
            said.setdefault(folded, text_of(memory)[:MAX_PREDICTION_CHARS])
            behind.setdefault(folded, {}).update({episode: sources[episode], memory.id: memory})
    scale = max(alike.values(), default=0.0) / (sum(alike.values()) or 1.0)
    ranked = sorted(weights.items(), key=lambda one: (-one[1], one[0]))[:first]
    return [
        Foreseen(said[one], min(1.0, weight * scale), tuple(list(behind[one].values())[:MAX_EVIDENCE]))
        for one, weight in ranked
    ]


def prediction_key(context: str, prediction: str, method: Method) -> str:
    """The key of a prediction: the same for what is predicted again by the same method for the same context, whatever
    the case and spaces."""
    said = "\n".join([method, " ".join(context.casefold().split()), " ".join(prediction.casefold().split())])
    return f"prediction:{blake2b(said.encode(), digest_size=16, person=b'prediction').hexdigest()}"


def likeness_of(cosine: float | None, context: str, memory: Memory) -> float:
    """How like a context a memory is, in [0, 1]: by their cosine; where that is not known, by the share of the
    context's words that the memory has."""
    if cosine is not None:
        return min(1.0, max(0.0, cosine))
    words = set(context.casefold().split())
    return len(words & set(_folded(memory).split())) / len(words) if words else 0.0


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
