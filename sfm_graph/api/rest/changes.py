"""The change stream: pages, and server-sent events."""

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from functools import partial
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response

from sfm_graph.api import sse
from sfm_graph.api.changes import change_json, followed
from sfm_graph.api.problems import problem_of
from sfm_graph.api.rest.answers import JsonResponse
from sfm_graph.api.rest.call import Call, query_call
from sfm_graph.api.rest.change_schemas import CHANGE_PAGE, CHANGES, LAST_EVENT_ID
from sfm_graph.api.rest.documented import documented
from sfm_graph.api.streams import streams_of
from sfm_graph.domain.change_filter import ChangeFilter, change_filter
from sfm_graph.errors import SfmError
from sfm_graph.services.access.guard import caller
from sfm_graph.services.changes.changes import MAX_PAGE
from sfm_graph.services.changes.pages import ChangePage

router = APIRouter(tags=["changes"])
DEFAULT_PAGE = 100
RETRY_MS = 2_000
# Changes of one page go out together, up to about so many bytes.
CHUNK_BYTES = 32 * 1024


def _documented() -> dict[str, Any]:
    said = documented("Changes in order, as a page or as a stream", CHANGE_PAGE, query=CHANGES)
    extra = said["openapi_extra"]
    extra["parameters"].append(
        {"name": "Last-Event-ID", "in": "header", "required": False, "schema": LAST_EVENT_ID,
         "description": LAST_EVENT_ID["description"]}
    )  # fmt: skip
    extra["responses"]["200"]["content"][sse.MEDIA_TYPE] = {
        "schema": {"type": "string", "description": "Events `change` with a Change as data and its cursor as id"}
    }
    return said


@router.get("/changes", **_documented())
async def changes(request: Request) -> Response:
    """As they are committed; with `Accept: text/event-stream` those to come too."""
    call = query_call(request, CHANGES)
    wanted = _wanted(call)
    first = call.integer("first", DEFAULT_PAGE, high=MAX_PAGE)
    if sse.accepted(request.headers.get("accept", "")):
        return await _stream(request, call, wanted)
    async with call.services.views.open() as view:
        page = await call.services.changes.page(view, call.namespace, call.after(), wanted, first)
    found = [orjson.Fragment(change_json(one)) for one in page.changes]
    headers = {"Cache-Control": "no-store", "Vary": "Accept"}
    return JsonResponse({"changes": found, "cursor": page.cursor, "more": page.more}, headers=headers)


async def _stream(request: Request, call: Call, wanted: ChangeFilter) -> Response:
    after = request.headers.get("last-event-id") or call.after()
    # The first page is there at once, so that what is wrong can still be said by the status.
    stream = await followed(call.services, call.namespace, after, wanted)
    path = request.url.path
    return sse.EventStream(
        _chunks(path, stream.first, stream.rest), streams_of(request.app), farewell=partial(_farewell, path),
        patience_seconds=call.services.settings.subscriber_patience_seconds,
    )  # fmt: skip


async def _chunks(path: str, first: ChangePage, pages: AsyncGenerator[ChangePage]) -> AsyncGenerator[sse.Chunk]:
    yield sse.Chunk(f"retry: {RETRY_MS}\n\n".encode())
    async with aclosing(pages):
        page: ChangePage | None = first
        try:
            while page is not None:
                for chunk in _of_page(page):
                    await caller().check()
                    yield chunk
                page = await anext(pages, None)
        except SfmError as error:
            yield sse.Chunk(_farewell(path, error, None))


def _of_page(page: ChangePage) -> Iterator[sse.Chunk]:
    held = bytearray()
    for one in page.changes:
        held += sse.event("change", change_json(one), id_=one.cursor)
        if len(held) >= CHUNK_BYTES:
            yield sse.Chunk(bytes(held), one.cursor)
            held.clear()
    yield sse.Chunk(bytes(held) + sse.place(page.cursor), page.cursor)


def _farewell(path: str, error: SfmError | None, cursor: str | None) -> bytes:
    if error is None:
        return b""
    error.details |= {} if cursor is None else {"cursor": cursor}
    return sse.event("error", bytes(problem_of(error, path).body))


def _wanted(call: Call) -> ChangeFilter:
    return change_filter(
        entities=_split(call.get("entities")),
        operations=_split(call.get("operations")),
        link_types=call.get("link_types"),
        around=call.ref("around") if call.get("around") is not None else None,
        hops=call.get("hops", 1),
    )


def _split(values: list[str] | None) -> list[str]:
    """A list that is repeated, separated by commas, or both."""
    return [one.strip() for value in values or () for one in value.split(",") if one.strip()]
