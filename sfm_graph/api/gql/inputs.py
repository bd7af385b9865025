"""What inputs share: references, orders and weights, and where a mutation writes."""

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import strawberry
from strawberry import UNSET

from sfm_graph.domain import identity, inputs, validate
from sfm_graph.domain.page import OrderField
from sfm_graph.services.idempotency import IdempotencyKey, idempotency_key

# What says where and how to write, not what.
_ADDRESS = frozenset({"namespace", "idempotency_key", "id", "ref", "source", "target", "items", "partial"})


def optional(description: str, default: Any = UNSET) -> Any:
    """An input field that may be left out; UNSET then, unless it has a default."""
    return strawberry.field(description=description, default=default)


def needed(description: str) -> Any:
    """An input field that must be given."""
    return strawberry.field(description=description)


@strawberry.input(one_of=True, description="Names one memory of a namespace.")
class MemoryRef:
    """Exactly one of an id, a key and a coordinate."""

    id: strawberry.ID | None = optional("Its global id.")
    key: str | None = optional("Its key.")
    coordinate: list[float] | None = optional("Its coordinate.")

    def given(self) -> dict[str, Any]:
        """The JSON form."""
        given = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: value for name, value in given.items() if value is not UNSET}

    def within(self, namespace: str) -> identity.MemoryRef:
        """The reference. Raises MemoryNotFound for an id of another namespace, InvalidInput."""
        return inputs.memory_ref(validate.namespace(namespace), self.given())


@strawberry.input(description="The order of a listing; ties by id.")
class MemoryOrder:
    """Field and direction."""

    field: OrderField = optional("What is compared.", OrderField.ID)
    descending: bool = optional("The greatest first.", False)


@strawberry.input(description="How much each leg counts; scaled to sum to 1. A weight of 0 turns a leg off.")
class RecallWeights:
    """Weights of the legs."""

    dense: float = optional("The vectors' weight, from 0.", 0.5)
    lexical: float = optional("The words' weight, from 0.", 0.5)


@strawberry.input(description="What is written at most once.")
class Repeatable:
    """An input that can be sent again."""

    idempotency_key: str | None = optional("The same key again within 24 hours gives the first answer again.", None)

    def given(self) -> dict[str, Any]:
        """The fields that were given, explicit nulls with them, by their domain names."""
        return {
            one.name: getattr(self, one.name)
            for one in fields(self)
            if one.name not in _ADDRESS and getattr(self, one.name) is not UNSET
        }

    def once(self, principal: str) -> IdempotencyKey | None:
        """The idempotency key with all of this input as its body."""
        if self.idempotency_key is None:
            return None
        return idempotency_key(principal, self.idempotency_key, [type(self).__name__, self])


@strawberry.input(description="What is written at most once, into a namespace.")
class Mutating(Repeatable):
    """An input with the namespace that it writes to."""

    namespace: str = optional("The namespace; it comes to be with its first write.", identity.DEFAULT_NAMESPACE)

    def scope(self) -> str:
        """The checked name of the namespace. Raises InvalidInput."""
        return validate.namespace(self.namespace)


def snake_case(item: Mapping[str, Any]) -> dict[str, Any]:
    """An item by its domain names; a name that is none is left to be refused by the service."""
    return {re.sub("[A-Z]", lambda found: "_" + found[0].lower(), name): value for name, value in item.items()}
