"""Routes that make and remove links."""

from fastapi import APIRouter, Request, Response

from sfm_graph.api.rest import components, schemas
from sfm_graph.api.rest.answers import JsonResponse, linked_answer
from sfm_graph.api.rest.call import Call, body_call, query_call
from sfm_graph.api.rest.documented import CONDITIONAL_WRITE, WRITE, documented
from sfm_graph.domain import inputs
from sfm_graph.domain.identity import LinkId

router = APIRouter(tags=["links"])
_ENDS = ("from_coord", "to_coord")
_LINK = documented(
    "Link two memories; the same ends, type and valid_from again update the link",
    components.LINK, body=schemas.LINK, headers=CONDITIONAL_WRITE, status=(200, 201),
)  # fmt: skip


@router.post("/link", **_LINK)
@router.post("/graph/link", **_LINK)
async def link(request: Request) -> Response:
    """201 when it is new, 200 when it was updated."""
    call = await body_call(request, schemas.LINK)
    source, target = (call.raw_ref(end) for end in _ENDS)
    fields = {name: value for name, value in call.fields.items() if name not in _ENDS}
    return linked_answer(await call.services.links.link(call.namespace, source, target, fields, key=call.key()))


@router.delete(
    "/link",
    **documented(
        "Remove the links from one memory to another, or a link by its id",
        components.UNLINKED, query=schemas.UNLINK, headers=WRITE,
    ),
)  # fmt: skip
async def unlink(request: Request) -> Response:
    """The fields stand in the query, or in a JSON body. `count` says how many links there were."""
    has_body = request.headers.get("Content-Type") is not None
    call = await body_call(request, schemas.UNLINK_BODY) if has_body else query_call(request, schemas.UNLINK)
    ids = await _unlinked(call)
    return JsonResponse({"deleted": bool(ids), "count": len(ids)})


async def _unlinked(call: Call) -> list[LinkId]:
    links = call.services.links
    if call.get("id") is not None:
        return await links.unlink_many(
            call.namespace, [inputs.link_id(call.namespace, call.get("id"))], key=call.key()
        )
    type_ = None if call.get("type") is None else inputs.link_type(call.get("type"))
    source, target = (call.ref(end) for end in _ENDS)
    return await links.unlink_between(call.namespace, source, target, type_, key=call.key())
