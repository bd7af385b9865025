"""Rules for values that come from outside. Every face builds its inputs through these.

Each function returns the value in its canonical form or raises InvalidInput (or a subclass) saying which field
is wrong and what would be right. Nothing here is Postgres-specific except what text and integers it can hold.
"""

import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from sfm_graph.domain.identity import Coordinate
from sfm_graph.errors import InvalidCoordinate, InvalidInput, InvalidWeight, TooLarge

MAX_COORDINATE_AXES = 64
MAX_KEY_CHARS = 512
MAX_TITLE_CHARS = 1_000
MAX_CONTENT_BYTES = 1_000_000
MAX_PAYLOAD_BYTES = 1_000_000
MAX_JSON_DEPTH = 64
MAX_NAMESPACE_CHARS = 128
MAX_LINK_TYPE_CHARS = 128
# Sums of so large costs still tell a difference of 1 apart, and never overflow.
MAX_WEIGHT = 1e15
MAX_BULK_ITEMS = 10_000
MAX_QUERY_CHARS = 100_000
_PERIOD = re.compile(r"([1-9][0-9]{0,5})([mhdw])")
# A `+` of a query string that was not escaped is a space.
_LOST_SIGN = re.compile(r"^([^T]{8,10}T[0-9:.,]+) ([0-9:]{2,6})$", re.ASCII)
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
MAX_EMBEDDING_DIMENSION = 4_000

E = TypeVar("E", bound=StrEnum)


def text(value: object, field: str, *, max_chars: int) -> str:
    """A string that Postgres can hold: no NUL, no lone surrogate, at most `max_chars` characters."""
    if not isinstance(value, str):
        raise InvalidInput(f"{field} must be a string", field=field)
    if len(value) > max_chars:
        raise TooLarge(f"{field} has {len(value)} characters; at most {max_chars} are taken", field=field)
    if "\x00" in value:
        raise InvalidInput(f"{field} must not contain NUL characters", field=field)
    try:
        value.encode()
    except UnicodeEncodeError as exc:
        raise InvalidInput(f"{field} is not valid Unicode: it holds a lone surrogate", field=field) from exc
    return value


def name(value: object, field: str, *, max_chars: int) -> str:
    """A non-empty text without surrounding white space or control characters."""
    checked = text(value, field, max_chars=max_chars)
    if not checked or checked != checked.strip() or not checked.isprintable():
        raise InvalidInput(f"{field} must be non-empty, printable and without surrounding spaces", field=field)
    return checked


def namespace(value: object) -> str:
    """A namespace's name: 1 to 128 printable characters; slashes may group names, such as `team/agent`."""
    return name(value, "namespace", max_chars=MAX_NAMESPACE_CHARS)


def number(value: object, field: str) -> float:
    """A finite float. Booleans and integers that a float cannot hold are refused."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidInput(f"{field} must be a number", field=field)
    try:
        as_float = float(value)
    except OverflowError as exc:
        raise InvalidInput(f"{field} is too large for a float", field=field) from exc
    if not math.isfinite(as_float):
        raise InvalidInput(f"{field} must be finite", field=field)
    return as_float


def integer(value: object, field: str, *, low: int, high: int) -> int:
    """An integer in [low, high]; 5.0 is one."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidInput(f"{field} must be an integer from {low} to {high}", field=field)
    return value


def decimal(value: str, field: str) -> int:
    """The number that a text says, from 1 on. Raises InvalidInput."""
    if not (value.isascii() and value.isdecimal() and len(value) <= 18):
        raise InvalidInput(f"{field} must be a number", field=field)
    return integer(int(value), field, low=1, high=2**63 - 1)


def coordinate(value: object, field: str = "coordinate") -> Coordinate:
    """1 to 64 finite floats; -0.0 becomes 0.0. Raises InvalidCoordinate."""
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise InvalidCoordinate(f"{field} must be a list of numbers", field=field)
    if not 1 <= len(value) <= MAX_COORDINATE_AXES:
        raise InvalidCoordinate(f"{field} must have 1 to {MAX_COORDINATE_AXES} numbers", field=field)
    try:
        return tuple(number(axis, field) + 0.0 for axis in value)
    except InvalidInput as exc:
        raise InvalidCoordinate(exc.message, field=field) from exc


def coordinate_from_text(value: str, field: str = "coordinate") -> Coordinate:
    """The coordinate of the query-string form `1,2,3`. Raises InvalidCoordinate."""
    try:
        numbers = [float(axis) for axis in value.split(",", MAX_COORDINATE_AXES + 1)]
    except ValueError as exc:
        raise InvalidCoordinate(f"{field} must look like 1,2,3", field=field) from exc
    return coordinate(numbers, field)


def weight(value: object) -> float:
    """A link's cost, from 0 to MAX_WEIGHT. Raises InvalidWeight."""
    try:
        checked = number(value, "weight") + 0.0
    except InvalidInput as exc:
        raise InvalidWeight(exc.message, field="weight") from exc
    if checked < 0:
        raise InvalidWeight("weight must be >= 0: it is a cost, nearer is smaller", field="weight")
    if checked > MAX_WEIGHT:
        raise InvalidWeight(f"weight must be at most {MAX_WEIGHT:g}", field="weight")
    return checked


def choice(value: object, kind: type[E], field: str) -> E:
    """A member of an enum by its value or name, in any case."""
    if isinstance(value, str):
        for member in kind:
            if value.lower() == member.value.lower():
                return member
    allowed = ", ".join(member.value for member in kind)
    raise InvalidInput(f"{field} must be one of: {allowed}", field=field)


def moment(value: object, field: str) -> datetime | None:
    """An ISO 8601 time or datetime, made UTC; a time without an offset is taken as UTC. None stays None.

    A space in place of an offset's sign is a `+`: query strings make that of it.
    """
    if value is None:
        return None
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(_LOST_SIGN.sub(r"\1+\2", value))
        except ValueError as exc:
            raise InvalidInput(
                f"{field} must be an ISO 8601 time between the years 1 and 9999, "
                "such as 2026-03-01, 2026-03-01T12:00:00Z or 2026-03-01T12:00:00+01:00", field=field,
            ) from exc  # fmt: skip
    if not isinstance(value, datetime):
        raise InvalidInput(f"{field} must be an ISO 8601 time", field=field)
    try:
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    except OverflowError as exc:
        raise InvalidInput(f"{field} is outside the years 1 to 9999", field=field) from exc


def moment_from(value: str, field: str, now: datetime, *, ahead: bool) -> datetime | None:
    """The moment that `30d`, `12h`, `90m` or `2w` from now means, `ahead` or ago; or as `moment` does.

    Raises InvalidInput.
    """
    period = _PERIOD.fullmatch(value)
    if period is None:
        return moment(value, field)
    length = timedelta(**{_UNITS[period[2]]: int(period[1])})
    try:
        return now + length if ahead else now - length
    except OverflowError as exc:
        raise InvalidInput(f"{field} is outside the years 1 to 9999", field=field) from exc


def period(valid_from: datetime | None, valid_to: datetime | None) -> None:
    """Raises InvalidInput unless `valid_from` < `valid_to` where both are given."""
    if valid_from is not None and valid_to is not None and valid_from >= valid_to:
        raise InvalidInput("valid_from must be before valid_to", field="valid_to")


def json_object(value: object, field: str) -> dict[str, Any]:
    """A JSON object that Postgres can hold: bounded depth and size, finite numbers, clean text."""
    if not isinstance(value, Mapping):
        raise InvalidInput(f"{field} must be a JSON object", field=field)
    budget = [MAX_PAYLOAD_BYTES]
    return {
        text(key, f"a key in {field}", max_chars=1_000): _json(item, field, MAX_JSON_DEPTH, budget)
        for key, item in value.items()
    }


def _json(value: object, field: str, depth: int, budget: list[int]) -> object:
    if depth < 0:
        raise InvalidInput(f"{field} is nested deeper than {MAX_JSON_DEPTH} levels", field=field)
    budget[0] -= 8
    if isinstance(value, str):
        budget[0] -= len(value)
        result: object = text(value, field, max_chars=MAX_PAYLOAD_BYTES)
    elif value is None or isinstance(value, bool):
        result = value
    elif isinstance(value, int):
        # Beyond 64 bits most JSON readers lose digits, so a stored value could come back changed.
        result = integer(value, f"an integer in {field}", low=-(2**63), high=2**64 - 1)
    elif isinstance(value, float):
        result = number(value, f"a number in {field}")
    elif isinstance(value, Mapping):
        result = {
            text(key, f"a key in {field}", max_chars=1_000): _json(item, field, depth - 1, budget)
            for key, item in value.items()
        }
    elif isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        result = [_json(item, field, depth - 1, budget) for item in value]
    else:
        raise InvalidInput(f"{field} holds a {type(value).__name__}, which is not JSON", field=field)
    if budget[0] < 0:
        raise TooLarge(f"{field} is larger than {MAX_PAYLOAD_BYTES} bytes", field=field)
    return result


def embedding(value: object) -> NDArray[np.float32]:
    """A vector of 1 to 4,000 finite numbers, not all zero, scaled to length 1. float32, shape (dimension,)."""
    try:
        vector = np.asarray(value)
    except ValueError as exc:
        raise InvalidInput("embedding must be a flat list of numbers", field="embedding") from exc
    if vector.dtype.kind not in "fiu" or vector.ndim != 1 or not 1 <= len(vector) <= MAX_EMBEDDING_DIMENSION:
        raise InvalidInput(f"embedding must be a list of 1 to {MAX_EMBEDDING_DIMENSION} numbers", field="embedding")
    vector = vector.astype(np.float64)
    largest = float(np.abs(vector).max())
    if not math.isfinite(largest) or largest == 0.0:
        raise InvalidInput("embedding must be finite and not all zero", field="embedding")
    # Divided first, so that the squares of the length neither overflow nor vanish.
    vector /= largest
    unit: NDArray[np.float32] = (vector / np.linalg.norm(vector)).astype(np.float32)
    return unit
