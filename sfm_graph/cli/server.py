"""Commands that run the service and look after it."""

import asyncio
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sfm_graph.cli.options import Config
from sfm_graph.cli.output import fail, show

if TYPE_CHECKING:
    from sfm_graph.settings import Settings

_SCHEMA = Path("graphql/schema.graphql")


def serve(
    host: Annotated[str | None, typer.Option(help="The address to listen on; SFM_HOST by default.")] = None,
    port: Annotated[int | None, typer.Option(help="The port, 0 for any free one; SFM_PORT by default.")] = None,
    config: Config = None,
) -> None:
    """Serve GraphQL and REST until it is stopped (Ctrl-C)."""
    # Before numpy is loaded. Searches run side by side: threads of one product that wait for each other on busy cores
    # take several times as long as a single one.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from sfm_graph.cli.data import announce
    from sfm_graph.cli.serving import open_listener
    from sfm_graph.cli.welcome import url_of, welcome
    from sfm_graph.settings import load_settings

    settings = load_settings(config, host=host, port=port)
    with open_listener(settings, "serve") as listener:
        announce(settings)
        url = url_of(settings.host, listener.getsockname()[1])
        _serve(settings, listener, lambda keys: welcome(settings, url, keys=keys))


def _serve(settings: "Settings", listener: socket.socket, ready: Callable[[bool], None]) -> None:
    if settings.workers == 1:
        from sfm_graph.cli.serving import serve_on

        serve_on(listener, settings, ready)
        return
    from sfm_graph.cli.workers import supervise
    from sfm_graph.telemetry.logs import start_logging

    start_logging(settings.log_format, settings.log_level)
    if code := asyncio.run(supervise(settings, listener, ready)):
        raise typer.Exit(code)


def migrate(config: Config = None) -> None:
    """Start the database and bring its schema to this version; `serve` does so by itself."""
    from sfm_graph.cli.data import announce
    from sfm_graph.runtime import open_runtime
    from sfm_graph.settings import load_settings
    from sfm_graph.store.migrations import migrations

    async def run(settings: "Settings") -> None:
        async with open_runtime(settings, maintenance=False):
            pass

    settings = load_settings(config)
    announce(settings)
    asyncio.run(run(settings))
    where = "embedded" if settings.postgres_url is None else "external"
    show({"database": where, "schema": max(one.number for one in migrations())})


def schema(
    write: Annotated[bool, typer.Option("--write", help=f"Write it to {_SCHEMA}.")] = False,
    check: Annotated[bool, typer.Option("--check", help=f"Exit 1 unless {_SCHEMA} is up to date.")] = False,
) -> None:
    """Print the GraphQL schema."""
    from sfm_graph.api.gql.schema import schema_sdl

    sdl = schema_sdl()
    if write:
        _SCHEMA.parent.mkdir(exist_ok=True)
        _SCHEMA.write_text(sdl)
    elif not check:
        typer.echo(sdl, nl=False)
    elif not _SCHEMA.exists() or _SCHEMA.read_text() != sdl:
        fail("schema_drift", f"{_SCHEMA} is not the schema of this version; run: sfm schema --write")


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False,
    config: Config = None,
) -> None:
    """Check everything that the service needs; exit 1 when something is wrong."""
    from sfm_graph.cli.doctor import checks, table

    results = asyncio.run(checks(config))
    if as_json:
        show([result.as_json() for result in results])
    else:
        typer.echo(table(results), nl=False)
    if not all(result.ok for result in results):
        raise typer.Exit(1)


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (serve, migrate, doctor, schema):
        app.command()(command)
