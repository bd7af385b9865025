"""What the faces share of changes: their JSON, and following them."""

from collections.abc import AsyncGenerator

import orjson

from sfm_graph.domain.change_filter import ChangeFilter
from sfm_graph.errors import NamespaceNotFound
from sfm_graph.services.changes.changes import FROM_NOW
from sfm_graph.services.changes.pages import ChangePage, StreamedChange
from sfm_graph.services.registry import Services


def change_json(one: StreamedChange) -> bytes:
    """A change as one line of JSON. The states are JSON already, and are not read for it."""
    change = one.change
    return orjson.dumps(
        {
            "cursor": one.cursor,
            "entity": change.entity,
            "operation": change.operation,
            "id": change.global_id,
            "entity_id": change.entity_id,
            "namespace": change.namespace,
            "at": change.at,
            "before": orjson.Fragment(change.before_json) if change.before_json else None,
            "after": orjson.Fragment(change.after_json) if change.after_json else None,
        }
    )


async def followed(
    services: Services, namespace: str, after: str | None, wanted: ChangeFilter
) -> tuple[ChangePage, AsyncGenerator[ChangePage]]:
    """The first page of a stream, which comes at once, and the rest, which the caller closes. From `now` on the first
    page has no changes, but the cursor of now.

    Raises NamespaceNotFound, InvalidCursor, CursorExpired, MemoryNotFound, Unavailable.
    """
    if after in (None, FROM_NOW):
        async with services.views.open() as view:
            now = await services.changes.page(view, namespace, FROM_NOW, wanted, 1)
        return now, services.changes.follow(namespace, now.cursor, wanted)
    pages = services.changes.follow(namespace, after, wanted)
    first = await anext(pages, None)
    if first is None:
        raise NamespaceNotFound(f"there is no namespace {namespace!r}", namespace=namespace)
    return first, pages
