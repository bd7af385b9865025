"""Predictions, their outcomes, and reflection as GraphQL objects and inputs."""

from typing import Self

import strawberry
from strawberry.scalars import JSON

from sfm_graph.api.gql.inputs import MemoryRef, Mutating, needed, optional
from sfm_graph.api.gql.types import Link, Memory
from sfm_graph.domain import foresight, identity, insights
from sfm_graph.domain.foresight import JudgedBy, Method
from sfm_graph.domain.identity import Entity, encode_global_id
from sfm_graph.domain.insights import InsightKind
from sfm_graph.services.prediction.outcomes import ReportedOutcome
from sfm_graph.services.prediction.reflections import Reflection

strawberry.enum(
    Method,
    name="PredictionMethod",
    description="Who made a prediction. STRUCTURAL: it is what followed similar episodes, with the share of them.",
)
strawberry.enum(
    JudgedBy, description="How it is known whether a prediction came true. COSINE: by how alike both texts are."
)
strawberry.enum(
    InsightKind,
    description="RECURRENT_ERROR: predictions that are wrong again and again. SURPRISE: a memory like none before, "
    "or an outcome against its prediction. STALE_LINK: it holds though an end of it does not. CONTRADICTION: "
    "memories or links that cannot both be right.",
)


@strawberry.input(description="What to predict: what comes next in a context, around a memory, or both.")
class PredictNextInput(Mutating):
    """A situation."""

    context: str | None = optional("What is going on, at most 10,000 characters.", None)
    around: MemoryRef | None = optional("A memory that it is around: what may come after it?", None)
    first: int = optional("How many predictions at most, 1 to 10.", 3)
    agent: str | None = optional("Who asks; the predictions are its own.", None)

    def memory(self) -> identity.MemoryRef | None:
        """The reference. Raises InvalidInput, MemoryNotFound."""
        return None if self.around is None else self.around.within(self.scope())


@strawberry.type(description="A prediction, stored as a SEMANTIC memory linked `predicted_from` to its evidence.")
class Prediction:
    """One prediction."""

    memory: Memory = strawberry.field(description="The memory.")
    confidence: float = strawberry.field(description="From 0 to 1.")
    method: Method = strawberry.field(description="Who made it.")


@strawberry.type(description="What may come next, the likeliest first.")
class PredictNextPayload:
    """Answer of predictNext."""

    predictions: list[Prediction] = strawberry.field(description="The predictions; none when nothing speaks for any.")
    method: Method = strawberry.field(description="Who made them.")
    reason: str | None = strawberry.field(description="Why the predictor did not make them; null when it did.")

    @classmethod
    def from_domain(cls, found: foresight.Foresight) -> Self:
        """The GraphQL form."""
        predictions = [
            Prediction(memory=Memory.from_domain(one.memory), confidence=one.confidence, method=one.method)
            for one in found.predictions
        ]
        return cls(predictions=predictions, method=found.method, reason=found.reason)


@strawberry.input(description="What became of a prediction.")
class ReportOutcomeInput(Mutating):
    """An outcome. `idempotencyKey`: the same again gives the same outcome of the prediction, for ever."""

    prediction: MemoryRef = needed("The memory that predicted it.")
    outcome: str = needed("What happened, at most 10,000 characters.")
    correct: bool | None = optional("Whether the prediction came true.", None)
    value: float | None = optional("Instead, how far it came true, from 0 to 1.", None)
    agent: str | None = optional("Who says so.", None)


@strawberry.type(description="The outcome, stored as an EPISODIC memory linked `outcome_of` to the prediction.")
class ReportOutcomePayload:
    """Answer of reportOutcome."""

    memory: Memory = strawberry.field(description="The memory.")
    link: Link = strawberry.field(description="The link; its properties have the figures.")
    correct: float = strawberry.field(description="How far the prediction came true, from 0 to 1.")
    error: float = strawberry.field(description="(confidence - correct)^2: 0 is right, 1 as wrong as can be.")
    judged_by: JudgedBy = strawberry.field(description="How that is known.")

    @classmethod
    def from_domain(cls, one: ReportedOutcome) -> Self:
        """The GraphQL form."""
        return cls(
            memory=Memory.from_domain(one.memory), link=Link.from_domain(one.link), correct=one.correct,
            error=one.error, judged_by=one.judged_by,
        )  # fmt: skip


@strawberry.input(description="A look back. Sent again it changes nothing that it has written.")
class ReflectInput:
    """Where, and since when."""

    namespace: str = optional("The namespace.", identity.DEFAULT_NAMESPACE)
    since: str | None = optional("An ISO 8601 time, or how long ago: 12h, 30d, 2w. 30 days by default.", None)
    dry_run: bool = optional("Only say what would be written.", False)


@strawberry.type(description="Something that reflection found.")
class Insight:
    """One insight."""

    kind: InsightKind = strawberry.field(description="What it is.")
    text: str = strawberry.field(description="What it says.")
    worded_by: str = strawberry.field(description="`predictor` or `template`.")
    evidence: list[strawberry.ID] = strawberry.field(description="The memories that bear it out.")
    links: list[strawberry.ID] = strawberry.field(description="The links that it is about.")
    figures: JSON = strawberry.field(description="Its figures.")
    created: bool = strawberry.field(description="Whether it was not known before.")
    memory: Memory | None = strawberry.field(
        description="A SEMANTIC memory linked `evidenced_by` to its evidence; null where nothing was written."
    )

    @classmethod
    def from_domain(cls, namespace: str, one: insights.Insight) -> Self:
        """The GraphQL form."""
        found = one.finding
        return cls(
            kind=found.kind, text=one.text, worded_by=one.worded_by,
            evidence=[strawberry.ID(encode_global_id(Entity.MEMORY, namespace, id_)) for id_ in found.evidence],
            links=[strawberry.ID(encode_global_id(Entity.LINK, namespace, id_)) for id_ in found.links],
            figures=JSON(dict(found.figures)), created=one.created,
            memory=None if one.memory is None else Memory.from_domain(one.memory),
        )  # fmt: skip


@strawberry.type(description="What was found, 50 insights at most.")
class ReflectPayload:
    """Answer of reflect."""

    insights: list[Insight] = strawberry.field(description="The insights.")
    created: int = strawberry.field(description="How many of them are new.")
    more: bool = strawberry.field(description="Whether there is more to find.")

    @classmethod
    def from_domain(cls, namespace: str, found: Reflection) -> Self:
        """The GraphQL form."""
        listed = [Insight.from_domain(namespace, one) for one in found.insights]
        return cls(insights=listed, created=found.created, more=found.more)
