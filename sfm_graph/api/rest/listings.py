"""Routes that list memories: by filter, by words, by coordinate, by reference."""

from fastapi import APIRouter, Request, Response

from sfm_graph.api.rest import components, schemas
from sfm_graph.api.rest.answers import JsonResponse, page_json
from sfm_graph.api.rest.call import Call, body_call, query_call
from sfm_graph.api.rest.documented import documented
from sfm_graph.domain import validate
from sfm_graph.domain.identity import Coordinate
from sfm_graph.domain.page import OrderBy, OrderField
from sfm_graph.domain.where import AllOf, Compare, Operator, Where, box, parse_where
from sfm_graph.errors import InvalidCoordinate

router = APIRouter(tags=["listings"])


@router.get("/memories", **documented("Memories page by page", components.LISTED, query=schemas.LIST))
async def list_memories(request: Request) -> Response:
    """Those that the filter keeps; `order_by=-created_at` lists the newest first."""
    call = query_call(request, schemas.LIST)
    where, order = _where(call), _order(call)
    async with call.view() as view:
        page = await call.services.memory_reads.list(
            view, call.namespace, where=where, order=order, first=call.first(), after=call.after()
        )
    return JsonResponse(page_json("memories", page))


@router.get(
    "/range",
    **documented("Memories in a coordinate box", components.LISTED, query=schemas.RANGE, required=("min", "max")),
)
async def in_range(request: Request) -> Response:
    """In coordinate order; only coordinates with as many axes as the bounds."""
    call = query_call(request, schemas.RANGE)
    bounds = box(_bound(call, "min"), _bound(call, "max"))
    async with call.view() as view:
        page = await call.services.memory_reads.in_box(
            view, call.namespace, bounds, kind=call.kind(), first=call.first(), after=call.after()
        )
    return JsonResponse(page_json("memories", page))


@router.post("/keyword_search", **documented("Memories by their words", components.RESULTS, body=schemas.KEYWORDS))
async def keyword_search(request: Request) -> Response:
    """Every word of `term` must begin a word of the memory; with `exact` be one."""
    call = await body_call(request, schemas.KEYWORDS)
    async with call.view() as view:
        page = await call.services.memory_reads.with_words(
            view, call.namespace, call.get("term"), exact=call.flag("exact"),
            case_sensitive=call.flag("case_sensitive"), first=call.first(), after=call.after(),
        )  # fmt: skip
    return JsonResponse(page_json("results", page))


@router.post(
    "/payloads_by_coords", **documented("Payloads of many memories", components.PAYLOADS, body=schemas.COORDS)
)
async def payloads(request: Request) -> Response:
    """In the order of `coords`, null where there is no memory."""
    call = await body_call(request, schemas.COORDS)
    refs = call.refs("coords", most=schemas.MAX_LOOKED_UP)
    async with call.view() as view:
        found = await call.services.memory_reads.look_up(view, call.namespace, refs)
    return JsonResponse({"payloads": [memory.payload if memory else None for memory in found]})


def _where(call: Call) -> Where:
    where, kind = parse_where(call.json("where")), call.kind()
    return AllOf((Compare("kind", Operator.EQ, kind.value), where)) if kind else where


def _order(call: Call) -> OrderBy:
    name: str = call.get("order_by", OrderField.ID.value)
    return OrderBy(validate.choice(name.removeprefix("-"), OrderField, "order_by"), name.startswith("-"))


def _bound(call: Call, field: str) -> Coordinate:
    text = call.get(field)
    if text is None:
        raise InvalidCoordinate(f"{field} is required and looks like 1,2,3", field=field)
    return validate.coordinate_from_text(text, field)
