"""The methods of a memory system that follow links."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Unpack

from sfm_graph.api.rest import walk_answers
from sfm_graph.api.walks import subgraph_columns
from sfm_graph.client.fields import AsOf, Json, Reference
from sfm_graph.client.opening import OpenNamespace, as_json
from sfm_graph.domain import inputs, validate
from sfm_graph.domain.link import Direction
from sfm_graph.domain.page import MAX_PAGE
from sfm_graph.domain.walk import (
    MAX_HOPS,
    MAX_PATH_HOPS,
    MAX_PATHS,
    MAX_RANKED,
    MAX_WALK_RESULTS,
    PathMode,
    RankBy,
    RankQuery,
    WalkFilter,
)
from sfm_graph.errors import InvalidInput


class WalkOptions(AsOf, total=False):
    """Which links are followed. types: one or several, any when empty. direction: both ways by default.

    where: a filter on links, `{"weight": {"lt": 2}}`. valid_at: when links have to be valid.
    """

    types: Sequence[str] | str | None
    direction: Direction | str | None
    where: Mapping[str, Any] | None


class WalkMethods(OpenNamespace):
    """Neighbours, paths, subgraphs and rankings."""

    async def neighbors(
        self, ref: Reference, *, hops: int = 1, limit: int = 100, **options: Unpack[WalkOptions]
    ) -> list[Json]:
        """The memories around one, nearest first: `memory`, the `link` that led to it, and `hops`."""
        async with self._view(options) as view:
            found = await self._services.traversal.neighbour_page(
                view, self._namespace, self._ref(ref), _walk(options),
                hops=validate.integer(hops, "hops", low=1, high=MAX_HOPS),
                first=validate.integer(limit, "limit", low=1, high=MAX_WALK_RESULTS),
            )  # fmt: skip
        neighbours: list[Json] = as_json(walk_answers.neighbours_json(found))["neighbors"]
        return neighbours

    async def shortest_path(
        self,
        source: Reference,
        target: Reference,
        *,
        weighted: bool = False,
        max_hops: int = MAX_PATH_HOPS,
        **options: Unpack[WalkOptions],
    ) -> Json | None:
        """The fewest links, or with `weighted` the least sum of weights: `path`, `links`, `cost`; None for none."""
        async with self._view(options) as view:
            found = await self._services.traversal.shortest_path(
                view, self._namespace, self._ref(source), self._ref(target), _walk(options),
                weighted=weighted, max_hops=validate.integer(max_hops, "max_hops", low=0, high=MAX_PATH_HOPS),
            )  # fmt: skip
        return None if found is None else as_json(walk_answers.path_json(found))

    async def paths(
        self,
        source: Reference,
        target: Reference,
        *,
        k: int = 3,
        mode: PathMode | str = PathMode.SHORTEST_K,
        weighted: bool = False,
        max_hops: int = MAX_PATH_HOPS,
        **options: Unpack[WalkOptions],
    ) -> list[Json]:
        """Up to `k` paths in order, none of which meets a memory twice: `path`, `links`, `cost`.

        mode: `shortest_k`, `all_shortest` or `simple`; `weighted` goes with the first.
        """
        async with self._view(options) as view:
            found = await self._services.traversal.paths(
                view, self._namespace, (self._ref(source), self._ref(target)), _walk(options),
                mode=validate.choice(mode, PathMode, "mode"),
                count=validate.integer(k, "k", low=1, high=MAX_PATHS), weighted=weighted,
                max_hops=validate.integer(max_hops, "max_hops", low=0, high=MAX_PATH_HOPS),
            )  # fmt: skip
        paths: list[Json] = as_json(walk_answers.paths_json(found))["paths"]
        return paths

    async def traverse(
        self, *starts: Reference, depth: int = 1, limit: int = 100, **options: Unpack[WalkOptions]
    ) -> Json:
        """The memories within `depth` links of any start and the links between them, as columns.

        `nodes`: id, key, kind, title, importance. `links`: id, source and target (places in the columns of `nodes`),
        type, weight. `truncated`: something was cut off.
        """
        if not 1 <= len(starts) <= MAX_PAGE:
            raise InvalidInput(f"a walk starts from 1 to {MAX_PAGE} memories", field="start")
        refs = [self._ref(one) for one in starts]
        walk = _walk(options)
        async with self._view(options) as view:
            found = await self._services.traversal.subgraph(
                view, self._namespace, refs, walk,
                depth=validate.integer(depth, "depth", low=0, high=MAX_HOPS),
                limit=validate.integer(limit, "limit", low=1, high=MAX_WALK_RESULTS),
            )  # fmt: skip
            outlines = await self._services.traversal.outlines_of(view, self._namespace, found)
        columns = await asyncio.to_thread(subgraph_columns, self._namespace, found, outlines)
        return {**columns, "truncated": found.truncated, "hot": found.hot}

    async def rank(
        self,
        *seeds: Reference,
        by: RankBy | str = RankBy.PAGERANK,
        limit: int = 20,
        unlinked: bool = False,
        **options: Unpack[WalkOptions],
    ) -> Json:
        """The best memories by their links, or of what is around seeds: `results` of `memory`, `score` and `group`.

        by: `pagerank`, `degree`, `jaccard`, `adamic_adar`, `weak_components`, `strong_components`, `communities`.
        `truncated`: more have a score. `estimated`: which part of all score is an estimate, from 0 to 1.
        """
        if len(seeds) > MAX_PAGE:
            raise InvalidInput(f"seeds names at most {MAX_PAGE} memories", field="seeds")
        query = RankQuery(
            validate.choice(by, RankBy, "by"), _walk(options),
            validate.integer(limit, "limit", low=1, high=MAX_RANKED), unlinked,
        )  # fmt: skip
        refs = [self._ref(one) for one in seeds]
        async with self._view(options) as view:
            found = await self._services.traversal.rank(view, self._namespace, refs, query)
        return as_json(walk_answers.ranking_json(found))


def _walk(options: WalkOptions) -> WalkFilter:
    return inputs.walk_filter(options.get("direction"), options.get("types"), options.get("where"))
