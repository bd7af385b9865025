"""Where events leave to."""

from collections.abc import Sequence
from typing import Protocol

from sfm_graph.domain.event import Event


class EventBus(Protocol):
    """Takes events for good. One contract suite runs on every implementation."""

    @property
    def name(self) -> str:
        """What kind of bus it is, as metrics, health and the relay's stored position call it: `kafka`, `redis`."""

    async def publish(self, events: Sequence[Event]) -> None:
        """Returns when the bus has all of them durably, those of one key in this order.

        Raises EventBusUnavailable; some of them may be on the bus then, and the same events are published again.
        Waits no longer than the bus's own timeout.
        """

    async def aclose(self) -> None:
        """Let go of connections. Nothing is left unsent: `publish` waits."""
