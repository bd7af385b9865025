"""Commands that read the whole change log: the relay, Qdrant's indexer, and the list of all that it is kept for."""

import asyncio
import logging
import signal
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Annotated

import typer

from sfm_graph.cli.options import Config
from sfm_graph.cli.output import fail, say, show

if TYPE_CHECKING:
    from sfm_graph.settings import Settings


def relay(config: Config = None) -> None:
    """Relay changes to the event bus until it is stopped (Ctrl-C); several of them stand in for one another.

    `sfm serve` does so by itself unless SFM_FOLLOWERS_INSIDE is false.
    """
    from sfm_graph.settings import EventBusKind, load_settings

    settings = load_settings(config)
    if settings.bus is EventBusKind.NONE:
        fail("settings_error", "there is no event bus: set KAFKA_BOOTSTRAP_SERVERS, or SFM_EVENT_BUS=redis")
    _start_logging(settings)
    asyncio.run(_relay(settings))


def qdrant(config: Config = None) -> None:
    """Keep Qdrant equal to the vectors until it is stopped (Ctrl-C); several of these stand in for one another.

    `sfm serve` does so by itself unless SFM_FOLLOWERS_INSIDE is false.
    """
    from sfm_graph.settings import load_settings

    settings = load_settings(config)
    if not (settings.qdrant_url or settings.qdrant_host):
        fail("settings_error", "there is no Qdrant: set QDRANT_URL, or QDRANT_HOST")
    _start_logging(settings)
    asyncio.run(_index(settings))


def followers(
    forget: Annotated[
        str | None,
        typer.Option("--forget", metavar="NAME", help="Keep the log for it no longer. If it runs, it begins anew."),
    ] = None,
    config: Config = None,
) -> None:
    """Who the change log is kept for, relays and indexes, and when each of them last moved on."""
    from sfm_graph.settings import load_settings

    asyncio.run(_followers(load_settings(config), forget))


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (relay, qdrant, followers):
        app.command()(command)


async def _relay(settings: "Settings") -> None:
    from sfm_graph.runtime import open_runtime

    async with open_runtime(settings, maintenance=False) as services:
        if services.relay is not None:
            await _until_stopped(services.relay.run(), f"relaying changes to {settings.bus}")


async def _index(settings: "Settings") -> None:
    from sfm_graph.runtime import open_runtime

    async with open_runtime(settings, maintenance=False) as services:
        if services.vector_indexing is not None:
            await _until_stopped(services.vector_indexing.run(), "keeping Qdrant equal to the vectors")


async def _until_stopped(work: Coroutine[None, None, None], what: str) -> None:
    from sfm_graph.runtime import running

    stopped = asyncio.Event()
    for stop in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(stop, stopped.set)
    async with running(work, what):
        say(f"{what} (stop with Ctrl-C)")
        await stopped.wait()


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


def _start_logging(settings: "Settings") -> None:
    logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
