"""Windows: a memory of a sequence is also found by the text of its neighbours.

A window is the two memories before one, itself, and the one after it, in the order of position and id.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from sfm_graph.domain.cues import own_text

BEFORE = 2
AFTER = 1
# Of each memory in a window: a model reads no more, and windows of long texts would repeat them four times.
MAX_MEMBER_CHARS = 4_000
LONG_CHARS = 1_000


class Place(NamedTuple):
    """A memory's place in a sequence; places are ordered by their fields."""

    sequence: str
    position: float
    id: int


class Turn(NamedTuple):
    """A memory of a sequence with its text."""

    place: Place
    title: str | None
    content: str

    @property
    def text(self) -> str:
        """What it brings to a window: its title once, then its content, cut."""
        own = own_text(self.title, self.content)
        return (f"{self.title}\n{own}" if self.title else own)[:MAX_MEMBER_CHARS]


Window = Sequence[Turn]


def window_text(window: Window, own: int) -> str:
    """What a window's vector is made of: the texts in order, those of a long window with the memory's own (id) first.

    A model reads some 200 words: what is left out must not be what the window is about.
    """
    ordered = list(window)
    if sum(len(turn.text) for turn in window) > LONG_CHARS:
        ordered.sort(key=lambda turn: turn.place.id != own)
    return "\n".join(turn.text for turn in ordered)


def windows_around(turns: Iterable[Turn], places: Iterable[Place]) -> dict[int, Window]:
    """The windows that a change at places touches, by memory id.

    `turns`: at least the three memories before and after each place, and what is there now; in any order.
    """
    sequences: dict[str, list[Turn]] = defaultdict(list)
    for turn in sorted(set(turns)):
        sequences[turn.place.sequence].append(turn)
    found: dict[int, Window] = {}
    for place in places:
        run = sequences.get(place.sequence, [])
        at = bisect_left(run, place, key=lambda turn: turn.place)
        present = at < len(run) and run[at].place == place
        for near in range(max(0, at - AFTER), min(len(run), at + BEFORE + present)):
            found[run[near].place.id] = run[max(0, near - BEFORE) : near + AFTER + 1]
    return found
