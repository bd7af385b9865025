"""The graph in memory against a naive list of links, over random histories."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfm_graph.domain.link import Direction
from sfm_graph.domain.link_columns import ALWAYS_FROM, ALWAYS_TO, LinkColumns
from sfm_graph.domain.snapshot import Snapshot
from sfm_graph.hot.graph import adjacency, graph
from sfm_graph.hot.graph.graph import BYTES_PER_NAME, BYTES_PER_VERSION, HotGraph, build_graph, empty_graph
from sfm_graph.hot.graph.lens import Lens
from sfm_graph.hot.graph.steps import Steps

MEMORIES = 8
LINKS = 24
TYPES = ("a", "b", "c")


@dataclass(frozen=True)
class Link:
    source: int
    target: int
    type: str
    weight: float
    valid_from: int = ALWAYS_FROM
    valid_to: int = ALWAYS_TO


Links = Mapping[int, Link]


@dataclass(frozen=True)
class View:
    """What a lens is made of; `least` is the least weight that its condition keeps."""

    direction: Direction
    moment: int
    types: frozenset[str] | None
    admitted: frozenset[int] | None
    excluded: frozenset[int] | None
    least: float | None

    def lens(self, codes: Mapping[str, int]) -> Lens:
        return Lens(
            self.direction,
            self.moment,
            None if self.types is None else np.array([name in self.types for name in codes], np.bool_),
            _sorted(self.admitted),
            _sorted(self.excluded),
            None if self.least is None else lambda one, places: one.weights[places] >= self.least,
        )

    def shows(self, link_id: int, link: Link) -> bool:
        return (
            link.valid_from <= self.moment < link.valid_to
            and (self.types is None or link.type in self.types)
            and (self.admitted is None or link_id in self.admitted)
            and (self.excluded is None or link_id not in self.excluded)
            and (self.least is None or link.weight >= self.least)
        )


@dataclass(frozen=True)
class Change:
    """Fields that links now have, None: deleted; `told`: whether it is known which memory each link leaves."""

    links: Mapping[int, tuple[str, float, tuple[int, int]] | None]
    told: bool


@dataclass(frozen=True)
class History:
    """Changes of links that always join the same memories. `stride` spreads the memories' ids."""

    ends: tuple[tuple[int, int], ...]
    stride: int
    first: Change
    later: tuple[Change, ...]

    def after(self, links: Links, change: Change) -> Links:
        kept = {one: link for one, link in links.items() if one not in change.links}
        for one, fields in change.links.items():
            if fields is not None:
                source, target = (1 + end * self.stride for end in self.ends[one])
                kept[one] = Link(source, target, fields[0], fields[1], *fields[2])
        return kept

    def sources(self, change: Change) -> dict[int, int]:
        return {one: 1 + self.ends[one][0] * self.stride if change.told else 0 for one in change.links}


windows = st.sampled_from([(ALWAYS_FROM, ALWAYS_TO)] * 3 + [(0, ALWAYS_TO), (ALWAYS_FROM, 0), (-3, 3)])
link_fields = st.tuples(st.sampled_from(TYPES), st.sampled_from([0.0, 0.5, 1.0, 7.25]), windows)
link_ids = st.integers(0, LINKS - 1)
changes = st.builds(Change, st.dictionaries(link_ids, st.none() | link_fields, max_size=4), st.booleans())
histories = st.builds(
    History,
    st.tuples(*[st.tuples(*[st.integers(0, MEMORIES - 1)] * 2)] * LINKS),
    st.sampled_from([1, 1_000_003]),
    st.builds(Change, st.dictionaries(link_ids, link_fields, max_size=LINKS), st.just(True)),
    st.lists(changes, max_size=14).map(tuple),
)
some_ids = st.none() | st.frozensets(link_ids)
views = st.builds(
    View,
    st.sampled_from(Direction),
    st.sampled_from([-4, -3, -1, 0, 2, 3]),
    st.none() | st.frozensets(st.sampled_from(TYPES)),
    some_ids,
    some_ids,
    st.sampled_from([None, None, 0.5]),
)
frontiers = st.frozensets(st.integers(0, MEMORIES), max_size=MEMORIES)
# The smallest level, the ratio of levels, and from how many links per node a side has a row for every node.
shapes = st.tuples(st.sampled_from([0, 2, 1_024]), st.sampled_from([0, 1, 2, 8]), st.sampled_from([0.0, 0.5, 99.0]))


@contextmanager
def shaped(shape: tuple[int, int, float]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph, "SMALLEST_LEVEL", shape[0])
        patch.setattr(graph, "LEVEL_RATIO", shape[1])
        patch.setattr(adjacency, "DENSE_FROM", shape[2])
        yield


def columns(links: Links) -> LinkColumns:
    ids = sorted(links)
    rows = [links[one] for one in ids]
    names = list(dict.fromkeys(row.type for row in rows))
    valid_from = np.array([row.valid_from for row in rows], np.int64)
    valid_to = np.array([row.valid_to for row in rows], np.int64)
    bounded = bool((valid_from != ALWAYS_FROM).any() or (valid_to != ALWAYS_TO).any())
    return LinkColumns(
        np.array(ids, np.int64),
        np.array([row.source for row in rows], np.int64),
        np.array([row.target for row in rows], np.int64),
        np.array([names.index(row.type) for row in rows], np.int64),
        np.array([row.weight for row in rows], np.float64),
        names,
        valid_from if bounded else None,
        valid_to if bounded else None,
    )


def replayed(history: History) -> list[tuple[HotGraph, Links]]:
    links = history.after({}, history.first)
    version = build_graph(Snapshot("1:1:"), columns(links))
    versions = [(version, links)]
    for number, change in enumerate(history.later, start=2):
        links = history.after(links, change)
        changed = {one: links[one] for one in change.links if one in links}
        version = version.changed(Snapshot(f"{number}:{number}:"), history.sources(change), columns(changed))
        versions.append((version, links))
    return versions


def naive_steps(links: Links, view: View, frontier: frozenset[int]) -> list[tuple[int, int, int, float, str]]:
    steps = []
    for one, link in links.items():
        if view.shows(one, link):
            if view.direction is not Direction.IN and link.source in frontier:
                steps.append((link.source, one, link.target, link.weight, link.type))
            if view.direction is not Direction.OUT and link.target in frontier:
                steps.append((link.target, one, link.source, link.weight, link.type))
    return sorted(steps)


def read_steps(version: HotGraph, steps: Steps) -> list[tuple[int, int, int, float, str]]:
    names = list(version.types)
    return sorted(
        zip(
            version.ids(steps.origins()).tolist(),
            steps.links().tolist(),
            version.ids(steps.to).tolist(),
            steps.weights().tolist(),
            [names[code] for code in steps.types().tolist()],
            strict=True,
        )
    )


def check_steps(version: HotGraph, links: Links, view: View, frontier: frozenset[int]) -> Steps:
    """The steps out of the memories of a frontier, also of those without a node, equal the naive ones."""
    extended = replace(version, nodes=version.nodes.extended(np.array(sorted(frontier), np.int64)))
    nodes = extended.find(np.array(sorted(frontier), np.int64)).astype(np.int32)
    assert extended.ids(nodes).tolist() == sorted(frontier)
    lens = view.lens(version.types)
    steps = extended.steps(nodes, lens)
    assert read_steps(extended, steps) == naive_steps(links, view, frontier)
    rows = extended.rows(nodes, lens)
    assert read_steps(extended, extended.steps(nodes, lens, rows)) == naive_steps(links, view, frontier)
    everything = replace(view, types=None, admitted=None, excluded=None, least=None)
    stored = {one: replace(link, valid_from=ALWAYS_FROM, valid_to=ALWAYS_TO) for one, link in links.items()}
    present = len(naive_steps(stored, everything, frontier))
    dead = sum(part.dead_count for part in version.parts)
    assert present <= sum(row.total for row in rows) <= present + 2 * dead
    return steps


def _sorted(ids: frozenset[int] | None) -> np.ndarray | None:
    return None if ids is None else np.array(sorted(ids), np.int64)


@settings(max_examples=250, deadline=None)
@given(history=histories, view=views, frontier=frontiers, shape=shapes)
def test_every_version_equals_the_naive_links_also_after_later_changes(
    history: History, view: View, frontier: frozenset[int], shape: tuple[int, int, float]
) -> None:
    memories = frozenset(1 + one * history.stride for one in frontier)
    with shaped(shape):
        versions = replayed(history)
    for number, (version, links) in enumerate(versions, start=1):
        assert version.snapshot == Snapshot(f"{number}:{number}:")
        assert version.link_count == len(links)
        check_steps(version, links, view, memories)
        # A single node is looked up in another way.
        check_steps(version, links, view, frozenset(sorted(memories)[:1]))


@settings(max_examples=100, deadline=None)
@given(history=histories, view=views, shape=shapes, data=st.data())
def test_chosen_steps_are_those_of_all(
    history: History, view: View, shape: tuple[int, int, float], data: st.DataObject
) -> None:
    with shaped(shape):
        version, links = replayed(history)[-1]
    frontier = data.draw(frontiers)
    steps = check_steps(version, links, view, frozenset(1 + one * history.stride for one in frontier))
    places = st.lists(st.integers(0, len(steps) - 1)) if len(steps) else st.just([])
    chosen = np.array(sorted(data.draw(places)), np.int64)
    for column in (steps.links, steps.weights, steps.types, steps.origins):
        assert column(chosen).tolist() == column()[chosen].tolist()
    assert steps.to.dtype == np.int64


@settings(max_examples=100, deadline=None)
@given(history=histories, shape=shapes)
def test_memories_with_links_have_nodes_and_no_memory_has_two(
    history: History, shape: tuple[int, int, float]
) -> None:
    with shaped(shape):
        versions = replayed(history)
    for version, links in versions:
        linked = sorted({end for link in links.values() for end in (link.source, link.target)})
        nodes = version.find(np.array(linked, np.int64))
        assert nodes.min(initial=0) >= 0
        assert version.ids(nodes.astype(np.int32)).tolist() == linked
        every = version.ids(np.arange(version.size, dtype=np.int32))
        assert len(set(every.tolist())) == version.size
        assert version.find(every).tolist() == list(range(version.size))
        assert version.find(np.array([0, 10**15])).tolist() == [-1, -1]
        for direction in Direction:
            ends = [link.source for link in links.values() if direction is not Direction.IN]
            ends += [link.target for link in links.values() if direction is not Direction.OUT]
            degrees = dict(zip(every.tolist(), version.degree_column(direction).tolist(), strict=True))
            assert {one: degree for one, degree in degrees.items() if degree} == Counter(ends)
        assert [one for one in every.tolist() if version.is_linked(int(version.find(np.array([one]))[0]))] == [
            one for one in every.tolist() if one in linked
        ]


def test_levels_stay_few_nodes_are_renumbered_and_old_versions_stay_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "SMALLEST_LEVEL", 4)
    monkeypatch.setattr(graph, "LEVEL_RATIO", 2)
    links: dict[int, Link] = {}
    version = empty_graph(Snapshot("1:1:"))
    versions = [version]
    renumbered = 0
    for number in range(1, 401):
        # Newer memories have smaller ids, so that only a renumbering makes them ascend.
        links[number] = Link(1_000 - number, 1_000, "a", 1.0)
        version = version.changed(Snapshot("2:2:"), {number: 1_000 - number}, columns({number: links[number]}))
        versions.append(version)
        renumbered += not len(version.nodes.late)
    assert max(len(one.parts) for one in versions) <= 9
    assert 3 <= renumbered < 200
    view = View(Direction.IN, 0, None, None, None, None)
    for number in (0, 1, 57, 200, 399):
        first = {one: link for one, link in links.items() if one <= number}
        assert versions[number].link_count == number
        check_steps(versions[number], first, view, frozenset({1_000}))
    gone = version.changed(Snapshot("3:3:"), {one: link.source for one, link in links.items()}, columns({}))
    assert (gone.link_count, gone.parts, gone.size) == (0, (), 0)
    assert version.link_count == 400


def test_a_small_change_of_a_large_graph_does_not_build_it_again() -> None:
    links = {one: Link(one % 5_000, one % 4_999, "a", 1.0) for one in range(1, 20_001)}
    version = build_graph(Snapshot("1:1:"), columns(links))
    base = version.parts[0].adjacency
    for number in range(2, 12):
        link = Link(10**6 + number, 1, "a", 1.0)
        version = version.changed(Snapshot("2:2:"), {10**6: link.source}, columns({10**6: link}))
        assert version.parts[0].adjacency is base
        version = version.changed(Snapshot("3:3:"), {10**6: link.source}, columns({}))
        assert [part.adjacency is base for part in version.parts] == [True]
    dead = dict.fromkeys(range(1, 9_000), 0)
    assert version.changed(Snapshot("4:4:"), dead, columns({})).parts[0].adjacency is base
    smaller = version.changed(Snapshot("4:4:"), dict.fromkeys(range(1, 11_000), 0), columns({}))
    assert len(smaller.parts[0].adjacency) == smaller.link_count == 20_000 - 10_999
    assert smaller.nbytes < version.nbytes


def test_an_empty_graph_answers() -> None:
    version = empty_graph(Snapshot("1:1:"))
    view = View(Direction.BOTH, 0, None, None, None, None)
    check_steps(version, {}, view, frozenset({1, 2}))
    assert (version.size, version.link_count) == (0, 0)
    assert version.find(np.array([1])).tolist() == [-1]
    same = version.changed(Snapshot("2:2:"), {5: 1, 6: 0}, columns({}))
    assert (same.snapshot, same.link_count, same.at(Snapshot("3:3:")).snapshot) == (
        Snapshot("2:2:"), 0, Snapshot("3:3:")
    )  # fmt: skip


@pytest.mark.parametrize(("bounded", "most"), [(False, 48), (True, 64)])
def test_bytes_per_link(bounded: bool, most: int) -> None:
    count, random = 200_000, np.random.default_rng(1)
    ids = np.arange(1, count + 1)
    links = LinkColumns(
        ids,
        random.integers(1, 20_000, count),
        random.integers(1, 20_000, count),
        random.integers(0, 3, count),
        random.random(count),
        TYPES,
        np.full(count, ALWAYS_FROM) if bounded else None,
        np.where(ids % 2 == 0, 5, ALWAYS_TO) if bounded else None,
    )
    version = build_graph(Snapshot("1:1:"), links)
    assert version.link_count == count
    held = {id(one): one for one in _arrays(version)}.values()
    counted = version.nbytes - BYTES_PER_VERSION - sum(BYTES_PER_NAME + len(name) for name in version.types)
    assert counted == sum(one.nbytes for one in held)
    assert version.nbytes <= most * count
    # No column is a view that keeps more alive than is counted.
    owners = {id(one if one.base is None else one.base): one if one.base is None else one.base for one in held}
    assert sum(one.nbytes for one in owners.values()) == counted


def _arrays(version: HotGraph) -> Iterator[np.ndarray]:
    for part in version.parts:
        one = part.adjacency
        both = [] if one.both is None else [one.both.offsets[1]]
        sides = [getattr(side, name) for side in (one.out, one.into) for name in side.__slots__]
        values = [getattr(one, name) for name in one.__slots__]
        yield from (value for value in (part.dead, *both, *sides, *values) if isinstance(value, np.ndarray))
    yield from (version.nodes.base, version.nodes.late, version.nodes.late_order)
