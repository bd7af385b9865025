"""`webhook`: each event is a signed POST to one URL."""

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from urllib.parse import quote

import httpx
import orjson

from sfm_consumers.contract import Consumer, Options, Poison, Received, Retry, printable
from sfm_consumers.effects.http_answers import MAX_PAUSE_SECONDS, passes, retry_after_seconds
from sfm_consumers.effects.options import Given
from sfm_consumers.effects.webhook_signature import secret_keys, signature
from sfm_graph.domain.event import CONTENT_TYPE
from sfm_graph.errors import SettingsError
from sfm_graph.settings import Settings
from sfm_graph.telemetry import tracing
from sfm_graph.telemetry.messages import ATTRIBUTE

BATCH_TYPE = "application/cloudevents-batch+json"
MAX_ANSWER_BYTES = 4_096
MAX_REASON_CHARS = 200
SUCCESS_BODY_SECONDS = 1.0
# Ids of events that this process delivered: what a Retry of the rest brings again is not sent again.
MAX_REMEMBERED = 10_000
_GONE = 410
_KNOWN = {"url", "allow_http", "batch", "timeout_ms", "topics"}


async def open(settings: Settings, options: Options) -> Consumer:
    """The consumer that posts to `url`. Raises SettingsError."""
    given = Given("webhook", options, _KNOWN, secrets=("secret",))
    url = given.url("url", plain=given.flag("allow_http"))
    secrets = given.secret("secret")
    if secrets is None:
        raise SettingsError("SFM_WEBHOOK_SECRET or SFM_WEBHOOK_SECRET_FILE is required")
    try:
        keys = secret_keys(secrets)
    except ValueError as error:
        raise SettingsError(f"SFM_WEBHOOK_SECRET {error}") from error
    timeout = given.integer("timeout_ms", 10_000, low=10, high=300_000) / 1_000
    return Webhook(url, keys, given.topics(), batch=given.flag("batch"), timeout_seconds=timeout)


class Webhook:
    """Posts events one by one in CloudEvents' binary mode, or with `batch` those that arrive together in one body."""

    name = "webhook"

    def __init__(
        self, url: str, keys: Sequence[bytes], topics: Sequence[str], *, batch: bool, timeout_seconds: float
    ) -> None:
        self.topics = tuple(topics)
        self._url = url
        self._keys = tuple(keys)
        self._batch = batch
        self._timeout_seconds = timeout_seconds
        self._http = httpx.AsyncClient(timeout=timeout_seconds, follow_redirects=False, trust_env=False)
        self._delivered: OrderedDict[str, None] = OrderedDict()

    async def handle(self, events: Sequence[Received]) -> None:
        """Raises Poison for what the receiver refuses for good, Retry for what will pass."""
        waiting = [event for event in events if event.id not in self._delivered]
        if self._batch and len(waiting) > 1:
            try:
                await self._send_batch(waiting)
                return
            except Poison:
                pass  # one of them is at fault: by themselves it shows which
        for event in waiting:
            await (self._send_batch([event]) if self._batch else self._send_one(event))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _send_one(self, event: Received) -> None:
        headers = {f"ce-{name}": header_value(value) for name, value in event.attributes.items()}
        await self._post(event.id, event.data, {**headers, "Content-Type": CONTENT_TYPE}, [event])

    async def _send_batch(self, events: Sequence[Received]) -> None:
        body = b"[" + b",".join(_structured(event) for event in events) + b"]"
        ids = "\n".join(event.id for event in events)
        batch_id = events[0].id if len(events) == 1 else f"batch.{hashlib.sha256(ids.encode()).hexdigest()}"
        await self._post(batch_id, body, {"Content-Type": BATCH_TYPE}, events)

    async def _post(
        self, message_id: str, body: bytes, headers: Mapping[str, str], events: Sequence[Received]
    ) -> None:
        now = int(time.time())
        signed = {
            **headers,
            **_trace_of(events),
            "Accept-Encoding": "identity",
            "Idempotency-Key": message_id,
            "Webhook-Id": message_id,
            "Webhook-Timestamp": str(now),
            "Webhook-Signature": signature(self._keys, message_id, now, body),
        }
        status, answer, pause = await self._exchange(body, signed)
        if not 200 <= status < 300:
            raise _failure(status, answer, pause, events[0] if len(events) == 1 else None)
        for event in events:
            self._delivered[event.id] = None
        while len(self._delivered) > MAX_REMEMBERED:
            self._delivered.popitem(last=False)

    async def _exchange(self, body: bytes, headers: Mapping[str, str]) -> tuple[int, str, float | None]:
        """Status, the beginning of the answer, Retry-After; the whole exchange within the timeout."""
        try:
            async with (
                asyncio.timeout(self._timeout_seconds),
                self._http.stream("POST", self._url, content=body, headers=headers) as response,
            ):
                beginning = await _beginning(response)
                pause = retry_after_seconds(response.headers.get("Retry-After"))
        except (httpx.HTTPError, TimeoutError) as error:
            raise Retry(f"the webhook cannot be reached: {str(error) or type(error).__name__}") from error
        return response.status_code, printable(beginning.decode(errors="replace")[:MAX_REASON_CHARS]), pause


async def _beginning(response: httpx.Response) -> bytes:
    """What is read to its end leaves the connection to the next POST; of a success it decides nothing."""
    found = b""
    try:
        async with asyncio.timeout(SUCCESS_BODY_SECONDS if response.is_success else None):
            async for chunk in response.aiter_raw():
                found += chunk
                if len(found) >= MAX_ANSWER_BYTES:
                    break
    except (httpx.HTTPError, TimeoutError):
        if not response.is_success:
            raise
    return found[:MAX_ANSWER_BYTES]


def _trace_of(events: Sequence[Received]) -> dict[str, str]:
    """The trace goes on in the receiver: below this process's span, or where it makes none, the event's own."""
    given = events[0].attributes.get(ATTRIBUTE) if len(events) == 1 else None
    if not tracing.is_on() and given and tracing.is_traceparent(given):
        return {"traceparent": given}
    return tracing.headers()


def header_value(value: str) -> str:
    """An attribute as CloudEvents' HTTP binding writes it: all but printable ASCII in percent-encoded UTF-8."""
    return quote(value, safe="!#$&'()*+,-./:;<=>?@[\\]^_`{|}~")


def _failure(status: int, answer: str, pause: float | None, event: Received | None) -> Poison | Retry:
    reason = f"the webhook answered {status}: {answer}"
    if status == _GONE:
        return Retry(f"{reason} (gone: nothing is sent until it answers otherwise)", MAX_PAUSE_SECONDS)
    if passes(status):
        return Retry(reason, pause)
    return Poison(reason, event)


def _structured(event: Received) -> bytes:
    head = orjson.dumps({**event.attributes, "datacontenttype": CONTENT_TYPE})
    return head[:-1] + b',"data":' + event.data + b"}"
