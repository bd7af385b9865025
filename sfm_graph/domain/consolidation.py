"""Which episodes belong together: windows of time, the graph inside of one, its communities.

Everything is a function of what is stored now, never of the order in which it came: a window that is looked at twice
gives the same groups.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sfm_graph.domain import validate
from sfm_graph.domain.identity import MemoryId
from sfm_graph.errors import InvalidInput

KEY_PREFIX = "consolidated:"
SOURCE_LINK = "derived_from"
SUPERSEDES_LINK = "supersedes"
# Episodes that are compared with one another: a window with more is halved.
MAX_EPISODES = 1_024
# How many of the longest gaps fit into the longest window.
_GAPS_IN_WINDOW = 64
_HOUR = 3_600_000_000  # microseconds
_NEXT_IN_SEQUENCE = 0.5
# A community may be joined with another one of which half the pairs are just similar enough.
_LEVEL = 0.5

Floats = NDArray[np.float64]
Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ConsolidationRules:
    """How a namespace's episodes are consolidated.

    `max_gap_hours`: a longer pause between one episode and the next ends what may belong together. `similarity`: the
    least cosine that joins two episodes. `every_hours`: how often the service looks for what is new.
    """

    min_size: int = 3
    max_size: int = 50
    max_gap_hours: float = 6.0
    similarity: float = 0.6
    every_hours: float = 1.0

    def as_json(self) -> dict[str, Any]:
        """The JSON form that is stored and shown."""
        return {one.name: getattr(self, one.name) for one in fields(self)}


DEFAULT_RULES = ConsolidationRules()


def consolidation_rules(value: object) -> ConsolidationRules | None:
    """Rules from their JSON form; what is not given is as in DEFAULT_RULES, false is off. Raises InvalidInput."""
    if value is False:
        return None
    known = {one.name for one in fields(ConsolidationRules)}
    if not isinstance(value, Mapping) or value.keys() - known:
        raise InvalidInput(f"consolidation is false or takes {', '.join(sorted(known))}", field="consolidation")
    given = {**DEFAULT_RULES.as_json(), **{name: one for name, one in value.items() if one is not None}}
    least = validate.integer(given["min_size"], "consolidation.min_size", low=2, high=MAX_EPISODES)
    return ConsolidationRules(
        least,
        validate.integer(given["max_size"], "consolidation.max_size", low=least, high=MAX_EPISODES),
        _between(given["max_gap_hours"], "consolidation.max_gap_hours", 1 / 60, 8_784),
        _between(given["similarity"], "consolidation.similarity", 0.0, 1.0),
        _between(given["every_hours"], "consolidation.every_hours", 1 / 60, 8_784),
    )


class Window(NamedTuple):
    """The episodes of [start, end), microseconds since 1970; of the ids in [first_id, end_id) alone.

    Windows are halves of halves of ones whose borders are multiples of their length: which one an episode falls into
    depends on no other episode, but for how often windows are halved because they hold too many.
    """

    start: int
    end: int
    first_id: int = 0
    end_id: int = 2**63 - 1

    def narrower(self, at: int, memory_id: MemoryId) -> "Window":
        """The part that holds an episode: a half, and of a single moment the ids around its own."""
        if self.end - self.start > 1:
            middle = (self.start + self.end) // 2
            return Window(self.start, middle) if at < middle else Window(middle, self.end)
        first = memory_id // MAX_EPISODES * MAX_EPISODES
        return Window(self.start, self.end, first, first + MAX_EPISODES)

    def after(self) -> tuple[int, int]:
        """The first time and id behind it."""
        return (self.end, 0) if self.end_id == 2**63 - 1 else (self.start, self.end_id)


def widest_window(rules: ConsolidationRules, at: int) -> Window:
    """The longest window that a moment falls into."""
    length = 1 << (int(_GAPS_IN_WINDOW * rules.max_gap_hours * _HOUR) - 1).bit_length()
    start = at // length * length
    return Window(start, start + length)


@dataclass(frozen=True, slots=True)
class Episode:
    """An episode as it is grouped. `at`: when it happened, or else was stored, in microseconds since 1970.

    `row` is its row of the vectors, None without one. Position in a sequence: conversation, session, document.
    """

    id: MemoryId
    at: int
    row: int | None = None
    sequence: str | None = None
    position: float = 0.0


class Tie(NamedTuple):
    """A link between two episodes, as strong as 1 / (1 + its weight)."""

    one: MemoryId
    other: MemoryId
    strength: float


def groups(
    episodes: Sequence[Episode], vectors: Vectors, ties: Sequence[Tie], rules: ConsolidationRules
) -> list[tuple[MemoryId, ...]]:
    """The groups of one window's episodes, each by time, of `min_size` to `max_size`; in any order given, the same.

    `vectors`: unit rows. Two episodes that no pause longer than `max_gap_hours` parts are joined by their cosine from
    `similarity` on, by the strength of the links between them, and by standing next to each other in a sequence. The
    groups are the communities of that graph. O(n^2) time and memory for n episodes, at most MAX_EPISODES.
    """
    found: list[tuple[MemoryId, ...]] = []
    for stretch in _stretches(sorted(episodes, key=lambda one: (one.at, one.id)), rules):
        if len(stretch) >= rules.min_size:
            graph = _graph(stretch, vectors, ties, rules)
            parts = communities(graph, rules.max_size, _LEVEL * rules.similarity)
            found += [tuple(stretch[at].id for at in part) for part in parts if len(part) >= rules.min_size]
    return found


def communities(graph: Floats, max_size: int, level: float) -> list[list[int]]:
    """The communities of a weighted graph, shape (n, n), symmetric, diagonal 0: places ascending, by their first.

    The constant Potts model (V. Traag, P. Van Dooren, Y. Nesterov, "Narrow scope for resolution-limit-free community
    detection", Phys. Rev. E 84, 2011), made greater step by step: two communities of n_i and n_j members with the
    weight w_ij between them are joined while that gains

        w_ij - level * n_i * n_j > 0,

    so while the mean weight between them is above `level`; the pair of the greatest mean first, of several the
    earliest, none that would have more than `max_size` members. What else is in the graph plays no part, so neither
    does how much there is of it. O(n^2) for each joining.
    """
    members = [[at] for at in range(len(graph))]
    if not len(graph):
        return members
    between, sizes = graph.copy(), np.ones(len(graph))
    means = np.full(graph.shape, -np.inf)
    for at in range(len(graph)):
        _measure(means, between, sizes, at, max_size)
    while True:
        one, other = divmod(int(np.argmax(means)), len(graph))
        if not means[one, other] > level:
            break
        between[one] += between[other]
        between[:, one] = between[one]
        sizes[one] += sizes[other]
        # Too many for everybody: never joined again.
        sizes[other] = np.inf
        members[one] = sorted(members[one] + members[other])
        members[other] = []
        means[other, :] = means[:, other] = -np.inf
        _measure(means, between, sizes, one, max_size)
    return [one for one in members if one]


def _measure(means: Floats, between: Floats, sizes: Floats, at: int, max_size: int) -> None:
    """The mean weight between a community and each other one; -inf for those that are too many together."""
    row = np.round(between[at] / (sizes * sizes[at]), 9)
    row[sizes + sizes[at] > max_size] = -np.inf
    row[at] = -np.inf
    means[at], means[:, at] = row, row


def _stretches(ordered: Sequence[Episode], rules: ConsolidationRules) -> list[list[Episode]]:
    longest = rules.max_gap_hours * _HOUR
    found: list[list[Episode]] = []
    for one in ordered:
        if not found or one.at - found[-1][-1].at > longest:
            found.append([])
        found[-1].append(one)
    return found


def _graph(stretch: Sequence[Episode], vectors: Vectors, ties: Sequence[Tie], rules: ConsolidationRules) -> Floats:
    graph = np.zeros((len(stretch), len(stretch)))
    rows = {at: one.row for at, one in enumerate(stretch) if one.row is not None}
    with_vector = list(rows)
    if with_vector:
        own = vectors[list(rows.values())]
        cosines = np.round((own @ own.T).astype(np.float64), 4)
        graph[np.ix_(with_vector, with_vector)] = np.where(cosines >= max(rules.similarity, 1e-4), cosines, 0.0)
    places = {one.id: at for at, one in enumerate(stretch)}
    for tie in ties:
        if tie.one in places and tie.other in places:
            _add(graph, places[tie.one], places[tie.other], tie.strength)
    in_sequence = sorted((one.sequence, one.position, one.id) for one in stretch if one.sequence is not None)
    for (sequence, _, before), (same, _, after) in pairwise(in_sequence):
        if sequence == same:
            _add(graph, places[before], places[after], _NEXT_IN_SEQUENCE)
    np.fill_diagonal(graph, 0.0)
    return graph


def _add(graph: Floats, one: int, other: int, strength: float) -> None:
    graph[one, other] += strength
    graph[other, one] += strength


def _between(value: object, field: str, low: float, high: float) -> float:
    checked = validate.number(value, field)
    if not low <= checked <= high:
        raise InvalidInput(f"{field} must be from {low:g} to {high:g}", field=field)
    return checked
