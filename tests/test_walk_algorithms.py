"""The algorithms over a graph in memory, against networkx and plain enumeration, on random multigraphs."""

import heapq
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import networkx as nx
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sfm_graph.domain.link import Direction
from sfm_graph.domain.link_columns import LinkColumns
from sfm_graph.domain.snapshot import Snapshot
from sfm_graph.errors import WalkTooLarge
from sfm_graph.hot.graph import graph as hot_graph
from sfm_graph.hot.graph.graph import HotGraph, build_graph, empty_graph
from sfm_graph.hot.graph.lens import Lens
from sfm_graph.hot.walks import cheapest as cheapest_module
from sfm_graph.hot.walks import several
from sfm_graph.hot.walks.cheapest import cheapest
from sfm_graph.hot.walks.drive import LINKS_PER_EXPANSION, Drive, Work
from sfm_graph.hot.walks.expansion import Walking
from sfm_graph.hot.walks.fewest import fewest, trails
from sfm_graph.hot.walks.pagerank import DAMPING, Ranked, personalised_pagerank
from sfm_graph.hot.walks.reach import Reached, Region, reach, reach_count, region
from sfm_graph.hot.walks.similarity import Measure, similar
from sfm_graph.hot.walks.trail import NodeTrail

T = TypeVar("T")

SIZE = 10
TYPES = ("a", "b")
EVERYTHING = 2**40


@dataclass(frozen=True)
class Edge:
    link: int
    source: int
    target: int
    weight: float
    type: str = "a"


@dataclass(frozen=True)
class Step:
    """A link walked in the lens's direction; steps from a memory in order of their links."""

    link: int
    to: int
    weight: float


@dataclass(frozen=True)
class Case:
    """Links, and what of them is walked. Memories are numbered from 1."""

    edges: tuple[Edge, ...]
    direction: Direction
    types: frozenset[str] | None

    def admitted(self) -> list[Edge]:
        return sorted(
            (edge for edge in self.edges if self.types is None or edge.type in self.types), key=lambda edge: edge.link
        )

    def steps(self) -> dict[int, list[Step]]:
        found: dict[int, list[Step]] = {one: [] for one in range(1, SIZE + 1)}
        for edge in self.admitted():
            if self.direction is not Direction.IN:
                found[edge.source].append(Step(edge.link, edge.target, edge.weight))
            if self.direction is not Direction.OUT:
                found[edge.target].append(Step(edge.link, edge.source, edge.weight))
        return found

    def networkx(self) -> nx.MultiDiGraph:
        drawn = nx.MultiDiGraph()
        drawn.add_nodes_from(range(1, SIZE + 1))
        for origin, steps in self.steps().items():
            drawn.add_edges_from((origin, step.to, {"weight": step.weight}) for step in steps)
        return drawn

    def simple(self, start: int, goal: int, max_hops: int) -> list[tuple[float, tuple[int, ...]]]:
        """Cost and links of all simple paths."""
        steps = self.steps()

        def onwards(at: int, met: tuple[int, ...], cost: float, taken: tuple[int, ...]) -> Iterator:
            if at == goal:
                yield cost, taken
            elif len(taken) < max_hops:
                for step in steps[at]:
                    if step.to not in met:
                        yield from onwards(step.to, (*met, step.to), cost + step.weight, (*taken, step.link))

        return list(onwards(start, (start,), 0.0, ()))

    def least(self, start: int, goal: int, max_hops: int) -> tuple[float, int] | None:
        """The least cost in at most `max_hops` links, and how few links have it."""
        steps = self.steps()
        costs = {start: 0.0}
        best = (0.0, 0) if start == goal else None
        for hop in range(1, max_hops + 1):
            before = dict(costs)
            for one, cost in before.items():
                for step in steps[one]:
                    costs[step.to] = min(costs.get(step.to, math.inf), cost + step.weight)
            if goal in costs and (best is None or costs[goal] < best[0]):
                best = (costs[goal], hop)
        return best


def cases(weights: Sequence[float] = (0.0, 0.0, 0.5, 1.0, 1.5, 3.0), most: int = 26) -> st.SearchStrategy[Case]:
    node = st.integers(1, SIZE)
    ends = st.tuples(node, node, st.sampled_from(weights), st.sampled_from(TYPES))
    return st.builds(
        lambda links, numbers, direction, types: Case(
            tuple(Edge(1 + number, *link) for number, link in zip(numbers, links, strict=False)), direction, types
        ),
        st.lists(ends, max_size=most),
        st.permutations(range(most)),
        st.sampled_from(Direction),
        st.sampled_from([None, None, frozenset("a")]),
    )


nodes = st.integers(1, SIZE)


def columns(edges: Sequence[Edge]) -> LinkColumns:
    ordered = sorted(edges, key=lambda edge: edge.link)
    return LinkColumns(
        np.array([edge.link for edge in ordered], np.int64),
        np.array([edge.source for edge in ordered], np.int64),
        np.array([edge.target for edge in ordered], np.int64),
        np.array([TYPES.index(edge.type) for edge in ordered], np.int64),
        np.array([edge.weight for edge in ordered], np.float64),
        TYPES,
    )


def with_node(graph: HotGraph, *ids: int) -> HotGraph:
    return HotGraph(graph.snapshot, graph.nodes.extended(np.array(ids, np.int64)), graph.types, graph.parts)


def built(edges: Sequence[Edge]) -> HotGraph:
    return with_node(build_graph(Snapshot("1:1:"), columns(edges)), *range(1, SIZE + 1))


def grown(edges: Sequence[Edge]) -> HotGraph:
    """The same links in many levels, among others that are gone or had other weights, nodes in another order."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hot_graph, "SMALLEST_LEVEL", 0)
        patch.setattr(hot_graph, "LEVEL_RATIO", 0)
        decoys = [Edge(1_000 + one, 1 + SIZE - one, 1 + one, 0.0, "b") for one in range(SIZE)]
        graph = build_graph(Snapshot("1:1:"), columns(decoys[:1]))
        for edge in [*decoys[1:], *(Edge(one.link, one.source, one.target, 0.25) for one in edges)]:
            graph = graph.changed(Snapshot("2:2:"), {edge.link: edge.source}, columns([edge]))
        for at in range(len(edges) - 1, -1, -3):
            some = edges[max(0, at - 2) : at + 1]
            graph = graph.changed(Snapshot("3:3:"), {one.link: one.source for one in some}, columns(some))
        gone = {one.link: one.source for one in decoys}
        return with_node(graph.changed(Snapshot("4:4:"), gone, columns([])), *range(SIZE, 0, -1))


def lens_of(graph: HotGraph, case: Case) -> Lens:
    types = None if case.types is None else np.array([name in case.types for name in graph.types], np.bool_)
    return Lens(case.direction, 0, types)


def unlimited() -> Work:
    return Work(EVERYTHING, math.inf)


def node_of(graph: HotGraph, memory: int) -> int:
    return int(graph.find(np.array([memory]))[0])


def nodes_of(graph: HotGraph, memories: Sequence[int]) -> np.ndarray:
    return graph.find(np.array(memories, np.int64)).astype(np.int32)


def answer(graph: HotGraph, found: object) -> object:
    """An answer without node numbers, comparable."""
    match found:
        case NodeTrail():
            return graph.ids(np.array(found.nodes, np.int32)).tolist(), found.links, found.weights
        case Reached():
            return found.ids.tolist(), found.links.tolist(), found.hops.tolist(), found.truncated
        case Region():
            arrays = (found.ids, found.links, found.sources, found.targets, found.weights)
            names = list(graph.types)
            types = [names[code] for code in found.types.tolist()]
            return [one.tolist() for one in arrays], types, found.truncated
        case Ranked():
            return found.ids.tolist(), np.round(found.scores, 9).tolist(), found.truncated
        case list():
            return [answer(graph, one) for one in found]
    return found


def run(case: Case, algorithm: Callable[[HotGraph], Walking[T]], work: Work | None = None) -> tuple[HotGraph, T]:
    """The answer over the built graph; that over the grown one, and that with pauses, are the same."""
    graph = built(case.edges)
    result = Drive(algorithm(graph), graph, lens_of(graph, case), work or unlimited()).finish()
    if work is None:
        expected = answer(graph, result)
        other = grown(case.edges)
        assert answer(other, Drive(algorithm(other), other, lens_of(other, case), unlimited()).finish()) == expected
        paused = Drive(algorithm(graph), graph, lens_of(graph, case), unlimited())
        for share in itertools.count(LINKS_PER_EXPANSION // 2, 20):
            if paused.advance(share):
                break
        assert answer(graph, paused.result) == expected
    return graph, result


def check_trail(case: Case, graph: HotGraph, trail: NodeTrail, start: int, goal: int) -> None:
    """It is a simple path of the case's steps."""
    memories = graph.ids(np.array(trail.nodes, np.int32)).tolist()
    assert (memories[0], memories[-1]) == (start, goal)
    assert len(set(memories)) == len(memories)
    steps = case.steps()
    for at, (link, weight) in enumerate(zip(trail.links, trail.weights, strict=True)):
        assert Step(link, memories[at + 1], weight) in steps[memories[at]]


def naive_levels(case: Case, starts: Sequence[int], hops: int) -> list[tuple[int, int, int]]:
    """Memory, link, hops of all that is reached, in order."""
    steps, met, found, frontier = case.steps(), set(starts), [], list(starts)
    for hop in range(1, hops + 1):
        arrivals = sorted((step.link, step.to) for one in frontier for step in steps[one] if step.to not in met)
        first: dict[int, int] = {}
        for link, to in arrivals:
            first.setdefault(to, link)
        frontier = list(first)
        met |= set(first)
        found += [(to, link, hop) for to, link in first.items()]
    return found


start_sets = st.lists(nodes, min_size=1, max_size=3, unique=True)


@settings(max_examples=80, deadline=None)
@given(
    case=cases(),
    starts=start_sets,
    hops=st.integers(1, 5),
    limit=st.integers(1, SIZE),
    after=st.none() | st.tuples(st.integers(0, 3), st.integers(0, 26)),
    wanted=st.none() | st.frozensets(nodes),
)
def test_reach_equals_a_naive_search(
    case: Case,
    starts: list[int],
    hops: int,
    limit: int,
    after: tuple[int, int] | None,
    wanted: frozenset[int] | None,
) -> None:
    ids = None if wanted is None else np.array(sorted(wanted), np.int64)
    _, found = run(
        case, lambda graph: reach(graph, nodes_of(graph, starts), hops, limit=limit, after=after, wanted=ids)
    )
    everything = naive_levels(case, starts, hops)
    kept = [
        (one, link, hop)
        for one, link, hop in everything
        if (after is None or (hop, link) > after) and (wanted is None or one in wanted)
    ]
    assert list(zip(found.ids.tolist(), found.links.tolist(), found.hops.tolist(), strict=True)) == kept[:limit]
    assert found.truncated is (len(kept) > limit)
    _, counts = run(case, lambda graph: reach_count(graph, nodes_of(graph, starts), hops))
    expected = [sum(1 for *_, hop in everything if hop == at) for at in range(1, hops + 1)]
    assert counts + [0] * (hops - len(counts)) == expected


@settings(max_examples=100, deadline=None)
@given(case=cases(), starts=start_sets, limit=st.integers(1, 4))
def test_pages_of_reach_are_the_whole_in_order(case: Case, starts: list[int], limit: int) -> None:
    pages: list[tuple[int, int, int]] = []
    after = None
    truncated = True
    while truncated:
        _, page = run(
            case, lambda graph, last=after: reach(graph, nodes_of(graph, starts), 3, limit=limit, after=last)
        )
        pages += zip(page.ids.tolist(), page.links.tolist(), page.hops.tolist(), strict=True)
        truncated = page.truncated
        assert truncated is False or len(page.ids) == limit
        after = (pages[-1][2], pages[-1][1]) if pages else None
    assert pages == naive_levels(case, starts, 3)


@settings(max_examples=120, deadline=None)
@given(case=cases(), starts=start_sets, depth=st.integers(0, 4), limit=st.integers(1, SIZE), most=st.integers(1, 26))
def test_a_region_is_the_induced_subgraph_of_the_nearest(
    case: Case, starts: list[int], depth: int, limit: int, most: int
) -> None:
    graph, found = run(case, lambda graph: region(graph, nodes_of(graph, starts), depth, limit=limit, max_links=most))
    near = [*starts, *(one for one, *_ in naive_levels(case, starts, depth))]
    assert found.ids.tolist() == sorted(near[:limit])
    inside = [edge for edge in case.admitted() if {edge.source, edge.target} <= set(near[:limit])]
    names = list(graph.types)
    read = [
        Edge(link, int(found.ids[source]), int(found.ids[target]), weight, names[code])
        for link, source, target, weight, code in zip(
            *(one.tolist() for one in (found.links, found.sources, found.targets, found.weights, found.types)),
            strict=True,
        )
    ]
    assert read == inside[:most]
    assert found.truncated is (len(near) > limit or len(inside) > most)


@settings(max_examples=90, deadline=None)
@given(case=cases(), start=nodes, goal=nodes, max_hops=st.integers(1, SIZE), count=st.integers(1, 12))
def test_all_shortest_paths_are_complete_and_in_link_order(
    case: Case, start: int, goal: int, max_hops: int, count: int
) -> None:
    def all_of(graph: HotGraph) -> Walking[list[NodeTrail] | None]:
        stages = yield from fewest(graph, node_of(graph, start), node_of(graph, goal), max_hops)
        return None if stages is None else list(trails(stages, node_of(graph, start)))

    graph, found = run(case, all_of)
    drawn = case.networkx()
    length = nx.shortest_path_length(drawn, start, goal) if nx.has_path(drawn, start, goal) else None
    if length is None or length > max_hops:
        assert found is None
        expected = []
    else:
        assert found is not None
        expected = sorted(links for _, links in case.simple(start, goal, length))
        assert [trail.links for trail in found] == expected
        for trail in found:
            check_trail(case, graph, trail._replace(weights=weights_of(case, trail)), start, goal)
    _, first = run(
        case, lambda one: several.all_shortest(one, node_of(one, start), node_of(one, goal), count, max_hops)
    )
    assert [trail.links for trail in first] == expected[:count]


def weights_of(case: Case, trail: NodeTrail) -> tuple[float, ...]:
    weights = {edge.link: edge.weight for edge in case.edges}
    return tuple(weights[link] for link in trail.links)


@settings(max_examples=200, deadline=None)
@given(
    case=cases(),
    start=nodes,
    goal=nodes,
    max_hops=st.sampled_from([1, 2, 3, 5, 64]),
    batch=st.sampled_from([0, 1, 24]),
)
def test_the_cheapest_path_is_that_of_dijkstra_with_the_fewest_links(
    case: Case, start: int, goal: int, max_hops: int, batch: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cheapest_module, "BATCH", batch)
        graph, found = run(case, lambda one: cheapest(one, node_of(one, start), node_of(one, goal), max_hops))
    drawn = case.networkx()
    expected = case.least(start, goal, max_hops)
    if found is None:
        assert expected is None
        return
    check_trail(case, graph, found, start, goal)
    assert (found.cost, len(found.links)) == expected
    if max_hops == 64:
        assert found.cost == nx.dijkstra_path_length(drawn, start, goal)


@settings(max_examples=100, deadline=None)
@given(
    case=cases(weights=[0.0, 1e-300, 0.1, 0.2, 0.3, 1 / 3, 1e9]),
    start=nodes,
    goal=nodes,
    batch=st.sampled_from([0, 3]),
)
def test_the_cheapest_path_of_uneven_weights(case: Case, start: int, goal: int, batch: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cheapest_module, "BATCH", batch)
        graph = built(case.edges)
        walking = cheapest(graph, node_of(graph, start), node_of(graph, goal), 64)
        found = Drive(walking, graph, lens_of(graph, case), unlimited()).finish()
    drawn = case.networkx()
    assert (found is not None) is nx.has_path(drawn, start, goal)
    if found is not None:
        check_trail(case, graph, found, start, goal)
        assert found.cost == pytest.approx(nx.dijkstra_path_length(drawn, start, goal), rel=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_paths_of_larger_graphs(seed: int) -> None:
    random = np.random.default_rng(seed)
    count, size = 1_200, 300
    # A power law: node 1 is a hub.
    ends = np.minimum(random.zipf(1.4, (count, 2)), size) if seed % 2 else random.integers(1, size, (count, 2))
    weights = random.choice([0.0, 0.5, 1.0, 2.0, 5.0], count) if seed < 2 else random.random(count)
    edges = [Edge(one + 1, *ends[one].tolist(), float(weights[one])) for one in range(count)]
    graph = build_graph(Snapshot("1:1:"), columns(edges))
    drawn = nx.MultiDiGraph()
    drawn.add_edges_from((edge.source, edge.target, {"weight": edge.weight}) for edge in edges)
    lens = Lens(Direction.OUT, 0)
    pairs = random.choice(np.unique(ends), (40, 2)).tolist()
    for start, goal in pairs:
        path = Drive(cheapest(graph, node_of(graph, start), node_of(graph, goal), 64), graph, lens, unlimited())
        short = Drive(fewest(graph, node_of(graph, start), node_of(graph, goal), 64), graph, lens, unlimited())
        trail, stages = path.finish(), short.finish()
        if not nx.has_path(drawn, start, goal):
            assert trail is None
            assert stages is None
            continue
        assert trail is not None
        assert stages is not None
        assert trail.cost == pytest.approx(nx.dijkstra_path_length(drawn, start, goal), rel=1e-12)
        assert len(stages) == nx.shortest_path_length(drawn, start, goal)


small_cases = cases(most=16)
few = st.integers(1, 8)


@settings(max_examples=80, deadline=None)
@given(case=small_cases, start=nodes, goal=nodes, count=few, max_hops=st.sampled_from([1, 2, 3, 4, SIZE]))
def test_the_k_shortest_are_the_first_simple_paths(
    case: Case, start: int, goal: int, count: int, max_hops: int
) -> None:
    expected = sorted(case.simple(start, goal, max_hops), key=lambda one: (len(one[1]), one[1]))
    for algorithm in (several.simple_paths, _shortest_unweighted):
        graph, found = run(
            case,
            lambda one, algorithm=algorithm: algorithm(one, node_of(one, start), node_of(one, goal), count, max_hops),
        )
        assert [trail.links for trail in found] == [links for _, links in expected[:count]]
        for trail in found:
            check_trail(case, graph, trail._replace(weights=weights_of(case, trail)), start, goal)
    assert [trail.weights for trail in run(
        case, lambda one: several.simple_paths(one, node_of(one, start), node_of(one, goal), count, max_hops)
    )[1]] == [tuple(weights_of(case, NodeTrail((), links))) for _, links in expected[:count]]  # fmt: skip


def _shortest_unweighted(
    graph: HotGraph, start: int, goal: int, count: int, max_hops: int
) -> Walking[list[NodeTrail]]:
    return several.shortest_k(graph, start, goal, count, max_hops, weighted=False)


@settings(max_examples=120, deadline=None)
@given(
    case=small_cases,
    start=nodes,
    goal=nodes,
    count=few,
    max_hops=st.sampled_from([1, 2, 3, 4, SIZE]),
    batch=st.sampled_from([0, 24]),
)
def test_the_k_cheapest_are_the_first_simple_paths(
    case: Case, start: int, goal: int, count: int, max_hops: int, batch: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cheapest_module, "BATCH", batch)
        graph, found = run(
            case,
            lambda one: several.shortest_k(
                one, node_of(one, start), node_of(one, goal), count, max_hops, weighted=True
            ),
        )
    expected = heapq.nsmallest(count, ((cost, len(links)) for cost, links in case.simple(start, goal, max_hops)))
    assert [(trail.cost, len(trail.links)) for trail in found] == expected
    assert len({trail.links for trail in found}) == len(found)
    for trail in found:
        check_trail(case, graph, trail, start, goal)


@settings(max_examples=60, deadline=None)
@given(case=small_cases, start=nodes, goal=nodes)
def test_simple_paths_are_complete(case: Case, start: int, goal: int) -> None:
    expected = sorted(case.simple(start, goal, 5), key=lambda one: (len(one[1]), one[1]))
    assume(len(expected) < 2_000)
    _, found = run(case, lambda one: several.simple_paths(one, node_of(one, start), node_of(one, goal), 2_000, 5))
    assert [trail.links for trail in found] == [links for _, links in expected]


def test_a_search_without_new_links_still_keeps_to_its_deadline() -> None:
    # Every simple path to the goal is 1 -> 2 -> 3, yet 2 leads into a clique from which only 2 leads out.
    clique = range(4, 24)
    pairs = [(1, 2), (2, 3), *((2, one) for one in clique), *((one, 2) for one in clique)]
    pairs += [(one, other) for one in clique for other in clique if one != other]
    edges = [Edge(1 + at, source, target, 1.0) for at, (source, target) in enumerate(pairs)]
    graph = build_graph(Snapshot("1:1:"), columns(edges))
    ends = node_of(graph, 1), node_of(graph, 3)
    began = time.monotonic()
    drive = Drive(
        several.simple_paths(graph, *ends, 5, 20), graph, Lens(Direction.OUT, 0), Work(EVERYTHING, began + 0.2)
    )
    with pytest.raises(WalkTooLarge):
        drive.finish()
    assert time.monotonic() - began < 2


def exact_pagerank(case: Case, seeds: Sequence[int]) -> dict[int, float]:
    """The stationary distribution, by solving the linear system."""
    restart = np.zeros(SIZE)
    restart[[one - 1 for one in seeds]] = 1 / len(seeds)
    matrix = np.zeros((SIZE, SIZE))
    for origin, steps in case.steps().items():
        for step in steps:
            matrix[step.to - 1, origin - 1] += 1 / (1 + step.weight)
    totals = matrix.sum(axis=0)
    matrix = np.where(totals > 0, matrix / np.where(totals > 0, totals, 1), restart[:, None])
    scores = np.linalg.solve(np.eye(SIZE) - DAMPING * matrix, (1 - DAMPING) * restart)
    return {one + 1: float(score) for one, score in enumerate(scores)}


@settings(max_examples=40, deadline=None)
@given(case=cases(), seeds=start_sets, limit=st.integers(1, SIZE))
def test_personalised_pagerank_comes_close_to_the_exact_one(case: Case, seeds: list[int], limit: int) -> None:
    def walk(graph: HotGraph, limit: int, max_links: int = 10**6) -> Walking[Ranked]:
        degrees = graph.degrees(case.direction, exact=False)
        seeded = np.sort(nodes_of(graph, seeds))
        return personalised_pagerank(graph, degrees, seeded, limit=limit, max_links=max_links)

    _, found = run(case, lambda graph: walk(graph, SIZE))
    exact = exact_pagerank(case, seeds)
    scores = dict(zip(found.ids.tolist(), found.scores.tolist(), strict=True))
    assert sum(scores.values()) == pytest.approx(1, abs=1e-5)
    assert not found.truncated
    for one, score in exact.items():
        assert scores.get(one, 0.0) == pytest.approx(score, abs=1e-5)
    assert sorted(scores.items(), key=lambda one: (-one[1], one[0])) == list(scores.items())
    _, best = run(case, lambda graph: walk(graph, limit))
    assert best.ids.tolist() == found.ids.tolist()[:limit]
    assert best.truncated is (len(scores) > limit)
    assert 0 <= found.residual <= 1e-5
    _, early = run(case, lambda graph: walk(graph, SIZE, max_links=1))
    assert early.scores.sum() == pytest.approx(1, abs=1e-9)


@settings(max_examples=150, deadline=None)
@given(
    case=cases(),
    seeds=start_sets,
    limit=st.integers(1, SIZE),
    measure=st.sampled_from(Measure),
    unlinked=st.booleans(),
)
def test_similarity_equals_the_naive_one(
    case: Case, seeds: list[int], limit: int, measure: Measure, unlinked: bool
) -> None:
    _, found = run(
        case,
        lambda graph: similar(graph, nodes_of(graph, seeds), measure, limit=limit, unlinked=unlinked),
    )
    around = {one: {step.to for step in steps} - {one} for one, steps in case.steps().items()}
    holders = {one: sum(one in others for others in around.values()) for one in around}

    def likeness(seed: int, other: int) -> float:
        shared = around[seed] & around[other]
        if measure is Measure.JACCARD:
            return len(shared) / len(around[seed] | around[other]) if shared else 0.0
        return sum(1 / math.log(holders[one]) for one in shared)

    scores = {
        other: max(likeness(seed, other) for seed in seeds if not (unlinked and other in around[seed]))
        for other in around
        if other not in seeds and any(not (unlinked and other in around[seed]) for seed in seeds)
    }
    expected = sorted((-round(score, 9), other) for other, score in scores.items() if score > 0)
    assert found.ids.tolist() == [other for _, other in expected[:limit]]
    np.testing.assert_allclose(found.scores, [scores[one] for one in found.ids.tolist()], rtol=1e-9)
    assert found.truncated is (len(expected) > limit)


def test_a_free_link_between_searches_that_met_elsewhere_is_found() -> None:
    # 1-5-6-7-4 and 1-2-3-4 both cost 2; the free link 2-3 joins two nodes that neither search has opened by then.
    weights = {(1, 5): 0.5, (5, 6): 0.5, (6, 7): 0.5, (7, 4): 0.5, (1, 2): 1.0, (2, 3): 0.0, (3, 4): 1.0}
    edges = tuple(Edge(1 + at, *ends, weight) for at, (ends, weight) in enumerate(weights.items()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cheapest_module, "BATCH", 0)
        _, found = run(
            Case(edges, Direction.OUT, None), lambda graph: cheapest(graph, node_of(graph, 1), node_of(graph, 4), 64)
        )
    assert found is not None
    assert found.links == (5, 6, 7)


def test_twins_rank_by_id_whatever_order_their_links_are_summed_in() -> None:
    links = [
        (16, 5, 4, 1.5), (8, 9, 1, 0.5), (3, 10, 1, 0.5), (11, 9, 8, 3.0), (12, 10, 8, 3.0), (7, 1, 1, 3.0),
        (6, 4, 5, 0.5), (5, 3, 5, 0.5), (9, 9, 4, 1.0), (14, 10, 4, 1.0), (10, 5, 10, 1.0), (2, 5, 9, 1.0),
        (1, 8, 3, 3.0), (13, 6, 8, 1.5), (15, 2, 4, 3.0), (4, 7, 4, 1.0),
    ]  # fmt: skip
    case = Case(tuple(Edge(*link) for link in links), Direction.BOTH, None)

    def walk(graph: HotGraph) -> Walking[Ranked]:
        degrees = graph.degrees(Direction.BOTH, exact=True)
        return personalised_pagerank(graph, degrees, np.sort(nodes_of(graph, [1, 2, 3])), limit=SIZE, max_links=10**6)

    _, found = run(case, walk)
    ids = found.ids.tolist()
    assert ids.index(10) == ids.index(9) + 1


def test_who_only_has_links_that_are_gone_has_no_rank() -> None:
    edges = [Edge(1, 1, 2, 1.0), *(Edge(one, 3 + one % 4, 9, 1.0) for one in range(2, 60))]
    graph = build_graph(Snapshot("1:1:"), columns([*edges, *(Edge(one, 1, 2, 1.0) for one in range(60, 120))]))
    gone = graph.changed(Snapshot("2:2:"), {edge.link: edge.source for edge in edges[1:]}, columns([]))
    assert gone.parts[0].dead_count == 58
    walk = personalised_pagerank(
        gone, gone.degrees(Direction.BOTH, exact=True), nodes_of(gone, [1]), limit=9, max_links=1
    )
    found = Drive(walk, gone, Lens(Direction.BOTH, 0), unlimited()).finish()
    assert found.ids.tolist() == [1, 2]


CHAIN = Case(tuple(Edge(one, one, one + 1, 1.0) for one in range(1, SIZE)), Direction.OUT, None)
paths: list[Callable[[HotGraph, int, int], Walking]] = [
    lambda graph, start, goal: fewest(graph, start, goal, 64),
    lambda graph, start, goal: cheapest(graph, start, goal, 64),
    lambda graph, start, goal: cheapest(graph, start, goal, 3),
    lambda graph, start, goal: several.all_shortest(graph, start, goal, 5, 64),
    lambda graph, start, goal: several.simple_paths(graph, start, goal, 5, 64),
    lambda graph, start, goal: several.shortest_k(graph, start, goal, 5, 64, weighted=True),
    lambda graph, start, goal: several.shortest_k(graph, start, goal, 5, 64, weighted=False),
]


@pytest.mark.parametrize("path", paths)
@pytest.mark.parametrize("work", [Work(2, math.inf), Work(EVERYTHING, 0.0)])
def test_a_path_search_that_may_not_go_on_says_so(path: Callable[[HotGraph, int, int], Walking], work: Work) -> None:
    graph = built(CHAIN.edges)
    drive = Drive(
        path(graph, node_of(graph, 1), node_of(graph, SIZE)),
        graph,
        lens_of(graph, CHAIN),
        Work(work.links, work.deadline),
    )
    with pytest.raises(WalkTooLarge):
        drive.finish()


@pytest.mark.parametrize("path", paths)
def test_paths_between_memories_without_links_and_to_themselves(
    path: Callable[[HotGraph, int, int], Walking],
) -> None:
    graph = with_node(empty_graph(Snapshot("1:1:")), 7, 8)
    lens = Lens(Direction.BOTH, 0)
    assert not Drive(path(graph, 0, 1), graph, lens, unlimited()).finish()
    assert answer(graph, Drive(path(graph, 1, 1), graph, lens, unlimited()).finish()) in (
        [], ([8], (), ()), [([8], (), ())]
    )  # fmt: skip
    looped = built([Edge(1, 4, 4, 0.0), Edge(2, 4, 5, 0.0)])
    assert not Drive(path(looped, node_of(looped, 6), node_of(looped, 4)), looped, lens, unlimited()).finish()
    itself = Drive(path(looped, node_of(looped, 4), node_of(looped, 4)), looped, lens, unlimited())
    assert itself.done
    assert answer(looped, itself.finish()) in ([], ([4], (), ()), [([4], (), ())])


def test_a_walk_that_may_not_go_on_answers_what_it_has() -> None:
    graph = built(CHAIN.edges)
    lens = lens_of(graph, CHAIN)
    start = nodes_of(graph, [1])

    found = Drive(reach(graph, start, 9, limit=100), graph, lens, Work(3, math.inf)).finish()
    assert (found.ids.tolist(), found.truncated) == ([2, 3, 4], True)
    late = Drive(reach(graph, start, 9, limit=100), graph, lens, Work(EVERYTHING, 0.0)).finish()
    assert (late.ids.tolist(), late.truncated) == ([], True)
    part = Drive(region(graph, start, 9, limit=100, max_links=9), graph, lens, Work(3, math.inf)).finish()
    assert (part.ids.tolist(), part.links.tolist(), part.truncated) == ([1, 2, 3, 4], [], True)
    whole = Drive(region(graph, start, 9, limit=4, max_links=9), graph, lens, unlimited()).finish()
    assert (whole.ids.tolist(), whole.links.tolist(), whole.truncated) == ([1, 2, 3, 4], [1, 2, 3], True)
    ranked = Drive(
        personalised_pagerank(graph, graph.degrees(Direction.OUT, exact=False), start, limit=9, max_links=99),
        graph, lens, Work(1, math.inf),
    ).finish()  # fmt: skip
    assert ranked.residual > 0.1
    assert ranked.scores.sum() == pytest.approx(1)
    with pytest.raises(WalkTooLarge):
        Drive(reach_count(graph, start, 9), graph, lens, Work(3, math.inf)).finish()
    with pytest.raises(WalkTooLarge):
        Drive(
            similar(graph, start, Measure.JACCARD, limit=9, unlinked=False), graph, lens, Work(0, math.inf)
        ).finish()


def test_a_share_of_work_is_not_exceeded() -> None:
    graph = built(CHAIN.edges)
    drive = Drive(reach(graph, nodes_of(graph, [1]), 9, limit=100), graph, lens_of(graph, CHAIN), unlimited())
    work = drive._work
    assert not drive.advance(LINKS_PER_EXPANSION)
    assert work.links == EVERYTHING
    assert not drive.advance(3 * (LINKS_PER_EXPANSION + 1))
    assert work.links == EVERYTHING - 3
    assert drive.finish().ids.tolist() == list(range(2, SIZE + 1))
    assert drive.advance(0)


def test_seeds_without_links_have_all_the_rank_and_nobody_like_them() -> None:
    graph = with_node(empty_graph(Snapshot("1:1:")), 7, 8)
    lens = Lens(Direction.BOTH, 0)
    seeds = np.array([0], np.int32)
    ranked = Drive(
        personalised_pagerank(graph, graph.degrees(Direction.BOTH, exact=True), seeds, limit=9, max_links=99),
        graph, lens, unlimited(),
    ).finish()  # fmt: skip
    assert ranked.ids.tolist() == [7]
    assert ranked.scores[0] == pytest.approx(1, abs=1e-5)
    for measure in Measure:
        nobody = Drive(similar(graph, seeds, measure, limit=9, unlinked=True), graph, lens, unlimited()).finish()
        assert (nobody.ids.tolist(), nobody.truncated) == ([], False)
    near = Drive(reach(graph, seeds, 3, limit=5), graph, lens, unlimited()).finish()
    assert (near.ids.tolist(), near.truncated) == ([], False)
    alone = Drive(region(graph, seeds, 3, limit=5, max_links=5), graph, lens, unlimited()).finish()
    assert (alone.ids.tolist(), alone.links.tolist(), alone.truncated) == ([7], [], False)


@pytest.mark.parametrize("direction", Direction)
def test_estimated_ranks_find_most_of_the_best_and_nothing_that_no_seed_reaches(direction: Direction) -> None:
    random = np.random.default_rng(3)
    share = (np.arange(2_000) + 1.0) ** -0.7
    ends = random.choice(2_000, (20_000, 2), p=share / share.sum()) + 1
    star = [(9_000, 9_001 + one) for one in range(3_000)]
    both = np.array([*ends.tolist(), *star])
    ids = np.arange(1, len(both) + 1)
    kinds = np.where(ids % 2 == 0, 0, 1)
    links = LinkColumns(ids, both[:, 0], both[:, 1], kinds, np.ones(len(ids)), ["a", "b"])
    graph = build_graph(Snapshot("1:1:"), links)
    seeds = np.sort(graph.find(np.array([40, 300, 777])))
    lens = Lens(direction, 0)
    degrees = graph.degrees(direction, exact=direction is Direction.BOTH)

    def ranked(max_links: int) -> Ranked:
        walk = personalised_pagerank(graph, degrees, seeds, limit=20, max_links=max_links)
        return Drive(walk, graph, lens, Work(10**9, time.monotonic() + 60)).finish()

    exact, estimated = ranked(10**8), ranked(2_000)
    assert exact.residual < 1e-5
    assert estimated.residual > 0.05
    assert len({*exact.ids.tolist()} & {*estimated.ids.tolist()}) >= 16
    assert not {*range(9_000, 12_001)} & {*estimated.ids.tolist()}


def test_estimated_ranks_know_nothing_of_links_that_are_filtered_out() -> None:
    random = np.random.default_rng(4)
    ends = random.integers(1, 1_000, (10_000, 2)).tolist()
    other = [(2, 5_000 + one) for one in range(5_000)]
    both = np.array([*ends, *other])
    ids = np.arange(1, len(both) + 1)
    kinds = np.where(ids <= len(ends), 0, 1)
    graph = build_graph(
        Snapshot("1:1:"), LinkColumns(ids, both[:, 0], both[:, 1], kinds, np.ones(len(ids)), ["a", "b"])
    )
    lens = Lens(Direction.BOTH, 0, np.array([True, False]))
    walk = personalised_pagerank(
        graph, graph.degrees(Direction.BOTH, exact=False), graph.find(np.array([1])), limit=9, max_links=2_000
    )
    found = Drive(walk, graph, lens, Work(10**9, time.monotonic() + 60)).finish()
    assert found.residual > 0.05
    assert not {*range(5_000, 10_000)} & {*found.ids.tolist()}
