"""Redis Streams as a source: members of a group share the streams out by leases, one reader for each at a time."""

import asyncio
import logging
import secrets
import socket
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Self

from redis.asyncio import Redis
from redis.exceptions import RedisError

from sfm_consumers.source import Listener, Message
from sfm_consumers.sources.redis_claim import RedisClaim
from sfm_consumers.sources.redis_client import ask, open_redis
from sfm_consumers.sources.redis_scripts import JOIN, RELEASE, RENEW
from sfm_graph.adapters.buses.redis_streams import PARTITIONS
from sfm_graph.errors import EventBusUnavailable
from sfm_graph.settings import Settings

log = logging.getLogger(__name__)

BATCH = 500
# A dead process's streams go on after so long.
LEASE_SECONDS = 10.0
_DEAD_LETTER_PREFIX = "dlq_"


class RedisSource:
    """One member of a group. `streams` of all members are shared evenly; each is read by who holds its lease."""

    def __init__(
        self,
        client: Redis,
        group: str,
        topics: Sequence[str],
        *,
        from_beginning: bool = True,
        batch: int = BATCH,
        dead_letters: int = 1_000_000,
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:
        self._client = client
        self._group = group
        self._member = f"{socket.gethostname()}-{secrets.token_hex(6)}"
        self._members = f"sfm:members:{group}"
        self._places = [(topic, partition) for partition in range(PARTITIONS) for topic in topics]
        self._first_id = "0" if from_beginning else "$"
        self._batch = batch
        self._dead_letters = dead_letters
        self._lease_seconds = lease_seconds
        self._claims: dict[tuple[str, int], RedisClaim] = {}
        self._renewed: dict[RedisClaim, float] = {}
        self._leaving: set[RedisClaim] = set()
        self._handing_over: set[asyncio.Task[None]] = set()

    @classmethod
    def open(cls, settings: Settings, group: str, topics: Sequence[str], **options: Any) -> Self:
        """On the service's Redis. Connects with the first use. Raises SettingsError."""
        return cls(open_redis(settings), group, topics, dead_letters=settings.redis_stream_length, **options)

    async def run(self, listener: Listener) -> None:
        try:
            while True:
                try:
                    await self._turn(listener)
                except (RedisError, OSError) as error:
                    listener.reachable(f"Redis: {type(error).__name__}")
                    log.warning("Redis: %s", type(error).__name__)
                    self._lose_overdue(listener)
                else:
                    listener.reachable(None)
                await asyncio.sleep(self._lease_seconds / 5)
        finally:
            await self._leave(listener)

    async def dead_letter(self, message: Message, headers: Mapping[str, str]) -> None:
        entry: list[str | bytes] = [] if message.key is None else ["key", message.key]
        for name, value in message.headers:
            if not name.startswith(_DEAD_LETTER_PREFIX):
                entry += (name, value)
        for name, text in headers.items():
            entry += (name, text)
        entry += ("data", message.value or b"")
        command = ("XADD", f"{message.topic}.dlq", "MAXLEN", "~", self._dead_letters, "*", *entry)
        try:
            await ask(self._client, *command)
        except (RedisError, OSError) as error:
            raise EventBusUnavailable(f"Redis took no dead letter: {type(error).__name__}") from error

    async def _turn(self, listener: Listener) -> None:
        members = int(await self._script(JOIN, self._members, self._member, int(1_000 * self._lease_seconds)))
        for claim in tuple(self._claims.values()):
            await self._renew(claim, listener)
        share = -(-len(self._places) // max(1, members))
        held = [claim for claim in self._claims.values() if claim not in self._leaving]
        if len(held) > share:
            self._hand_over(held[share:], listener)
        elif len(held) < share:
            await self._take(share - len(held), listener)

    async def _renew(self, claim: RedisClaim, listener: Listener) -> None:
        began = time.monotonic()
        if await self._script(RENEW, claim.lease, self._member, int(1_000 * self._lease_seconds)):
            self._renewed[claim] = began
        elif claim not in self._leaving:
            log.warning("%s: the lease went to another process", claim.stream)
            claim.lose()
            self._hand_over([claim], listener)

    async def _take(self, wanted: int, listener: Listener) -> None:
        for topic, partition in self._places:
            if wanted <= 0:
                return
            if (topic, partition) in self._claims:
                continue
            claim = RedisClaim(
                self._client, self._group, self._member, topic, partition, first_id=self._first_id, batch=self._batch
            )
            began = time.monotonic()
            milliseconds = int(1_000 * self._lease_seconds)
            if await ask(self._client, "SET", claim.lease, self._member, "NX", "PX", milliseconds):
                self._claims[topic, partition] = claim
                self._renewed[claim] = began
                listener.gained(claim)
                wanted -= 1

    def _lose_overdue(self, listener: Listener) -> None:
        """Leases that ran out while Redis did not answer are another's now, for all that is known here."""
        overdue = [
            claim
            for claim, renewed in self._renewed.items()
            if claim not in self._leaving and time.monotonic() - renewed > self._lease_seconds
        ]
        for claim in overdue:
            claim.lose()
        if overdue:
            self._hand_over(overdue, listener)

    def _hand_over(self, claims: Collection[RedisClaim], listener: Listener) -> None:
        # Beside the turns: leases are renewed while what is in hand is finished.
        self._leaving.update(claims)
        task = asyncio.create_task(self._finish(claims, listener))
        self._handing_over.add(task)
        task.add_done_callback(self._handing_over.discard)

    async def _finish(self, claims: Collection[RedisClaim], listener: Listener) -> None:
        try:
            await listener.lost(claims)
        finally:
            for claim in claims:
                claim.lose()
                self._claims.pop((claim.topic, claim.partition), None)
                self._renewed.pop(claim, None)
                self._leaving.discard(claim)
        for claim in claims:
            await self._release(claim)

    async def _release(self, claim: RedisClaim) -> None:
        try:
            await self._script(RELEASE, claim.lease, self._member)
        except (RedisError, OSError) as error:
            log.warning("%s: the lease was not given back: %s", claim.stream, type(error).__name__)

    async def _leave(self, listener: Listener) -> None:
        self._hand_over([claim for claim in self._claims.values() if claim not in self._leaving], listener)
        await asyncio.gather(*self._handing_over)
        try:
            await ask(self._client, "ZREM", self._members, self._member)
        except (RedisError, OSError) as error:
            log.warning("Redis: left the group without telling it: %s", type(error).__name__)
        await self._client.aclose()

    async def _script(self, script: str, key: str, *arguments: Any) -> Any:
        return await ask(self._client, "EVAL", script, 1, key, *arguments)
