"""Windows in Postgres: places in sequences, the words of windows, and their vectors."""

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import NamedTuple

from sfm_graph.domain.windows import Place, Turn
from sfm_graph.store.database import Session, WriteSession
from sfm_graph.store.vector_types import HalfVector, SparseVector

WINDOW_PART = -1


class WindowWords(NamedTuple):
    """The words of a window; both None for a window of one memory."""

    length: int | None
    terms: SparseVector | None


class DueWindow(NamedTuple):
    """A window whose vector is to be made, and the transaction that made it due."""

    place: Place
    due: int


async def places(session: Session, namespace_id: int, ids: Iterable[int]) -> list[Place]:
    """Where memories stand; those in no sequence are missing from the answer."""
    return [Place(*row) for row in await session.rows("window_places", namespace_id=namespace_id, ids=list(ids))]


async def lock(session: WriteSession, namespace_id: int, sequences: Iterable[str]) -> None:
    """Keep other transactions from changing these sequences until this one ends."""
    await session.rows("window_lock", namespace_id=namespace_id, sequences=sorted(set(sequences)))


async def try_lock(session: WriteSession, namespace_id: int, sequences: Iterable[str]) -> set[str]:
    """As `lock`, but of sequences that others hold at the moment nothing is waited for. Those that were locked."""
    rows = await session.rows("window_try_lock", namespace_id=namespace_id, sequences=list(sequences))
    return {row[0] for row in rows}


async def turns_around(session: Session, namespace_id: int, around: Sequence[Place]) -> list[Turn]:
    """Of each place the three memories before it, the one at it, and the three after; in any order."""
    rows = await session.rows(
        "window_turns", namespace_id=namespace_id, sequences=[place.sequence for place in around],
        positions=[place.position for place in around], ids=[place.id for place in around],
    )  # fmt: skip
    return [Turn(Place(*row[:3]), row[3], row[4]) for row in rows]


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


async def due(session: Session, namespace_id: int, limit: int) -> list[DueWindow]:
    """Up to `limit` windows whose vectors are to be made."""
    rows = await session.rows("window_due", namespace_id=namespace_id, limit=limit)
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
