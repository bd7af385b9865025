"""Routes that move whole namespaces, as streams of lines."""

from collections.abc import AsyncGenerator

from fastapi import APIRouter, Request, Response

from sfm_graph.api.downloads import Download, coming
from sfm_graph.api.rest import components, schemas
from sfm_graph.api.rest.answers import JsonResponse
from sfm_graph.api.rest.call import Call, query_call
from sfm_graph.api.rest.documented import documented
from sfm_graph.api.streams import streams_of

router = APIRouter(tags=["transfer"])
LINES = "application/x-ndjson"
CURSOR_HEADER = "X-Changes-Cursor"


@router.get(
    "/export", **documented("A namespace as NDJSON", {"type": "string"}, query=schemas.NAMESPACE_ONLY, answers=LINES)
)
async def export(request: Request) -> Response:
    """Memories, then links, as /import takes them; one snapshot. `X-Changes-Cursor`: where its changes go on."""
    call = query_call(request, schemas.NAMESPACE_ONLY)
    chunks = _exported(call)
    # Pulled before the answer begins, so that an unknown namespace can still be a 404.
    cursor = (await anext(chunks)).decode()
    return Download(
        chunks, streams_of(request.app), patience_seconds=call.services.settings.subscriber_patience_seconds,
        media_type=LINES, headers={CURSOR_HEADER: cursor},
    )  # fmt: skip


@router.post(
    "/import",
    **documented(
        "Store NDJSON of any length", components.IMPORTED, query=schemas.NAMESPACE_ONLY,
        body={"type": "string"}, takes=LINES,
    ),
)  # fmt: skip
async def import_lines(request: Request) -> Response:
    """In batches of 1,000, each atomic; what is stored just so is skipped, so that it can be repeated."""
    call = query_call(request, schemas.NAMESPACE_ONLY)
    lines = coming(request.stream(), call.services.settings.subscriber_patience_seconds)
    report = await call.services.transfer.import_ndjson(lines, call.namespace)
    return JsonResponse(report.as_json())


async def _exported(call: Call) -> AsyncGenerator[bytes]:
    """The cursor of the snapshot, then its lines."""
    async with call.services.views.open() as view:
        yield (await call.services.changes.cursor(view, call.namespace)).encode()
        async for chunk in call.services.transfer.export(view, call.namespace):
            yield chunk
