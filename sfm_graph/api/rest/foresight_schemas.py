"""The JSON schemas of predictions, outcomes, reflection and jobs."""

from sfm_graph.api.rest.schemas import (
    NAME,
    NAMESPACE_ONLY,
    OBJECT,
    REF,
    Properties,
    answer,
    body,
    component,
    flag,
    integer,
    many,
    string,
)
from sfm_graph.domain.foresight import MAX_CONTEXT_CHARS, MAX_OUTCOME_CHARS, MAX_PREDICTIONS, JudgedBy, Method
from sfm_graph.domain.inputs import MAX_AGENT_CHARS
from sfm_graph.domain.insights import InsightKind

_AGENT = string("Who writes this", least=1, most=MAX_AGENT_CHARS, **NAME)
_SHARE = {"type": "number", "minimum": 0, "maximum": 1}
_MAYBE_STRING = {"type": ["string", "null"]}
_MAYBE_TIME = {"type": ["string", "null"], "format": "date-time"}
_METHOD = string(enum=[one.value for one in Method])

PREDICT = body(
    {
        "context": string("What is going on", least=1, most=MAX_CONTEXT_CHARS, pattern=r"\S"),
        "around": REF,
        "first": integer(1, MAX_PREDICTIONS, "How many predictions at most", default=3),
        "agent": _AGENT,
    },
    anyOf=[{"required": ["context"]}, {"required": ["around"]}],
)
FORESIGHT = answer(
    predictions=many(answer(memory=component("Memory"), confidence=_SHARE, method=_METHOD)),
    method=_METHOD,
    reason={**_MAYBE_STRING, "description": "Why the predictor did not make them; null when it did"},
)
OUTCOME = body(
    {
        "prediction": REF,
        "outcome": string("What happened", least=1, most=MAX_OUTCOME_CHARS, pattern=r"\S"),
        "correct": {"type": "boolean", "description": "Whether the prediction came true"},
        "value": {**_SHARE, "description": "Instead, how far it came true"},
        "agent": _AGENT,
    },
    "prediction",
    "outcome",
)
OUTCOME_STORED = answer(
    memory=component("Memory"), link=component("Link"), correct=_SHARE, error=_SHARE,
    judged_by=string(enum=[one.value for one in JudgedBy]),
)  # fmt: skip
REFLECT = body(
    {
        "since": string("ISO 8601, or how long ago: 12h, 30d, 2w; 30 days by default", pattern=r"^[0-9]{1,3}[hdw]$"),
        "dry_run": flag("Only say what would be written"),
    }
)
REFLECTION = answer(
    insights=many(
        answer(
            kind=string(enum=[one.value for one in InsightKind]), text=string(), worded_by=string(),
            evidence=many(string()), links=many(string()), figures=OBJECT,
            created=flag("Whether it was not known before"),
            memory={"anyOf": [component("Memory"), {"type": "null"}]},
        )
    ),
    created=integer(0, 2**31 - 1),
    more=flag("Whether there is more to find"),
)  # fmt: skip
JOBS_QUERY: Properties = {**NAMESPACE_ONLY}
JOBS = answer(
    jobs=many(answer(name=string(), due_at=_MAYBE_TIME, ran_at=_MAYBE_TIME, error=_MAYBE_STRING, progress=OBJECT))
)
