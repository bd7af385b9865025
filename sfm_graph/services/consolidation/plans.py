"""What is to be done about one window's groups, given what consolidates them already. Pure: no I/O."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from sfm_graph.domain.identity import MemoryId
from sfm_graph.store.consolidation import EpisodeRow, Standing


@dataclass(frozen=True, slots=True)
class Plan:
    """A memory to be made, or made anew, of sources in the order of time.

    `into`: the one that consolidates them already. `superseded`: others of which every source is in a group now, most
    of them in this one. `standing`: all that consolidated some of the sources when this was planned.
    """

    sources: tuple[EpisodeRow, ...]
    into: Standing | None
    superseded: tuple[Standing, ...]
    standing: tuple[Standing, ...]

    @property
    def gone(self) -> int:
        """How many sources it was made of are no more; what they said is in nothing else."""
        return max(0, self.into.made_of - len(self.into.links)) if self.into else 0

    @property
    def is_due(self) -> bool:
        """Whether anything would change."""
        if self.into is None or self.superseded:
            return True
        return sorted((one.source, one.text) for one in self.into.links) != sorted(
            (one.id, one.text) for one in self.sources
        )


def plans(
    groups: Sequence[tuple[MemoryId, ...]],
    episodes: Mapping[MemoryId, EpisodeRow],
    standing: Sequence[Standing],
    window: Collection[MemoryId],
) -> list[Plan]:
    """What to do about the groups of a window; what is as it should be is left out.

    What consolidates goes on with the group that shares most of its sources, and keeps its id. It belongs to the
    window of its earliest source. What shares sources with groups that go on with others is superseded when it has no
    source beside them, else made anew of those that are left, if one of them has changed.
    """
    owned = [one for one in standing if _earliest(one) in window]
    group_of = {id_: at for at, group in enumerate(groups) for id_ in group}
    matched = _matched(group_of, owned)
    gone_on = {one.id for one in matched.values()}
    of_source = _by_source(standing)
    superseded: dict[int, list[Standing]] = {}
    found: list[Plan] = []
    for one in owned:
        if one.id in gone_on:
            continue
        shared = Counter(group_of[link.source] for link in one.links if link.source in group_of)
        if shared.total() == len(one.links):
            most = min(shared, key=lambda at: (-shared[at], at))
            superseded.setdefault(most, []).append(one)
        elif left := _changed(one, episodes, group_of.keys()):
            found.append(_plan(left, one, (), of_source))
    for at, group in enumerate(groups):
        sources = tuple(episodes[id_] for id_ in group)
        found.append(_plan(sources, matched.get(at), tuple(superseded.get(at, ())), of_source))
    return [one for one in found if one.is_due]


def _plan(
    sources: tuple[EpisodeRow, ...], into: Standing | None, superseded: tuple[Standing, ...],
    of_source: Mapping[MemoryId, Sequence[tuple[int, Standing]]],
) -> Plan:  # fmt: skip
    met = {place: one for source in sources for place, one in of_source.get(source.id, ())}
    return Plan(sources, into, superseded, tuple(met[place] for place in sorted(met)))


def _by_source(standing: Sequence[Standing]) -> dict[MemoryId, list[tuple[int, Standing]]]:
    """By source what consolidates it, each with its place among all."""
    found: dict[MemoryId, list[tuple[int, Standing]]] = {}
    for place, one in enumerate(standing):
        for source in {link.source for link in one.links}:
            found.setdefault(source, []).append((place, one))
    return found


def _earliest(one: Standing) -> MemoryId:
    return min((link.at, link.source) for link in one.links)[1]


def _matched(group_of: Mapping[MemoryId, int], owned: Sequence[Standing]) -> dict[int, Standing]:
    """For groups, by place, what goes on with them: those that share most sources first."""
    shares = []
    for place, one in enumerate(owned):
        shared = Counter(group_of[source] for source in {link.source for link in one.links} if source in group_of)
        shares += [(-count, one.id, at, place) for at, count in shared.items()]
    found: dict[int, Standing] = {}
    taken: set[int] = set()
    for _, _, at, place in sorted(shares):
        if at not in found and place not in taken:
            found[at] = owned[place]
            taken.add(place)
    return found


def _changed(
    one: Standing, episodes: Mapping[MemoryId, EpisodeRow], grouped: Collection[MemoryId]
) -> tuple[EpisodeRow, ...]:
    """The sources of one outside of groups, in the order of time, when one of them says something else now."""
    left = {link.source: link.text for link in one.links if link.source not in grouped}
    if any(id_ not in episodes for id_ in left) or all(episodes[id_].text == text for id_, text in left.items()):
        return ()
    return tuple(sorted((episodes[id_] for id_ in left), key=lambda row: (row.at, row.id)))
