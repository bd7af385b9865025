"""One Redis stream for as long as this process holds its lease."""

import logging
from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from sfm_consumers.source import Lost, Message
from sfm_consumers.sources.redis_client import ask
from sfm_consumers.sources.redis_scripts import CONFIRM, READ
from sfm_graph.adapters.buses.redis_streams import stream_name
from sfm_graph.errors import EventBusUnavailable

log = logging.getLogger(__name__)

# One name for whoever holds the lease: what a dead process had in hand is what the next one reads first, in its place
# in the order, without taking entries over from one name to another.
_READER = "sfm-consume"
_WAIT_MS = 1_000
_GONE = -1
# More than one event may have; what is waited for at most comes in far less than a command's timeout.
_BATCH_BYTES = 16 * 1024**2
# Lua's `unpack` takes some 8,000.
_CONFIRMED = 1_000
_TOO_SHORT = "SFM_REDIS_STREAM_LENGTH is too small for how far consumers fall behind"

# An entry's id and its fields; None when the stream does not have it any more.
_Entry = tuple[str, list[bytes] | None]


def lease_name(group: str, stream: str) -> str:
    """The key that says which member reads a stream."""
    return f"sfm:lease:{group}:{stream}"


class RedisClaim:
    """Reading and confirming are one step with the look at the lease: who lost it gets and confirms nothing."""

    def __init__(
        self, client: Redis, group: str, member: str, topic: str, partition: int, *, first_id: str, batch: int
    ) -> None:
        self.topic = topic
        self.partition = partition
        self.stream = stream_name(topic, partition)
        self.lease = lease_name(group, self.stream)
        self._client = client
        self._group = group
        self._member = member
        self._first_id = first_id
        self._batch = batch
        self._lost = False
        self._group_made = False
        # What was delivered and not confirmed comes first: of a process before, or of an answer that never arrived.
        self._unconfirmed = True
        self._in_hand: list[str] = []
        self._seen = b"0-0"
        self._trimmed = 0

    def lose(self) -> None:
        """It is not ours any more."""
        self._lost = True

    async def fetch(self) -> Sequence[Message]:
        try:
            if not self._group_made:
                await self._make_group()
            entries = await self._read()
            if not entries:
                await self._wait()
                entries = await self._read()
        except ResponseError as error:
            if str(error).startswith("NOGROUP"):
                self._group_made = False  # somebody deleted the stream; the relay's next event makes it again
            raise _unavailable(error) from error
        except (RedisError, OSError) as error:
            raise _unavailable(error) from error
        return await self._messages(entries)

    async def commit(self, position: str) -> None:
        try:
            done = self._in_hand[: self._in_hand.index(position) + 1]
        except ValueError:
            raise Lost(f"{self.stream} {position} was not handed out") from None
        await self._confirm(done)
        self._in_hand = self._in_hand[len(done) :]

    async def lag(self) -> int | None:
        try:
            group = await self._group_info() if self._group_made else None
            if group is None:
                return None
            stream = _fields(await ask(self._client, "XINFO", "STREAM", self.stream))
        except (RedisError, OSError) as error:
            raise _unavailable(error) from error
        self._warn_of_trimmed(stream, group)
        # Redis before 7 does not tell it.
        behind = group.get("lag")
        return None if behind is None else int(behind) + int(group["pending"])

    async def _group_info(self) -> dict[str, Any] | None:
        groups = map(_fields, await ask(self._client, "XINFO", "GROUPS", self.stream))
        return next((group for group in groups if group["name"] == self._group.encode()), None)

    def _warn_of_trimmed(self, stream: dict[str, Any], group: dict[str, Any]) -> None:
        read, added = group.get("entries-read"), stream.get("entries-added")
        if read is None or added is None:
            return
        trimmed = added - stream["length"] - read
        if trimmed > self._trimmed:
            self._trimmed = trimmed
            log.error("%s: %d entries went before %s read them: %s", self.stream, trimmed, self._group, _TOO_SHORT)

    async def _make_group(self) -> None:
        try:
            await ask(self._client, "XGROUP", "CREATE", self.stream, self._group, self._first_id, "MKSTREAM")
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise
        group = await self._group_info()
        self._seen = group["last-delivered-id"] if group else b"0-0"
        self._group_made = self._unconfirmed = True

    async def _read(self) -> Sequence[_Entry]:
        if self._unconfirmed:
            entries = await self._read_from("0-0")
            if entries:
                return entries
        # Until the answer is here, entries may have been handed out to nobody.
        self._unconfirmed = True
        entries = await self._read_from(">")
        self._unconfirmed = False
        return entries

    async def _read_from(self, first: str) -> Sequence[_Entry]:
        answer = await self._script(
            READ, self.lease, self.stream, self._member, self._group, _READER, first, self._batch,
            _BATCH_BYTES,
        )  # fmt: skip
        entries = [(entry[0].decode(), entry[1]) for entry in answer]
        if entries:
            self._seen = entries[-1][0].encode()
        return entries

    async def _messages(self, entries: Sequence[_Entry]) -> Sequence[Message]:
        gone = [position for position, fields in entries if fields is None]
        if gone:
            log.error("%s: %d entries went before they were handled: %s", self.stream, len(gone), _TOO_SHORT)
            await self._confirm(gone)
        messages = [self._message(position, fields) for position, fields in entries if fields is not None]
        self._in_hand = [message.position for message in messages]
        return messages

    def _message(self, position: str, fields: list[bytes]) -> Message:
        found = dict(zip(fields[::2], fields[1::2], strict=False))
        key, data = found.pop(b"key", None), found.pop(b"data", b"")
        headers = tuple((name.decode(errors="replace"), value) for name, value in found.items())
        return Message(self.topic, self.partition, position, key, data, headers)

    async def _wait(self) -> None:
        """Until there is something behind what was seen, or a second; changes nothing in Redis."""
        await ask(self._client, "XREAD", "COUNT", 1, "BLOCK", _WAIT_MS, "STREAMS", self.stream, self._seen)

    async def _confirm(self, positions: Sequence[str]) -> None:
        try:
            for start in range(0, len(positions), _CONFIRMED):
                some = positions[start : start + _CONFIRMED]
                await self._script(CONFIRM, self.lease, self.stream, self._member, self._group, *some)
        except (RedisError, OSError) as error:
            raise _unavailable(error) from error

    async def _script(self, script: str, *arguments: Any) -> Any:
        if self._lost:
            raise Lost(self.stream)
        answer = await ask(self._client, "EVAL", script, 2, *arguments)
        if answer == _GONE:
            raise Lost(self.stream)
        return answer


def _fields(answer: Sequence[Any]) -> dict[str, Any]:
    return {name.decode(): value for name, value in zip(answer[::2], answer[1::2], strict=True)}


def _unavailable(error: Exception) -> EventBusUnavailable:
    # What Redis says may quote an event: its kind is enough.
    return EventBusUnavailable(f"Redis: {type(error).__name__}: {str(error).split(' ', 1)[0]}")
