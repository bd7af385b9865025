"""Speaking to a service: what will pass is a Retry, what it refuses for good is Refused."""

import asyncio
from collections.abc import Mapping
from typing import Any

import httpx
import orjson

from sfm_consumers.contract import Retry, printable
from sfm_consumers.effects.http_answers import passes, retry_after_seconds

MAX_ANSWER_BYTES = 256 * 1024**2
_PASSING_CODES = frozenset(
    {"internal_error", "unavailable", "database_unavailable", "overloaded", "embedder_unavailable"}
)
_CODES_OF_404 = frozenset({"memory_not_found", "link_not_found", "namespace_not_found"})


class Refused(Exception):
    """The service will not take this, now or later. `code` is one of docs/http.md."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class Remote:
    """A service at a URL. Every call raises Retry or Refused."""

    def __init__(
        self, url: str, token: str | None, timeout_seconds: float, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._timeout_seconds = timeout_seconds
        self._http = httpx.AsyncClient(
            base_url=url.rstrip("/"), headers=headers, timeout=timeout_seconds, follow_redirects=False,
            trust_env=False, transport=transport,
        )  # fmt: skip

    async def call(
        self, method: str, path: str, *, body: Any = None, query: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """The JSON object that a route answers with."""
        content = None if body is None else orjson.dumps(body)
        headers = {} if body is None else {"Content-Type": "application/json"}
        try:
            async with (
                asyncio.timeout(self._timeout_seconds),
                self._http.stream(method, path, content=content, params=query, headers=headers) as response,
            ):
                answer = await _bounded(response)
        except (httpx.HTTPError, TimeoutError) as error:
            raise Retry(f"{self._http.base_url}: {str(error) or type(error).__name__}") from error
        value = await _parsed(answer)
        if not response.is_success:
            raise _failure(response, value)
        if value is None:
            raise Retry(f"{self._http.base_url}{path} answered something that is no JSON object")
        return value

    async def graphql(self, document: str, **variables: Any) -> dict[str, Any]:
        """The data that an operation answers with; its first error is raised."""
        answer = await self.call("POST", "/graphql", body={"query": document, "variables": variables})
        errors = answer.get("errors")
        if errors:
            code, message = _of_error(errors)
            raise Retry(message) if code in _PASSING_CODES else Refused(code, message)
        data = answer.get("data")
        if not isinstance(data, dict):
            raise Retry(f"{self._http.base_url}/graphql answered without data")
        return data

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()


async def _bounded(response: httpx.Response) -> bytes:
    chunks, size = [], 0
    async for chunk in response.aiter_bytes():
        size += len(chunk)
        if size > MAX_ANSWER_BYTES:
            raise Retry(f"an answer is larger than {MAX_ANSWER_BYTES} bytes")
        chunks.append(chunk)
    return b"".join(chunks)


async def _parsed(answer: bytes) -> dict[str, Any] | None:
    try:
        value = await asyncio.to_thread(orjson.loads, answer) if len(answer) > 100_000 else orjson.loads(answer)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


def _failure(response: httpx.Response, problem: dict[str, Any] | None) -> Retry | Refused:
    code = printable(str((problem or {}).get("code", ""))[:200])
    message = printable(str((problem or {}).get("detail", ""))[:200]) or f"status {response.status_code}"
    status = response.status_code
    known = status == 404 and code in _CODES_OF_404
    if not known and passes(status):
        pause = retry_after_seconds(response.headers.get("Retry-After"))
        return Retry(f"{response.url} answered {status}: {message}", pause)
    return Refused(code or str(status), message)


def _of_error(errors: Any) -> tuple[str, str]:
    first = errors[0] if isinstance(errors, list) and isinstance(errors[0], dict) else {}
    extensions = first.get("extensions")
    code = extensions.get("code") if isinstance(extensions, dict) else None
    message = str(first.get("message", "an error without a message"))
    return printable(str(code or "graphql_invalid")[:200]), printable(message[:200])
