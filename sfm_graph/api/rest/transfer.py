"""Routes that move whole namespaces, as streams of lines."""

from fastapi import APIRouter, Request, Response

from sfm_graph.api.downloads import Download, coming
from sfm_graph.api.exports import export_request, exported
from sfm_graph.api.rest import components, schemas
from sfm_graph.api.rest.answers import JsonResponse
from sfm_graph.api.rest.call import query_call
from sfm_graph.api.rest.documented import documented
from sfm_graph.api.streams import streams_of

router = APIRouter(tags=["transfer"])
LINES = "application/x-ndjson"
GRAPHML = "application/graphml+xml"
CURSOR_HEADER = "X-Changes-Cursor"


@router.get(
    "/export",
    **documented("A namespace as NDJSON or GraphML", {"type": "string"}, query=schemas.EXPORT, answers=LINES),
)
async def export(request: Request) -> Response:
    """Memories, then links, as /import takes them; one snapshot. `X-Changes-Cursor`: where its changes go on."""
    call = query_call(request, schemas.EXPORT)
    asked = export_request(call.fields)
    chunks = exported(call.services, call.namespace, asked)
    # Pulled before the answer begins, so that an unknown namespace can still be a 404.
    cursor = (await anext(chunks)).decode()
    return Download(
        chunks, streams_of(request.app), patience_seconds=call.services.settings.subscriber_patience_seconds,
        media_type=GRAPHML if asked.form == "graphml" else LINES, headers={CURSOR_HEADER: cursor} if cursor else {},
    )  # fmt: skip


@router.post(
    "/import",
    **documented(
        "Store NDJSON of any length", components.IMPORTED, query=schemas.IMPORT,
        body={"type": "string"}, takes=LINES,
    ),
)  # fmt: skip
async def import_lines(request: Request) -> Response:
    """In batches of 1,000, each atomic; what is stored just so is skipped, so that it can be repeated.

    `everything`: restores an export of everything, or refuses it at the first line that is wrong.
    """
    call = query_call(request, schemas.IMPORT)
    lines = coming(request.stream(), call.services.settings.subscriber_patience_seconds)
    transfer = call.services.transfer
    take = transfer.import_everything if call.flag("everything") else transfer.import_ndjson
    report = await take(lines, call.namespace)
    return JsonResponse(report.as_json())
