"""Making the vectors of a model that memories of a namespace and their windows lack."""

import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Protocol, TypeVar

from sfm_graph.domain.memory import NewMemory
from sfm_graph.domain.namespace import Namespace, StoredModel
from sfm_graph.domain.windows import Place, Window, window_text, windows_around
from sfm_graph.errors import NamespaceNotFound
from sfm_graph.services.indexing import Indexing
from sfm_graph.services.offload import offload
from sfm_graph.store import namespaces
from sfm_graph.store import reembed as store
from sfm_graph.store import windows as window_store
from sfm_graph.store.database import WriteSession
from sfm_graph.store.reembed import SCAN_ROWS, TextRead, Vectors

T = TypeVar("T")

BATCH_TEXTS = 256
BATCH_WINDOWS = 128


class Transactions(Protocol):
    """Runs work in a transaction of its own, as the database does, or in one that is open."""

    async def write(self, work: Callable[[WriteSession], Awaitable[T]]) -> T: ...


class Within:
    """An open transaction."""

    def __init__(self, session: WriteSession) -> None:
        self._session = session

    async def write(self, work: Callable[[WriteSession], Awaitable[T]]) -> T:
        """Run work in it."""
        return await work(self._session)


class MissingVectors:
    """Fills in vectors of a model, batch by batch.

    What changed between the reading of a text and the storing of its vectors, or is held by a writer, is put off: no
    vector of an old text is ever kept, and nobody waits for anybody.
    """

    def __init__(
        self, transactions: Transactions, indexing: Indexing, namespace: Namespace, model: StoredModel,
        advance: Callable[[int], None] = lambda count: None,
    ) -> None:  # fmt: skip
        """`advance` is told how many more memories and windows have been seen to."""
        self._transactions = transactions
        self._indexing = indexing
        self._namespace = namespace
        self._model = model
        self._advance = advance
        self._texts = 0
        self._seconds = 0.0
        # What was stored.
        self.memories = 0
        self.windows = 0

    @property
    def seconds_per_text(self) -> float:
        """What the model took for a text so far, waits of other tasks' work included."""
        return self._seconds / self._texts if self._texts else 0.0

    async def fill_all(self) -> set[int]:
        """Everything that lacks a vector. The ids of memories that were put off. Raises EmbedderUnavailable."""
        put_off: set[int] = set()
        for windows in (False, True):
            after: int | None = 0
            while after is not None:
                after = await self._fill_stretch(after, windows, put_off)
        return put_off

    async def fill(self, ids: Iterable[int]) -> set[int]:
        """Those of given memories that lack a vector. As above."""
        wanted, put_off = sorted(ids), set[int]()
        for start in range(0, len(wanted), SCAN_ROWS):
            put_off |= await self._fill_some(wanted[start : start + SCAN_ROWS])
        return put_off

    async def _fill_some(self, wanted: Sequence[int]) -> set[int]:
        texts = await self._write(lambda session: self._vectors(session).missing(wanted))
        put_off = await self._fill_texts(texts)
        windows = await self._write(lambda session: self._vectors(session).missing(wanted, windows=True))
        return put_off | await self._fill_windows(windows)

    async def _fill_stretch(self, after: int, windows: bool, put_off: set[int]) -> int | None:
        scanned = await self._write(lambda session: self._vectors(session).scan(after, windows=windows))
        self._advance(scanned.size - len(scanned.missing))
        fill = self._fill_windows if windows else self._fill_texts
        put_off |= await fill(scanned.missing)
        return scanned.last

    async def _fill_texts(self, ids: Sequence[int]) -> set[int]:
        put_off: set[int] = set()
        while ids:
            some = ids[:BATCH_TEXTS]
            read = await self._write(partial(store.texts, namespace_id=self._namespace.id, ids=some))
            complete = [one for one in read if one.content is not None]
            put_off.update({one.id for one in complete} - await self._embed(complete))
            ids = [*(one.id for one in read if one.content is None), *ids[BATCH_TEXTS:]]
            self._advance(len(some) - (len(read) - len(complete)))
        return put_off

    async def _embed(self, read: Sequence[TextRead]) -> set[int]:
        texts = [NewMemory(title=one.title, content=one.content or "") for one in read]
        made = await self._timed(self._indexing.vectors(texts, self._model.identity), len(texts))
        vectors = dict(zip((one.id for one in read), made, strict=True))
        stored = await self._write(lambda session: self._vectors(session).insert(read, vectors))
        self.memories += sum(bool(vectors[one]) for one in stored)
        return stored

    async def _fill_windows(self, ids: Sequence[int]) -> set[int]:
        put_off: set[int] = set()
        for start in range(0, len(ids), BATCH_WINDOWS):
            some = ids[start : start + BATCH_WINDOWS]
            put_off.update(set(some) - await self._embed_windows(some))
            self._advance(len(some))
        return put_off

    async def _embed_windows(self, ids: Sequence[int]) -> set[int]:
        windows = await self._write(lambda session: self._windows(session, ids))
        texts = [window_text(window, own) for own, window in windows.items()]
        made = await self._timed(self._indexing.window_vectors(texts, self._model.identity), len(texts))
        vectors = dict(zip(windows, made, strict=True))

        async def work(session: WriteSession) -> set[int]:
            sequences = {window[0].place.sequence for window in windows.values()}
            locked = await window_store.try_lock(session, self._namespace.id, sequences)
            free = {one: window for one, window in windows.items() if window[0].place.sequence in locked}
            now = await self._windows(session, list(free))
            same = {one: vectors[one] for one, window in free.items() if now.get(one) == window}
            return await self._vectors(session).insert_windows(same)

        stored = await self._write(work)
        self.windows += sum(vectors[one] is not None for one in stored)
        return stored

    async def _timed(self, work: Awaitable[T], texts: int) -> T:
        began = time.monotonic()
        made = await work
        self._texts += texts
        self._seconds += time.monotonic() - began
        return made

    async def _windows(self, session: WriteSession, ids: Sequence[int]) -> dict[int, Window]:
        places = await window_store.places(session, self._namespace.id, ids)
        turns = await window_store.turns_around(session, self._namespace.id, places)
        windows = await offload(len(turns), windows_around, turns, places)
        return {place.id: windows[place.id] for place in places if _stands(windows, place)}

    def _vectors(self, session: WriteSession) -> Vectors:
        return Vectors(session, self._namespace, self._model)

    async def _write(self, work: Callable[[WriteSession], Awaitable[T]]) -> T:
        async def held(session: WriteSession) -> T:
            scope = await namespaces.lock_existing(session, self._namespace.name)
            if scope is None or scope.id != self._namespace.id:
                raise NamespaceNotFound(
                    f"namespace {self._namespace.name!r} was deleted meanwhile", namespace=self._namespace.name
                )
            return await work(session)

        return await self._transactions.write(held)


def _stands(windows: dict[int, Window], place: Place) -> bool:
    return any(turn.place == place for turn in windows.get(place.id, ()))
