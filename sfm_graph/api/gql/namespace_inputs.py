"""The inputs of mutations of namespaces."""

from dataclasses import asdict, fields
from typing import Any

import strawberry
from strawberry.scalars import JSON

from sfm_graph.api.gql.inputs import needed, optional
from sfm_graph.domain.namespace import NamespaceSettings


@strawberry.input(description="An embedding model, so that vectors of different models are never mixed.")
class EmbeddingModelInput:
    """A model's identity."""

    name: str = needed("The model's name.")
    revision: str = optional("Its revision.", "1")
    dimension: int = needed("How many numbers its vectors have, from 1 to 4,000.")


@strawberry.input(description="A namespace to make; if there is one already, what is given here replaces its own.")
class CreateNamespaceInput:
    """A namespace and its settings. Sending it again changes nothing."""

    name: str = needed("Its name: 1 to 128 printable characters.")
    payload_paths: list[str] | None = optional(
        "Payload paths (a.b.c) that `where` may compare by order (gt, gte, lt, lte), at most 16.", None
    )
    language: str | None = optional(
        "Whose rules reduce words to stems: a Snowball language such as english, or none; fixed once something is "
        "stored. Default english.",
        None,
    )
    cues: JSON | None = optional(
        'The payload fields that cues are read from, such as {"author": ["speaker"], "sequence": ["chat_id"]}.', None
    )
    linkers: JSON | None = optional('Linkers switched on or off, such as {"similarity": true}.', None)
    fading: JSON | None = optional(
        'How memories fade, such as {"half_life_days": {"episodic": 30}, "threshold": 0.25}; false: they do not.',
        None,
    )
    max_memories: int | None = optional("How many memories are kept; 0: any number.", None)
    extraction: bool | None = optional("Whether the predictor reads what is stored for entities and relations.", None)
    functional_types: list[str] | None = optional(
        "Link types of which one link at most is open from a memory: one that opens closes the others. At most 50.",
        None,
    )
    consolidation: JSON | None = optional(
        'How episodes become semantic memories, such as {"min_size": 3, "max_gap_hours": 6}; false: they do not.',
        None,
    )
    content_policy: JSON | None = optional(
        'What may be stored, such as {"max_content_bytes": 10000, "patterns": {"email": "redact"}}; {}: anything.',
        None,
    )
    model: EmbeddingModelInput | None = optional("The model of its vectors; by default the first vector's.", None)

    def settings(self) -> dict[str, Any] | None:
        """The settings' JSON form; None when not given."""
        given = {one.name: getattr(self, one.name) for one in fields(NamespaceSettings)}
        given = {name: value for name, value in given.items() if value is not None}
        return given or None

    def declared_model(self) -> dict[str, Any] | None:
        """The model's JSON form; None when not given."""
        return None if self.model is None else asdict(self.model)


@strawberry.input(description="Changes to a namespace that exists.")
class UpdateNamespaceInput(CreateNamespaceInput):
    """A namespace and its new settings."""


@strawberry.input(description="A namespace to delete with everything in it.")
class DeleteNamespaceInput:
    """A namespace, named twice."""

    name: str = needed("Its name.")
    confirm: str = needed("Its name again.")
