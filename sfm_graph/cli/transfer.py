"""Commands that move many memories: import, export, store-bulk."""

import asyncio
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import orjson
import typer

from sfm_graph.cli.changes import command_line
from sfm_graph.cli.connection import Target, answer_of, ask, json_of, reachable
from sfm_graph.cli.options import Config, KnownAt, Namespace, Url, ValidAt, given
from sfm_graph.cli.output import fail, say, show
from sfm_graph.cli.progress import Bar, progress_bar

if TYPE_CHECKING:
    import httpx

    from sfm_graph.adapters.readers import BadRecord

CHUNK_BYTES = 256 * 1024
# Markdown sections sent at once: about as many bytes.
CHUNK_RECORDS = 250
MARKDOWN = (".md", ".markdown")
LINES = {"Content-Type": "application/x-ndjson"}
SHOWN_FAILURES = 1_000
# A link in Markdown that leads nowhere is worth a word, but nothing was lost.
HARMLESS = frozenset({"unresolved_link"})

_Progress = Annotated[
    bool | None, typer.Option("--progress/--no-progress", help="Show progress on stderr; by default on a terminal.")
]


def import_(
    paths: Annotated[
        list[str],
        typer.Argument(metavar="PATH...", help="NDJSON files, `-` for stdin, Markdown files or folders of them."),
    ],
    everything: Annotated[
        bool, typer.Option("--everything", help="The file is an export of everything: restore it as it was.")
    ] = False,
    progress: _Progress = None,
    namespace: Namespace = "default",
    url: Url = None,
    config: Config = None,
) -> None:
    """Store files of memories and links; run it again to go on, or to bring changes in.

    A record that names its own namespace goes there. Exits 1 when a record was refused; the summary says which.
    """
    sources = [_source(path) for path in paths]
    if everything and not (len(sources) == 1 and isinstance(sources[0], _Lines)):
        raise typer.BadParameter("everything is imported from one NDJSON file", param_hint="PATH")
    query = given(namespace=namespace, everything=everything or None)
    began = time.monotonic()
    reports = asyncio.run(_import_all(Target(url, config), sources, query, progress))
    summary = _summary(paths, reports)
    show({**summary, "seconds": round(time.monotonic() - began, 2)})
    refused = summary["failed"] - sum(report["harmless"] for report in reports)
    if refused:
        say(f"{refused} of the records were refused; `failures` above says why")
        raise typer.Exit(1)


def export(
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A file; stdout by default.")] = None,
    everything: Annotated[
        bool, typer.Option("--everything", help="All of it, as it is: for `sfm import --everything`.")
    ] = False,
    vectors: Annotated[bool, typer.Option("--vectors/--no-vectors", help="Whether everything has vectors.")] = True,
    form: Annotated[str, typer.Option("--format", help="ndjson, or graphml for other tools.")] = "ndjson",
    valid_at: ValidAt = None,
    known_at: KnownAt = None,
    progress: _Progress = None,
    namespace: Namespace = "default",
    url: Url = None,
    config: Config = None,
) -> None:
    """Write a namespace as NDJSON that `sfm import` takes: memories, then links, of one snapshot."""
    query = given(
        namespace=namespace, format=None if form == "ndjson" else form, everything=everything or None,
        vectors=None if vectors else False, valid_at=valid_at, known_at=known_at,
    )  # fmt: skip
    asyncio.run(_export(Target(url, config), query, output, progress))


def store_bulk(
    path: Annotated[str, typer.Argument(help="NDJSON, a memory on each line; `-` for stdin.")],
    partial: Annotated[bool, typer.Option("--partial", help="Store what can be stored, report the rest.")] = False,
    namespace: Namespace = "default",
    url: Url = None,
    config: Config = None,
) -> None:
    """Store up to 10,000 memories in one transaction, all or none."""
    try:
        with _opened(path) as file:
            items = [orjson.loads(line) for line in file if line.strip()]
    except OSError as error:
        fail("unreadable_file", f"{path}: {error.strerror}")
    except orjson.JSONDecodeError as error:
        fail("invalid_json", f"{path}: {error}")
    body = {"namespace": namespace, "items": items, "partial": partial}
    ask(Target(url, config), "POST", "/store_bulk", body=body)


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command("import")(import_)
    app.command()(export)
    app.command("store-bulk")(store_bulk)


async def _import_all(
    target: Target, sources: "list[_Source]", query: dict[str, Any], progress: bool | None
) -> list[dict[str, Any]]:
    async with target.client() as client:
        return [await _import_one(client, source, query, progress) for source in sources]


async def _import_one(
    client: "httpx.AsyncClient", source: "_Source", query: dict[str, Any], progress: bool | None
) -> dict[str, Any]:
    with progress_bar(f"import {Path(source.path).name}", source.nbytes, progress) as bar:
        try:
            report: dict[str, Any] = await answer_of(
                client, "POST", "/import", params=query, content=source.chunks(bar), headers=LINES
            )
        except OSError as error:
            fail("unreadable_file", f"{source.path}: {error.strerror}")
    return source.finished(report)


def _source(path: str) -> "_Source":
    if path == "-":
        return _Lines(path, None)
    file = Path(path)
    if not file.exists():
        raise typer.BadParameter(f"there is no {path}", param_hint="PATH")
    if file.is_dir() or file.suffix.lower() in MARKDOWN:
        return _Markdown(path)
    return _Lines(path, file.stat().st_size)


def _summary(paths: list[str], reports: list[dict[str, Any]]) -> dict[str, Any]:
    def total(entity: str) -> dict[str, int]:
        return {name: sum(report[entity][name] for report in reports) for name in ("created", "updated", "unchanged")}

    failures = [failure for report in reports for failure in report["failures"]]
    return {
        "paths": paths,
        "memories": total("memories"),
        "links": total("links"),
        "failed": sum(report["failed"] for report in reports),
        "failures": failures[:SHOWN_FAILURES],
    }


class _Lines:
    """A file, or stdin, that is NDJSON already."""

    def __init__(self, path: str, nbytes: int | None) -> None:
        self.path = path
        self.nbytes = nbytes

    async def chunks(self, bar: Bar) -> AsyncIterator[bytes]:
        with _opened(self.path) as file:
            # One read of a pipe, not a full chunk: what it holds goes on at once.
            while chunk := await asyncio.to_thread(file.read1, CHUNK_BYTES):  # type: ignore[attr-defined]
                bar.advance(len(chunk))
                yield chunk

    def finished(self, report: dict[str, Any]) -> dict[str, Any]:
        failures = [{"path": self.path, **failure} for failure in report["failures"]]
        return {**report, "failures": failures, "harmless": 0}


class _Markdown:
    """Markdown read here and sent as NDJSON; `lines` leads from the lines sent to those read."""

    nbytes = None

    def __init__(self, path: str) -> None:
        self.path = path
        self._lines: list[int] = []
        self._bad: list[BadRecord] = []

    async def chunks(self, bar: Bar) -> AsyncIterator[bytes]:
        from itertools import islice

        from sfm_graph.adapters.readers.markdown import read_markdown

        sent = self._sent(read_markdown(Path(self.path)))
        while some := await asyncio.to_thread(list, islice(sent, CHUNK_RECORDS)):
            chunk = b"".join(some)
            bar.advance(len(chunk))
            yield chunk

    def _sent(self, records: "Iterator[Any]") -> Iterator[bytes]:
        from sfm_graph.adapters.readers import BadRecord, MemoryRecord

        for record in records:
            if isinstance(record, BadRecord):
                self._bad.append(record)
                continue
            type_ = "memory" if isinstance(record, MemoryRecord) else "link"
            self._lines.append(record.line)
            yield orjson.dumps({"type": type_, **record.fields}, option=orjson.OPT_APPEND_NEWLINE)

    def finished(self, report: dict[str, Any]) -> dict[str, Any]:
        unread = [
            {"path": self.path, "line": one.line, "code": one.code, "message": one.message} for one in self._bad
        ]
        refused = [
            {"path": self.path, **failure, "line": self._lines[failure["line"] - 1]} for failure in report["failures"]
        ]
        harmless = sum(one.code in HARMLESS for one in self._bad)
        failed = report["failed"] + len(unread)
        return {**report, "failed": failed, "failures": unread + refused, "harmless": harmless}


_Source = _Lines | _Markdown


async def _export(target: Target, query: dict[str, Any], output: Path | None, progress: bool | None) -> None:
    namespace = query["namespace"]
    chunks = _from_here(target, query) if target.url is None else _from_server(target, query)
    # The cursor and the first chunk are there before a file is touched: an unknown namespace leaves it as it is.
    cursor = (await anext(chunks)).decode()
    chunk: bytes | None = await anext(chunks, None)
    with _writable(output) as file, progress_bar(f"export {namespace}", None, progress) as bar:
        while chunk is not None:
            file.write(chunk)
            bar.advance(len(chunk))
            chunk = await anext(chunks, None)
    if cursor:
        say(f"what changes from here on: {command_line(target, namespace, cursor)}")


async def _from_here(target: Target, query: dict[str, Any]) -> AsyncGenerator[bytes]:
    """The cursor of the snapshot, then its lines."""
    from sfm_graph.api.exports import export_request, exported

    async with target.services() as services:
        async for chunk in exported(services, query["namespace"], export_request(query)):
            yield chunk


async def _from_server(target: Target, query: dict[str, Any]) -> AsyncGenerator[bytes]:
    async with target.client() as client:
        with reachable(client):
            async with client.stream("GET", "/export", params=query) as response:
                if response.is_error:
                    await response.aread()
                    json_of(response)
                # As of another moment, or from a server of an older release, there is no such header.
                yield response.headers.get("X-Changes-Cursor", "").encode()
                async for chunk in response.aiter_bytes():
                    yield chunk


def _opened(path: str) -> BinaryIO:
    return sys.stdin.buffer if path == "-" else open(path, "rb")


@contextmanager
def _writable(output: Path | None) -> Iterator[BinaryIO]:
    if output is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
    else:
        with output.open("wb") as file:
            yield file
