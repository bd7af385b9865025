"""The legs of one recall, in memory or in SQL: candidates first, then raw scores of whatever ids are asked."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from sfm_graph.domain.importance import ImportanceScale
from sfm_graph.domain.namespace import Namespace
from sfm_graph.domain.recall import Candidates, Leg
from sfm_graph.hot.text.index import TextIndex, Traits
from sfm_graph.hot.text.scores import Scores
from sfm_graph.services.recall.question import Question
from sfm_graph.services.vector_search import PostgresSearch, VectorSearch
from sfm_graph.services.view import View
from sfm_graph.store import dense, search, traits
from sfm_graph.telemetry.stages import stage

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Rows of a namespace that are scored on the event loop, in less than a millisecond.
INLINE_ROWS = 2_000


class Legs(ABC):
    """What can be asked of a namespace in one recall."""

    def __init__(self, question: Question) -> None:
        self.question = question
        # Each leg's best candidates; its highest score is what others are scaled by.
        self.candidates: dict[Leg, Candidates] = {}
        # Whether memories' windows take part.
        self.has_windows = False

    @property
    def shares(self) -> dict[Leg, float]:
        """The weight of each leg that ran; they sum to 1."""
        question, window = self.question, self.question.query.weights.window if self.has_windows else 0.0
        shares = {
            Leg.DENSE: question.dense * (1 - window),
            Leg.LEXICAL: question.lexical * (1 - window),
            Leg.DENSE_WINDOW: question.dense * window,
            Leg.LEXICAL_WINDOW: question.lexical * window,
        }
        return {leg: share for leg, share in shares.items() if leg in self.candidates}

    @property
    def lasting(self) -> bool:
        """Whether they find the same in every process and at every time that sees the same memories."""
        return False

    @abstractmethod
    async def raws(self, ids: Ints) -> dict[Leg, Floats]:
        """Each leg's score of memories, 0.0 for none; in their order."""

    @abstractmethod
    async def named(self) -> Ints:
        """The memories whose name the query says, ascending; also such as the filter leaves out."""

    @abstractmethod
    async def traits(self, ids: Ints) -> Traits:
        """The traits of memories."""

    @abstractmethod
    async def importance_scale(self) -> ImportanceScale:
        """What the namespace's importances are measured by."""

    @abstractmethod
    async def valid(self, ids: Ints) -> NDArray[np.bool_]:
        """Which memories exist and are valid now."""

    @abstractmethod
    async def eligible(self, ids: Ints) -> NDArray[np.bool_]:
        """Which memories exist, are valid now, and pass the filter."""


class HotLegs(Legs):
    """Words in memory; vectors too, or in SQL where they are too many to be scanned."""

    def __init__(
        self, view: View, namespace: Namespace, index: TextIndex, question: Question, vectors: VectorSearch,
        threads: asyncio.Semaphore,
    ) -> None:  # fmt: skip
        """`vectors` searches what is not in memory; `threads` bounds the searches that run beside the event loop."""
        super().__init__(question)
        self._vectors = vectors
        self._view, self._namespace, self._index, self._threads = view, namespace, index, threads
        self._scores: dict[Leg, Scores] = {}
        self._mask = index.eligible(question.now, question.allowed)
        self.has_windows = index.has_windows and question.query.weights.window > 0

    @property
    def lasting(self) -> bool:
        """An index elsewhere may lag behind, or lose points."""
        in_memory = self.question.vector is None or self._index.has_vectors
        return in_memory or isinstance(self._vectors, PostgresSearch)

    async def run(self) -> None:
        """Find each leg's candidates."""
        if self.question.vector is None or self._index.has_vectors:
            await self._in_memory()
            return
        # The vectors are searched elsewhere while the words are searched here.
        elsewhere = _dense(self._vectors, self._view, self._namespace, self.question, windows=self.has_windows)
        found, _ = await asyncio.gather(elsewhere, self._in_memory())
        self.candidates = found | self.candidates

    async def _in_memory(self) -> None:
        if sum(len(segment) for segment, _ in self._index.parts) <= INLINE_ROWS:
            self._search()
            return
        async with self._threads:
            await asyncio.to_thread(self._search)

    def _search(self) -> None:
        index, question = self._index, self.question
        if question.vector is not None and index.has_vectors:
            with stage("recall.dense"):
                own = self._scores[Leg.DENSE] = index.dense(question.vector, self._mask)
                if self.has_windows:
                    self._scores[Leg.DENSE_WINDOW] = index.dense_windows(question.vector, own)
        if question.terms:
            terms = list(question.terms.values())
            with stage("recall.lexical"):
                self._scores[Leg.LEXICAL] = index.lexical(terms, self._mask)
                if self.has_windows:
                    self._scores[Leg.LEXICAL_WINDOW] = index.lexical_windows(terms, self._mask)
        self.candidates |= {leg: scores.best(question.pool) for leg, scores in self._scores.items()}

    async def raws(self, ids: Ints) -> dict[Leg, Floats]:
        found = {leg: scores.of(ids) for leg, scores in self._scores.items()}
        if Leg.DENSE in self.candidates and Leg.DENSE not in found:
            found |= await _similarities(self._view, self._namespace, self.question, ids, windows=self.has_windows)
        return found

    async def named(self) -> Ints:
        said = self.question.said
        names = said.longest_names(self._index.known_names(said.spans))
        return np.unique(np.concatenate([np.empty(0, np.int64), *map(self._index.called, sorted(names))]))

    async def traits(self, ids: Ints) -> Traits:
        return self._index.traits(ids, self.question.now)

    async def importance_scale(self) -> ImportanceScale:
        return self._index.totals.scale

    async def valid(self, ids: Ints) -> NDArray[np.bool_]:
        return self._index.valid(ids, self.question.now)

    async def eligible(self, ids: Ints) -> NDArray[np.bool_]:
        return self._index.is_eligible(ids, self._mask)

    def bearers(self, seed: int, most: int) -> Mapping[int, Ints]:
        """The memories that bear each proper name of a memory, by the name's id; none where more than `most` do."""
        return {name: self._index.bearers(name, most) for name in self._index.proper_names_of(seed)}


class SqlLegs(Legs):
    """Everything in SQL, of a namespace over the memory budget; without windows."""

    def __init__(self, view: View, namespace: Namespace, question: Question, vectors: VectorSearch) -> None:
        super().__init__(question)
        self._view, self._namespace, self._vectors = view, namespace, vectors
        self._matched: Candidates | None = None
        self._scale: ImportanceScale | None = None

    async def run(self) -> None:
        """Find each leg's candidates."""
        question = self.question
        if question.vector is not None:
            self.candidates |= await _dense(self._vectors, self._view, self._namespace, question, windows=False)
        if question.terms:
            with stage("recall.lexical"):
                self._matched = await search.lexical(
                    self._view.session, self._namespace.id, question.terms, self._view.now
                )
            self.candidates[Leg.LEXICAL] = _allowed(self._matched, question)

    async def raws(self, ids: Ints) -> dict[Leg, Floats]:
        found: dict[Leg, Floats] = {}
        if Leg.DENSE in self.candidates:
            found |= await _similarities(self._view, self._namespace, self.question, ids, windows=False)
        if self._matched is not None:
            known = dict(zip(self._matched.ids.tolist(), self._matched.scores.tolist(), strict=True))
            found[Leg.LEXICAL] = np.array([known.get(one, 0.0) for one in ids.tolist()])
        return found

    async def named(self) -> Ints:
        said = self.question.said
        called = await traits.called(self._view.session, self._namespace.id, list(said.spans))
        names = said.longest_names(set(called))
        return np.unique(np.concatenate([np.empty(0, np.int64), *(called[name] for name in sorted(names))]))

    async def traits(self, ids: Ints) -> Traits:
        rows = await traits.of(self._view.session, self._namespace.id, ids)
        now = self.question.now
        return Traits(rows.authors, rows.dates, rows.importances, np.maximum(now - rows.since, 0.0))

    async def importance_scale(self) -> ImportanceScale:
        if self._scale is None:
            self._scale = await traits.importance_scale(
                self._view.session, self._namespace.id, past=self._view.is_past
            )
        return self._scale

    async def valid(self, ids: Ints) -> NDArray[np.bool_]:
        return await traits.valid(self._view.session, self._namespace.id, ids, self._view.now)

    async def eligible(self, ids: Ints) -> NDArray[np.bool_]:
        valid = await self.valid(ids)
        return valid if self.question.allowed is None else valid & np.isin(ids, self.question.allowed)


async def _dense(
    vectors: VectorSearch, view: View, namespace: Namespace, question: Question, *, windows: bool
) -> dict[Leg, Candidates]:
    if namespace.model is None or question.vector is None:
        return {}
    if view.is_past:
        # An index elsewhere holds what is known now.
        vectors = PostgresSearch()
    found = {}
    for leg, window in ((Leg.DENSE, False), (Leg.DENSE_WINDOW, True)):
        if windows or not window:
            with stage("recall.dense"):
                found[leg] = await vectors.nearest(
                    view.session, namespace.id, namespace.model, question.vector, question.pool, question.allowed,
                    windows=window, at=view.now,
                )  # fmt: skip
    if windows and not len(found[Leg.DENSE_WINDOW].ids):
        # No window has its vector yet: the memories' own stand for them.
        found[Leg.DENSE_WINDOW] = found[Leg.DENSE]
    return found


async def _similarities(
    view: View, namespace: Namespace, question: Question, ids: Ints, *, windows: bool
) -> dict[Leg, Floats]:
    if namespace.model is None or question.vector is None:
        return {}
    own, window = await dense.similarities(view.session, namespace.id, namespace.model.id, question.vector, ids)
    found = {Leg.DENSE: np.nan_to_num(own)}
    if windows:
        found[Leg.DENSE_WINDOW] = np.where(np.isnan(window), found[Leg.DENSE], window)
    return found


def _allowed(matched: Candidates, question: Question) -> Candidates:
    if question.allowed is None:
        return Candidates(matched.ids[: question.pool], matched.scores[: question.pool])
    kept = np.isin(matched.ids, question.allowed)
    return Candidates(matched.ids[kept][: question.pool], matched.scores[kept][: question.pool])
