"""The JSON schemas of versions, and of bringing them back."""

from sfm_graph.api.rest.schemas import (
    NAMESPACE_ONLY,
    PAGE,
    REF,
    VERSION,
    Properties,
    Schema,
    answer,
    body,
    component,
    flag,
    integer,
    many,
    string,
)
from sfm_graph.domain.change import Operation
from sfm_graph.domain.memory import WriteOperation
from sfm_graph.domain.versions import DifferenceKind

_NUMBER = integer(1, 2**31 - 1, "A version's number")
_WHICH = integer(1, 2**31 - 1, "Which version; the last one that is kept when absent")
_LINK_ID = string("The link's id", least=1)
_MOMENT: Schema = {"type": ["string", "null"], "format": "date-time"}
_OPERATION: Schema = {"enum": [*(one.value for one in Operation), None]}
_FACTS: Properties = {
    "version": _NUMBER,
    "operation": {**_OPERATION, "description": "What brought it about; null where the log begins later"},
    "known_from": {**_MOMENT, "description": "From which moment it was known; null where the log does not say"},
    "known_to": {**_MOMENT, "description": "At which moment it was known no longer; null: it is the present one"},
    "ended_by": _OPERATION,
    "trace": {"type": ["string", "null"], "description": "The traceparent of the request that wrote it"},
}
_NEXT: Schema = {"type": ["string", "null"]}

HISTORY: Properties = {**NAMESPACE_ONLY, **PAGE}
LINK_HISTORY: Properties = {**HISTORY, "id": _LINK_ID}
DIFF: Properties = {**NAMESPACE_ONLY, "from": _NUMBER, "to": _NUMBER}
RESTORE = body(
    {
        "coord": REF,
        "version": _WHICH,
        "links": flag("Bring back the links that were forgotten together with it", default=True),
        "expected_version": VERSION,
    },
    "coord",
)
RESTORE_LINK = body({"id": _LINK_ID, "version": _WHICH, "expected_version": VERSION}, "id")
MEMORY_VERSIONS = answer(versions=many(answer(**_FACTS, memory=component("Memory"))), next=_NEXT)
LINK_VERSIONS = answer(versions=many(answer(**_FACTS, link=component("Link"))), next=_NEXT)
DIFFERENCES = answer(
    differences=many(
        answer(path=string(), kind=string(enum=[one.value for one in DifferenceKind]), before={}, after={})
    )
)
RESTORED = answer(
    memory=component("Memory"),
    operation=string(enum=[one.value for one in WriteOperation]),
    links=many(component("Link")),
)
RESTORED_LINK = component("Link")
