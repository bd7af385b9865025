"""Judging what a model answered before anything is made of it."""

from collections.abc import Mapping
from typing import Any, Final

from sfm_graph.domain.strict_json import parse_json
from sfm_graph.errors import InvalidInput

MAX_ANSWER_CHARS: Final = 262_144


class WrongAnswer(ValueError):
    """An answer that is not what was asked for. Its message repeats nothing of the answer."""


def checked(text: str, schema: Mapping[str, Any]) -> Any:
    """The JSON value of an answer that matches the schema.

    Of one with text around it, as small models add it, what counts is from its first brace to its last. Raises
    WrongAnswer.
    """
    if len(text) > MAX_ANSWER_CHARS:
        raise WrongAnswer(f"more than {MAX_ANSWER_CHARS} characters")
    try:
        value = parse_json(_bare(text).encode("utf-8", "replace"))
    except InvalidInput:
        raise WrongAnswer("no JSON") from None
    _require(value, schema)
    return value


def _bare(text: str) -> str:
    start, end = text.find("{"), text.rfind("}")
    return text[start : end + 1] if 0 <= start < end else text


def _require(value: object, schema: Mapping[str, Any]) -> None:
    # Loaded by the first answer: it takes 0.1 s, and most processes never get one.
    from jsonschema import Draft202012Validator

    for error in Draft202012Validator(schema).iter_errors(value):
        # Neither its message nor its path: both repeat what the model said.
        raise WrongAnswer(f"JSON that is not what was asked for: {error.validator} of the schema")
    _require_text(value)


def _require_text(value: object) -> None:
    """Raises WrongAnswer for text that Postgres cannot hold."""
    if isinstance(value, str):
        if "\x00" in value:
            raise WrongAnswer("text with NUL characters")
    elif isinstance(value, Mapping):
        for one in value.values():
            _require_text(one)
    elif isinstance(value, list):
        for one in value:
            _require_text(one)
