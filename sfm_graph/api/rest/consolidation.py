"""Routes that consolidate episodes, propose duplicates and merge memories."""

from fastapi import APIRouter, Request, Response

from sfm_graph.api.rest import consolidation_schemas as schemas
from sfm_graph.api.rest.answers import JsonResponse
from sfm_graph.api.rest.call import DEFAULT_PAGE, body_call, query_call
from sfm_graph.api.rest.consolidation_answers import consolidation_json, duplicates_json, merged_json
from sfm_graph.api.rest.documented import WRITE, documented
from sfm_graph.domain.duplicates import DEFAULT_THRESHOLD
from sfm_graph.services.merging import MAX_MERGED

router = APIRouter(tags=["consolidation"])


@router.post(
    "/consolidate",
    **documented(
        "Make semantic memories of episodes that belong together, or say what would be made",
        schemas.CONSOLIDATION, body=schemas.CONSOLIDATE,
    ),
)  # fmt: skip
async def consolidate(request: Request) -> Response:
    """Group by group: what was done before a failure stays done, and `complete` says whether to ask again."""
    call = await body_call(request, schemas.CONSOLIDATE)
    dry_run = call.flag("dry_run")
    report = await call.services.consolidation.run(call.namespace, dry_run=dry_run)
    return JsonResponse(consolidation_json(call.namespace, report, dry_run=dry_run))


@router.get(
    "/duplicates",
    **documented("Memories of one kind that say the same", schemas.DUPLICATE_GROUPS, query=schemas.DUPLICATES),
)
async def duplicates(request: Request) -> Response:
    """The nearest first."""
    call = query_call(request, schemas.DUPLICATES)
    threshold, first = call.get("threshold", DEFAULT_THRESHOLD), call.get("first", DEFAULT_PAGE)
    async with call.view() as view:
        found = await call.services.duplicates.propose(view, call.namespace, threshold=threshold, first=first)
    return JsonResponse(duplicates_json(found))


@router.post(
    "/merge",
    **documented(
        "Merge memories into another one, with their links", schemas.MERGED, body=schemas.MERGE, headers=WRITE
    ),
)
async def merge(request: Request) -> Response:
    """The merged ones are forgotten."""
    call = await body_call(request, schemas.MERGE)
    others = call.refs("from", most=MAX_MERGED)
    done = await call.services.merging.merge(call.namespace, call.ref("into"), others, key=call.key())
    return JsonResponse(merged_json(done))
