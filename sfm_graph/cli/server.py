"""Commands that run the service and look after it."""

import asyncio
import errno
import gc
import ipaddress
import logging
import os
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sfm_graph.cli.options import Config
from sfm_graph.cli.output import fail, say, show

if TYPE_CHECKING:
    from sfm_graph.settings import Settings

_SCHEMA = Path("graphql/schema.graphql")
_WELCOME = """sfm_graph serves {url}  (stop with Ctrl-C)
  GraphiQL  {url}/graphql
  REST      {url}/docs
  Overview  {url}/"""


def serve(
    host: Annotated[str | None, typer.Option(help="The address to listen on; SFM_HOST by default.")] = None,
    port: Annotated[int | None, typer.Option(help="The port, 0 for any free one; SFM_PORT by default.")] = None,
    config: Config = None,
) -> None:
    """Serve GraphQL and REST until it is stopped (Ctrl-C)."""
    # Before numpy is loaded. Searches run side by side: threads of one product that wait for each other on busy cores
    # take several times as long as a single one.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from asyncio import run

    from sfm_graph.settings import load_settings

    if sys.platform != "win32":
        from uvloop import run

    settings = load_settings(config, host=host, port=port)
    if not is_loopback(settings.host):
        fail(
            "host_refused",
            f"SFM_HOST is {settings.host}: without a token the service listens on loopback only, "
            "such as 127.0.0.1, ::1 or localhost",
        )
    _start_logging(settings.log_level)
    with _listener(settings) as listener:
        # uvicorn stops in order on both, then raises the signal again for whoever had it before.
        for stop in (signal.SIGINT, signal.SIGTERM):
            signal.signal(stop, lambda *_: None)
        run(_serve(settings, listener))


def migrate(config: Config = None) -> None:
    """Start the database and bring its schema to this version; `serve` does so by itself."""
    from sfm_graph.runtime import open_runtime
    from sfm_graph.settings import load_settings
    from sfm_graph.store.migrations import migrations

    async def run(settings: "Settings") -> None:
        async with open_runtime(settings, maintenance=False):
            pass

    settings = load_settings(config)
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


def is_loopback(host: str) -> bool:
    """Whether an address to listen on is out of reach for other machines."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def url_of(host: str, port: int) -> str:
    """Where a browser finds a listener; a loopback address goes by the name that everybody knows."""
    shown = "localhost" if host in ("127.0.0.1", "localhost") else host.strip("[]")
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"


def _listener(settings: "Settings") -> socket.socket:
    """A listening socket, so that a taken port is known before anything is started. Exits 1."""
    host = settings.host.strip("[]")
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, settings.port))
        listener.listen()
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            advice = "choose another one: sfm serve --port 9596, or SFM_PORT=9596"
            fail("port_in_use", f"port {settings.port} of {settings.host} is in use; {advice}")
        fail("cannot_listen", f"cannot listen on {settings.host} port {settings.port}: {error.strerror}")
    return listener


async def _serve(settings: "Settings", listener: socket.socket) -> None:
    import uvicorn

    from sfm_graph.api.serving import StreamingServer
    from sfm_graph.app import app_for
    from sfm_graph.runtime import open_runtime

    url = url_of(settings.host, listener.getsockname()[1])

    class Server(StreamingServer):
        """Says where it is once it answers."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                say(_WELCOME.format(url=url))

    # Not as the app's own lifespan: what hinders the start is a problem to show, not a traceback in a log.
    async with open_runtime(settings) as services:
        # What is there now stays: every full collection that walked it would stall the loop, up to 100 ms.
        gc.collect()
        gc.freeze()
        # Threads that prepare bulk writes give the interpreter back to the loop after 1 ms, not 5.
        sys.setswitchinterval(0.001)
        config = uvicorn.Config(
            app_for(services), http="httptools", log_config=None, access_log=False, server_header=False,
            timeout_graceful_shutdown=settings.graceful_timeout_seconds,
        )  # fmt: skip
        await Server(config).serve(sockets=[listener])


def _start_logging(level: str) -> None:
    logging.basicConfig(level=level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if level != "debug":
        # Its account of its own start and stop says less than the one message above.
        logging.getLogger("uvicorn").setLevel(logging.WARNING)
