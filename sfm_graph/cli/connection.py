"""Where a command's requests go: to a running server, or to the same routes in this process."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from sfm_graph.cli.output import fail, fail_with, show

if TYPE_CHECKING:
    import httpx

    from sfm_graph.services.registry import Services

# A server that answers at all answers a connection in this time; bulk work may take minutes.
CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Target:
    """The server at `url`; without one the services of this process, opened on the settings."""

    url: str | None
    config: Path | None

    @asynccontextmanager
    async def client(self) -> "AsyncIterator[httpx.AsyncClient]":
        """A client of the REST routes."""
        import httpx

        timeout = httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS)
        async with AsyncExitStack() as stack:
            if self.url is None:
                base_url, transport = await self._in_process(stack)
            else:
                base_url, transport = self.url, None
            yield await stack.enter_async_context(
                httpx.AsyncClient(base_url=base_url, transport=transport, timeout=timeout)
            )

    async def _in_process(self, stack: AsyncExitStack) -> "tuple[str, httpx.AsyncBaseTransport]":
        import httpx

        from sfm_graph.app import app_for

        services = await stack.enter_async_context(self.services())
        app = app_for(services)
        await stack.enter_async_context(app.router.lifespan_context(app))
        return f"http://{min(services.settings.host_names)}", httpx.ASGITransport(app=app)

    def services(self) -> "AbstractAsyncContextManager[Services]":
        """The services of this process, opened on the settings; only without a `url`."""
        from sfm_graph.runtime import open_runtime
        from sfm_graph.settings import load_settings

        return open_runtime(load_settings(self.config), maintenance=False)


def ask(
    target: Target,
    method: str,
    path: str,
    *,
    query: Mapping[str, Any] | None = None,
    body: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> None:
    """Make one request and show its answer. Exits 1 with the problem where it is refused."""
    request: dict[str, Any] = {"params": {name: value for name, value in (query or {}).items() if value is not None}}
    if body is not None:
        # Not httpx's own JSON, which raises on NaN: the service says what is wrong with it.
        request |= {"content": json.dumps(body), "headers": {"Content-Type": "application/json"}}
    if headers:
        request |= {"headers": headers}
    show(asyncio.run(_answer(target, method, path, **request)))


async def _answer(target: Target, method: str, path: str, **request: Any) -> Any:
    async with target.client() as client:
        return await answer_of(client, method, path, **request)


async def answer_of(client: "httpx.AsyncClient", method: str, path: str, **request: Any) -> Any:
    """The JSON of an answer. Exits 1 with the problem where the request is refused or nobody answers."""
    with reachable(client):
        response = await client.request(method, path, **request)
    return json_of(response)


@contextmanager
def reachable(client: "httpx.AsyncClient") -> Iterator[None]:
    """Exits 1 where nobody answers the requests inside."""
    import httpx

    try:
        yield
    except (httpx.InvalidURL, httpx.TransportError) as error:
        fail("unreachable", f"no answer from {client.base_url}: {str(error) or type(error).__name__}")


def json_of(response: "httpx.Response") -> Any:
    """The JSON of a read response. Exits 1 with the problem where it is one."""
    try:
        value = response.json()
    except ValueError:
        fail("unexpected_answer", f"{response.url} answered {response.status_code} without JSON: is it this service?")
    if response.is_error:
        fail_with(value)
    return value


def memory_path(reference: str) -> str:
    """The path of a memory."""
    return f"/memories/{quote(reference, safe=',')}"


def if_match(version: int | None) -> dict[str, str]:
    """The headers that make a change conditional."""
    return {} if version is None else {"If-Match": f'"{version}"'}
