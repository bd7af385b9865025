"""The process as its supervisor sees it: SIGTERM and SIGINT end it in order, a second one at once."""

import asyncio
import signal
from collections.abc import Callable

from sfm_consumers.assembly import Plan, consume

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


async def stopped_by_signals(plan: Plan, say: Callable[[str], None]) -> None:
    """Run a plan until a signal comes and what was in hand is finished."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()

    def end() -> None:
        say("finishing what is in hand; once more ends at once")
        stop.set()
        for one in _SIGNALS:
            loop.remove_signal_handler(one)

    for one in _SIGNALS:
        loop.add_signal_handler(one, end)
    await consume(plan, stop, say)
