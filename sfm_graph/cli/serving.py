"""One process that answers on a listening socket until it is told to stop: a server with its services, or less."""

import asyncio
import errno
import gc
import logging
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING

from sfm_graph.cli.output import fail

if TYPE_CHECKING:
    from sfm_graph.services.registry import Services
    from sfm_graph.settings import Settings

log = logging.getLogger(__name__)

STOPS = (signal.SIGINT, signal.SIGTERM)


def serve_on(
    listener: socket.socket, settings: "Settings", ready: Callable[[bool], None], *, shares_listener: bool = False
) -> None:
    """Serve until SIGINT or SIGTERM; closes the listener. `ready` is called once requests are answered, with whether
    the database holds an API key.

    shares_listener: other processes accept from it as well. Raises what `open_runtime` raises. Exits 1 for an
    address beyond loopback when nothing is there to authenticate with.
    """
    from asyncio import run

    from sfm_graph.telemetry.logs import start_logging

    if sys.platform != "win32":
        from uvloop import run

    start_logging(settings.log_format, settings.log_level)
    with suppress(asyncio.CancelledError):
        run(_serve(settings, listener, ready, shares_listener=shares_listener))


async def _serve(
    settings: "Settings", listener: socket.socket, ready: Callable[[bool], None], *, shares_listener: bool
) -> None:
    from sfm_graph.app import app_for
    from sfm_graph.runtime import open_runtime

    loop, opening = asyncio.get_running_loop(), asyncio.current_task()
    for stop in STOPS:
        loop.add_signal_handler(stop, opening.cancel)  # type: ignore[union-attr]
    # Not as the app's own lifespan: what hinders the start is a problem to show, not a traceback in a log.
    async with open_runtime(settings) as services:
        await refuse_strangers(services)
        keys = await services.keys.exist()
        for stop in STOPS:
            loop.remove_signal_handler(stop)
        leave_stops_to_uvicorn()
        # What is there now stays: every full collection that walked it would stall the loop, up to 100 ms.
        gc.collect()
        gc.freeze()
        # Threads that prepare bulk writes give the interpreter back to the loop after 1 ms, not 5.
        sys.setswitchinterval(0.001)
        await answer(settings, app_for(services), listener, lambda: ready(keys), shares_listener=shares_listener)


def open_listener(settings: "Settings", command: str) -> socket.socket:
    """A listening socket, so that a taken port is known before anything is started. Exits 1, with advice on how to
    call the command."""
    host = settings.host.strip("[]")
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, settings.port))
        listener.listen()
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            advice = f"choose another one: sfm {command} --port 9596"
            fail("port_in_use", f"port {settings.port} of {settings.host} is in use; {advice}")
        fail("cannot_listen", f"cannot listen on {settings.host} port {settings.port}: {error.strerror}")
    return listener


async def refuse_strangers(services: "Services") -> None:
    """Exit 1 for an address beyond loopback when nothing is there to authenticate with."""
    if services.settings.on_loopback or await services.authentication.has_any():
        return
    fail(
        "host_refused",
        f"SFM_HOST is {services.settings.host}: without a way to authenticate the service listens on loopback only. "
        "Set SOMA_API_TOKEN or SFM_JWT_ISSUER, or make an API key first: "
        "sfm keys create NAME --scope read --scope write --namespace '*'",
    )


# A signal came that uvicorn has not seen.
_stop_asked = threading.Event()


def leave_stops_to_uvicorn() -> None:
    """It stops in order on both signals, then raises them again for whoever had them before: nobody. One that comes
    before it listens for them is kept for its start."""
    for stop in STOPS:
        signal.signal(stop, lambda *_: _stop_asked.set())


async def answer(
    settings: "Settings",
    app: object,
    listener: socket.socket,
    ready: Callable[[], None],
    *,
    shares_listener: bool = False,
    beside: asyncio.Task[None] | None = None,
) -> None:
    """Answer until SIGINT or SIGTERM, or until the task beside it ends. Closes the listener; not the task."""
    import uvicorn

    from sfm_graph.api.serving import StreamingServer

    class Server(StreamingServer):
        """Says when it answers, and ends with another task."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if _stop_asked.is_set():
                self.should_exit = True
            elif self.started:
                ready()

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            log.info("stopping on %s", signal.Signals(sig).name)
            super().handle_exit(sig, frame)

        def end(self, _: asyncio.Task[None]) -> None:
            """As a signal does."""
            self.should_exit = True

    config = uvicorn.Config(
        app, http="httptools", log_config=None, access_log=False, server_header=False,  # type: ignore[arg-type]
        proxy_headers=False, timeout_graceful_shutdown=settings.graceful_timeout_seconds,
    )  # fmt: skip
    server = Server(config, drain_seconds=settings.drain_seconds, shares_listener=shares_listener)
    if beside is not None:
        beside.add_done_callback(server.end)
    await server.serve(sockets=[listener])
    log.info("no request is under way any more")
