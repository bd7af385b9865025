"""The app on a real socket, and what is said over one."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import httpx
import uvicorn
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from sfm_graph.api.serving import StreamingServer
from sfm_graph.api.sse import Event, EventReader
from sfm_graph.api.streams import Streams, streams_of
from sfm_graph.app import app_for
from sfm_graph.services.registry import Services

Json = dict[str, Any]
DEADLINE_SECONDS = 30.0
WATCH = """subscription ($ns: String! = "default", $after: String) {
  changes(namespace: $ns, after: $after) { cursor entity operation id memory { key } } }"""


@dataclass(frozen=True)
class Served:
    """A running server."""

    address: str
    server: StreamingServer
    streams: Streams

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    @asynccontextmanager
    async def socket(self, **options: Any) -> AsyncIterator["Socket"]:
        """An initialised GraphQL WebSocket."""
        async with connect(
            f"ws://{self.address}/graphql", subprotocols=["graphql-transport-ws"], **options
        ) as opened:
            found = Socket(opened)
            await found.say(type="connection_init")
            assert await found.hear() == {"type": "connection_ack"}
            yield found

    @asynccontextmanager
    async def events(self, path: str, **options: Any) -> AsyncIterator["Events"]:
        """An event stream."""
        headers = {"Accept": "text/event-stream", **options.pop("headers", {})}
        async with (
            httpx.AsyncClient(base_url=self.url, timeout=DEADLINE_SECONDS) as client,
            client.stream(options.pop("method", "GET"), path, headers=headers, **options) as response,
        ):
            yield Events(response)


@dataclass
class Socket:
    """A GraphQL client, message by message."""

    connection: ClientConnection

    async def say(self, **message: Any) -> None:
        await self.connection.send(json.dumps(message))

    async def subscribe(self, query: str, id: str = "1", **variables: Any) -> None:
        await self.say(type="subscribe", id=id, payload={"query": query, "variables": variables})

    async def hear(self) -> Json:
        """The next message."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            return json.loads(await self.connection.recv())

    async def change(self) -> Json:
        """The next change of a subscription to `WATCH`."""
        message = await self.hear()
        assert message["type"] == "next", message
        assert "errors" not in message["payload"], message
        return message["payload"]["data"]["changes"]

    async def closed(self) -> tuple[int | None, str | None]:
        """Code and reason with which the server closes, when nothing else comes before."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            await self.connection.wait_closed()
        return self.connection.close_code, self.connection.close_reason

    async def until_closed(self) -> int | None:
        """The same code, whatever comes before it."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            with suppress(ConnectionClosed):
                while True:
                    await self.connection.recv()
        return self.connection.close_code


class Events:
    """The events of a response."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.lines = response.aiter_lines()

    async def every(self) -> AsyncIterator[Event]:
        """All, also those that are only an id, or a comment."""
        reader = EventReader()
        async for line in self.lines:
            event = reader.feed(line)
            if event is not None:
                yield event

    async def next(self, name: str) -> Event:
        """The next event of this name."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            async for event in self.every():
                if event.data is not None:
                    assert event.name == name, event
                    return event
        raise AssertionError("the stream ended")

    async def place(self) -> str:
        """The next id without an event."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            async for event in self.every():
                if event.data is None and event.id:
                    return event.id
        raise AssertionError("the stream ended")

    async def rest(self) -> list[Event]:
        """The events with data up to the end of the stream."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            return [event async for event in self.every() if event.data is not None]


@asynccontextmanager
async def serving(services: Services, port: int = 0) -> AsyncIterator[Served]:
    """The product's app over services on a loopback port, by default a free one."""
    app = app_for(services)
    with socket.create_server(("127.0.0.1", port)) as listener:
        config = uvicorn.Config(app, http="httptools", log_level="error", lifespan="on", timeout_graceful_shutdown=10)
        server = StreamingServer(config)
        running = asyncio.create_task(server.serve(sockets=[listener]))
        await until(lambda: server.started or running.done())
        try:
            yield Served(f"127.0.0.1:{listener.getsockname()[1]}", server, streams_of(app))
        finally:
            server.should_exit = True
            async with asyncio.timeout(DEADLINE_SECONDS):
                await running


async def until(holds: Callable[[], bool | Awaitable[bool]]) -> None:
    """Wait for something to become true."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            found = holds()
            if found if isinstance(found, bool) else await found:
                return
            await asyncio.sleep(0.01)


async def remember(services: Services, key: str, namespace: str = "default", **fields: Any) -> None:
    """Store a memory."""
    await services.memory_writes.store(namespace, {"key": key, "content": f"about {key}", **fields})
