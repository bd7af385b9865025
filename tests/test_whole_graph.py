"""Rankings of whole graphs against networkx, and the process that computes them."""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfm_graph.domain.link import Direction
from sfm_graph.domain.link_columns import LinkColumns
from sfm_graph.domain.snapshot import Snapshot
from sfm_graph.domain.walk import RankBy
from sfm_graph.errors import InvalidInput, Overloaded, Unavailable, WalkTooLarge
from sfm_graph.hot.graph.columns import arcs
from sfm_graph.hot.graph.graph import HotGraph, build_graph, empty_graph
from sfm_graph.hot.graph.lens import Lens
from sfm_graph.hot.walks.pagerank import Ranked
from sfm_graph.services.whole_graph import SMALL, WholeGraph

Link = tuple[int, int, float, str]
JOBS = [RankBy.PAGERANK, RankBy.WEAK_COMPONENTS, RankBy.STRONG_COMPONENTS, RankBy.COMMUNITIES]
EVERYTHING = 1_000_000

# Few memories and many links, so that parallel links, opposite ones and self-links are common.
memory_ids = st.integers(1, 12).map(lambda number: number * number)
weights = st.sampled_from([0.0, 0.5, 1.0, 3.0, 1e300, sys.float_info.max])
some_links = st.lists(st.tuples(memory_ids, memory_ids, weights, st.sampled_from("ab")), max_size=30)


def columns(links: dict[int, Link]) -> LinkColumns:
    ids = sorted(links)
    rows = [links[link] for link in ids]
    return LinkColumns(
        np.array(ids, np.int64),
        np.array([source for source, _, _, _ in rows], np.int64),
        np.array([target for _, target, _, _ in rows], np.int64),
        np.array(["ab".index(name) for _, _, _, name in rows], np.int64),
        np.array([weight for _, _, weight, _ in rows], np.float64),
        ("a", "b"),
    )


def hot(links: list[Link]) -> HotGraph:
    return build_graph(Snapshot("1:1:"), columns(dict(enumerate(links, start=1))))


def oracle(links: list[Link], direction: Direction) -> "nx.MultiDiGraph[int]":
    graph: nx.MultiDiGraph[int] = nx.MultiDiGraph()
    for source, target, weight, _ in links:
        if direction is not Direction.IN:
            graph.add_edge(source, target, weight=1 / (1 + weight))
        if direction is not Direction.OUT:
            graph.add_edge(target, source, weight=1 / (1 + weight))
    return graph


def stationary(graph: "nx.MultiDiGraph[int]") -> dict[int, float]:
    """PageRank solved exactly: networkx's own iteration needs scipy."""
    steps = np.asarray(nx.google_matrix(graph, alpha=0.85))
    equations = np.vstack([steps.T - np.eye(len(steps)), np.ones(len(steps))])
    scores = np.linalg.lstsq(equations, np.append(np.zeros(len(steps)), 1.0))[0]
    return dict(zip(graph, scores.tolist(), strict=True))


def groups(ranked: Ranked) -> list[list[int]]:
    """The groups in their order, after a check that the answer is in the order it promises."""
    assert ranked.groups is not None
    found: list[list[int]] = [[] for _ in range(int(ranked.groups.max(initial=-1)) + 1)]
    for one, group in zip(ranked.ids.tolist(), ranked.groups.tolist(), strict=True):
        found[group].append(one)
    assert ranked.ids.tolist() == [one for group in found for one in group]
    assert ranked.scores.tolist() == [len(group) for group in found for _ in group]
    assert found == by_size(found)
    return found


def by_size(sets: "Iterator[set[int]] | list[list[int]]") -> list[list[int]]:
    return sorted((sorted(one) for one in sets), key=lambda group: (-len(group), group[0]))


def power_law(count: int, memories: int = 4_000) -> list[Link]:
    random = np.random.default_rng(7)
    share = (np.arange(memories) + 1.0) ** -0.7
    ends = random.choice(memories, (count, 2), p=share / share.sum()) + 1
    costs = random.exponential(1.0, count).tolist()
    return [(*pair, cost, "a") for pair, cost in zip(ends.tolist(), costs, strict=True)]


def ask(graph: HotGraph, lens: Lens, by: RankBy, limit: int = EVERYTHING) -> Ranked:
    return asyncio.run(WholeGraph().rank(graph, lens, by, limit=limit, seconds=60))


@pytest.fixture
async def whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[WholeGraph]:
    """Leaves neither files nor processes behind, whatever the test does with it."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    opened = WholeGraph()
    yield opened
    await opened.aclose()
    assert os.listdir(tmp_path) == []
    assert worker_pids(tmp_path) == []


@pytest.fixture(scope="module")
def large() -> HotGraph:
    """Large enough for the worker process."""
    graph = hot(power_law(30_000))
    assert graph.link_count > SMALL
    return graph


def worker_pids(folder: Path) -> list[int]:
    """The processes that work on jobs in this folder."""
    found = subprocess.run(["pgrep", "-f", f"whole .* {folder}/"], check=False, capture_output=True, text=True)
    return [int(pid) for pid in found.stdout.split()]


async def frozen_worker(folder: Path) -> int:
    """The pid of the worker, stopped before it can finish its job; it can be killed all the same."""
    for _ in range(2_000):
        if pids := worker_pids(folder):
            os.kill(pids[0], signal.SIGSTOP)
            return pids[0]
        await asyncio.sleep(0.002)
    raise AssertionError("no job reached a worker")


@settings(max_examples=200, deadline=None)
@given(links=some_links, direction=st.sampled_from(Direction))
def test_components_equal_those_of_networkx(links: list[Link], direction: Direction) -> None:
    graph, lens, expected = hot(links), Lens(direction, 0), oracle(links, direction)
    weak = groups(ask(graph, lens, RankBy.WEAK_COMPONENTS))
    assert weak == by_size(nx.weakly_connected_components(expected))
    strong = groups(ask(graph, lens, RankBy.STRONG_COMPONENTS))
    assert strong == by_size(nx.strongly_connected_components(oracle(links, Direction.OUT)))


@settings(max_examples=200, deadline=None)
@given(links=some_links, direction=st.sampled_from(Direction))
def test_pagerank_equals_that_of_networkx(links: list[Link], direction: Direction) -> None:
    found = ask(hot(links), Lens(direction, 0), RankBy.PAGERANK)
    expected = stationary(oracle(links, direction)) if links else {}
    assert dict(zip(found.ids.tolist(), found.scores.tolist(), strict=True)) == pytest.approx(expected, abs=1e-8)
    assert found.groups is None
    pairs = list(zip((-found.scores).tolist(), found.ids.tolist(), strict=True))
    assert pairs == sorted(pairs)


@settings(max_examples=200, deadline=None)
@given(links=some_links, direction=st.sampled_from(Direction))
def test_degree_counts_every_step(links: list[Link], direction: Direction) -> None:
    found = ask(hot(links), Lens(direction, 0), RankBy.DEGREE)
    expected = dict(oracle(links, direction).out_degree())
    assert found.ids.tolist() == sorted(expected, key=lambda one: (-expected[one], one))
    assert found.scores.tolist() == [expected[one] for one in found.ids.tolist()]


@settings(max_examples=100, deadline=None)
@given(links=some_links)
def test_communities_are_connected_and_cover_all(links: list[Link]) -> None:
    found = groups(ask(hot(links), Lens(Direction.OUT, 0), RankBy.COMMUNITIES))
    expected = oracle(links, Direction.OUT)
    assert sorted(one for group in found for one in group) == sorted(expected)
    for group in found:
        assert nx.is_weakly_connected(expected.subgraph(group))
    lone = {one for one in expected if set(nx.all_neighbors(expected, one)) <= {one}}
    assert {group[0] for group in found if group[0] in lone} == lone


@pytest.mark.parametrize("direction", Direction)
def test_two_cliques_joined_by_one_link_are_two_communities(direction: Direction) -> None:
    first = [(a, b, 0.0, "a") for a in range(1, 7) for b in range(1, a)]
    second = [(b + 100, a + 100, 0.0, "a") for a, b, _, _ in first] + [(107, 101, 0.0, "a")]
    ranked = ask(hot([*first, *second, (1, 101, 0.0, "a")]), Lens(direction, 0), RankBy.COMMUNITIES)
    assert groups(ranked) == [[101, 102, 103, 104, 105, 106, 107], [1, 2, 3, 4, 5, 6]]


def test_parallel_and_opposite_links_add_up_for_communities() -> None:
    # One link each would leave 2 undecided between 1 and 3; the sum of weak ones decides.
    ring = [(1, 2, 0.0, "a"), (3, 4, 0.0, "a"), (4, 1, 0.0, "a")]
    to_three = [(2, 3, 1.0, "a"), (3, 2, 1.0, "b")] * 10
    found = groups(ask(hot([*ring, *to_three]), Lens(Direction.OUT, 0), RankBy.COMMUNITIES))
    assert [2, 3] in [[one for one in group if one in (2, 3)] for group in found]
    to_one = [(2, 1, 1.0, "a"), (1, 2, 1.0, "b")] * 10
    found = groups(ask(hot([*ring, (2, 3, 0.0, "a"), *to_one]), Lens(Direction.OUT, 0), RankBy.COMMUNITIES))
    assert [1, 2] in [[one for one in group if one in (1, 2)] for group in found]


def test_the_limit_cuts_and_says_so() -> None:
    graph = hot([(1, 2, 1.0, "a"), (2, 1, 1.0, "a"), (3, 4, 1.0, "a"), (4, 5, 1.0, "a")])
    for by in RankBy.DEGREE, *JOBS:
        everything = ask(graph, Lens(Direction.OUT, 0), by)
        assert (len(everything.ids), everything.truncated) == (5, False)
        assert not ask(graph, Lens(Direction.OUT, 0), by, limit=5).truncated
        some = ask(graph, Lens(Direction.OUT, 0), by, limit=2)
        assert some.truncated
        assert some.ids.tolist() == everything.ids[:2].tolist()
        assert some.scores.tolist() == everything.scores[:2].tolist()


def test_only_admitted_links_count() -> None:
    graph = hot([(1, 2, 1.0, "a"), (2, 3, 1.0, "b"), (4, 4, 1.0, "b")])
    lens = Lens(Direction.OUT, 0, np.array([False, True]))
    assert groups(ask(graph, lens, RankBy.WEAK_COMPONENTS)) == [[2, 3], [4]]
    assert ask(graph, lens, RankBy.DEGREE).ids.tolist() == [2, 4, 3]


@pytest.mark.parametrize("by", [RankBy.DEGREE, *JOBS])
def test_no_links_no_ranking(by: RankBy) -> None:
    for graph in empty_graph(Snapshot("1:1:")), hot([]):
        found = ask(graph, Lens(Direction.BOTH, 0), by)
        assert (found.ids.tolist(), found.scores.tolist(), found.truncated) == ([], [], False)


def test_measures_of_seeds_are_refused() -> None:
    with pytest.raises(InvalidInput):
        ask(hot([]), Lens(Direction.BOTH, 0), RankBy.JACCARD)


@settings(max_examples=100, deadline=None)
@given(first=some_links, later=some_links, direction=st.sampled_from(Direction), data=st.data())
def test_equal_links_give_equal_columns_whatever_happened_before(
    first: list[Link], later: list[Link], direction: Direction, data: st.DataObject
) -> None:
    links = dict(enumerate(first, start=1))
    graph = build_graph(Snapshot("1:1:"), columns(links))
    removed = data.draw(st.sets(st.sampled_from(sorted(links)))) if links else set()
    fresh = dict(enumerate(later, start=len(links) + 1))
    touched = {link: links[link][0] for link in removed} | {link: source for link, (source, *_) in fresh.items()}
    graph = graph.changed(Snapshot("2:2:"), touched, columns(fresh))
    now = {link: row for link, row in (links | fresh).items() if link not in removed}
    grown, built = (
        arcs(graph, Lens(direction, 0)),
        arcs(build_graph(Snapshot("2:2:"), columns(now)), Lens(direction, 0)),
    )
    for name in ("memories", "sources", "targets", "weights"):
        np.testing.assert_array_equal(getattr(grown, name), getattr(built, name), name)


def test_equal_links_give_equal_columns_over_several_parts() -> None:
    links = dict(enumerate(power_law(6_000, memories=500), start=1))
    fresh = {6_001: (900, 3, 2.0, "a"), 6_002: (1, 700, 0.0, "b"), 6_003: (2, 2, 1.0, "a")}
    graph = build_graph(Snapshot("1:1:"), columns(links))
    touched = {5: links[5][0], 4_000: links[4_000][0], **{link: row[0] for link, row in fresh.items()}}
    graph = graph.changed(Snapshot("2:2:"), touched, columns(fresh))
    assert len(graph.parts) > 1
    now = {link: row for link, row in (links | fresh).items() if link not in (5, 4_000)}
    built = build_graph(Snapshot("2:2:"), columns(now))
    for direction in Direction:
        one, other = arcs(graph, Lens(direction, 0)), arcs(built, Lens(direction, 0))
        for name in ("memories", "sources", "targets", "weights"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name), name)


@settings(max_examples=100, deadline=None)
@given(links=some_links)
def test_self_links_do_not_change_communities(links: list[Link]) -> None:
    ends = sorted({end for source, target, _, _ in links for end in (source, target)})
    heavy = [(one, one, 0.0, "a") for at, one in enumerate(ends) for _ in range(5 * at)]
    plain = [link for link in links if link[0] != link[1]] + [(one, one, 0.0, "a") for one in ends]
    lens = Lens(Direction.OUT, 0)
    assert groups(ask(hot(plain), lens, RankBy.COMMUNITIES)) == groups(
        ask(hot(plain + heavy), lens, RankBy.COMMUNITIES)
    )


@pytest.mark.parametrize("by", JOBS)
async def test_the_worker_answers_as_this_process_does(
    by: RankBy, whole: WholeGraph, large: HotGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    lens = Lens(Direction.OUT, 0)
    first = await whole.rank(large, lens, by, limit=EVERYTHING, seconds=60)
    again = await whole.rank(large, lens, by, limit=EVERYTHING, seconds=60)
    monkeypatch.setattr("sfm_graph.services.whole_graph.SMALL", EVERYTHING)
    here = await WholeGraph().rank(large, lens, by, limit=EVERYTHING, seconds=60)
    for other in again, here:
        np.testing.assert_array_equal(first.ids, other.ids)
        np.testing.assert_array_equal(first.scores, other.scores)
        np.testing.assert_array_equal(first.groups, other.groups)


async def test_communities_without_their_library(whole: WholeGraph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sfm_graph.services.whole_graph.find_spec", lambda name: None)
    with pytest.raises(Unavailable):
        await whole.rank(hot([]), Lens(Direction.OUT, 0), RankBy.COMMUNITIES, limit=5, seconds=60)


async def test_small_graphs_and_degrees_need_no_process(
    whole: WholeGraph, large: HotGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = hot([(1, 2, 1.0, "a")])
    with monkeypatch.context() as patched:
        patched.setattr(subprocess, "Popen", None)
        for by in RankBy.DEGREE, *JOBS:
            await whole.rank(small, Lens(Direction.BOTH, 0), by, limit=5, seconds=60)
        await whole.rank(large, Lens(Direction.BOTH, 0), RankBy.DEGREE, limit=5, seconds=60)
        with pytest.raises(TypeError):
            await whole.rank(large, Lens(Direction.BOTH, 0), RankBy.PAGERANK, limit=5, seconds=60)


async def test_past_the_deadline_the_worker_is_killed(whole: WholeGraph, large: HotGraph, tmp_path: Path) -> None:
    job = asyncio.create_task(whole.rank(large, Lens(Direction.BOTH, 0), RankBy.PAGERANK, limit=5, seconds=1.5))
    await frozen_worker(tmp_path)
    with pytest.raises(WalkTooLarge):
        await job
    assert worker_pids(tmp_path) == []


async def test_a_deadline_before_the_worker_started(whole: WholeGraph, large: HotGraph) -> None:
    for by in RankBy.DEGREE, *JOBS:
        with pytest.raises((WalkTooLarge, Overloaded)):
            await whole.rank(large, Lens(Direction.BOTH, 0), by, limit=5, seconds=0.0)
    assert (await whole.rank(large, Lens(Direction.BOTH, 0), RankBy.PAGERANK, limit=5, seconds=60)).truncated


async def test_a_killed_worker_is_an_error_and_the_next_job_gets_another(
    whole: WholeGraph, large: HotGraph, tmp_path: Path
) -> None:
    lens = Lens(Direction.OUT, 0)
    job = asyncio.create_task(whole.rank(large, lens, RankBy.PAGERANK, limit=5, seconds=60))
    os.kill(await frozen_worker(tmp_path), signal.SIGKILL)
    with pytest.raises(Unavailable):
        await job
    assert (await whole.rank(large, lens, RankBy.PAGERANK, limit=5, seconds=60)).truncated


async def test_a_cancelled_job_leaves_the_turn_to_the_next(
    whole: WholeGraph, large: HotGraph, tmp_path: Path
) -> None:
    lens = Lens(Direction.OUT, 0)
    job = asyncio.create_task(whole.rank(large, lens, RankBy.PAGERANK, limit=5, seconds=60))
    await frozen_worker(tmp_path)
    waiting = asyncio.create_task(whole.rank(large, lens, RankBy.STRONG_COMPONENTS, limit=5, seconds=60))
    with pytest.raises(Overloaded):
        await whole.rank(large, lens, RankBy.PAGERANK, limit=5, seconds=0.05)
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job
    assert (await waiting).groups is not None


async def test_jobs_at_once_are_all_answered(whole: WholeGraph, large: HotGraph) -> None:
    lens = Lens(Direction.OUT, 0)
    asked = [whole.rank(large, lens, by, limit=5, seconds=60) for by in [*JOBS, RankBy.DEGREE]]
    found = await asyncio.gather(*asked)
    assert all(len(one.ids) == 5 for one in found)


async def test_closing_ends_a_running_job(whole: WholeGraph, large: HotGraph, tmp_path: Path) -> None:
    lens = Lens(Direction.OUT, 0)
    job = asyncio.create_task(whole.rank(large, lens, RankBy.PAGERANK, limit=5, seconds=60))
    await frozen_worker(tmp_path)
    waiting = asyncio.create_task(whole.rank(large, lens, RankBy.PAGERANK, limit=5, seconds=60))
    await asyncio.sleep(0)
    await whole.aclose()
    for task in job, waiting:
        with pytest.raises(Unavailable):
            await task


def test_a_worker_ends_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "sources.npy")  # It would wait for its links for ever.
    script = (
        "import os, subprocess, sys\n"
        "subprocess.Popen([sys.executable, '-P', '-m', 'sfm_graph.hot.walks.whole', 'PAGERANK', sys.argv[1], '1'],"
        " stdin=subprocess.PIPE)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    # The worker holds the same standard output, so this waits for the end of both.
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False, capture_output=True, timeout=60)
    assert done.returncode == -signal.SIGKILL


def test_the_callers_script_runs_once(tmp_path: Path) -> None:
    """A script without a main guard, as people write them."""
    script = tmp_path / "script.py"
    script.write_text(
        "import asyncio, sys\n"
        "import numpy as np\n"
        "print('started', flush=True)\n"
        "from sfm_graph.domain.link_columns import LinkColumns\n"
        "from sfm_graph.domain.link import Direction\n"
        "from sfm_graph.domain.snapshot import Snapshot\n"
        "from sfm_graph.domain.walk import RankBy\n"
        "from sfm_graph.hot.graph.graph import build_graph\n"
        "from sfm_graph.hot.graph.lens import Lens\n"
        "from sfm_graph.services.whole_graph import WholeGraph\n"
        "ids = np.arange(1, 8001)\n"
        "columns = LinkColumns(ids, ids, ids + 1, ids * 0, ids * 1.0, ['a'])\n"
        "graph = build_graph(Snapshot('1:1:'), columns)\n"
        "asked = WholeGraph().rank(graph, Lens(Direction.OUT, 0), RankBy.PAGERANK, limit=1, seconds=60)\n"
        "print(len(asyncio.run(asked).ids))\n"
    )
    done = subprocess.run([sys.executable, str(script)], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout == "started\n1\n"
