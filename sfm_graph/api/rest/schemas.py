"""The JSON schemas of requests and answers: what the OpenAPI document says, and which fields a route knows.

They describe; `domain.inputs` and `domain.validate` judge.
"""

from dataclasses import fields
from typing import Any

from sfm_graph.api.exports import FORMATS
from sfm_graph.domain import inputs, validate
from sfm_graph.domain.consolidation import MAX_EPISODES
from sfm_graph.domain.context import MAX_RECENT_COORDINATES
from sfm_graph.domain.cues import MAX_CUE_FIELDS, CueFields
from sfm_graph.domain.fading import MAX_DAYS, MAX_DECAY, MAX_MEMORIES
from sfm_graph.domain.functional_links import MAX_FUNCTIONAL_TYPES
from sfm_graph.domain.link import Direction
from sfm_graph.domain.memory import MemoryKind
from sfm_graph.domain.namespace import MAX_DECLARED_PATHS, MAX_LINKERS
from sfm_graph.domain.page import MAX_PAGE, OrderField
from sfm_graph.domain.recall import MAX_EXPAND, MAX_RECALL
from sfm_graph.domain.recall_inputs import WEIGHT_NAMES
from sfm_graph.domain.words import LANGUAGES
from sfm_graph.services.copying.selection import MAX_DEPTH, MAX_STARTS

Schema = dict[str, Any]
Properties = dict[str, Schema]

MAX_BATCH_QUERIES = 100
MAX_LOOKED_UP = 1_000


def string(description: str = "", *, most: int | None = None, least: int | None = None, **more: Any) -> Schema:
    """A string of `least` to `most` characters."""
    return _clean({"type": "string", "description": description, "minLength": least, "maxLength": most, **more})


def integer(low: int, high: int, description: str = "", **more: Any) -> Schema:
    """An integer in [low, high]."""
    return _clean({"type": "integer", "minimum": low, "maximum": high, "description": description, **more})


def flag(description: str, *, default: bool = False) -> Schema:
    """A boolean."""
    return {"type": "boolean", "default": default, "description": description}


def many(items: Schema, description: str = "", *, most: int | None = None, least: int | None = None) -> Schema:
    """A list."""
    return _clean({"type": "array", "items": items, "description": description, "minItems": least, "maxItems": most})


def body(properties: Properties, *required: str, **more: Any) -> Schema:
    """A closed object that may also name its namespace."""
    return {
        "type": "object",
        "properties": {**properties, **NAMESPACE_ONLY},
        "required": list(required),
        "additionalProperties": False,
        **more,
    }


def answer(**properties: Schema) -> Schema:
    """An object with every one of these members."""
    return {"type": "object", "properties": properties, "required": list(properties)}


def component(name: str) -> Schema:
    """A reference to a schema in COMPONENTS."""
    return {"$ref": f"#/components/schemas/{name}"}


def _clean(schema: Schema) -> Schema:
    return {name: value for name, value in schema.items() if value not in (None, "")}


# Names are printable and have no spaces around them; ASCII is the part of that which a pattern can say.
NAME: Schema = {"pattern": r"^[!-~]([ -~]*[!-~])?$"}
NAMESPACE = string(
    "The isolation border; comes to be with its first write",
    least=1, most=validate.MAX_NAMESPACE_CHARS, default="default", **NAME,
)  # fmt: skip
NAMESPACE_ONLY: Properties = {"namespace": NAMESPACE}

FLOAT: Schema = {"type": "number"}
OBJECT: Schema = {"type": "object"}
TIME = string("ISO 8601; UTC without an offset", format="date-time")
AS_OF: Properties = {
    "valid_at": {**TIME, "description": "Only what was valid then. When absent, of recall and walks: now"},
    "known_at": {**TIME, "description": "What was known then, as far back as changes are kept; now when absent"},
}
ONE: Properties = {**NAMESPACE_ONLY, **AS_OF}
AGENT = string("Which agent writes", least=1, most=inputs.MAX_AGENT_CHARS, **NAME)
KIND = string("", enum=[kind.value for kind in MemoryKind])
COORDINATE_TEXT: Schema = {"pattern": r"^-?[0-9]+(\.[0-9]+)?(,-?[0-9]+(\.[0-9]+)?)*$"}
COORDINATE = many(FLOAT, least=1, most=validate.MAX_COORDINATE_AXES)
KEY = string("The caller's own id, unique in the namespace", least=1, most=validate.MAX_KEY_CHARS, **NAME)
VERSION = integer(1, 2**31 - 1, "The version that must be stored, else 409; also by If-Match")
LINK_TYPE = string("", least=1, most=validate.MAX_LINK_TYPE_CHARS, **NAME)
# A reference in a query or a path.
REF_TEXT = string("`1,2,3`, `key:...` or `id:...`", least=1, pattern=r"^(key:[!-~]+|id:[\w-]+|-?[0-9]+(,-?[0-9]+)*)$")
REF: Schema = {
    "description": "A coordinate, as a list or as `1,2,3`; or `key:...`, `id:...`, or an object with one of them",
    "oneOf": [
        COORDINATE,
        {"type": "object", "properties": {"key": KEY}, "required": ["key"], "additionalProperties": False},
        {"type": "object", "properties": {"id": string()}, "required": ["id"], "additionalProperties": False},
        {"type": "object", "properties": {"coordinate": COORDINATE}, "required": ["coordinate"],
         "additionalProperties": False},
        string(pattern=r"^(key:|id:|-?[0-9])"),
    ],
}  # fmt: skip
FIRST = integer(1, MAX_PAGE, "Items in a page", default=20)
PAGE: Properties = {
    "first": FIRST,
    "limit": integer(1, MAX_PAGE, "The same as first"),
    "after": string("The `next` of the page before"),
}

MEMORY_FIELDS: Properties = {
    "kind": {**KIND, "default": "episodic"},
    "title": string("Its name; searched with the content", most=validate.MAX_TITLE_CHARS),
    "content": string("What is embedded and searched; by default the payload's text values"),
    "payload": {**OBJECT, "description": "Any JSON object, at most 64 levels deep"},
    "importance": {"type": "number", "minimum": 0, "default": 1},
    "valid_from": TIME,
    "valid_to": TIME,
    "expires_at": {**TIME, "description": "When it is forgotten by itself; never when absent"},
    "agent": AGENT,
    "embedding": many(
        FLOAT, "A vector of the namespace's model, instead of one computed",
        least=1, most=validate.MAX_EMBEDDING_DIMENSION,
    ),
}  # fmt: skip
_STORED: Properties = {"coordinate": COORDINATE, "key": KEY, **MEMORY_FIELDS, "expected_version": VERSION}
# Something must be in it.
_FILLED: list[Schema] = [
    {"required": ["content"], "properties": {"content": {"minLength": 1}}},
    {"required": ["title"], "properties": {"title": {"minLength": 1}}},
    {"required": ["payload"], "properties": {"payload": {"minProperties": 1}}},
]
_PLACED: list[Schema] = [{"required": ["coordinate"]}, {"required": ["key"]}]
STORE = body(_STORED, allOf=[{"anyOf": _PLACED}, {"anyOf": _FILLED}])
REMEMBER = body(_STORED, anyOf=_FILLED)
MEMORY_ITEM: Schema = {"type": "object", "properties": _STORED, "additionalProperties": False, "anyOf": _FILLED}
STORE_BULK = body(
    {
        "items": many(MEMORY_ITEM, most=validate.MAX_BULK_ITEMS),
        "partial": flag("Store what can be stored, report the rest"),
    },
    "items",
)
_CLEARED = {
    name: {**MEMORY_FIELDS[name], "type": ["string", "null"]}
    for name in ("title", "valid_from", "valid_to", "expires_at")
}
PATCH = body({**MEMORY_FIELDS, **_CLEARED, "expected_version": VERSION}, minProperties=1)
REMOVE: Properties = {
    **NAMESPACE_ONLY,
    "erase": flag("Also purge it from the change log, of a forgotten memory too"),
}
EXPORT: Properties = {
    **NAMESPACE_ONLY,
    "format": string("`ndjson`, or `graphml` for other tools; `ndjson` when absent", enum=list(FORMATS)),
    "everything": flag(
        "With versions, links of linkers, settings, vectors: what `POST /import?everything=true` takes"
    ),
    "vectors": flag("Whether everything has vectors in it; true when absent"),
    **AS_OF,
}
IMPORT: Properties = {
    **NAMESPACE_ONLY,
    "everything": flag("The lines are an export of everything; into a namespace that never held anything"),
}
LIST: Properties = {
    **NAMESPACE_ONLY,
    "kind": KIND,
    "where": string("A filter as JSON"),
    "order_by": string("", enum=[name for field in OrderField for name in (field.value, f"-{field.value}")]),
    **AS_OF,
    **PAGE,
}
DELETE_MANY = body(
    {
        "coords": many(REF, most=validate.MAX_BULK_ITEMS),
        "where": {**OBJECT, "description": "A filter; not empty"},
        "erase": flag("As in DELETE /memories/{coordinate}; with coords"),
    },
    oneOf=[{"required": ["coords"]}, {"required": ["where"]}],
)
COORDS = body({"coords": many(REF, most=MAX_LOOKED_UP), **AS_OF}, "coords")
KEYWORDS = body(
    {
        "term": string("Words; each must begin a word of the memory", least=1, most=1_000),
        "exact": flag("Whole words only"),
        "case_sensitive": flag(""),
        **AS_OF,
        **PAGE,
    },
    "term",
)
RANGE: Properties = {
    **NAMESPACE_ONLY,
    "min": string("The least coordinate, `0,0,0`", **COORDINATE_TEXT),
    "max": string("The greatest, `1,1,1`; both are included", **COORDINATE_TEXT),
    "kind": KIND,
    **AS_OF,
    **PAGE,
}

WEIGHTS: Schema = {
    "type": "object",
    "description": "How much each part of recall counts, from 0; 0 turns it off. docs/recall.md says the defaults",
    "properties": {
        name: OBJECT if name == "link_types" else {"type": "number", "minimum": 0} for name in WEIGHT_NAMES
    },
    "additionalProperties": False,
}
QUERY: Properties = {
    "query": string("", most=validate.MAX_QUERY_CHARS),
    "top_k": integer(1, MAX_RECALL, "How many memories", default=5),
    "kind": {"anyOf": [KIND, many(KIND, most=3)], "description": "One kind or several; any when absent"},
    "filters": {**OBJECT, "description": "A filter; a name that is none of its fields is a key of the payload"},
    "hybrid": flag("False leaves out the words and searches by vector alone", default=True),
    "embedding": MEMORY_FIELDS["embedding"],
    "weights": WEIGHTS,
    "near": {**REF, "description": "A memory, or any coordinate, that hits should rather be near to"},
    "expand": integer(0, MAX_EXPAND, "Up to so many memories linked with hits come along", default=0),
    "diversity": {
        "type": "number",
        "minimum": 0,
        "maximum": 1,
        "default": 0,
        "description": "How much likeness to better hits costs",
    },
    "fold": flag("Whether near-duplicates of a better hit are folded into it"),
    "rerank": flag("Whether the service's reranker, if it has one, takes part", default=True),
}
RECALL = body({**QUERY, **AS_OF}, "query")
CONTEXT: Schema = {
    "type": "object",
    "properties": {
        "text": string("What the asker is busy with", most=validate.MAX_QUERY_CHARS),
        "coordinates": many(COORDINATE, "Places visited lately", most=MAX_RECENT_COORDINATES),
        "time": TIME,
    },
    "additionalProperties": False,
}
# A context ranks anew what was recalled: what goes beyond a ranking has no place there.
_BEYOND = ("expand", "diversity", "fold", "rerank")
_PLAIN_QUERY = {name: schema for name, schema in QUERY.items() if name not in _BEYOND}
RECALL_IN_CONTEXT = body({**_PLAIN_QUERY, "context": CONTEXT, **AS_OF}, "query", "context")
_ONE_QUERY: Schema = {
    "type": "object", "properties": QUERY, "required": ["query"], "additionalProperties": False
}  # fmt: skip
_SHARED = {name: schema for name, schema in QUERY.items() if name not in ("query", "embedding")}
RECALL_BATCH = body(
    {"queries": many({"anyOf": [string(), _ONE_QUERY]}, most=MAX_BATCH_QUERIES), **_SHARED, **AS_OF}, "queries"
)

LINK = body(
    {
        "from_coord": REF,
        "to_coord": REF,
        "type": {**LINK_TYPE, "default": "related"},
        "weight": {"type": "number", "minimum": 0, "default": 1, "description": "A cost: nearer is smaller"},
        "properties": OBJECT,
        "valid_from": TIME,
        "valid_to": TIME,
        "agent": AGENT,
        "expected_version": VERSION,
    },
    "from_coord",
    "to_coord",
)
UNLINK: Properties = {
    **NAMESPACE_ONLY,
    "from_coord": REF_TEXT,
    "to_coord": REF_TEXT,
    "type": {**LINK_TYPE, "description": "Any type when absent"},
    "id": string("The link's id, instead of its ends"),
}
# DELETE /link takes the same fields in a body.
UNLINK_BODY = body({**UNLINK, "from_coord": REF, "to_coord": REF})

HOLD = body({"coord": REF}, "coord")
DECAY = body({
    "dry_run": flag("Change nothing"),
    "limit": integer(1, MAX_DECAY, "At most so many memories", default=100),
})  # fmt: skip

COPY = body(
    {
        "source": string("The namespace to copy from", least=1, most=validate.MAX_NAMESPACE_CHARS, **NAME),
        "start": many(REF, "The memories to start from; or else `where`", least=1, most=MAX_STARTS),
        "depth": integer(0, MAX_DEPTH, "How many links to go from them", default=0),
        "direction": string("", enum=[one.value for one in Direction]),
        "types": many(LINK_TYPE, "Over links of these types alone", most=100),
        "where": {**OBJECT, "description": "A filter"},
        "limit": integer(1, validate.MAX_BULK_ITEMS, "More memories than so many are refused"),
        "follow": flag("Keep the copies in step with their sources"),
    },
    "source",
)
_OUTGOING = flag("Of copies from the namespace, not into it; needs the scope admin")
COPY_END: Properties = {
    **NAMESPACE_ONLY,
    "forget": flag("Forget the copied memories, too"),
    "outgoing": _OUTGOING,
}
NAMESPACES: Properties = {**NAMESPACE_ONLY, **PAGE}
COPIES: Properties = {**NAMESPACES, "outgoing": _OUTGOING}
STATS: Properties = {**NAMESPACES, **AS_OF}
_MODEL: Schema = {
    "type": "object",
    "properties": {
        "name": string(least=1, most=256, **NAME),
        "revision": string(least=1, most=256, **NAME),
        "dimension": integer(1, validate.MAX_EMBEDDING_DIMENSION),
    },
    "required": ["name", "dimension"],
    "additionalProperties": False,
    "description": "Whose vectors the namespace holds; fixed by its first vector",
}
_DAYS: Schema = {"type": "number", "minimum": 0, "maximum": MAX_DAYS}
_HALF_LIFE: Schema = {**_DAYS, "minimum": 0.001}
_FACTOR: Schema = {"type": "number", "minimum": 0, "maximum": 10}
FADING: Schema = {
    "type": "object",
    "description": "How memories fade; false: they do not",
    "properties": {
        "half_life_days": {
            "type": "object", "properties": {kind.value: _HALF_LIFE for kind in MemoryKind},
            "additionalProperties": False,
        },
        "threshold": {"type": "number", "minimum": 0.001, "maximum": 0.999},
        "weights": {
            "type": "object", "properties": dict.fromkeys(("access", "importance", "links"), _FACTOR),
            "additionalProperties": False,
        },
        "summarise": flag("First cut down to a summary", default=True),
        "grace_days": _DAYS,
        "erase_after_days": {**_DAYS, "description": "Erase what was forgotten so long ago; absent: nothing"},
    },
    "additionalProperties": False,
}  # fmt: skip
CONSOLIDATION: Schema = {
    "type": ["object", "boolean"],
    "description": "How episodes become semantic memories in the background; false: they do not",
    "properties": {
        "min_size": integer(2, MAX_EPISODES, "A smaller group is left alone", default=3),
        "max_size": integer(2, MAX_EPISODES, "No group is larger; at least min_size", default=50),
        "max_gap_hours": {
            "type": "number", "exclusiveMinimum": 0.02, "maximum": 8_784, "default": 6,
            "description": "A longer pause ends what may belong together",
        },
        "similarity": {
            "type": "number", "minimum": 0, "maximum": 1, "default": 0.6,
            "description": "The least cosine that joins two episodes",
        },
        "every_hours": {
            "type": "number", "exclusiveMinimum": 0.02, "maximum": 8_784, "default": 1,
            "description": "How often the service looks for what is new",
        },
    },
    "additionalProperties": False,
}  # fmt: skip
NAMESPACE_PUT = body(
    {
        "settings": {
            "type": "object",
            "properties": {
                "payload_paths": many(
                    string(least=1, most=512, pattern=r"^[a-z_]+(\.[a-z_]+)*$"),
                    "Payload paths that filters may compare by gt, gte, lt, lte", most=MAX_DECLARED_PATHS,
                ),
                "language": {
                    "enum": sorted(LANGUAGES), "default": "english",
                    "description": "Whose rules reduce words to stems; fixed once something is stored",
                },
                "cues": {
                    "type": "object", "description": "The payload fields that cues are read from",
                    "properties": {
                        field.name: many(string(least=1, most=256), most=MAX_CUE_FIELDS)
                        for field in fields(CueFields)
                    },
                    "additionalProperties": False,
                },
                "fading": FADING,
                "content_policy": {"type": "object", "description": "What may be stored; {} for anything"},
                "consolidation": CONSOLIDATION,
                "max_memories": integer(0, MAX_MEMORIES, "How many memories are kept; 0: any number"),
                "extraction": flag("Whether the predictor reads what is stored for entities and relations"),
                "functional_types": many(
                    LINK_TYPE, "Link types of which one link at most is open from a memory",
                    most=MAX_FUNCTIONAL_TYPES,
                ),
                "linkers": {
                    "type": "object", "description": "Linkers switched on or off",
                    "additionalProperties": {"type": "boolean"}, "maxProperties": MAX_LINKERS,
                },
            },
            "additionalProperties": False,
        },
        "model": _MODEL,
    }
)  # fmt: skip
NAMESPACE_DELETE: Properties = {**NAMESPACE_ONLY, "confirm": string("The namespace's name again")}
