"""Walks against networkx on random multigraphs: parallel links, self-links, zero weights, validity windows."""

import asyncio
import itertools
import time
from datetime import UTC, datetime
from typing import Any

import networkx as nx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sfm_graph.domain.identity import MemoryRef
from sfm_graph.domain.link import Direction
from sfm_graph.domain.walk import Path, WalkFilter
from sfm_graph.domain.where import parse_where
from sfm_graph.errors import MemoryNotFound
from sfm_graph.hot.graph.graph import HotGraph
from sfm_graph.services import ground
from sfm_graph.services.links import LinkRequest
from sfm_graph.services.registry import Services

NODES = 8
_namespaces = itertools.count()

links = st.lists(
    st.tuples(
        st.integers(0, NODES - 1),
        st.integers(0, NODES - 1),
        st.sampled_from(["a", "b"]),
        st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.5]),
        st.booleans(),
    ),
    max_size=24,
)


async def _build(services: Services, edges: list[tuple[int, int, str, float, bool]]) -> tuple[str, nx.MultiDiGraph]:
    namespace = f"graph{next(_namespaces)}"
    await services.memory_writes.store_many(namespace, [{"key": f"n{i}", "content": f"n{i}"} for i in range(NODES)])
    unique = {(s, t, k): (w, live) for s, t, k, w, live in edges}
    past = "2020-01-01"
    requests = [
        LinkRequest({"key": f"n{s}"}, {"key": f"n{t}"}, {"type": k, "weight": w, "valid_to": None if live else past})
        for (s, t, k), (w, live) in unique.items()
    ]
    if requests:
        await services.links.link_many(namespace, requests)
    graph = nx.MultiDiGraph()
    graph.add_nodes_from(range(NODES))
    graph.add_edges_from((s, t, {"weight": w, "type": k}) for (s, t, k), (w, live) in unique.items() if live)
    return namespace, graph


def _seen_by(graph: nx.MultiDiGraph, walk: WalkFilter) -> nx.MultiDiGraph:
    chosen = nx.MultiDiGraph()
    chosen.add_nodes_from(graph)
    for source, target, data in graph.edges(data=True):
        if walk.types and data["type"] not in walk.types:
            continue
        if walk.direction is not Direction.IN:
            chosen.add_edge(source, target, **data)
        if walk.direction is not Direction.OUT:
            chosen.add_edge(target, source, **data)
    return chosen


walks = st.builds(WalkFilter, st.sampled_from(Direction), st.sampled_from([(), ("a",), ("a", "b")]))
on_database = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _check_path(path: Path, walk: WalkFilter, *, weighted: bool) -> None:
    for (one, other), link in zip(itertools.pairwise(path.memories), path.links, strict=True):
        forward = (link.source_id, link.target_id) == (one.id, other.id)
        backward = (link.target_id, link.source_id) == (one.id, other.id)
        assert (forward and walk.direction is not Direction.IN) or (backward and walk.direction is not Direction.OUT)
        assert not walk.types or link.type in walk.types
    assert path.cost == pytest.approx(sum(link.weight for link in path.links) if weighted else len(path.links))


@on_database
@given(edges=links, walk=walks, hops=st.integers(1, 4))
async def test_neighbours_equal_networkx(
    services: Services, edges: list[tuple[int, int, str, float, bool]], walk: WalkFilter, hops: int
) -> None:
    namespace, graph = await _build(services, edges)
    expected = nx.single_source_shortest_path_length(_seen_by(graph, walk), 0, cutoff=hops)
    expected.pop(0)
    async with services.views.open() as view:
        found = await services.traversal.neighbours(view, namespace, MemoryRef(key="n0"), walk, hops=hops, limit=100)
    assert {one.memory.key: one.hops for one in found.neighbours} == {f"n{k}": v for k, v in expected.items()}
    assert [one.hops for one in found.neighbours] == sorted(one.hops for one in found.neighbours)
    assert not found.truncated


@on_database
@given(edges=links, walk=walks, weighted=st.booleans(), target=st.integers(0, NODES - 1))
async def test_shortest_paths_equal_networkx(
    services: Services, edges: list[tuple[int, int, str, float, bool]], walk: WalkFilter, weighted: bool, target: int
) -> None:
    namespace, graph = await _build(services, edges)
    seen = _seen_by(graph, walk)
    async with services.views.open() as view:
        path = await services.traversal.shortest_path(
            view, namespace, MemoryRef(key="n0"), MemoryRef(key=f"n{target}"), walk, weighted=weighted, max_hops=64
        )
    if not nx.has_path(seen, 0, target):
        assert path is None
        return
    assert path is not None
    expected = nx.shortest_path_length(seen, 0, target, weight="weight" if weighted else None)
    assert path.cost == pytest.approx(expected)
    assert (path.memories[0].key, path.memories[-1].key) == ("n0", f"n{target}")
    _check_path(path, walk, weighted=weighted)


async def test_max_hops_bounds_the_links_of_a_path(services: Services) -> None:
    chain = [(0, 1, "a", 0.1, True), (1, 2, "a", 0.1, True), (2, 3, "a", 0.1, True), (0, 3, "b", 9.0, True)]
    namespace, _ = await _build(services, chain)
    start, goal = MemoryRef(key="n0"), MemoryRef(key="n3")
    async with services.views.open() as view:
        for max_hops, cost in ((3, 0.3), (2, 9.0)):
            path = await services.traversal.shortest_path(
                view, namespace, start, goal, WalkFilter(), weighted=True, max_hops=max_hops
            )
            assert path is not None
            assert path.cost == pytest.approx(cost)
        only_a = WalkFilter(types=("a",))
        for max_hops, found in ((3, True), (2, False)):
            for weighted in (True, False):
                path = await services.traversal.shortest_path(
                    view, namespace, start, goal, only_a, weighted=weighted, max_hops=max_hops
                )
                assert (path is not None) is found


async def test_a_path_to_itself_has_no_links(services: Services) -> None:
    namespace, _ = await _build(services, [(0, 0, "a", 1.0, True)])
    async with services.views.open() as view:
        for weighted in (True, False):
            path = await services.traversal.shortest_path(
                view, namespace, MemoryRef(key="n0"), MemoryRef(key="n0"), WalkFilter(), weighted=weighted, max_hops=5
            )
            assert path is not None
            assert (len(path.memories), path.links, path.cost) == (1, (), 0.0)


async def test_limits_are_said_honestly_and_where_filters_what_is_returned(services: Services) -> None:
    star = [(0, i, "a", 1.0, True) for i in range(1, NODES)]
    namespace, _ = await _build(services, star)
    hub = MemoryRef(key="n0")
    where = parse_where({"key": {"in": ["n3", "n7"]}})
    async with services.views.open() as view:
        cut = await services.traversal.neighbours(view, namespace, hub, WalkFilter(), hops=1, limit=3)
        assert ([one.memory.key for one in cut.neighbours], cut.truncated) == (["n1", "n2", "n3"], True)
        kept = await services.traversal.neighbours(view, namespace, hub, WalkFilter(), hops=1, limit=9, where=where)
        assert [one.memory.key for one in kept.neighbours] == ["n3", "n7"]
        graph = await services.traversal.subgraph(view, namespace, [hub], WalkFilter(), depth=2, limit=4)
        assert (len(graph.ids), len(graph.links), graph.truncated) == (4, 3, True)
        whole = await services.traversal.subgraph(view, namespace, [hub], WalkFilter(), depth=2, limit=100)
        assert (len(whole.ids), len(whole.links), whole.truncated) == (NODES, NODES - 1, False)


async def test_unknown_ends_are_errors(services: Services) -> None:
    namespace, _ = await _build(services, [])
    async with services.views.open() as view:
        with pytest.raises(MemoryNotFound):
            await services.traversal.neighbours(
                view, namespace, MemoryRef(key="nobody"), WalkFilter(), hops=1, limit=10
            )
        with pytest.raises(MemoryNotFound):
            await services.traversal.shortest_path(
                view,
                "never-written",
                MemoryRef(key="n0"),
                MemoryRef(key="n1"),
                WalkFilter(),
                weighted=False,
                max_hops=5,
            )


async def test_walks_see_only_links_valid_now(services: Services) -> None:
    namespace, _ = await _build(services, [])
    year = datetime.now(UTC).year
    for key, fields in (
        ("n1", {"valid_from": f"{year + 1}-01-01"}),
        ("n2", {"valid_to": f"{year - 1}-01-01"}),
        ("n3", {"valid_from": f"{year - 1}-01-01", "valid_to": f"{year + 1}-01-01"}),
    ):
        await services.links.link(namespace, {"key": "n0"}, {"key": key}, fields)
    async with services.views.open() as view:
        found = await services.traversal.neighbours(
            view, namespace, MemoryRef(key="n0"), WalkFilter(), hops=1, limit=10
        )
    assert [one.memory.key for one in found.neighbours] == ["n3"]


async def test_a_long_walk_goes_on_in_a_thread(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    namespace, _ = await _build(services, [(i, i + 1, "a", 1.0, True) for i in range(NODES - 1)])
    monkeypatch.setattr(ground, "INLINE_LINKS", 500)
    steps = HotGraph.steps

    def slow(*arguments: Any) -> Any:
        time.sleep(0.03)
        return steps(*arguments)

    monkeypatch.setattr(HotGraph, "steps", slow)
    worst = 0.0

    async def tick() -> None:
        nonlocal worst
        while True:
            asked = time.perf_counter()
            await asyncio.sleep(0.001)
            worst = max(worst, time.perf_counter() - asked)

    async with services.views.open() as view:
        await services.walks.runner.graphs.at(view, await view.existing_namespace(namespace))
        ticking = asyncio.create_task(tick())
        await asyncio.sleep(0.01)
        path = await services.traversal.shortest_path(
            view, namespace, MemoryRef(key="n0"), MemoryRef(key="n7"), WalkFilter(), weighted=True, max_hops=9
        )
        ticking.cancel()
    assert path is not None
    assert path.cost == 7.0
    # One frontier is small enough for the loop; the other twelve would have stopped it for 0.4 s.
    assert worst < 0.15
