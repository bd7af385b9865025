"""The keys that an issuer publishes as a JWKS document, fetched and kept."""

import asyncio
import logging
import time
from collections.abc import Callable
from contextvars import Context
from typing import Final

import httpx
import orjson

from sfm_graph.adapters.tokens.issuer_keys import IssuerKey, of_key_set
from sfm_graph.errors import Unavailable

log = logging.getLogger(__name__)

# After so long they are fetched again, in the background.
FRESH_SECONDS: Final = 300.0
# After so long, as nobody has asked meanwhile, a token waits for that: its key may have been withdrawn.
STALE_SECONDS: Final = 600.0
# Tokens with made-up key ids cause no more requests than this.
AGAIN_SECONDS: Final = 30.0
# How often it is tried while no key is known.
RETRY_SECONDS: Final = 1.0
MAX_BYTES: Final = 1_000_000
_FETCH_SECONDS: Final = 5.0


class _Failed(Exception):
    """A fetch without keys; the message says why."""


class KeySet:
    """Keys at a URL. While the issuer is away, those that are known stay good."""

    def __init__(
        self,
        url: str,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = url
        self._clock = clock
        # A compressed document could be a thousand times what was received.
        headers = {"accept": "application/json", "accept-encoding": "identity"}
        self._client = httpx.AsyncClient(
            headers=headers, timeout=_FETCH_SECONDS, follow_redirects=False, transport=transport
        )
        self._keys: tuple[IssuerKey, ...] = ()
        self._fetched_at = self._tried_at = float("-inf")
        self._failed = False
        self._task: asyncio.Task[None] | None = None

    async def find(self, kid: str | None) -> IssuerKey | None:
        """As the protocol says. Without a name it is the only key, if there is one only."""
        now = self._clock()
        age, since_try = now - self._fetched_at, now - self._tried_at
        if not self._keys:
            if since_try >= RETRY_SECONDS or self._is_fetching:
                await self._fetched()
        elif age >= FRESH_SECONDS and (since_try >= AGAIN_SECONDS or self._is_fetching):
            fetching = self._fetching()
            if age >= STALE_SECONDS:
                await asyncio.shield(fetching)
        found = self._named(kid)
        if found is None and self._keys and (self._clock() - self._tried_at >= AGAIN_SECONDS or self._is_fetching):
            await self._fetched()
            found = self._named(kid)
        if found is None and self._failed:
            raise Unavailable("the keys of the JWT issuer cannot be fetched")
        return found

    async def aclose(self) -> None:
        """Close the connections."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self._client.aclose()

    def _named(self, kid: str | None) -> IssuerKey | None:
        if kid is None:
            return self._keys[0] if len(self._keys) == 1 else None
        return next((one for one in self._keys if one.kid == kid), None)

    @property
    def _is_fetching(self) -> bool:
        return self._task is not None and not self._task.done()

    async def _fetched(self) -> None:
        # Others may wait for the same.
        await asyncio.shield(self._fetching())

    def _fetching(self) -> asyncio.Task[None]:
        if self._task is None or self._task.done():
            self._tried_at = self._clock()
            # Not in this request's context: it goes on for others when the deadline of this one is over.
            self._task = asyncio.create_task(self._fetch(), name="jwt keys", context=Context())
        return self._task

    async def _fetch(self) -> None:
        try:
            async with asyncio.timeout(_FETCH_SECONDS):
                self._keys = await self._document()
        except (_Failed, TimeoutError) as error:
            self._failed = True
            log.warning("the keys of the JWT issuer at %s: %s", self._url, str(error) or "no answer in time")
        else:
            self._failed = False
            self._fetched_at = self._clock()

    async def _document(self) -> tuple[IssuerKey, ...]:
        try:
            async with self._client.stream("GET", self._url) as response:
                if response.status_code != httpx.codes.OK:
                    raise _Failed(f"status {response.status_code}")
                body = bytearray()
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) > MAX_BYTES:
                        raise _Failed(f"more than {MAX_BYTES} bytes")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise _Failed(f"cannot be fetched: {type(error).__name__}") from None
        keys = await asyncio.to_thread(_parsed, bytes(body))
        if not keys:
            raise _Failed("no key for RS256, ES256 or EdDSA in the answer")
        return keys


def _parsed(body: bytes) -> tuple[IssuerKey, ...]:
    try:
        return of_key_set(orjson.loads(body))
    except orjson.JSONDecodeError:
        return ()
