"""Routes that store, show, change and remove memories."""

from fastapi import APIRouter, Request, Response

from sfm_graph.api.rest import components, schemas
from sfm_graph.api.rest.answers import JsonResponse, bulk_json, memory_answer, stored_answer
from sfm_graph.api.rest.call import Call, body_call, expected_version, path_ref, query_call
from sfm_graph.api.rest.documented import CONDITIONAL_WRITE, WRITE, documented
from sfm_graph.domain.where import EVERYTHING, parse_where
from sfm_graph.errors import InvalidCoordinate, InvalidInput

router = APIRouter(tags=["memories"])

_STORE = documented(
    "Store a memory at a coordinate or key; there it updates what is stored",
    components.MEMORY, body=schemas.STORE, headers=CONDITIONAL_WRITE, status=(200, 201),
)  # fmt: skip


@router.post("/memories", **_STORE)
@router.post("/store", **_STORE)
async def store(request: Request) -> Response:
    """201 when it is new, 200 when it was updated. Raises InvalidCoordinate without coordinate and key."""
    call = await body_call(request, schemas.STORE)
    if call.get("coordinate") is None and call.get("key") is None:
        raise InvalidCoordinate("coordinate is required, or a key; /remember chooses one", field="coordinate")
    return await _stored(call)


@router.post(
    "/remember",
    **documented(
        "Store a memory; without coordinate and key the server chooses a coordinate",
        components.MEMORY, body=schemas.REMEMBER, headers=CONDITIONAL_WRITE, status=(200, 201),
    ),
)  # fmt: skip
async def remember(request: Request) -> Response:
    """201 when it is new, 200 when it was updated."""
    return await _stored(await body_call(request, schemas.REMEMBER))


@router.post(
    "/store_bulk",
    **documented(
        "Store up to 10,000 memories in one transaction", components.BULK, body=schemas.STORE_BULK, headers=WRITE
    ),
)
async def store_bulk(request: Request) -> Response:
    """The first refused item refuses all, unless `partial`: then it is reported."""
    call = await body_call(request, schemas.STORE_BULK)
    items = _objects(call)
    stored = await call.services.memory_writes.store_many(
        call.namespace, items, partial=call.flag("partial"), key=call.key()
    )
    return JsonResponse(bulk_json(stored))


@router.get(
    "/memories/{coordinate:path}",
    **documented("One memory", components.MEMORY, path="coordinate", query=schemas.ONE),
)
async def get_memory(request: Request) -> Response:
    """Its version is its ETag."""
    call = query_call(request, schemas.ONE)
    async with call.view() as view:
        memory = await call.services.memory_reads.get(view, call.namespace, path_ref(request, call.namespace))
    return memory_answer(memory)


@router.patch(
    "/memories/{coordinate:path}",
    **documented(
        "Change some fields of a memory; null clears title, valid_from, valid_to and expires_at",
        components.MEMORY, path="coordinate", query=schemas.NAMESPACE_ONLY, body=schemas.PATCH,
        headers=CONDITIONAL_WRITE,
    ),
)  # fmt: skip
async def patch_memory(request: Request) -> Response:
    """Coordinate and key stay as they are."""
    call = await body_call(request, schemas.PATCH)
    ref = path_ref(request, call.namespace)
    memory = await call.services.memory_writes.update(call.namespace, ref, call.fields, key=call.key(ref))
    return memory_answer(memory)


@router.delete(
    "/memories/{coordinate:path}",
    **documented(
        "Forget a memory with its links, or erase it",
        components.DELETED, path="coordinate", query=schemas.REMOVE, headers=CONDITIONAL_WRITE,
    ),
)  # fmt: skip
async def delete_memory(request: Request) -> Response:
    """`deleted` is false when there is no such memory."""
    call = query_call(request, schemas.REMOVE)
    ref, version = path_ref(request, call.namespace), expected_version(request)
    writes = call.services.memory_writes
    remove = writes.erase_many if call.flag("erase") else writes.forget_many
    ids = await remove(call.namespace, [ref], expected_version=version, key=call.key(ref, version))
    return JsonResponse({"deleted": bool(ids)})


@router.post(
    "/delete_many",
    **documented(
        "Forget up to 10,000 memories by reference or by filter",
        components.DELETED_MANY, body=schemas.DELETE_MANY, headers=WRITE,
    ),
)  # fmt: skip
async def delete_many(request: Request) -> Response:
    """One transaction. `missing` counts the coords that named nothing."""
    call = await body_call(request, schemas.DELETE_MANY)
    if (call.get("coords") is None) == (call.get("where") is None):
        raise InvalidInput("give either coords or where", field="coords")
    if call.get("where") is not None:
        return await _delete_where(call)
    refs = list(dict.fromkeys(call.refs("coords")))
    writes = call.services.memory_writes
    remove = writes.erase_many if call.flag("erase") else writes.forget_many
    ids = await remove(call.namespace, refs, key=call.key())
    return JsonResponse({"deleted": len(ids), "missing": max(len(refs) - len(ids), 0)})


async def _stored(call: Call) -> Response:
    return stored_answer(await call.services.memory_writes.store(call.namespace, call.fields, key=call.key()))


async def _delete_where(call: Call) -> Response:
    where = parse_where(call.get("where"))
    if where == EVERYTHING or call.flag("erase"):
        raise InvalidInput("where must hold a condition, and cannot be combined with erase", field="where")
    ids = await call.services.memory_writes.forget_where(call.namespace, where, key=call.key())
    return JsonResponse({"deleted": len(ids), "missing": 0})


def _objects(call: Call) -> list[dict[str, object]]:
    items = call.items("items")
    for index, item in enumerate(items):
        if not isinstance(item, dict):
            raise InvalidInput("an item must be a JSON object", field="items", index=index)
    return items
