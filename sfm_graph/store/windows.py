"""Windows in Postgres: places in sequences, the words of windows, and their vectors."""

import struct
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import NamedTuple

import numpy as np

from sfm_graph.domain.identity import MemoryRef
from sfm_graph.domain.windows import MAX_MEMBER_CHARS, Place, Turn
from sfm_graph.store.database import Session, WriteSession
from sfm_graph.store.memories import references
from sfm_graph.store.search_columns import MAX_TERMS
from sfm_graph.store.vector_types import SPARSE_DIMENSION, HalfVector, SparseVector

WINDOW_PART = -1
SAVEPOINT = "sequences"
HOLD_ATTEMPTS = 10


class WindowWords(NamedTuple):
    """The words of a window; both None for a window of one memory."""

    length: int | None
    terms: SparseVector | None


class OwnWords(NamedTuple):
    """The words of one memory of a sequence; `terms`: a sparsevec in its binary form."""

    place: Place
    length: int
    terms: bytes


class DueWindow(NamedTuple):
    """A window whose vector is to be made, and the transaction that made it due."""

    place: Place
    due: int


async def newest(session: Session, namespace_id: int) -> int:
    """The id of the newest memory, 0 without any."""
    return int((await session.one("window_newest", namespace_id=namespace_id))[0])


async def places(session: Session, namespace_id: int, ids: Iterable[int]) -> list[Place]:
    """Where memories stand; those in no sequence are missing from the answer."""
    return [Place(*row) for row in await session.rows("window_places", namespace_id=namespace_id, ids=list(ids))]


async def hold(
    session: WriteSession, namespace_id: int, sequences: Iterable[str], refs: Iterable[MemoryRef] = ()
) -> set[str]:
    """Keep others from changing sequences until this transaction ends: these, and those of memories behind `refs`.

    To call before rows are locked, once. What was locked. A memory that moved while this waited is waited for anew,
    with all locks given back: in another order two transactions would wait for each other.
    """
    named, wanted = references(set(refs)), set(sequences)
    if not any(named.values()):
        await lock(session, namespace_id, wanted)
        return wanted
    await session.savepoint(SAVEPOINT)
    for _ in range(HOLD_ATTEMPTS):
        rows = await session.rows("window_hold", namespace_id=namespace_id, sequences=list(wanted), **named)
        held = {row[0] for row in rows}
        stood = {row[0] for row in await session.rows("window_stood", namespace_id=namespace_id, **named)}
        if stood <= held:
            break
        wanted |= stood
        held = set()
        await session.rollback_to(SAVEPOINT)
    return held


async def hold_all(session: WriteSession, namespace_id: int) -> None:
    """As `hold`, all sequences of the namespace."""
    await session.rows("window_hold_all", namespace_id=namespace_id)


async def lock(session: WriteSession, namespace_id: int, sequences: Iterable[str]) -> None:
    """Keep other transactions from changing these sequences until this one ends."""
    await session.rows("window_lock", namespace_id=namespace_id, sequences=sorted(set(sequences)))


async def try_lock(session: WriteSession, namespace_id: int, sequences: Iterable[str]) -> set[str]:
    """As `lock`, but of sequences that others hold at the moment nothing is waited for. Those that were locked."""
    rows = await session.rows("window_try_lock", namespace_id=namespace_id, sequences=list(sequences))
    return {row[0] for row in rows}


async def turns_around(session: Session, namespace_id: int, around: Sequence[Place]) -> list[Turn]:
    """Of each place the three memories before it, the one at it, and the three after; in any order.

    Of their contents the beginning, as much as `Turn.text` takes.
    """
    rows = await session.rows("window_turns", namespace_id=namespace_id, most=MAX_MEMBER_CHARS, **_around(around))
    return [Turn(Place(*row[:3]), row[3], row[4]) for row in rows]


async def words_around(session: Session, namespace_id: int, around: Sequence[Place]) -> list[OwnWords]:
    """The words of the same memories, in any order."""
    rows = await session.rows("window_words", namespace_id=namespace_id, **_around(around))
    return [OwnWords(Place(*row[:3]), row[3], row[4]) for row in rows]


def _around(places: Sequence[Place]) -> dict[str, list[str] | list[float] | list[int]]:
    return {
        "sequences": [place.sequence for place in places],
        "positions": [place.position for place in places],
        "ids": [place.id for place in places],
    }


def window_words(members: Sequence[OwnWords]) -> WindowWords:
    """The words of a window: those of its members counted together, the 16,000 most frequent."""
    if len(members) == 1:
        return WindowWords(None, None)
    counts = [struct.unpack_from(">i", member.terms, 4)[0] for member in members]
    read = list(zip(members, counts, strict=True))
    indices = np.concatenate([np.frombuffer(one.terms, ">i4", count, 12) for one, count in read]).astype(np.int64)
    values = np.concatenate([np.frombuffer(one.terms, ">f4", count, 12 + 4 * count) for one, count in read])
    terms, places = np.unique(indices, return_inverse=True)
    sums = np.bincount(places, values, len(terms))
    if len(terms) > MAX_TERMS:
        kept = np.sort(np.lexsort((terms, -sums))[:MAX_TERMS])
        terms, sums = terms[kept], sums[kept]
    head = struct.pack(">iii", SPARSE_DIMENSION, len(terms), 0)
    sparse = SparseVector(head + terms.astype(">i4").tobytes() + sums.astype(">f4").tobytes())
    return WindowWords(sum(member.length for member in members), sparse)


async def update(
    session: WriteSession, namespace_id: int, windows: Mapping[int, WindowWords], *, written: Set[int], due: bool
) -> None:
    """Replace the words of windows, by memory id; drop their vectors, `due` or not to be made anew.

    `written`: memories that the transaction's change rows already name.
    """
    await session.run(
        "window_update", namespace_id=namespace_id, ids=list(windows),
        lengths=[window.length for window in windows.values()], terms=[window.terms for window in windows.values()],
        due=due, others=sorted(windows.keys() - written),
    )  # fmt: skip


async def due(session: Session, namespace_id: int, limit: int, among: Sequence[int] | None = None) -> list[DueWindow]:
    """Up to `limit` windows whose vectors are to be made, or those `among` memories."""
    if among is None:
        rows = await session.rows("window_due", namespace_id=namespace_id, limit=limit)
    else:
        rows = await session.rows("window_due_of", namespace_id=namespace_id, ids=list(among))
    return [DueWindow(Place(sequence, position, id_), since) for id_, since, sequence, position in rows]


async def insert_vectors(
    session: WriteSession, namespace_id: int, model_id: int, made: Sequence[tuple[DueWindow, HalfVector | None]]
) -> None:
    """Store vectors of windows unless a window has changed since it was read; None: it has no feature."""
    vectors = [vector for _, vector in made if vector is not None]
    numbers = iter(range(1, len(vectors) + 1))
    await session.run(
        "window_vectors", namespace_id=namespace_id, model_id=model_id, ids=[one.place.id for one, _ in made],
        due=[one.due for one, _ in made], places=[0 if vector is None else next(numbers) for _, vector in made],
        embeddings=vectors,
    )  # fmt: skip
