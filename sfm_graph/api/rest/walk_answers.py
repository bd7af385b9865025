"""What walks answer with: domain objects as JSON."""

from collections.abc import Sequence

from sfm_graph.api.rest.answers import Json, link_json, memories_json, memory_json, next_cursor
from sfm_graph.domain.walk import NeighbourPage, Path, Ranking


def neighbours_json(found: NeighbourPage) -> Json:
    """Neighbours with the link over which, and the hops in which each was reached."""
    neighbours = [
        {"memory": memory_json(one.memory), "link": link_json(one.link), "hops": one.hops} for one in found.page.items
    ]
    truncated = found.page.has_next or found.cut
    return {"neighbors": neighbours, "truncated": truncated, "hot": found.hot, "next": next_cursor(found.page)}


def path_json(path: Path | None) -> Json:
    """A path, or that there is none."""
    if path is None:
        return {"found": False, "path": [], "links": [], "cost": None}
    return {"found": True, **_way_json(path), "hot": path.hot}


def paths_json(paths: Sequence[Path]) -> Json:
    """Several paths: the first one as when only one is asked for, and all of them."""
    return {**path_json(paths[0] if paths else None), "paths": [_way_json(path) for path in paths]}


def _way_json(path: Path) -> Json:
    links = [link_json(link) for link in path.links]
    return {"path": memories_json(path.memories), "links": links, "cost": path.cost}


def ranking_json(ranking: Ranking) -> Json:
    """Ranked memories with score and group."""
    results = [
        {"memory": memory_json(one.memory), "score": one.score, "group": one.group} for one in ranking.memories
    ]
    return {"results": results, "truncated": ranking.truncated, "estimated": ranking.estimated}
