"""The schemas of the change stream."""

from sfm_graph.api.rest.schemas import (
    LINK_TYPE,
    NAMESPACE_ONLY,
    OBJECT,
    REF_TEXT,
    Properties,
    answer,
    component,
    flag,
    integer,
    many,
    string,
)
from sfm_graph.domain.change import Operation
from sfm_graph.domain.change_filter import MAX_AROUND_HOPS
from sfm_graph.domain.identity import Entity
from sfm_graph.services.changes.changes import MAX_PAGE

_STATE = {"anyOf": [OBJECT, {"type": "null"}]}
_ENTITIES = [one.value for one in Entity]
_OPERATIONS = [one.value for one in Operation if one is not Operation.REINDEX]

CHANGES: Properties = {
    **NAMESPACE_ONLY,
    "after": string("A cursor, `beginning` (what pages start with) or `now` (what streams start with)"),
    "first": integer(1, MAX_PAGE, "Changes in a page; of no meaning for a stream", default=100),
    "entities": many(string(enum=_ENTITIES), "Only of these; repeat the parameter, or `memory,link`"),
    "operations": many(string(enum=_OPERATIONS), "Only these; repeat the parameter, or `create,update`"),
    "link_types": many(LINK_TYPE, "Of links only those of these types; without `entities`, only links", most=100),
    "around": {**REF_TEXT, "description": "Only what is within `hops` links of this memory"},
    "hops": integer(0, MAX_AROUND_HOPS, default=1),
}
LAST_EVENT_ID = string("Of a stream: where it goes on; wins over `after`", pattern=r"^[\w-]*$")
CHANGE = answer(
    cursor=string("The place behind this change"),
    entity=string(enum=_ENTITIES),
    operation=string(enum=_OPERATIONS),
    id=string("The memory's or link's global id; a namespace's name"),
    entity_id=integer(0, 2**63 - 1),
    namespace=string(),
    at=string(format="date-time"),
    before=_STATE,
    after=_STATE,
)
CHANGE_PAGE = answer(
    changes=many(component("Change")),
    cursor=string("`after` of the next page"),
    more=flag("Whether more are there now"),
)
