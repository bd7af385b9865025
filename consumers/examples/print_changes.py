"""A consumer of one's own: `sfm-consume print_changes` prints what happens to memories, one line each.

It is found by the entry point that the pyproject.toml beside it names.
"""

from collections.abc import Sequence

from sfm_consumers import Options, Received
from sfm_graph.settings import Settings


class PrintChanges:
    name = "print_changes"
    topics = ("memory.events",)

    async def handle(self, events: Sequence[Received]) -> None:
        for event in events:
            change = event.value()
            print(change["namespace"], change["operation"], change["id"], flush=True)

    async def aclose(self) -> None:
        pass


async def open(settings: Settings, options: Options) -> PrintChanges:
    return PrintChanges()
