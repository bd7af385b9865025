"""The command that shows changes, and stays for those to come."""

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from shlex import join
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from sfm_graph.cli.connection import Target, answer_of, reachable
from sfm_graph.cli.options import COORDINATES, Config, Namespace, Url, given
from sfm_graph.cli.output import fail_with, say

if TYPE_CHECKING:
    import httpx

    from sfm_graph.api.sse import Event
    from sfm_graph.domain.change_filter import ChangeFilter

PAGE = 1_000
FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.5, 10.0
# A server says something at least every 15 seconds.
SILENCE_SECONDS = 60.0
_UNAVAILABLE = 503
_BEGINNING, _NOW = "beginning", "now"


def changes(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Stay, and show changes as they come.")] = False,
    after: Annotated[
        str | None,
        typer.Option(help="A change's cursor, `beginning`, or `now`; with --follow `now` by default."),
    ] = None,
    entities: Annotated[
        list[str] | None, typer.Option("--entity", help="Only memory, link or namespace; may be repeated.")
    ] = None,
    operations: Annotated[
        list[str] | None, typer.Option("--operation", help="Only create, update, forget or erase; may be repeated.")
    ] = None,
    types: Annotated[
        list[str] | None, typer.Option("--type", "-t", help="Of links only those of this type; may be repeated.")
    ] = None,
    around: Annotated[str | None, typer.Option(help="Only what is near a memory: 1,2,3 or key:... or id:...")] = None,
    hops: Annotated[int | None, typer.Option(help="How near: links away from it, 0 to 3; 1 by default.")] = None,
    first: Annotated[int | None, typer.Option("--first", min=1, help="End after this many.")] = None,
    namespace: Namespace = "default",
    url: Url = None,
    config: Config = None,
) -> None:
    """The changes of a namespace in order, one as JSON on each line; without --follow those that are kept.

    Each has its cursor. Interrupted (Ctrl-C) it says how to go on, and exits 0.
    """
    target = Target(url, config)
    place = _Place(after or (_NOW if follow else _BEGINNING), first)
    filters = given(
        entities=entities or None, operations=operations or None, link_types=types or None, around=around, hops=hops
    )
    query = {"namespace": namespace, **filters}
    source = _from_server(target, query, place, follow) if url else _from_here(target, query, place, follow)
    with suppress(KeyboardInterrupt):
        asyncio.run(_show(source, place))
        if not follow and not place.is_full:
            return
    say(f"to go on: {command_line(target, namespace, place.cursor, filters)}")


def command_line(target: Target, namespace: str, cursor: str, filters: dict[str, Any] | None = None) -> str:
    """The command that follows changes from a cursor on."""
    options: dict[str, Any] = {
        "--namespace": namespace,
        "--url": target.url,
        "--config": target.config,
        "--after": cursor,
    }
    named = {"entities": "--entity", "operations": "--operation", "link_types": "--type"}
    for name, value in (filters or {}).items():
        options[named.get(name, f"--{name}")] = value
    words = ["sfm", "changes", "--follow"]
    for option, value in options.items():
        for one in value if isinstance(value, list) else [value]:
            words += [] if one is None else [option, str(one)]
    return join(words)


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(context_settings=COORDINATES)(changes)


class _Place:
    """How far the output is, and how much of it is wanted."""

    def __init__(self, cursor: str, first: int | None) -> None:
        self.cursor = cursor
        self.left = first

    @property
    def is_full(self) -> bool:
        return self.left == 0

    @property
    def page(self) -> int:
        return PAGE if self.left is None else min(PAGE, self.left)

    def passed(self, cursor: str) -> None:
        self.cursor = cursor
        if self.left is not None:
            self.left -= 1


async def _show(source: AsyncGenerator[tuple[bytes, str]], place: _Place) -> None:
    async with aclosing(source):
        async for line, cursor in source:
            sys.stdout.buffer.write(line + b"\n")
            sys.stdout.buffer.flush()
            # What was written is passed, even when the interrupt comes next.
            place.passed(cursor)
            if place.is_full:
                return


async def _from_here(
    target: Target, query: dict[str, Any], place: _Place, follow: bool
) -> AsyncGenerator[tuple[bytes, str]]:
    from sfm_graph.api.changes import change_json
    from sfm_graph.errors import Unavailable

    wanted = _filter(query)
    pauses = _Pauses()
    async with target.services() as services:
        if not follow:
            more = True
            while more:
                async with services.views.open() as view:
                    page = await services.changes.page(view, query["namespace"], place.cursor, wanted, place.page)
                for one in page.changes:
                    yield change_json(one), one.cursor
                place.cursor, more = page.cursor, page.more
            return
        while True:
            pages = services.changes.follow(query["namespace"], place.cursor, wanted)
            try:
                async with aclosing(pages):
                    async for page in pages:
                        for one in page.changes:
                            yield change_json(one), one.cursor
                        place.cursor = page.cursor
                        pauses.reset()
                return
            except Unavailable as error:
                await pauses.wait(error.message)


async def _from_server(
    target: Target, query: dict[str, Any], place: _Place, follow: bool
) -> AsyncGenerator[tuple[bytes, str]]:
    async with target.client() as client:
        if not follow:
            more = True
            while more:
                asked = {**query, "after": place.cursor, "first": place.page}
                page = await answer_of(client, "GET", "/changes", params=asked)
                for one in page["changes"]:
                    yield orjson.dumps(one), one["cursor"]
                place.cursor, more = page["cursor"], page["more"]
            return
        async for line, cursor in _followed(client, query, place):
            yield line, cursor


async def _followed(
    client: "httpx.AsyncClient", query: dict[str, Any], place: _Place
) -> AsyncGenerator[tuple[bytes, str]]:
    """Changes over connections that are made anew where the last one broke."""
    import httpx

    pauses = _Pauses()
    with reachable(client):
        # Who is not there at first is not waited for.
        await client.get("/ping")
    while True:
        try:
            reason = "the server ended the stream"
            async with aclosing(_events(client, query, place.cursor)) as events:
                async for event in events:
                    pauses.reset()
                    if event.name == "error":
                        reason = _reason(orjson.loads(event.data or "{}"))
                    elif event.data is not None:
                        yield event.data.encode(), event.id or place.cursor
                        if orjson.loads(event.data)["entity"] == "namespace":
                            return
                    elif event.id:
                        place.cursor = event.id
        except httpx.TransportError as error:
            reason = str(error) or type(error).__name__
        await pauses.wait(reason)


async def _events(client: "httpx.AsyncClient", query: dict[str, Any], after: str) -> "AsyncGenerator[Event]":
    import httpx

    from sfm_graph.api.sse import MEDIA_TYPE, EventReader

    reader = EventReader()
    timeout = httpx.Timeout(SILENCE_SECONDS)
    asked = {**query, "after": after}
    async with client.stream(
        "GET", "/changes", params=asked, headers={"Accept": MEDIA_TYPE}, timeout=timeout
    ) as response:
        if response.is_error:
            await response.aread()
            _reason(_problem(response))
            raise httpx.TransportError(f"{response.url.host} answered {response.status_code}")
        async for line in response.aiter_lines():
            event = reader.feed(line)
            if event is not None:
                yield event


def _problem(response: "httpx.Response") -> Any:
    try:
        return response.json()
    except ValueError:
        return {"code": "unexpected_answer", "status": response.status_code, "detail": "no JSON: is it this service?"}


def _reason(problem: Any) -> str:
    """Why the stream broke off. Exits 1 where waiting does not help."""
    status = problem.get("status") if isinstance(problem, dict) else None
    if status in (_UNAVAILABLE, 502, 504):
        return str(problem.get("detail"))
    fail_with(problem)


def _filter(query: dict[str, Any]) -> "ChangeFilter":
    from sfm_graph.domain import inputs, validate
    from sfm_graph.domain.change_filter import change_filter

    namespace = validate.namespace(query["namespace"])
    return change_filter(
        entities=query.get("entities"), operations=query.get("operations"), link_types=query.get("link_types"),
        around=inputs.memory_ref(namespace, query["around"]) if "around" in query else None,
        hops=query.get("hops", 1),
    )  # fmt: skip


class _Pauses:
    """Waits between attempts: longer each time, and told once."""

    def __init__(self) -> None:
        self._seconds = 0.0

    def reset(self) -> None:
        self._seconds = 0.0

    async def wait(self, reason: str) -> None:
        if self._seconds == 0:
            say(f"waiting: {reason}")
        self._seconds = min(2 * self._seconds or FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS)
        await asyncio.sleep(self._seconds)
