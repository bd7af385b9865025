"""Recall: legs on one snapshot, joined, pulled along links, explained."""

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from sfm_graph.domain.access import Scope
from sfm_graph.domain.as_of import NOW
from sfm_graph.domain.fusion import Ints, pulled, ranking, to_be_read
from sfm_graph.domain.identity import MemoryId, MemoryRef
from sfm_graph.domain.namespace import ModelIdentity, Namespace
from sfm_graph.domain.recall import Recall, RecallQuery
from sfm_graph.errors import MemoryNotFound
from sfm_graph.services.access.agents import current_agent
from sfm_graph.services.access.guard import needs
from sfm_graph.services.accesses import Accesses
from sfm_graph.services.hooks import NO_HOOKS, Hooks
from sfm_graph.services.hot_text import HotText
from sfm_graph.services.indexing import Indexing
from sfm_graph.services.memory_reads import require_declared
from sfm_graph.services.recall.answers import Answers, Computed
from sfm_graph.services.recall.board import Boards, Nearness, Ranked
from sfm_graph.services.recall.hits import Hits
from sfm_graph.services.recall.legs import HotLegs, Legs, SqlLegs
from sfm_graph.services.recall.pulling import Pulling
from sfm_graph.services.recall.question import Question, question_of
from sfm_graph.services.recall.reranking import Reranking
from sfm_graph.services.vector_search import VectorSearch
from sfm_graph.services.view import View
from sfm_graph.services.walk_runner import WalkRunner
from sfm_graph.store import memories, traits
from sfm_graph.telemetry.stages import stage

_NOTHING = Recall(())
# More searches at once only take the interpreter and the caches from each other: p99 of 8 clients 126 ms, else 100.
THREADS = 2


class Recalls:
    """Finds memories by meaning, words, names and links."""

    def __init__(
        self, indexing: Indexing, hot_text: HotText, runner: WalkRunner, reranking: Reranking, vectors: VectorSearch,
        answers: Answers | None = None, accesses: Accesses | None = None, hooks: Hooks = NO_HOOKS,
    ) -> None:  # fmt: skip
        """`vectors` searches the vectors that are not in memory; `answers` has those that were given before;
        `accesses` counts what is recalled; `hooks` are asked before a recall and told of what it found."""
        self._hooks = hooks
        self._accesses = accesses
        self._answers = answers
        self._vectors = vectors
        self._indexing = indexing
        self.hot_text = hot_text
        self._runner = runner
        self._reranking = reranking
        self._threads = asyncio.Semaphore(THREADS)

    @property
    def model(self) -> ModelIdentity:
        """The model of new namespaces."""
        return self._indexing.identity

    @needs(Scope.READ)
    async def recall(self, view: View, namespace: str, query: RecallQuery, *, counted: bool = True) -> Recall:
        """The `first` best memories that the filter keeps and that are valid now, best first.

        As of an earlier `known`, a text that was replaced before the namespace moved to its model is found by words
        only.
        Never fewer than `first` while the namespace holds as many with a vector, unless duplicates are folded. Each
        of them is counted as recalled, unless the question is about the past; `counted` False: none, since the
        caller is shown another choice, or nobody is shown any.
        Raises ModelMismatch when the query cannot be embedded with the namespace's model, EmbedderUnavailable,
        MemoryNotFound for an unknown `near`, InvalidInput for weights that turn every leg off, VectorIndexUnavailable
        when vectors are searched in an index that is away, HookRefused.
        """
        await self._hooks.before("before_recall", namespace, "recall", lambda: [_asked(query)])
        found = await view.namespace(namespace)
        if found is None:
            return _NOTHING
        require_declared(query.where, found.settings.payload_paths)
        recall = await self._answered(view, found, query)
        if counted:
            self._count(view, found, (hit.memory.id for hit in recall.hits))
        await self._hooks.after(
            "after_recall", namespace, "recall", lambda: [_asked(query)],
            lambda: ({"id": hit.memory.global_id, "key": hit.memory.key, "score": hit.score} for hit in recall.hits),
        )  # fmt: skip
        return recall

    @needs(Scope.READ)
    async def count(self, view: View, namespace: str, ids: Iterable[MemoryId]) -> None:
        """Count memories as recalled that were chosen among those of recalls that were not counted."""
        found = await view.namespace(namespace)
        if found is not None:
            self._count(view, found, ids)

    def _count(self, view: View, namespace: Namespace, ids: Iterable[MemoryId]) -> None:
        if self._accesses is not None and view.as_of == NOW:
            self._accesses.recalled(namespace.id, ids, current_agent() or "")

    async def _answered(self, view: View, namespace: Namespace, query: RecallQuery) -> Recall:
        if self._answers is None:
            return (await self._computed(view, namespace, query)).recall
        return await self._answers.recall(view, namespace, query, lambda: self._computed(view, namespace, query))

    async def _computed(self, view: View, namespace: Namespace, query: RecallQuery) -> Computed:
        if view.is_past:
            # Of windows only those of now are kept, and they may say what came later.
            query = replace(query, weights=replace(query.weights, window=0.0))
        question = await question_of(view, namespace, query, self._indexing)
        legs = await self._legs(view, namespace, question)
        pulling = Pulling(self._runner, view, namespace.name, legs)
        ranked = await self._ranked(view, namespace, legs, pulling, query)
        recall = await Hits(view, namespace, legs, pulling, self._reranking).of(ranked)
        # The next one may find the reranker in time.
        complete = recall.reranked or not (query.rerank and self._reranking.candidates and recall.hits)
        return Computed(recall, legs.lasting and complete)

    async def _legs(self, view: View, namespace: Namespace, question: Question) -> Legs:
        with stage("recall.load"):
            index = await self.hot_text.at(view, namespace)
        legs: SqlLegs | HotLegs
        if index is None:
            legs = SqlLegs(view, namespace, question, self._vectors)
        else:
            legs = HotLegs(view, namespace, index, question, self._vectors, self._threads)
        await legs.run()
        return legs

    async def _ranked(
        self, view: View, namespace: Namespace, legs: Legs, pulling: Pulling, query: RecallQuery
    ) -> Ranked:
        with stage("recall.fuse"):
            boards = Boards(legs, await legs.named())
            near = None if query.near is None else await _located(view, namespace, pulling, query.near)
            board = await boards.of(ids := await boards.candidates(), await _placed(view, namespace, near, ids))
        with stage("recall.graph"):
            pulls = await pulling.pulls(board)
            fresh = to_be_read(board, pulls)
            if len(fresh):
                board = board.extended(await boards.of(fresh, await _placed(view, namespace, near, fresh)))
            final = pulled(board, pulls)
            without = await pulling.superseded(board.ids)
            left = without.left(final.scores)
            return Ranked(board, pulls, final, without, left, ranking(board.ids, left), boards.reach(board))


def _asked(query: RecallQuery) -> dict[str, Any]:
    """A query as hooks see it."""
    return {"query": query.text, "first": query.first, "kinds": [one.value for one in query.kinds]}


async def _located(view: View, namespace: Namespace, pulling: Pulling, ref: MemoryRef) -> Nearness:
    """What a reference is near to. A coordinate need not be any memory's."""
    found = (await memories.find(view.session, namespace.id, namespace.name, [ref]))[0]
    if found is None and ref.coordinate is None:
        raise MemoryNotFound(f"no memory with {ref} in {namespace.name!r}", namespace=namespace.name)
    if found is None:
        return Nearness(None, ref.coordinate, np.empty(0, np.int64))
    steps, _ = await pulling.neighbours(np.array([found.id], np.int64))
    return Nearness(found.id, found.coordinate, steps.targets)


async def _placed(view: View, namespace: Namespace, near: Nearness | None, ids: Ints) -> Nearness | None:
    if near is None:
        return None
    places = await traits.coordinates(view.session, namespace.id, ids)
    return Nearness(near.memory_id, near.coordinate, near.neighbours, places)
