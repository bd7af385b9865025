"""How long the event loop keeps its tasks waiting while a namespace is loaded and clients ask."""

import asyncio
import gc
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import cycle, islice
from typing import Any

from benchmarks.graph_ours import Ours
from benchmarks.graph_questions import NotOffered, Question, Unfinished

CLIENTS = 8
TICK_SECONDS = 0.001
# Clients ask before, during and after the load.
AROUND_SECONDS = 1.0


class _Ticker:
    """A task that wants to run every millisecond."""

    def __init__(self) -> None:
        self.worst_seconds = 0.0

    async def run(self) -> None:
        while True:
            due = time.perf_counter() + TICK_SECONDS
            await asyncio.sleep(TICK_SECONDS)
            self.worst_seconds = max(self.worst_seconds, time.perf_counter() - due)


async def stalls(ours: Ours, asked: dict[str, list[Question]]) -> dict[str, Any]:
    """Worst lateness of the ticker in ms: idle, with clients, and with clients while the namespace is loaded."""
    # As `sfm serve` does at its start: collections shall not walk through what this benchmark itself holds.
    gc.collect()
    gc.freeze()
    idle = await _worst(asyncio.sleep(AROUND_SECONDS))
    counts = [0] * CLIENTS
    clients = [asyncio.create_task(_client(ours, asked, counts, place)) for place in range(CLIENTS)]
    try:
        answering = await _worst(asyncio.sleep(2 * AROUND_SECONDS))
        loading: float | str
        try:
            loading = await _worst(_load(ours))
        except NotOffered:
            loading = "not offered"
    finally:
        for client in clients:
            client.cancel()
        ended = await asyncio.gather(*clients, return_exceptions=True)
    for one in ended:
        if isinstance(one, Exception):
            raise one
    return {
        "clients": CLIENTS,
        "answers": sum(counts),
        "idle_ms": idle,
        "answering_ms": answering,
        "loading_and_answering_ms": loading,
    }


async def _load(ours: Ours) -> None:
    await ours.cold_load()
    await asyncio.sleep(AROUND_SECONDS)


async def _worst(work: Any) -> float:
    ticker = _Ticker()
    ticking = asyncio.create_task(ticker.run())
    try:
        await work
    finally:
        ticking.cancel()
        with suppress(asyncio.CancelledError):
            await ticking
    return round(ticker.worst_seconds * 1e3, 3)


async def _client(ours: Ours, asked: dict[str, list[Question]], counts: list[int], place: int) -> None:
    turns: Sequence[tuple[Any, Question]] = [
        turn
        for pair in zip(asked["neighbours"], asked["shortest"], strict=True)
        for turn in zip((ours.neighbours, ours.shortest), pair, strict=True)
    ]
    for method, question in islice(cycle(turns), place * len(turns) // CLIENTS, None):
        with suppress(Unfinished):
            await method(*question.arguments)
        counts[place] += 1
