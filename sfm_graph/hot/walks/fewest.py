"""Paths with the fewest links: breadth-first from both ends, a level at a time.

Of equally short paths the one with the smallest link ids, compared from the start, comes first; this order is a
property of the links alone, so equal data gives equal answers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from sfm_graph.hot.graph.nodes import Ints
from sfm_graph.hot.graph.steps import Steps
from sfm_graph.hot.walks.expansion import Along, Expand, Marks, Numbered, Walking
from sfm_graph.hot.walks.trail import NOTHING_BARRED, Barred, NodeTrail

_UNMET, _AHEAD, _BEHIND, _CHOSEN, _UNCHOSEN, _BARRED = 0, 1, 2, 4, 3, 255


@dataclass(slots=True)
class _Front:
    """One end's search: its newest level, and of each level the steps that reached new nodes."""

    mark: int
    along: Along
    newest: Ints
    levels: list[tuple[Steps, Ints]] = field(default_factory=list)


class Stage(NamedTuple):
    """The steps of shortest paths between two levels: `chosen` are places in `steps`, ascending.

    `near` are their ends towards the start, `far` those towards the goal.
    """

    steps: Steps
    chosen: Ints
    near: Ints
    far: Ints

    def leaving(self, node: int) -> list[tuple[int, int]]:
        """The links that lead on from a node of the nearer level and where to, by link id."""
        mine = (self.near == node).nonzero()[0]
        links = self.steps.links(self.chosen[mine])
        return sorted(zip(links.tolist(), self.far[mine].tolist(), strict=True))


def fewest(
    graph: Numbered, start: int, goal: int, max_hops: int, barred: Barred = NOTHING_BARRED
) -> Walking[list[Stage] | None]:
    """All paths with the fewest links, at most `max_hops`, as stages; none for start == goal, None without a path."""
    if start == goal:
        return []
    marks = Marks(graph.size)
    marks.of[barred.nodes] = _BARRED
    ahead = _Front(_AHEAD, Along.FORWARDS, np.array([start], np.int64))
    behind = _Front(_BEHIND, Along.BACKWARDS, np.array([goal], np.int64))
    marks.of[start], marks.of[goal] = _AHEAD, _BEHIND
    for _ in range(max_hops):
        front, other = (ahead, behind) if len(ahead.newest) <= len(behind.newest) else (behind, ahead)
        steps = yield Expand(front.newest, front.along, barred.links)
        met = marks.of[steps.to]
        meeting = (met == other.mark).nonzero()[0]
        if len(meeting):
            return _stages(front, other, steps, meeting, marks)
        fresh = (met == _UNMET).nonzero()[0]
        nodes = steps.to[fresh]
        front.levels.append((steps, fresh))
        front.newest = nodes[marks.firsts(nodes)]
        marks.of[front.newest] = front.mark
        if not len(front.newest):
            return None
    return None


def trails(stages: Sequence[Stage], start: int) -> Iterator[NodeTrail]:
    """The paths that the stages hold, in order of their link ids from the start; there may be very many."""
    if not stages:
        yield NodeTrail((start,), ())
        return
    # Depth first: one iterator over the links that leave the last node of each prefix.
    nodes, links = [start], list[int]()
    open_links = [iter(stages[0].leaving(start))]
    while open_links:
        step = next(open_links[-1], None)
        if step is None:
            open_links.pop()
            if links:
                links.pop()
                nodes.pop()
            continue
        link, to = step
        if len(open_links) == len(stages):
            yield NodeTrail((*nodes, to), (*links, link))
        else:
            nodes.append(to)
            links.append(link)
            open_links.append(iter(stages[len(open_links)].leaving(to)))


def _stages(front: _Front, other: _Front, steps: Steps, meeting: Ints, marks: Marks) -> list[Stage]:
    joint = _stage(steps, meeting, front.along)
    ahead, behind = (front, other) if front.along is Along.FORWARDS else (other, front)
    before = _pruned(ahead, joint.near, marks)
    return [*before[::-1], joint, *_pruned(behind, joint.far, marks)]


def _pruned(front: _Front, last: Ints, marks: Marks) -> list[Stage]:
    """Of each level, newest first, the steps that lead on to `last`."""
    stages = []
    for steps, fresh in reversed(front.levels):
        reached = steps.to[fresh]
        if len(last) == 1:
            chosen = fresh[reached == last[0]]
        else:
            marks.of[last] |= _CHOSEN
            chosen = fresh[marks.of[reached] >= _CHOSEN]
            marks.of[last] &= _UNCHOSEN
        stage = _stage(steps, chosen, front.along)
        last = stage.near if front.along is Along.FORWARDS else stage.far
        stages.append(stage)
    return stages


def _stage(steps: Steps, chosen: Ints, along: Along) -> Stage:
    origins, to = steps.origins(chosen), steps.to[chosen]
    return Stage(steps, chosen, origins, to) if along is Along.FORWARDS else Stage(steps, chosen, to, origins)
