"""The named schemas of answers in the OpenAPI document."""

from sfm_graph.api.rest.change_schemas import CHANGE
from sfm_graph.api.rest.schemas import (
    COORDINATE,
    FLOAT,
    KIND,
    OBJECT,
    Properties,
    answer,
    component,
    flag,
    integer,
    many,
    string,
)
from sfm_graph.domain.fading import Act, Reason
from sfm_graph.domain.recall import Leg

_COUNT = integer(0, 2**53)
_TIME = string(format="date-time")
_OPEN_TIME = {"type": ["string", "null"], "format": "date-time"}
_MAYBE_STRING = {"type": ["string", "null"]}
_MAYBE_NUMBER = {"type": ["number", "null"]}
_MEMORY = component("Memory")
_LINK = component("Link")
_NEXT = {"type": ["string", "null"], "description": "`after` of the next page; null behind the last"}
_COUNTS = {"type": "object", "additionalProperties": _COUNT}
_END = answer(id=string())
_MODEL = {"anyOf": [component("Model"), {"type": "null"}]}
_NAMESPACE = {"name": string(), "settings": OBJECT, "model": _MODEL, "created_at": _TIME}

COMPONENTS: Properties = {
    "Problem": {
        **answer(type=string(), title=string(), status=integer(400, 599), detail=string(), code=string()),
        "description": "RFC 9457; `code` is stable. Further members name what is concerned: field, index, id, key",
    },
    "Memory": answer(
        id=string("Unique across namespaces"),
        namespace=string(),
        key=_MAYBE_STRING,
        coordinate=COORDINATE,
        kind=KIND,
        title=_MAYBE_STRING,
        content=string(),
        payload=OBJECT,
        importance=FLOAT,
        version=integer(1, 2**31 - 1),
        created_at=_TIME,
        updated_at=_TIME,
        valid_from=_OPEN_TIME,
        valid_to=_OPEN_TIME,
        expires_at={**_OPEN_TIME, "description": "When it is forgotten by itself; null: it is not"},
        legal_hold=flag("Whether it can neither be forgotten nor erased"),
        agent={**_MAYBE_STRING, "description": "Which agent wrote it last; null: nobody said"},
    ),
    "Link": answer(
        id=string(),
        namespace=string(),
        source=_END,
        target=_END,
        type=string(),
        weight=FLOAT,
        properties=OBJECT,
        version=integer(1, 2**31 - 1),
        created_at=_TIME,
        updated_at=_TIME,
        valid_from=_OPEN_TIME,
        valid_to=_OPEN_TIME,
        maker={**_MAYBE_STRING, "description": "The linker that made it; null: a caller"},
        agent={**_MAYBE_STRING, "description": "Which agent wrote it last; null: nobody said"},
    ),
    "Change": CHANGE,
    "Leg": answer(
        leg=string(enum=[leg.value for leg in Leg]),
        rank={"type": ["integer", "null"]},
        raw_score=FLOAT,
        weight=FLOAT,
        contribution=FLOAT,
    ),
    "Model": answer(name=string(), revision=string(), dimension=integer(1, 4_000)),
    "Namespace": answer(**_NAMESPACE),
    "NamespaceStatistics": answer(**_NAMESPACE, memories=_COUNTS, links=_COUNTS, vectors=_COUNTS, hot_bytes=_COUNTS),
}

MEMORY = _MEMORY
LINK = _LINK
MEMORIES = many(_MEMORY)
MATCHES = answer(matches=MEMORIES)
BATCHES = answer(batches=many(MEMORIES))
_LEGS = many(component("Leg"))
_ID_OR_NULL = {"type": ["string", "null"]}
_CARRIER = answer(**{"from": string(), "link": _ID_OR_NULL, "name": _ID_OR_NULL, "share": FLOAT})
SCORED = answer(
    results=many(
        answer(
            memory=_MEMORY, score=FLOAT, legs=_LEGS, path={"anyOf": [_CARRIER, {"type": "null"}]},
            duplicates=many(string()), expanded=flag("Whether it came along with a hit, by `expand`"),
            superseded_by=_ID_OR_NULL,
        )
    )
)  # fmt: skip
_PARTS = answer(query=FLOAT, text=_MAYBE_NUMBER, near=_MAYBE_NUMBER, recent=_MAYBE_NUMBER)
IN_CONTEXT = answer(results=many(answer(memory=_MEMORY, score=FLOAT, context=_PARTS, legs=_LEGS)))
BULK = answer(
    stored=_COUNT,
    failed=many(answer(index=_COUNT, code=string(), message=string())),
    memories=MEMORIES,
)
DELETED = answer(deleted=flag("Whether there was such a memory"))
DECAY = answer(
    dry_run=flag("Whether nothing was changed"),
    memories=many(
        answer(
            id=string(), key=_MAYBE_STRING, title=_MAYBE_STRING, step=string(enum=[one.value for one in Act]),
            reason=string(enum=[one.value for one in Reason]), retention=_MAYBE_NUMBER,
        )
    ),
    more=flag("Whether there is more to be done now"),
)  # fmt: skip
COPY = answer(
    id=string("Its number"), namespace=string("Where it leads to"), source=_MAYBE_STRING, selection=OBJECT,
    follows=flag("Whether it is kept in step with its source"), memories=_COUNT, created_by=string(),
    created_at=_TIME, revoked_at=_OPEN_TIME, error=_MAYBE_STRING,
)  # fmt: skip
COPIES = answer(copies=many(COPY), next=_NEXT)
ACCESSES = answer(accesses=many(answer(agent=_MAYBE_STRING, count=_COUNT, last_at=_TIME)))
UNLINKED = answer(deleted=flag("Whether there was such a link"), count=_COUNT)
DELETED_MANY = answer(deleted=_COUNT, missing=_COUNT)
PAYLOADS = answer(payloads=many({"type": ["object", "null"]}, "In the order of coords; null where there is none"))
LISTED = answer(memories=MEMORIES, next=_NEXT)
RESULTS = answer(results=MEMORIES, next=_NEXT)
_HOT = flag("Walked in memory; false: by queries, the namespace exceeds the memory budget")
NEIGHBOURS = answer(
    neighbors=many(answer(memory=_MEMORY, link=_LINK, hops=integer(1, 10))),
    truncated=flag("Whether the limit, or a bound of the walk, left some out"),
    hot=_HOT,
    next=_NEXT,
)
_WAY: Properties = {"path": MEMORIES, "links": many(_LINK), "cost": _MAYBE_NUMBER}
PATH = answer(found=flag(""), **_WAY)
# A path that was found says where; several are there when `k` or `mode` asks for them.
PATH["properties"] |= {"hot": _HOT, "paths": many(answer(**_WAY))}
RANKING = answer(
    results=many(answer(memory=_MEMORY, score=FLOAT, group={"type": ["integer", "null"]})),
    truncated=flag("Whether more memories have a score"),
    estimated={**FLOAT, "description": "Which part of all score is an estimate, from 0 to 1"},
)
_TEXTS, _NUMBERS = many(string()), many(FLOAT)
_MAYBE_TEXTS = many(_MAYBE_STRING)
_PLACES = many(_COUNT, "Places in the columns of `nodes`")
SUBGRAPH = answer(
    nodes=answer(id=_TEXTS, key=_MAYBE_TEXTS, kind=many(KIND), title=_MAYBE_TEXTS, importance=_NUMBERS),
    links=answer(id=_TEXTS, source=_PLACES, target=_PLACES, type=_TEXTS, weight=_NUMBERS),
    truncated=flag("Whether the limit, or a bound of the walk, left something out"),
    hot=_HOT,
)
NAMESPACE = component("Namespace")
STATISTICS = component("NamespaceStatistics")
NAMESPACES = answer(namespaces=many(NAMESPACE), next=_NEXT)
STATS = answer(namespaces=many(STATISTICS), next=_NEXT, backends=OBJECT, version=string())
HEALTH = answer(status=string(enum=["up", "down"]), parts=OBJECT)
ALIVE = answer(status=string())
_DONE = answer(created=_COUNT, updated=_COUNT, unchanged=_COUNT)
IMPORTED = answer(
    memories=_DONE,
    links=_DONE,
    failed=_COUNT,
    failures=many(answer(line=_COUNT, code=string(), message=string()), "The first 1,000"),
)
