"""What inputs share: references, orders and weights, and where a mutation writes."""

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import strawberry
from strawberry import UNSET
from strawberry.scalars import JSON

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


@strawberry.input(
    description="How much each part of recall counts, from 0; 0 turns it off. What is null is at its default."
)
class RecallWeights:
    """Weights of the parts."""

    dense: float | None = optional("Share of the vectors beside the words; scaled to sum to 1. Default: the model's.")
    lexical: float | None = optional("Share of the words (BM25) beside the vectors. Default: the model's.")
    window: float | None = optional("Share of the windows of memories in sequences, to 1. Default 0.6.")
    name: float | None = optional("Added where the query says a memory's title or alias. Default 0.5.")
    author: float | None = optional("Added where the query says a memory's author. Default 0.1.")
    date: float | None = optional("Added where the query says a memory's date. Default 0.2.")
    importance: float | None = optional("Added times importance on the namespace's scale. Default 0.05.")
    product: float | None = optional("Added times max(0, cosine) x importance on that scale. Default 0.")
    recency: float | None = optional("Added times 2 ^ (-age / 30 days). Default 0.")
    near: float | None = optional("Added times nearness to `near`. Default 0.3.")
    link: float | None = optional("How far links of the best hits pull their targets up. Default 1.")
    link_types: JSON | None = optional(
        'Factors by link type, such as {"works_at": 0.5}. Default 1; next, similar, supersedes 0.'
    )
    shared_name: float | None = optional("How far names shared with the best hits pull, to 1. Default 0.5.")
    superseded: float | None = optional("The share of its score that a superseded memory loses, to 1. Default 0.5.")

    def given(self) -> dict[str, Any]:
        """What was given, by domain names."""
        return {one.name: getattr(self, one.name) for one in fields(self) if getattr(self, one.name) is not UNSET}


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
