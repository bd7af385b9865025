"""Routes of copies between namespaces, and of who recalled a memory."""

from fastapi import APIRouter, Request, Response

from sfm_graph.api.copies import end_copy
from sfm_graph.api.rest import components, schemas
from sfm_graph.api.rest.answers import JsonResponse, accesses_json, copy_json, next_cursor
from sfm_graph.api.rest.call import body_call, path_ref, query_call
from sfm_graph.api.rest.documented import documented
from sfm_graph.domain import validate

router = APIRouter(tags=["copies"])


@router.post(
    "/copies",
    **documented(
        "Copy memories of another namespace, with the links among them",
        components.COPY, body=schemas.COPY, status=(201,),
    ),
)  # fmt: skip
async def copy(request: Request) -> Response:
    """`namespace` is where they go; `follow` keeps them in step."""
    call = await body_call(request, schemas.COPY)
    given = {name: value for name, value in call.fields.items() if name not in ("source", "follow")}
    source = validate.namespace(call.get("source"))
    made = await call.services.copies.copy(call.namespace, source, given, follow=call.flag("follow"))
    return JsonResponse(copy_json(made), status_code=201)


@router.get("/copies", **documented("Copies into a namespace, or out of it", components.COPIES, query=schemas.COPIES))
async def list_copies(request: Request) -> Response:
    """Page by page, those that have ended, too; with `outgoing` those from the namespace, which needs `admin`."""
    call = query_call(request, schemas.COPIES)
    copies = call.services.copies
    listed = copies.list_out if call.flag("outgoing") else copies.list
    async with call.view() as view:
        page = await listed(view, call.namespace, first=call.first(), after=call.after())
    return JsonResponse({"copies": [copy_json(one) for one in page.items], "next": next_cursor(page)})


@router.delete(
    "/copies/{id}",
    **documented("End a copy: it is kept in step no longer", components.COPY, path="id", query=schemas.COPY_END),
)
async def revoke_copy(request: Request) -> Response:
    """`forget` also forgets the copied memories; `outgoing`: one from the namespace, which needs `admin` there."""
    call = query_call(request, schemas.COPY_END)
    number = validate.decimal(request.path_params["id"], "id")
    return JsonResponse(
        copy_json(
            await end_copy(
                call.services.copies, call.namespace, number,
                forget=call.flag("forget"), outgoing=call.flag("outgoing"),
            )
        )
    )  # fmt: skip


@router.get(
    "/memories/{coordinate:path}/accesses",
    **documented(
        "Which agents recalled a memory", components.ACCESSES, path="coordinate", query=schemas.NAMESPACE_ONLY
    ),
)
async def accesses(request: Request) -> Response:
    """The most frequent first, at most 100."""
    call = query_call(request, schemas.NAMESPACE_ONLY)
    ref = path_ref(request, call.namespace)
    async with call.services.views.open() as view:
        found = await call.services.agent_reads.accesses_of(view, call.namespace, ref)
    return JsonResponse({"accesses": accesses_json(found)})
