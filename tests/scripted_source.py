"""A bus of the test's own, as consumers read it: partitions are lists, everything that happens is written down."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import orjson

from sfm_consumers.source import Claim, Listener, Lost, Message
from sfm_graph.errors import EventBusUnavailable

TOPIC = "memory.events"
LOG = "log-1"


def event(key: str | None, number: int, /, *, log: str = LOG, partition: int = 0, **attributes: str) -> Message:
    """An event as the relay writes it; empty attributes are left out. Its position is set by the bus."""
    known = {
        "specversion": "1.0",
        "id": f"{log}.{number}",
        "source": f"urn:sfm-graph:{log}",
        "type": "sfm_graph.memory.update",
        "subject": key or "gone/7",
        "time": "2026-01-02T03:04:05+00:00",
        "dataschema": "urn:sfm-graph:event:memory:1",
        "sequence": str(number),
        **attributes,
    }
    headers = tuple((f"ce_{name}", value.encode()) for name, value in known.items() if value)
    data = orjson.dumps({"change": number, "namespace": "n", "operation": "update", "id": f"id-{key}"})
    return Message(TOPIC, partition, "", None if key is None else key.encode(), data, headers)


@dataclass
class ScriptedBus:
    """What a bus keeps: partitions, the confirmed place of each, dead letters. `refusals` are raised first."""

    partitions: dict[int, list[Message]] = field(default_factory=dict)
    confirmed: dict[int, int] = field(default_factory=dict)
    dead: list[tuple[Message, dict[str, str]]] = field(default_factory=list)
    journal: list[tuple[str, int, int]] = field(default_factory=list)
    commit_refusals: int = 0
    dead_refusals: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def put(self, *messages: Message) -> None:
        """Append each to its partition."""
        for one in messages:
            queue = self.partitions.setdefault(one.partition, [])
            queue.append(Message(one.topic, one.partition, str(len(queue)), one.key, one.value, one.headers))
        self.changed.set()

    def left(self) -> int:
        """How many are not confirmed."""
        return sum(len(queue) - self.confirmed.get(number, 0) for number, queue in self.partitions.items())


class ScriptedClaim:
    def __init__(self, bus: ScriptedBus, partition: int, batch: int) -> None:
        self.topic = TOPIC
        self.partition = partition
        self.is_lost = False
        self._bus = bus
        self._batch = batch
        self._next = bus.confirmed.get(partition, 0)

    async def fetch(self) -> Sequence[Message]:
        queue = self._bus.partitions[self.partition]
        if self._next >= len(queue):
            # For good when nothing comes: whoever wants it to end has to cancel it.
            self._bus.changed.clear()
            await self._bus.changed.wait()
        found = queue[self._next : self._next + self._batch]
        self._next += len(found)
        return found

    async def commit(self, position: str) -> None:
        if self.is_lost:
            raise Lost(str(self.partition))
        if self._bus.commit_refusals:
            self._bus.commit_refusals -= 1
            raise EventBusUnavailable("no commit now")
        self._bus.confirmed[self.partition] = int(position) + 1
        self._bus.journal.append(("commit", self.partition, int(position)))

    async def lag(self) -> int | None:
        return len(self._bus.partitions[self.partition]) - self._bus.confirmed.get(self.partition, 0)


class ScriptedSource:
    """Claims all partitions of a bus, until `revoke` takes one away."""

    def __init__(self, bus: ScriptedBus, *, batch: int = 100) -> None:
        self.claims: dict[int, ScriptedClaim] = {}
        self._bus = bus
        self._batch = batch
        self._listener: Listener | None = None

    async def run(self, listener: Listener) -> None:
        self._listener = listener
        listener.reachable(None)
        for partition in self._bus.partitions:
            self.claim(partition)
        try:
            await asyncio.Event().wait()
        finally:
            await listener.lost(tuple(self.claims.values()))

    def claim(self, partition: int) -> None:
        """The partition is this process's from now on."""
        assert self._listener is not None
        claim: Claim = ScriptedClaim(self._bus, partition, self._batch)
        self.claims[partition] = claim  # type: ignore[assignment]
        self._listener.gained(claim)

    async def revoke(self, partition: int) -> None:
        """The partition is another's when this returns."""
        assert self._listener is not None
        claim = self.claims.pop(partition)
        await self._listener.lost([claim])
        claim.is_lost = True

    async def dead_letter(self, message: Message, headers: Mapping[str, str]) -> None:
        if self._bus.dead_refusals:
            self._bus.dead_refusals -= 1
            raise EventBusUnavailable("no dead letters now")
        self._bus.dead.append((message, dict(headers)))
        self._bus.journal.append(("dead", message.partition, int(message.position)))
