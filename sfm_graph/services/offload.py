"""Keeping long work off the event loop."""

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

# An item's work takes up to about 0.05 ms: more of them would stall the event loop noticeably.
INLINE_ITEMS = 20


async def offload(items: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What `work`, which takes time in proportion to `items`, returns: done at once, or in a thread for many."""
    if items <= INLINE_ITEMS:
        return work(*args, **kwargs)
    return await asyncio.to_thread(work, *args, **kwargs)
