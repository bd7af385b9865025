"""Routes that recall: by meaning and words, explained, in a context, many at once."""

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request, Response

from sfm_graph.api.rest import components, schemas
from sfm_graph.api.rest.answers import JsonResponse, context_hit_json, hit_json, memories_json
from sfm_graph.api.rest.call import Call, body_call
from sfm_graph.api.rest.documented import documented
from sfm_graph.domain import recall_inputs, validate
from sfm_graph.domain.context import MAX_RECENT_COORDINATES, RecallContext
from sfm_graph.domain.inputs import memory_ref
from sfm_graph.domain.memory import MemoryKind
from sfm_graph.domain.recall import MAX_RECALL, Recall, RecallQuery, RecallWeights
from sfm_graph.domain.where import parse_filters
from sfm_graph.errors import InvalidInput
from sfm_graph.services.context import recall_in_context

# As many as a bulk takes.
MAX_BATCH_MEMORIES = 10_000
router = APIRouter(tags=["recall"])
_RECALL = documented("The memories that fit a query best", components.MATCHES, body=schemas.RECALL)


@router.post("/recall", **_RECALL)
@router.post("/memories/search", **_RECALL)
async def recall(request: Request) -> Response:
    """Best first."""
    found = await _recalled(await body_call(request, schemas.RECALL))
    return JsonResponse({"matches": memories_json(hit.memory for hit in found.hits)})


@router.post(
    "/recall_with_scores",
    **documented("As /recall, each score explained", components.SCORED, body=schemas.RECALL),
)
async def recall_with_scores(request: Request) -> Response:
    """`score` in [0, 1] is the sum of the contributions of its legs."""
    found = await _recalled(await body_call(request, schemas.RECALL))
    return JsonResponse({"results": [hit_json(hit) for hit in found.hits]})


@router.post(
    "/recall_with_context",
    **documented(
        "Recall ranked with what the asker is busy with",
        components.IN_CONTEXT, body=schemas.RECALL_IN_CONTEXT,
    ),
)  # fmt: skip
async def recall_with_context(request: Request) -> Response:
    """A context text, recently visited coordinates and a time shift the order; the answer shows by how much."""
    call = await body_call(request, schemas.RECALL_IN_CONTEXT)
    query, context = _query(call), _context(call.get("context"))
    async with call.view() as view:
        hits = await recall_in_context(call.services.recalls, view, call.namespace, query, context)
    return JsonResponse({"results": [context_hit_json(hit) for hit in hits]})


@router.post(
    "/recall_batch",
    **documented("Up to 100 recalls on one snapshot", components.BATCHES, body=schemas.RECALL_BATCH),
)
async def recall_batch(request: Request) -> Response:
    """`batches` are the matches of each query, in order; what a query leaves out is taken from beside `queries`."""
    call = await body_call(request, schemas.RECALL_BATCH)
    queries = _queries(call)
    async with call.view() as view:
        found = [await call.services.recalls.recall(view, call.namespace, query) for query in queries]
    return JsonResponse({"batches": [memories_json(hit.memory for hit in one.hits) for one in found]})


async def _recalled(call: Call) -> Recall:
    query = _query(call)
    async with call.view() as view:
        return await call.services.recalls.recall(view, call.namespace, query)


def _query(call: Call) -> RecallQuery:
    embedding = call.get("embedding")
    return RecallQuery(
        text=validate.text(call.get("query"), "query", max_chars=validate.MAX_QUERY_CHARS),
        first=call.integer("top_k", 5, high=MAX_RECALL),
        kinds=_kinds(call.get("kind")),
        where=parse_filters(call.get("filters")),
        weights=_weights(call),
        embedding=None if embedding is None else validate.embedding(embedding),
        near=None if call.get("near") is None else memory_ref(call.namespace, call.get("near")),
        expand=recall_inputs.expand(_given(call, "expand", 0)),
        diversity=recall_inputs.diversity(_given(call, "diversity", 0.0)),
        fold=call.flag("fold", default=False),
        rerank=call.flag("rerank", default=True),
    )


def _weights(call: Call) -> RecallWeights:
    if not call.flag("hybrid", default=True):
        return recall_inputs.DENSE_ONLY
    return recall_inputs.recall_weights(_given(call, "weights", {}))


def _given(call: Call, field: str, default: object) -> object:
    """A field's value; null is as if it were not given."""
    value = call.get(field)
    return default if value is None else value


def _kinds(value: object) -> tuple[MemoryKind, ...]:
    if value is None:
        return ()
    values = value if isinstance(value, list) else [value]
    if len(values) > len(MemoryKind):
        raise InvalidInput(f"kind names at most {len(MemoryKind)} kinds", field="kind")
    return tuple(dict.fromkeys(validate.choice(one, MemoryKind, "kind") for one in values))


def _context(value: object) -> RecallContext:
    known = schemas.CONTEXT["properties"]
    if not isinstance(value, Mapping) or value.keys() - known.keys():
        raise InvalidInput(f"context is an object with {', '.join(known)}", field="context")
    text, places = value.get("text"), value.get("coordinates")
    if places is None:
        places = []
    if not isinstance(places, list) or len(places) > MAX_RECENT_COORDINATES:
        raise InvalidInput(f"coordinates is a list of at most {MAX_RECENT_COORDINATES}", field="context")
    return RecallContext(
        None if text is None else validate.text(text, "context.text", max_chars=validate.MAX_QUERY_CHARS),
        tuple(validate.coordinate(place, "context.coordinates") for place in places),
        validate.moment(value.get("time"), "context.time"),
    )


def _queries(call: Call) -> list[RecallQuery]:
    shared = {field: value for field, value in call.fields.items() if field != "queries"}
    queries: list[RecallQuery] = []
    for index, one in enumerate(call.items("queries", most=schemas.MAX_BATCH_QUERIES)):
        own: Any = {"query": one} if isinstance(one, str) else one
        if not isinstance(own, Mapping) or own.keys() - schemas.QUERY.keys():
            raise InvalidInput("a query is a string, or an object as of /recall", field="queries", index=index)
        queries.append(_query(Call(call.services, call.namespace, {**shared, **own})))
    if sum(query.first for query in queries) > MAX_BATCH_MEMORIES:
        raise InvalidInput(
            f"the queries of a batch ask for at most {MAX_BATCH_MEMORIES} memories in all", field="queries"
        )
    return queries
