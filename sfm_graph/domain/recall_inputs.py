"""From what callers send to a validated recall."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from sfm_graph.domain import validate
from sfm_graph.domain.inputs import link_type
from sfm_graph.domain.recall import LINK_TYPE_FACTORS, MAX_EXPAND, RecallWeights
from sfm_graph.errors import InvalidInput

MAX_WEIGHT = 100.0
MAX_LINK_TYPES = 100

# Vectors and nothing else.
DENSE_ONLY = RecallWeights(
    dense=1.0, lexical=0.0, window=0.0, name=0.0, author=0.0, date=0.0, importance=0.0, near=0.0, link=0.0,
    shared_name=0.0, superseded=0.0,
)  # fmt: skip
WEIGHT_NAMES = tuple(field.name for field in fields(RecallWeights))
_SHARES = frozenset({"window", "shared_name", "superseded"})


def recall_weights(value: object) -> RecallWeights:
    """Weights from their JSON form; what is not given, or null, is at its default. Raises InvalidInput."""
    if not isinstance(value, Mapping) or value.keys() - set(WEIGHT_NAMES):
        raise InvalidInput(f"weights takes {', '.join(WEIGHT_NAMES)}", field="weights")
    given: dict[str, Any] = {}
    for name, one in value.items():
        if one is not None:
            given[name] = _link_types(one) if name == "link_types" else _weight(name, one)
    weights = RecallWeights(**given)
    if weights.dense == 0 and weights.lexical == 0:
        raise InvalidInput("dense and lexical must not both be 0", field="weights")
    return weights


def expand(value: object) -> int:
    """How many linked memories come along."""
    return validate.integer(value, "expand", low=0, high=MAX_EXPAND)


def diversity(value: object) -> float:
    """How much likeness to better hits costs, in [0, 1]."""
    return _bounded("diversity", value, 1.0)


def _weight(name: str, value: object) -> float:
    return _bounded(f"weights.{name}", value, 1.0 if name in _SHARES else MAX_WEIGHT)


def _bounded(field: str, value: object, high: float) -> float:
    checked = validate.number(value, field)
    if not 0 <= checked <= high:
        raise InvalidInput(f"{field} must be in [0, {high:g}]", field=field)
    return checked


def _link_types(value: object) -> Mapping[str, float]:
    if not isinstance(value, Mapping) or len(value) > MAX_LINK_TYPES:
        raise InvalidInput(f"weights.link_types maps at most {MAX_LINK_TYPES} link types to factors", field="weights")
    given = {link_type(name): _bounded("weights.link_types", factor, MAX_WEIGHT) for name, factor in value.items()}
    return {**LINK_TYPE_FACTORS, **given}
