"""The methods of a memory system that read changes."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TypedDict, Unpack

import orjson

from sfm_graph.api.changes import change_json
from sfm_graph.client.fields import Json, Reference
from sfm_graph.client.opening import OpenNamespace
from sfm_graph.domain import validate
from sfm_graph.domain.change_filter import ChangeFilter, change_filter
from sfm_graph.errors import InvalidInput
from sfm_graph.services.changes.changes import MAX_PAGE


class ChangeOptions(TypedDict, total=False):
    """Which changes are wanted. entities: memory, link. operations: create, update, forget, erase.

    link_types: of links only these. around: only what is within `hops` (0 to 3) links of a memory.
    """

    entities: Sequence[str]
    operations: Sequence[str]
    link_types: Sequence[str]
    around: Reference
    hops: int


class ChangeMethods(OpenNamespace):
    """The change stream of the namespace."""

    async def changes(self, after: str | None = None, *, first: int = 100, **options: Unpack[ChangeOptions]) -> Json:
        """A page of changes, oldest first: `changes`, each with its cursor; `cursor` behind them; whether `more` are
        there. `after`: a cursor, `beginning` or `now`. Raises InvalidCursor, CursorExpired, NamespaceNotFound."""
        count = validate.integer(first, "first", low=1, high=MAX_PAGE)
        async with self._services.views.open() as view:
            page = await self._services.changes.page(view, self._namespace, after, self._wanted(options), count)
        changes = [orjson.loads(change_json(one)) for one in page.changes]
        return {"changes": changes, "cursor": page.cursor, "more": page.more}

    async def follow(self, after: str | None = None, **options: Unpack[ChangeOptions]) -> AsyncGenerator[Json]:
        """Changes as they come, each with its cursor, from now on or from a cursor; errors as of `changes`.

        Ends behind the end of the namespace. Close it (`contextlib.aclosing`) when you leave before.
        """
        async with aclosing(self._services.changes.follow(self._namespace, after, self._wanted(options))) as pages:
            async for page in pages:
                for one in page.changes:
                    yield orjson.loads(change_json(one))

    def _wanted(self, options: ChangeOptions) -> ChangeFilter:
        if unknown := options.keys() - ChangeOptions.__annotations__.keys():
            known = ", ".join(ChangeOptions.__annotations__)
            raise InvalidInput(f"unknown option {min(unknown)!r}; known are {known}", field=min(unknown))
        around = options.get("around")
        return change_filter(
            entities=options.get("entities"),
            operations=options.get("operations"),
            link_types=options.get("link_types"),
            around=None if around is None else self._ref(around),
            hops=options.get("hops", 1),
        )
