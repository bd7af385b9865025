"""How large an answer is, and when its completion lets other requests have a turn."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from typing import TypeVar

import orjson

from sfm_graph.errors import QueryTooComplex

T = TypeVar("T")

# Fields of the answer's objects and elements of its lists of leaves: 2 to 3 us of the event loop each, so at most
# about half a second of it, in turns.
MAX_VALUES = 200_000
# Text and JSON of an answer, in characters: what a process holds a few times over until it is sent.
MAX_CHARS = 64 * 1024**2
# Completing so many takes 4 to 5 ms; then other requests have a turn.
VALUES_PER_TURN = 1_500


class AnswerSize:
    """The values of one answer, counted as they are completed."""

    __slots__ = ("_lock", "_since_turn", "chars", "values")

    def __init__(self) -> None:
        self.values = self.chars = 0
        self._since_turn = 0
        self._lock = asyncio.Lock()

    def add(self, values: int) -> None:
        """Count what is completed now. Raises QueryTooComplex."""
        self._since_turn += values
        self.reserve(values)

    def reserve(self, values: int) -> None:
        """Count what will be completed in turns. Raises QueryTooComplex."""
        self.values += values
        if self.values > MAX_VALUES:
            raise QueryTooComplex(f"an answer has at most {MAX_VALUES} values; ask for fewer at a time")

    def hold(self, leaf: object) -> None:
        """Count the characters of a leaf that may be long: text or JSON. Raises QueryTooComplex."""
        if isinstance(leaf, str):
            self.chars += len(leaf)
        elif isinstance(leaf, dict | list):
            self.chars += len(orjson.dumps(leaf, default=str))
        if self.chars > MAX_CHARS:
            raise QueryTooComplex(f"an answer has at most {MAX_CHARS} characters of text and JSON; ask for less")

    def fits_in_turn(self, values: int) -> bool:
        """Whether so many more may be completed before others have a turn."""
        return self._since_turn + values <= VALUES_PER_TURN

    def turned(self) -> None:
        """Others had a turn."""
        self._since_turn = 0

    async def in_turns(self, items: Iterable[T], each: int) -> AsyncIterator[T]:
        """The items, with turns for others before those that have to wait. `each`: the values that one is."""
        for one in items:
            self._since_turn += each
            if self._since_turn > VALUES_PER_TURN:
                await self._turn()
            yield one

    async def stream_in_turns(self, items: AsyncIterable[T]) -> AsyncIterator[T]:
        """The same of items that come one by one."""
        async for one in items:
            if self._since_turn > VALUES_PER_TURN:
                await self._turn()
            yield one

    async def _turn(self) -> None:
        # Lists of one answer wait for each other here: else all of them would go on in the same turn of the loop.
        async with self._lock:
            if self._since_turn > VALUES_PER_TURN:
                await asyncio.sleep(0)
                self._since_turn = 0

    def reset(self) -> None:
        """Begin another answer."""
        self.values = self.chars = 0
