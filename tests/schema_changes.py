"""Whether a JSON Schema of events may replace a released one without breaking who reads them."""

from collections.abc import Iterator
from typing import Any

_ANNOTATIONS = {"title", "description", "examples", "$comment"}
_BY_NAME = ("properties", "$defs")
_IN_ORDER = ("allOf", "anyOf", "oneOf")
_NESTED = ("items", "if", "then", "else", "not")


def incompatibilities(released: Any, present: Any, at: str = "") -> Iterator[str]:
    """What a reader of the released schema may stumble over: all that changed, but for new members, more members that
    are required, and descriptions. A keyword that is not known here counts, too."""
    if not isinstance(released, dict) or not isinstance(present, dict):
        if released != present:
            yield f"{at or '/'}: changed"
        return
    for keyword in _BY_NAME:
        here, there = released.get(keyword, {}), present.get(keyword, {})
        for name, schema in here.items():
            if name in there:
                yield from incompatibilities(schema, there[name], f"{at}/{name}")
            else:
                yield f"{at}/{name}: removed"
    for name in sorted(set(released.get("required", ())) - set(present.get("required", ()))):
        yield f"{at}/{name}: no longer required"
    for keyword in _IN_ORDER:
        yield from _in_order(released.get(keyword, []), present.get(keyword, []), f"{at}/{keyword}")
    for keyword in _NESTED:
        yield from incompatibilities(released.get(keyword, True), present.get(keyword, True), f"{at}/{keyword}")
    compared = {*_ANNOTATIONS, *_BY_NAME, *_IN_ORDER, *_NESTED, "required"}
    for keyword in sorted((released.keys() | present.keys()) - compared):
        if _value(released, keyword) != _value(present, keyword):
            yield f"{at or '/'}: {keyword} changed"


def _in_order(released: list[Any], present: list[Any], at: str) -> Iterator[str]:
    if len(released) != len(present):
        yield f"{at}: changed"
    for number, (one, other) in enumerate(zip(released, present, strict=False)):
        yield from incompatibilities(one, other, f"{at}/{number}")


def _value(schema: dict[str, Any], keyword: str) -> Any:
    value = schema.get(keyword)
    return sorted(map(repr, value)) if keyword in ("enum", "type") and isinstance(value, list) else value
