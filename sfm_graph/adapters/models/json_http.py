"""Asking a model's server: JSON in, JSON out, over HTTP, with retries inside one deadline."""

import asyncio
import random
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import orjson
from pydantic import SecretStr

from sfm_graph.domain.deadline import out_of_time, within
from sfm_graph.errors import SettingsError, Unavailable
from sfm_graph.telemetry import tracing

ATTEMPTS = 5
_FIRST_WAIT_SECONDS = 0.25
_CONNECT_SECONDS = 5.0
# Together with other status codes of 500 and more: the same request may succeed later.
_RETRIED = frozenset({408, 425, 429})
_INLINE_BYTES = 65_536


class Refused(Exception):
    """The server answered with a status that another attempt would not change."""

    def __init__(self, status: int) -> None:
        super().__init__(f"answered with status {status}")
        self.status = status


class _Failed(Exception):
    """An attempt failed in a way that may pass; the server may have said after how many seconds."""

    def __init__(self, why: str, wait_seconds: float | None = None) -> None:
        super().__init__(why)
        self.wait_seconds = wait_seconds


class JsonEndpoint:
    """POSTs to one URL. Its messages name the server, never the key or what either side sent."""

    def __init__(
        self,
        url: str,
        api_key: SecretStr | None,
        *,
        timeout_seconds: float,
        max_answer_bytes: int,
        connections: int,
        error: type[Unavailable],
        key_variable: str,
    ) -> None:
        self._url = httpx.URL(url)
        self._timeout_seconds = timeout_seconds
        self._max_answer_bytes = max_answer_bytes
        self._error = error
        # A compressed answer could be a thousand times what was received.
        headers = {
            "content-type": "application/json",
            "accept-encoding": "identity",
            **_bearer(api_key, key_variable),
        }
        self._client = httpx.AsyncClient(
            headers=headers,
            timeout=httpx.Timeout(None, connect=_CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=connections),
        )

    async def post(self, body: Mapping[str, Any], *, attempts: int = ATTEMPTS) -> Any:
        """The answer's JSON. Raises the endpoint's error, Refused for a status of 300 to 499, DeadlineExceeded."""
        content = orjson.dumps(body)
        seconds = within(self._timeout_seconds)
        deadline = asyncio.get_running_loop().time() + seconds
        try:
            async with asyncio.timeout_at(deadline):
                answer = await self._answer(content, attempts, deadline)
        except TimeoutError:
            if seconds < self._timeout_seconds:
                raise out_of_time() from None
            raise self.failure(f"did not answer within {self._timeout_seconds:g} s", "slow") from None
        try:
            if len(answer) <= _INLINE_BYTES:
                return orjson.loads(answer)
            return await asyncio.to_thread(orjson.loads, answer)
        except ValueError:
            raise self.failure("answered with something that is not JSON", "wrong_answer") from None

    def failure(self, why: str, state: str = "away") -> Unavailable:
        """The endpoint's error, which says where. `state`: away, slow, wrong_answer or too_large, as a detail."""
        where = self._url.copy_with(userinfo=b"", query=None, fragment=None)
        return self._error(f"{where} {why}", state=state)

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._client.aclose()

    async def _answer(self, content: bytes, attempts: int, deadline: float) -> bytes:
        for attempt in range(attempts):
            try:
                return await self._attempt(content)
            except _Failed as failed:
                wait = failed.wait_seconds
                if wait is None:
                    wait = _FIRST_WAIT_SECONDS * 2**attempt * random.uniform(0.5, 1)  # noqa: S311 - jitter, not a secret
                late = asyncio.get_running_loop().time() + wait >= deadline
                if attempt == attempts - 1 or late:
                    raise self.failure(str(failed)) from None
                await asyncio.sleep(wait)
        raise AssertionError("unreachable")

    async def _attempt(self, content: bytes) -> bytes:
        with tracing.inner("http POST", "client", {"server.address": self._url.host}):
            return await self._exchange(content, tracing.headers())

    async def _exchange(self, content: bytes, headers: Mapping[str, str]) -> bytes:
        try:
            async with self._client.stream("POST", self._url, content=content, headers=headers) as response:
                if response.status_code in _RETRIED or response.status_code >= 500:
                    wait = _retry_after(response.headers.get("retry-after", ""))
                    raise _Failed(f"answered with status {response.status_code}", wait)
                if response.status_code >= 300:
                    raise Refused(response.status_code)
                return await self._body(response)
        except httpx.TransportError as exc:
            raise _Failed(f"cannot be reached: {type(exc).__name__}") from None
        except httpx.HTTPError as exc:
            raise self.failure(f"answered wrongly: {type(exc).__name__}", "wrong_answer") from None

    async def _body(self, response: httpx.Response) -> bytes:
        body = bytearray()
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > self._max_answer_bytes:
                raise self.failure(f"answered with more than {self._max_answer_bytes} bytes", "too_large")
        return bytes(body)


def _bearer(api_key: SecretStr | None, variable: str) -> dict[str, str]:
    if api_key is None:
        return {}
    key = api_key.get_secret_value().strip()
    if not key.isascii() or not key.isprintable():
        # Checked here: the HTTP library's own message would show the key.
        raise SettingsError(f"{variable}: holds characters that no HTTP header may")
    return {"authorization": f"Bearer {key}"}


def _retry_after(value: str) -> float | None:
    """Seconds to wait, from a number of them or an HTTP date; None when the header says neither."""
    if value.strip().isdecimal():
        return float(value[:9])
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
