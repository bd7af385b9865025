"""Routes that hold memories, and do what is due of them."""

from fastapi import APIRouter, Request, Response

from sfm_graph.api.rest import components, schemas
from sfm_graph.api.rest.answers import JsonResponse, decay_json, memory_answer
from sfm_graph.api.rest.call import body_call
from sfm_graph.api.rest.documented import WRITE, documented

router = APIRouter(tags=["fading"])


@router.post(
    "/hold",
    **documented(
        "Hold a memory: until it is released nothing forgets or erases it",
        components.MEMORY, body=schemas.HOLD, headers=WRITE,
    ),
)  # fmt: skip
async def hold(request: Request) -> Response:
    """Again it changes nothing."""
    call = await body_call(request, schemas.HOLD)
    return memory_answer(await call.services.holds.hold(call.namespace, call.ref("coord"), key=call.key()))


@router.post(
    "/release", **documented("Let go of a memory that is held", components.MEMORY, body=schemas.HOLD, headers=WRITE)
)
async def release(request: Request) -> Response:
    """Again it changes nothing."""
    call = await body_call(request, schemas.HOLD)
    return memory_answer(await call.services.holds.release(call.namespace, call.ref("coord"), key=call.key()))


@router.post(
    "/decay",
    **documented(
        "Do now what is due of a namespace's memories, or say what would be done",
        components.DECAY, body=schemas.DECAY,
    ),
)  # fmt: skip
async def decay(request: Request) -> Response:
    """Steps are kept one by one: what was done before a failure stays done."""
    call = await body_call(request, schemas.DECAY)
    done = await call.services.fading.decay(call.namespace, dry_run=call.flag("dry_run"), limit=call.get("limit"))
    return JsonResponse(decay_json(done))
