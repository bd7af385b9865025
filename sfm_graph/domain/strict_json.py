"""Reading JSON from outside without losing anything in silence."""

import json

import orjson

from sfm_graph.errors import InvalidInput

# Every integer beyond 64 bits has at least this many digits.
_LONG_DIGITS = b"0" * 19
_DIGITS_TO_ZERO = bytes.maketrans(b"123456789", b"000000000")


def parse_json(text: bytes) -> object:
    """A JSON value in UTF-8; of a name that occurs twice in one object the last value counts.

    Raises InvalidInput also for NaN, infinity, 1e400, lone surrogates, integers beyond 64 bits and more than 1,024
    levels.
    """
    try:
        value: object = orjson.loads(text)
    except orjson.JSONDecodeError as exc:
        raise InvalidInput(f"not JSON in UTF-8: {exc.msg} (line {exc.lineno}, column {exc.colno})") from exc
    if _LONG_DIGITS in text.translate(_DIGITS_TO_ZERO):
        _refuse_long_integers(text)
    return value


def _refuse_long_integers(text: bytes) -> None:
    # orjson makes floats of them, which would store another number than was sent.
    try:
        json.loads(text, parse_int=_integer)
    except RecursionError as exc:
        raise InvalidInput("the JSON is nested too deeply") from exc


def _integer(digits: str) -> None:
    if len(digits) > 20 or not -(2**63) <= int(digits) < 2**64:
        raise InvalidInput(f"the integer {digits[:24]} does not fit into 64 bits")
