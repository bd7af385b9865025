"""Commands that read the whole change log: the relay, Qdrant's indexer, and the list of all that it is kept for."""

import asyncio
import signal
import socket
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sfm_graph.cli.options import Config
from sfm_graph.cli.output import fail, say, show

if TYPE_CHECKING:
    from sfm_graph.services.registry import Services
    from sfm_graph.settings import Settings

Work = Callable[[], Coroutine[None, None, None]]
Port = Annotated[
    int | None,
    typer.Option(help="Answer /healthz, /readyz and /metrics on this port, 0 for any free one; none by default."),
]
Host = Annotated[str | None, typer.Option(help="The address to listen on with --port; SFM_HOST by default.")]


def relay(port: Port = None, host: Host = None, config: Config = None) -> None:
    """Relay changes to the event bus until it is stopped (Ctrl-C); several of them stand in for one another.

    `sfm serve` does so by itself unless SFM_FOLLOWERS_INSIDE is false.
    """
    from sfm_graph.settings import EventBusKind

    settings = _settings(config, port, host)
    if settings.bus is EventBusKind.NONE:
        fail("settings_error", "there is no event bus: set KAFKA_BOOTSTRAP_SERVERS, or SFM_EVENT_BUS=redis")
    with _listener(settings, "relay", port) as listener:
        asyncio.run(_relay(settings, listener))


def qdrant(port: Port = None, host: Host = None, config: Config = None) -> None:
    """Keep Qdrant equal to the vectors until it is stopped (Ctrl-C); several of these stand in for one another.

    `sfm serve` does so by itself unless SFM_FOLLOWERS_INSIDE is false.
    """
    settings = _settings(config, port, host)
    if not (settings.qdrant_url or settings.qdrant_host):
        fail("settings_error", "there is no Qdrant: set QDRANT_URL, or QDRANT_HOST")
    with _listener(settings, "qdrant", port) as listener:
        asyncio.run(_index(settings, listener))


def followers(
    forget: Annotated[
        str | None,
        typer.Option("--forget", metavar="NAME", help="Keep the log for it no longer. If it runs, it begins anew."),
    ] = None,
    config: Config = None,
) -> None:
    """Who the change log is kept for, relays and indexes, and when each of them last moved on."""
    from sfm_graph.cli.data import must_exist
    from sfm_graph.settings import load_settings

    settings = load_settings(config)
    must_exist(settings)
    asyncio.run(_followers(settings, forget))


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (relay, qdrant, followers):
        app.command()(command)


def _settings(config: Path | None, port: int | None, host: str | None) -> "Settings":
    """Raises SettingsError, BadParameter."""
    from sfm_graph.cli.data import announce
    from sfm_graph.settings import load_settings

    if host is not None and port is None:
        raise typer.BadParameter("nothing listens without --port", param_hint="--host")
    settings = load_settings(config, host=host, port=port)
    announce(settings)
    return settings


@contextmanager
def _listener(settings: "Settings", command: str, port: int | None) -> Iterator[socket.socket | None]:
    """What --port asks for. Exits 1 where it is taken."""
    from sfm_graph.cli.serving import open_listener
    from sfm_graph.telemetry.logs import start_logging

    start_logging(settings.log_format, settings.log_level)
    if port is None:
        yield None
        return
    with open_listener(settings, command) as listener:
        yield listener


async def _relay(settings: "Settings", listener: socket.socket | None) -> None:
    from sfm_graph.runtime import open_runtime

    async with open_runtime(settings, maintenance=False) as services:
        if services.relay is not None:
            await _follow(services, services.relay.run, f"relaying changes to {settings.bus}", listener)


async def _index(settings: "Settings", listener: socket.socket | None) -> None:
    from sfm_graph.runtime import open_runtime

    async with open_runtime(settings, maintenance=False) as services:
        if services.vector_indexing is not None:
            await _follow(services, services.vector_indexing.run, "keeping Qdrant equal to the vectors", listener)


async def _follow(services: "Services", work: Work, what: str, listener: socket.socket | None) -> None:
    """Work until SIGINT or SIGTERM. Raises what the work ends with by itself."""
    from sfm_graph.cli.serving import refuse_strangers
    from sfm_graph.runtime import running

    if listener is not None:
        await refuse_strangers(services)
    async with running(work(), what) as task:
        if listener is None:
            say(f"{what} (stop with Ctrl-C)")
            await _until_stopped(task)
        else:
            await _answer(services, listener, task)


async def _until_stopped(task: asyncio.Task[None]) -> None:
    stopped = asyncio.Event()
    for stop in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(stop, stopped.set)
    task.add_done_callback(lambda _: stopped.set())
    await stopped.wait()


async def _answer(services: "Services", listener: socket.socket, task: asyncio.Task[None]) -> None:
    from sfm_graph.app import operations_app
    from sfm_graph.cli.serving import answer, leave_stops_to_uvicorn
    from sfm_graph.cli.welcome import url_of

    url = url_of(services.settings.host, listener.getsockname()[1])
    welcome = f"{task.get_name()}, health and metrics at {url} (stop with Ctrl-C)"
    leave_stops_to_uvicorn()
    await answer(services.settings, operations_app(services), listener, lambda: say(welcome), beside=task)


async def _followers(settings: "Settings", forget: str | None) -> None:
    from sfm_graph.runtime import open_runtime

    async with open_runtime(settings, maintenance=False) as services:
        if forget is not None and not await services.retention.forget(forget):
            fail("not_found", f"no follower is called {forget!r}")
        show(
            [
                {"name": one.key.name, "shard": one.key.shard, "shards": one.key.shards, "moved_at": one.moved_at}
                for one in await services.retention.followers()
            ]
        )
