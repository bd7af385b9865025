"""What consolidation, duplicates and merging are asked, and what they answer, as JSON schemas."""

from sfm_graph.api.rest import components
from sfm_graph.api.rest.schemas import (
    FLOAT,
    NAMESPACE_ONLY,
    REF,
    Properties,
    answer,
    body,
    flag,
    integer,
    many,
    string,
)
from sfm_graph.domain.duplicates import DEFAULT_THRESHOLD
from sfm_graph.services.duplicates import LEAST_THRESHOLD, MAX_FIRST
from sfm_graph.services.merging import MAX_MERGED

_COUNT = integer(0, 2**53)
_IDS = many(string())

CONSOLIDATE = body({"dry_run": flag("Change nothing")})
DUPLICATES: Properties = {
    **NAMESPACE_ONLY,
    "threshold": {
        "type": "number", "minimum": LEAST_THRESHOLD, "maximum": 1, "default": DEFAULT_THRESHOLD,
        "description": "The least cosine of two memories that say the same",
    },
    "first": integer(1, MAX_FIRST, "At most so many groups", default=20),
}  # fmt: skip
MERGE = body(
    {"into": REF, "from": many(REF, "The memories that go into it", most=MAX_MERGED, least=1)}, "into", "from"
)

CONSOLIDATION = answer(
    dry_run=flag("Whether nothing was changed"), created=_COUNT, updated=_COUNT, put_off=_COUNT, episodes=_COUNT,
    complete=flag("Whether everything was looked at; else ask again"),
    groups=many(
        answer(
            memory={"anyOf": [components.MEMORY, {"type": "null"}]}, created=flag("Whether it is new"), sources=_IDS,
            content=string(), method=string(enum=["extractive", "predictor"]),
        ),
        "The first 100",
    ),
)  # fmt: skip
DUPLICATE_GROUPS = answer(
    groups=many(
        answer(
            kept=components.MEMORY,
            duplicates=many(answer(memory=components.MEMORY, cosine=FLOAT, same_text=flag("Equal words"))),
        )
    ),
    complete=flag("Whether there are no others"), examined=_COUNT,
)  # fmt: skip
MERGED = answer(memory=components.MEMORY, merged=_IDS, links_moved=_COUNT, links_dropped=_COUNT)
