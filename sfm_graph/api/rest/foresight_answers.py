"""Predictions, outcomes, insights and jobs as JSON."""

from sfm_graph.api.rest.answers import Json, link_json, memory_json
from sfm_graph.domain.foresight import Foresight
from sfm_graph.domain.identity import Entity, encode_global_id
from sfm_graph.domain.insights import Insight
from sfm_graph.domain.job import Job
from sfm_graph.services.prediction.outcomes import ReportedOutcome
from sfm_graph.services.prediction.reflections import Reflection


def foresight_json(found: Foresight) -> Json:
    """What was predicted."""
    predictions = [
        {"memory": memory_json(one.memory), "confidence": one.confidence, "method": one.method.value}
        for one in found.predictions
    ]
    return {"predictions": predictions, "method": found.method.value, "reason": found.reason}


def outcome_json(one: ReportedOutcome) -> Json:
    """An outcome as stored."""
    return {
        "memory": memory_json(one.memory), "link": link_json(one.link), "correct": one.correct, "error": one.error,
        "judged_by": one.judged_by.value,
    }  # fmt: skip


def reflection_json(namespace: str, found: Reflection) -> Json:
    """What a reflection found."""
    insights = [_insight_json(namespace, one) for one in found.insights]
    return {"insights": insights, "created": found.created, "more": found.more}


def _insight_json(namespace: str, one: Insight) -> Json:
    found = one.finding
    return {
        "kind": found.kind.value, "text": one.text, "worded_by": one.worded_by,
        "evidence": [encode_global_id(Entity.MEMORY, namespace, id_) for id_ in found.evidence],
        "links": [encode_global_id(Entity.LINK, namespace, id_) for id_ in found.links],
        "figures": dict(found.figures), "created": one.created,
        "memory": None if one.memory is None else memory_json(one.memory),
    }  # fmt: skip


def job_json(one: Job) -> Json:
    """A job."""
    return {
        "name": one.name, "due_at": one.due_at, "ran_at": one.ran_at, "error": one.error,
        "progress": dict(one.progress),
    }  # fmt: skip
