"""The relay: changes become events on a bus."""

import asyncio
from collections.abc import Sequence

from sfm_graph.domain.change import Change
from sfm_graph.domain.event import Event, events_of
from sfm_graph.domain.position import ChangeLog
from sfm_graph.errors import EventBusUnavailable
from sfm_graph.ports.event_bus import EventBus
from sfm_graph.services.changes.follower import Follower, Progress
from sfm_graph.store.change_stream import Scope
from sfm_graph.store.database import Database
from sfm_graph.telemetry.counters import RELAY_FAILURES, RELAYED_EVENTS
from sfm_graph.telemetry.messages import publishing
from sfm_graph.telemetry.stages import stage

# Making so many events takes about 3 ms; then other tasks have a turn.
EVENTS_PER_TURN = 200


class Relay:
    """Publishes every change, those of one memory or link in order, each at least once.

    A shard is a part of the namespaces. One process relays a shard; others stand by. A bus that is away holds the
    position where it is and slows no write.
    """

    def __init__(self, database: Database, bus: EventBus, *, shards: int, poll_seconds: float) -> None:
        self._bus = bus
        self._followers = [
            Follower(
                database,
                follower_name(bus.name),
                self._publish,
                scope=Scope(shard=shard, shards=shards),
                poll_seconds=poll_seconds,
            )
            for shard in range(shards)
        ]

    @property
    def progress(self) -> Sequence[Progress]:
        """Of each shard."""
        return [one.progress for one in self._followers]

    async def run(self) -> None:
        """Relay whatever shards this process gets, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for one in self._followers:
                group.create_task(one.run(), name=f"relay of shard {one.progress.shard}")

    async def _publish(self, log: ChangeLog, changes: Sequence[Change]) -> None:
        events: list[Event] = []
        for start in range(0, len(changes), EVENTS_PER_TURN):
            for change in changes[start : start + EVENTS_PER_TURN]:
                events += events_of(change, log.id)
            await asyncio.sleep(0)
        with publishing(self._bus.name, (one.trace for one in changes), len(events)), stage("relay.publish"):
            try:
                await self._bus.publish(events)
            except EventBusUnavailable:
                RELAY_FAILURES.inc()
                raise
        RELAYED_EVENTS.inc(len(events))


def follower_name(bus: str) -> str:
    """What the relay to a bus is called among the followers; what begins so goes on after a restore."""
    return f"relay:{bus}"
