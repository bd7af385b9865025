"""The command that relays changes to an event bus."""

import asyncio
import logging
import signal
from typing import TYPE_CHECKING, Annotated

import typer

from sfm_graph.cli.options import Config
from sfm_graph.cli.output import fail, say, show

if TYPE_CHECKING:
    from sfm_graph.settings import Settings


def relay(
    forget: Annotated[
        bool, typer.Option("--forget", help="Forget how far the relay is, so that the log is not kept for it.")
    ] = False,
    config: Config = None,
) -> None:
    """Relay changes to the event bus until it is stopped (Ctrl-C); several of them stand in for one another.

    `sfm serve` does so by itself unless SFM_RELAY_INSIDE is false.
    """
    from sfm_graph.settings import EventBusKind, load_settings

    settings = load_settings(config)
    if settings.bus is EventBusKind.NONE:
        fail(
            "settings_error", "there is no event bus: set KAFKA_BOOTSTRAP_SERVERS, or SFM_EVENT_BUS=redis"
        )
    logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    asyncio.run(_forget(settings) if forget else _relay(settings))


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(relay)


async def _relay(settings: "Settings") -> None:
    from sfm_graph.runtime import open_runtime, running

    stopped = asyncio.Event()
    for stop in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(stop, stopped.set)
    async with open_runtime(settings, maintenance=False) as services:
        if services.relay is None:
            fail("settings_error", "there is no event bus to relay to")
        async with running(services.relay.run(), "relay"):
            say(f"relaying changes to {settings.bus} (stop with Ctrl-C)")
            await stopped.wait()


async def _forget(settings: "Settings") -> None:
    from sfm_graph.runtime import open_runtime

    async with open_runtime(settings, maintenance=False) as services:
        if services.relay is not None:
            show({"follower": services.relay.name, "forgotten": await services.relay.forget()})
