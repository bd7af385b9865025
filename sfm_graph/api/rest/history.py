"""Routes that show versions of memories and links, and bring them back."""

from fastapi import APIRouter, Request, Response

from sfm_graph.api.rest import history_schemas as schemas
from sfm_graph.api.rest.answers import JsonResponse, linked_answer
from sfm_graph.api.rest.call import Call, body_call, path_ref, query_call
from sfm_graph.api.rest.documented import CONDITIONAL_WRITE, documented
from sfm_graph.api.rest.history_answers import difference_json, restored_json, versions_json
from sfm_graph.domain import inputs
from sfm_graph.errors import InvalidInput
from sfm_graph.services.history import version_number

router = APIRouter(tags=["history"])


@router.get(
    "/memories/{coordinate:path}/history",
    **documented(
        "The versions of a memory, the newest first; of a forgotten one by its id, or its last key or coordinate",
        schemas.MEMORY_VERSIONS, path="coordinate", query=schemas.HISTORY,
    ),
)  # fmt: skip
async def memory_history(request: Request) -> Response:
    """A page; a version is known from the commit that made it until the one that replaced it."""
    call = query_call(request, schemas.HISTORY)
    ref = path_ref(request, call.namespace)
    async with call.services.views.open() as view:
        page = await call.services.history.of_memory(
            view, call.namespace, ref, first=call.first(), after=call.after()
        )
    return JsonResponse(versions_json("memory", page))


@router.get(
    "/memories/{coordinate:path}/diff",
    **documented(
        "What differs between two versions of a memory, by path",
        schemas.DIFFERENCES, path="coordinate", query=schemas.DIFF, required=("from", "to"),
    ),
)  # fmt: skip
async def memory_diff(request: Request) -> Response:
    """Dotted paths; an object with a key that is empty or holds a dot is compared as a whole."""
    call = query_call(request, schemas.DIFF)
    ref = path_ref(request, call.namespace)
    before, after = (version_number(_needed(call, field), field) for field in ("from", "to"))
    async with call.services.views.open() as view:
        found = await call.services.history.diff(view, call.namespace, ref, before, after)
    return JsonResponse({"differences": [difference_json(one) for one in found]})


@router.post(
    "/memories/restore",
    **documented(
        "Bring a memory back to a version; a forgotten one under its id, with its links",
        schemas.RESTORED, body=schemas.RESTORE, headers=CONDITIONAL_WRITE,
    ),
)  # fmt: skip
async def restore(request: Request) -> Response:
    """The next version of the memory; `operation` is `created` when it was forgotten."""
    call = await body_call(request, schemas.RESTORE)
    restored = await call.services.restoring.restore(
        call.namespace, call.ref("coord"), version=_version(call, "version"), links=call.flag("links", default=True),
        expected_version=_version(call, "expected_version"), key=call.key(),
    )  # fmt: skip
    return JsonResponse(restored_json(restored))


@router.get(
    "/link/history",
    **documented(
        "The versions of a link, the newest first", schemas.LINK_VERSIONS, query=schemas.LINK_HISTORY,
        required=("id",),
    ),
)  # fmt: skip
async def link_history(request: Request) -> Response:
    """As of memories."""
    call = query_call(request, schemas.LINK_HISTORY)
    link_id = inputs.link_id(call.namespace, _needed(call, "id"))
    async with call.services.views.open() as view:
        page = await call.services.history.of_link(
            view, call.namespace, link_id, first=call.first(), after=call.after()
        )
    return JsonResponse(versions_json("link", page))


@router.post(
    "/link/restore",
    **documented(
        "Bring a link back to a version; a forgotten one under its id",
        schemas.RESTORED_LINK, body=schemas.RESTORE_LINK, headers=CONDITIONAL_WRITE, status=(200, 201),
    ),
)  # fmt: skip
async def restore_link(request: Request) -> Response:
    """201 when it was forgotten, 200 when it was not."""
    call = await body_call(request, schemas.RESTORE_LINK)
    restored = await call.services.restoring.restore_link(
        call.namespace, inputs.link_id(call.namespace, _needed(call, "id")), version=_version(call, "version"),
        expected_version=_version(call, "expected_version"), key=call.key(),
    )  # fmt: skip
    return linked_answer(restored)


def _version(call: Call, field: str) -> int | None:
    value = call.get(field)
    return None if value is None else version_number(value, field)


def _needed(call: Call, field: str) -> object:
    value = call.get(field)
    if value is None:
        raise InvalidInput(f"{field} is required", field=field)
    return value
