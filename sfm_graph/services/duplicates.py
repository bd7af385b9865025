"""Proposing duplicates: memories of one kind that say the same."""

import asyncio
from collections.abc import Mapping

import numpy as np

from sfm_graph.domain import validate
from sfm_graph.domain.access import Scope
from sfm_graph.domain.duplicates import (
    DEFAULT_THRESHOLD,
    Duplicate,
    DuplicateGroup,
    Duplicates,
    NearPair,
    Proposal,
    Trait,
    grouped,
    same_words,
)
from sfm_graph.domain.memory import Memory
from sfm_graph.domain.namespace import Namespace
from sfm_graph.errors import InvalidInput
from sfm_graph.hot.text.index import TextIndex
from sfm_graph.hot.text.pairs import Pairs, near_pairs
from sfm_graph.services.access.guard import needs
from sfm_graph.services.hot_text import HotText
from sfm_graph.services.vector_search import VectorSearch
from sfm_graph.services.view import View
from sfm_graph.store import consolidation as store
from sfm_graph.store import memories

MAX_FIRST = 100
# A lower one proposes what merely belongs together.
LEAST_THRESHOLD = 0.8
# Where vectors are not in memory, so many of the newest memories are looked up, each with so many neighbours.
NEWEST, NEIGHBOURS = 200, 10


class DuplicateSearch:
    """The query for duplicates."""

    def __init__(self, hot: HotText, vectors: VectorSearch) -> None:
        self._hot = hot
        self._vectors = vectors
        # One at a time: it keeps a core busy for seconds.
        self._turn = asyncio.Semaphore(1)

    @needs(Scope.READ)
    async def propose(
        self, view: View, namespace: str, *, threshold: float = DEFAULT_THRESHOLD, first: int = 20
    ) -> Duplicates:
        """Up to `first` (1 to 100) groups of memories, valid now, that say the same: best first.

        Two memories of one kind are proposed when the vectors of their texts' beginnings have a cosine of at least
        `threshold`, from 0.8 to 1. Of a namespace whose vectors are in memory all are compared (`near_pairs` says at
        what cost); of a larger one the 200 newest memories with their 10 nearest, and the answer is not complete.
        Raises InvalidInput, NamespaceNotFound.
        """
        least = validate.number(threshold, "threshold")
        if not LEAST_THRESHOLD <= least <= 1:
            raise InvalidInput(f"threshold must be from {LEAST_THRESHOLD} to 1", field="threshold")
        count = validate.integer(first, "first", low=1, high=MAX_FIRST)
        target = await view.existing_namespace(namespace)
        pairs, complete, examined = await self._pairs(view, target, least - 1e-6)
        proposals = await self._proposals(view, target, pairs)
        groups = await self._read(view, target, proposals[:count])
        return Duplicates(groups, complete and len(proposals) <= count, examined)

    async def _pairs(self, view: View, target: Namespace, threshold: float) -> tuple[list[NearPair], bool, int]:
        index = await self._hot.at(view, target)
        if index is None or not index.has_vectors:
            return await self._of_newest(view, target, threshold)
        found = await self._compared(index, threshold, view.now.timestamp())
        listed = zip(found.ones.tolist(), found.others.tolist(), np.minimum(found.cosines, 1).tolist(), strict=True)
        return [NearPair._make(one) for one in listed], found.complete, index.totals.memories

    async def _compared(self, index: TextIndex, threshold: float, now: float) -> Pairs:
        await self._turn.acquire()
        work = asyncio.ensure_future(asyncio.to_thread(near_pairs, index, threshold, now))
        work.add_done_callback(self._over)
        # Who is cancelled goes; the thread cannot be stopped, and has its turn until it ends.
        return await asyncio.shield(work)

    def _over(self, work: asyncio.Future[Pairs]) -> None:
        self._turn.release()
        if not work.cancelled():
            # Looked at, so that nobody warns that it never was.
            work.exception()

    async def _of_newest(self, view: View, target: Namespace, threshold: float) -> tuple[list[NearPair], bool, int]:
        if target.model is None:
            return [], True, 0
        rows = await view.session.rows("duplicates_newest", namespace_id=target.id, limit=NEWEST)
        ids, vectors = await store.vectors(view.session, target.id, target.model.id, [row[0] for row in rows])
        found: dict[tuple[int, int], float] = {}
        for id_, vector in zip(ids, vectors, strict=True):
            near = await self._vectors.nearest(view.session, target.id, target.model, vector, NEIGHBOURS + 1, None)
            for other, cosine in zip(near.ids.tolist(), near.scores.tolist(), strict=True):
                if other != id_ and cosine >= threshold:
                    found[min(id_, other), max(id_, other)] = min(cosine, 1.0)
        pairs = sorted((NearPair(one, other, cosine) for (one, other), cosine in found.items()), key=_nearest_first)
        return pairs, False, len(ids)

    async def _proposals(self, view: View, target: Namespace, pairs: list[NearPair]) -> list[Proposal]:
        ids = {id_ for one in pairs for id_ in (one.one, one.other)}
        outlines = await memories.outlines(view.session, target.id, sorted(ids))
        traits: dict[int, Trait] = {
            int(one.id): Trait(one.kind, one.importance, one.key is not None) for one in outlines
        }
        return await asyncio.to_thread(grouped, pairs, traits)

    async def _read(self, view: View, target: Namespace, proposals: list[Proposal]) -> tuple[DuplicateGroup, ...]:
        wanted = {id_ for one in proposals for id_ in (one.kept, *(other for other, _ in one.others))}
        rows = await memories.by_ids(view.session, target.id, target.name, sorted(wanted))
        found: dict[int, Memory] = {int(id_): one for id_, one in rows.items()}
        return await asyncio.to_thread(lambda: tuple(_group(one, found) for one in proposals))


def _group(proposal: Proposal, found: Mapping[int, Memory]) -> DuplicateGroup:
    kept = found[proposal.kept]
    return DuplicateGroup(
        kept, tuple(Duplicate(found[id_], cosine, same_words(kept, found[id_])) for id_, cosine in proposal.others)
    )


def _nearest_first(pair: NearPair) -> tuple[float, int, int]:
    return (-pair.cosine, pair.one, pair.other)
