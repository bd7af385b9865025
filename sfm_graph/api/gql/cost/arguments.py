"""The arguments of a field as far as its cost depends on them, read from the document without coercing them.

A value is a literal of the document or what JSON gave for a variable. What is no valid value counts as the nearest
one, or as the default: execution refuses it in its own words.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from graphql import (
    EnumValueNode,
    IntValueNode,
    ListValueNode,
    NullValueNode,
    ObjectValueNode,
    Undefined,
    ValueNode,
    VariableNode,
)


@dataclass(frozen=True, slots=True)
class Variables:
    """The variables as they were sent, and the literals that stand for those that were not."""

    sent: Mapping[str, Any]
    defaults: Mapping[str, ValueNode]

    def resolved(self, value: Any) -> Any:
        """A value that is no variable; Undefined for a variable that has none."""
        if not isinstance(value, VariableNode):
            return value
        name = value.name.value
        return self.sent[name] if name in self.sent else self.defaults.get(name, Undefined)


@dataclass(frozen=True, slots=True)
class Arguments:
    """The arguments of one field: literals and variables, and the schema's defaults."""

    given: Mapping[str, ValueNode]
    defaults: Mapping[str, Any]
    variables: Variables

    def number(self, name: str, most: int) -> int:
        """An integer argument, from 0 to `most`."""
        value = self._at((name,))
        if isinstance(value, IntValueNode):
            # Longer ones are beyond any bound, and int() refuses thousands of digits.
            text = value.value
            value = int(text) if len(text) < 20 else (0 if text.startswith("-") else most)
        # A NaN is unequal to itself.
        if not isinstance(value, int | float) or value != value:
            value = self.defaults.get(name, 0)
        return int(min(max(value, 0), most))

    def text(self, name: str) -> str | None:
        """A string or enum argument by the name that it has in the document."""
        value = self._at((name,))
        if isinstance(value, EnumValueNode):
            return value.value
        return value if isinstance(value, str) else None

    def items(self, *path: str, most: int) -> int:
        """How many elements the list at a path has, at most `most`; a value that is no list is one."""
        value = self._at(path)
        if _is_nothing(value):
            return 0
        if isinstance(value, ListValueNode):
            return min(len(value.values), most)
        return min(len(value), most) if isinstance(value, list) else 1

    def has(self, *path: str) -> bool:
        """Whether there is anything but null at a path."""
        return not _is_nothing(self._at(path))

    def _at(self, path: tuple[str, ...]) -> Any:
        value = self.variables.resolved(self.given.get(path[0], Undefined))
        for name in path[1:]:
            value = self.variables.resolved(_member(value, name))
        return value


def _is_nothing(value: Any) -> bool:
    return value is None or value is Undefined or isinstance(value, NullValueNode)


def _member(value: Any, name: str) -> Any:
    if isinstance(value, ObjectValueNode):
        return next((field.value for field in value.fields if field.name.value == name), Undefined)
    return value.get(name, Undefined) if isinstance(value, Mapping) else Undefined
