"""Walking by structure: neighbours, subgraphs, paths and rankings with the memories and links themselves."""

from collections.abc import Iterable, Mapping, Sequence

from sfm_graph.domain import validate
from sfm_graph.domain.access import Scope
from sfm_graph.domain.identity import LinkId, MemoryId, MemoryRef
from sfm_graph.domain.link import Link
from sfm_graph.domain.memory import Memory
from sfm_graph.domain.page import Page, decode_cursor, encode_cursor, fingerprint
from sfm_graph.domain.walk import (
    Neighbour,
    Neighbourhood,
    NeighbourPage,
    Path,
    PathMode,
    RankedMemory,
    Ranking,
    RankQuery,
    Subgraph,
    Trail,
    WalkFilter,
)
from sfm_graph.domain.where import EVERYTHING, Where
from sfm_graph.errors import InvalidCursor
from sfm_graph.services.access.guard import needs
from sfm_graph.services.view import View
from sfm_graph.services.walks import Walks
from sfm_graph.store import links, memories
from sfm_graph.telemetry.stages import stage


class Traversal:
    """The queries that follow links, in one view: what is walked and what is read about it fit together."""

    def __init__(self, walks: Walks) -> None:
        self._walks = walks

    @needs(Scope.READ)
    async def neighbours(
        self,
        view: View,
        namespace: str,
        ref: MemoryRef,
        walk: WalkFilter,
        *,
        hops: int,
        limit: int,
        where: Where = EVERYTHING,
        after: tuple[int, int] | None = None,
    ) -> Neighbourhood:
        """Memories within `hops` links with the link that first reached each. See `Walks.reach`."""
        walked = await self._walks.reach(view, namespace, ref, walk, hops=hops, limit=limit, where=where, after=after)
        found = walked.answer
        reached = await _memories(view, namespace, found.ids.tolist())
        joined = await _links(view, namespace, found.links.tolist())
        neighbours = tuple(
            Neighbour(reached[MemoryId(one)], joined[LinkId(link)], hop)
            for one, link, hop in zip(found.ids.tolist(), found.links.tolist(), found.hops.tolist(), strict=True)
        )
        return Neighbourhood(neighbours, found.truncated, walked.hot)

    @needs(Scope.READ)
    async def neighbour_page(
        self,
        view: View,
        namespace: str,
        ref: MemoryRef,
        walk: WalkFilter,
        *,
        hops: int,
        first: int,
        where: Where = EVERYTHING,
        after: str | None = None,
    ) -> NeighbourPage:
        """At most `first` memories around one. A cursor holds the hops and the link of the last one seen.

        It belongs to all that is asked but the page's size, the times of the view as they were given. Raises
        InvalidCursor.
        """
        query = fingerprint("neighbors", namespace, ref, walk, hops, where, view.as_of)
        place = _place(decode_cursor(query, after))
        found = await self.neighbours(view, namespace, ref, walk, hops=hops, limit=first, where=where, after=place)
        cursors = tuple(encode_cursor(query, [one.hops, one.link.id]) for one in found.neighbours)
        # A walk that is cut has not found more than fits: on a full page the next one tells.
        full = len(cursors) == first
        page = Page(found.neighbours, cursors, found.truncated and full)
        return NeighbourPage(page, found.truncated and not full, found.hot)

    @needs(Scope.READ)
    async def subgraph(
        self, view: View, namespace: str, starts: Sequence[MemoryRef], walk: WalkFilter, *, depth: int, limit: int
    ) -> Subgraph:
        """See `Walks.subgraph`: ids, to be filled as far as they are asked for."""
        return await self._walks.subgraph(view, namespace, starts, walk, depth=depth, limit=limit)

    @needs(Scope.READ)
    async def memories_of(self, view: View, namespace: str, found: Subgraph) -> list[Memory]:
        """The memories of a subgraph, in its order."""
        rows = await _memories(view, namespace, found.ids.tolist())
        return [rows[MemoryId(one)] for one in found.ids.tolist()]

    @needs(Scope.READ)
    async def links_of(self, view: View, namespace: str, found: Subgraph) -> list[Link]:
        """The links of a subgraph, in its order."""
        rows = await _links(view, namespace, found.links.tolist())
        return [rows[LinkId(one)] for one in found.links.tolist()]

    @needs(Scope.READ)
    async def outlines_of(self, view: View, namespace: str, found: Subgraph) -> list[memories.Outline]:
        """Of each memory of a subgraph what a drawing needs, in its order."""
        scope = await view.existing_namespace(namespace)
        return await memories.outlines(view.session, scope.id, found.ids.tolist())

    @needs(Scope.READ)
    async def shortest_path(
        self,
        view: View,
        namespace: str,
        source: MemoryRef,
        target: MemoryRef,
        walk: WalkFilter,
        *,
        weighted: bool,
        max_hops: int,
    ) -> Path | None:
        """A shortest or cheapest path, or None. See `Walks.shortest`."""
        walked = await self._walks.shortest(
            view, namespace, (source, target), walk, weighted=weighted, max_hops=max_hops
        )
        if walked.answer is None:
            return None
        return (await _paths(view, namespace, [walked.answer], weighted=weighted, hot=walked.hot))[0]

    @needs(Scope.READ)
    async def paths(
        self,
        view: View,
        namespace: str,
        ends: tuple[MemoryRef, MemoryRef],
        walk: WalkFilter,
        *,
        mode: PathMode,
        count: int,
        weighted: bool,
        max_hops: int,
    ) -> list[Path]:
        """Up to `count` paths. See `Walks.paths`."""
        walked = await self._walks.paths(
            view, namespace, ends, walk, mode=mode, count=count, weighted=weighted, max_hops=max_hops
        )
        return await _paths(view, namespace, walked.answer, weighted=weighted, hot=walked.hot)

    @needs(Scope.READ)
    async def rank(self, view: View, namespace: str, seeds: Sequence[MemoryRef], query: RankQuery) -> Ranking:
        """The best memories by structure. See `Walks.rank`."""
        found = await self._walks.rank(view, namespace, seeds, query)
        rows = await _memories(view, namespace, found.ids.tolist())
        groups = [None] * len(found.ids) if found.groups is None else found.groups.tolist()
        ranked = tuple(
            RankedMemory(rows[MemoryId(one)], score, group)
            for one, score, group in zip(found.ids.tolist(), found.scores.tolist(), groups, strict=True)
        )
        return Ranking(ranked, found.truncated, found.residual)


def _place(place: Sequence[object] | None) -> tuple[int, int] | None:
    if place is None:
        return None
    if len(place) != 2:
        raise InvalidCursor("the cursor is damaged; start without one")
    hops, link = (validate.integer(one, "cursor", low=0, high=2**63 - 1) for one in place)
    return hops, link


async def _paths(view: View, namespace: str, trails: Sequence[Trail], *, weighted: bool, hot: bool) -> list[Path]:
    rows = await _memories(view, namespace, {one for trail in trails for one in trail.memories})
    joined = await _links(view, namespace, {one for trail in trails for one in trail.links})
    return [
        Path(
            tuple(rows[one] for one in trail.memories),
            tuple(joined[one] for one in trail.links),
            float(sum(joined[one].weight for one in trail.links) if weighted else len(trail.links)),
            hot,
        )
        for trail in trails
    ]


async def _memories(view: View, namespace: str, ids: Iterable[int]) -> Mapping[MemoryId, Memory]:
    scope = await view.existing_namespace(namespace)
    with stage("walk.fetch"):
        return await memories.by_ids(view.session, scope.id, namespace, ids)


async def _links(view: View, namespace: str, ids: Iterable[int]) -> Mapping[LinkId, Link]:
    scope = await view.existing_namespace(namespace)
    with stage("walk.fetch"):
        return await links.by_ids(view.session, scope.id, namespace, ids)
