"""Where a command's requests go: to a running server, or to the same routes in this process."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from contextvars import ContextVar
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
# A token is far shorter.
MAX_TOKEN_CHARS = 16_384


@dataclass(frozen=True, slots=True)
class Credential:
    """The bearer token that goes to a server: itself, or the file that holds it."""

    token: str | None = None
    file: Path | None = None

    def headers(self) -> dict[str, str]:
        """The headers of a request; none without a token. Exits 1 where there cannot be one."""
        token = self.token if self.token is not None or self.file is None else _read_token(self.file)
        if token is None:
            return {}
        if not token or not token.isascii() or not token.isprintable() or " " in token:
            fail("settings_error", "SFM_TOKEN: the token is empty, or holds what no HTTP header may")
        return {"Authorization": f"Bearer {token}"}


# What the options before the command say; read only where a request leaves for a server.
credential: ContextVar[Credential] = ContextVar("credential", default=Credential())  # noqa: B039 - frozen

# The agent that the command says it works for.
agent: ContextVar[str | None] = ContextVar("agent", default=None)


def _agent_header() -> dict[bytes, bytes]:
    named = agent.get()
    return {} if named is None else {b"X-SFM-Agent": named.encode()}


def _read_token(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            return file.read(MAX_TOKEN_CHARS).removesuffix("\n")
    except (OSError, ValueError) as error:
        fail("settings_error", f"SFM_TOKEN_FILE: cannot read {path}: {error}")


@dataclass(frozen=True, slots=True)
class Target:
    """The server at `url`; without one the services of this process, opened on the settings."""

    url: str | None
    config: Path | None
    # Whether there has to be a database already.
    existing: bool = False

    @asynccontextmanager
    async def client(self) -> "AsyncIterator[httpx.AsyncClient]":
        """A client of the REST routes."""
        import httpx

        timeout = httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS)
        async with AsyncExitStack() as stack:
            if self.url is None:
                base_url, transport = await self._in_process(stack)
                headers: dict[str, str] = {}
            else:
                base_url, transport, headers = self.url, None, credential.get().headers()
            client = httpx.AsyncClient(base_url=base_url, transport=transport, timeout=timeout, headers=headers)
            client.headers.update(_agent_header())
            yield await stack.enter_async_context(client)

    async def _in_process(self, stack: AsyncExitStack) -> "tuple[str, httpx.AsyncBaseTransport]":
        import httpx

        from sfm_graph.app import app_for

        services = await stack.enter_async_context(self.services())
        app = app_for(services, as_local=True)
        await stack.enter_async_context(app.router.lifespan_context(app))
        return f"http://{min(services.settings.host_names)}", httpx.ASGITransport(app=app)

    def services(self) -> "AbstractAsyncContextManager[Services]":
        """The services of this process, opened on the settings; only without a `url`. Exits 1 without the database
        that has to exist."""
        from sfm_graph.cli.data import announce, must_exist
        from sfm_graph.runtime import open_runtime
        from sfm_graph.settings import load_settings

        settings = load_settings(self.config)
        (must_exist if self.existing else announce)(settings)
        return open_runtime(settings, maintenance=False)


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


def ask_graphql(target: Target, document: str, **variables: Any) -> dict[str, Any]:
    """The data that a GraphQL operation answers with. Exits 1 with its first error where it is refused."""
    body = json.dumps({"query": document, "variables": variables})
    headers = {"Content-Type": "application/json"}
    return asyncio.run(_graphql(target, content=body, headers=headers))


async def _graphql(target: Target, **request: Any) -> dict[str, Any]:
    async with target.client() as client:
        with reachable(client):
            response = await client.request("POST", "/graphql", **request)
    return data_of(response)


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


def data_of(response: "httpx.Response") -> dict[str, Any]:
    """The data of a GraphQL response. Exits 1 with the first error where there is one."""
    try:
        value = response.json()
    except ValueError:
        value = None
    errors = value.get("errors") if isinstance(value, dict) else None
    if isinstance(errors, list) and errors and isinstance(errors[0], dict):
        details = dict(errors[0].get("extensions") or {})
        fail(str(details.pop("code", "graphql_invalid")), str(errors[0].get("message")), **details)
    if isinstance(value, dict) and response.is_success and isinstance(value.get("data"), dict):
        data: dict[str, Any] = value["data"]
        return data
    if isinstance(value, dict) and "code" in value:
        fail_with(value)
    fail("unexpected_answer", f"{response.url} answered {response.status_code} without data: is it this service?")


def memory_path(reference: str) -> str:
    """The path of a memory."""
    return f"/memories/{quote(reference, safe=',')}"


def if_match(version: int | None) -> dict[str, str]:
    """The headers that make a change conditional."""
    return {} if version is None else {"If-Match": f'"{version}"'}
