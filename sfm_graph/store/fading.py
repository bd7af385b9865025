"""How memories fade, and how many there are, in Postgres."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sfm_graph.domain.fading import Step, Vitals
from sfm_graph.domain.fading_steps import Faded
from sfm_graph.domain.identity import MemoryId
from sfm_graph.domain.memory import MemoryKind
from sfm_graph.store.database import Database, Row, Session, WriteSession


@dataclass(frozen=True, slots=True)
class Move:
    """When a memory is looked at next, and what has been done to it. `stepped_at` None: now, where it says a step."""

    id: MemoryId
    due_at: datetime
    step: Step = Step.WHOLE
    stepped_at: datetime | None = None
    touched_at: datetime | None = None


async def put(session: WriteSession, namespace_id: int, due: Sequence[tuple[MemoryId, datetime]]) -> None:
    """Note when new memories are first due."""
    await session.run(
        "fading_put", namespace_id=namespace_id, ids=[one for one, _ in due], due_at=[at for _, at in due]
    )


async def fill(session: WriteSession, namespace_id: int, due: Sequence[tuple[MemoryId, datetime]]) -> None:
    """Note when stored memories are due; those that have been summarised stay as they are."""
    await session.run(
        "fading_fill", namespace_id=namespace_id, ids=[one for one, _ in due], due_at=[at for _, at in due]
    )


async def move(session: WriteSession, namespace_id: int, moves: Sequence[Move]) -> None:
    """Note what came of looks."""
    if moves:
        await session.run(
            "fading_move", namespace_id=namespace_id, ids=[one.id for one in moves],
            due_at=[one.due_at for one in moves], steps=[one.step.value for one in moves],
            stepped_at=[one.stepped_at for one in moves], touched_at=[one.touched_at for one in moves],
        )  # fmt: skip


async def drop(session: WriteSession, namespace_id: int, ids: Sequence[int], *, forgotten: bool = False) -> None:
    """Never look at these again; at those that are still to be erased only where that is said."""
    if ids:
        await session.run("fading_drop", namespace_id=namespace_id, ids=list(ids), forgotten=forgotten)


async def postpone(session: WriteSession, namespace_id: int, ids: Sequence[int], until: datetime) -> None:
    """Look at these no earlier than at a moment."""
    await session.run("fading_postpone", namespace_id=namespace_id, ids=list(ids), due_at=until)


async def sooner(session: WriteSession, namespace_id: int, due: Sequence[tuple[MemoryId, datetime]]) -> None:
    """Note when memories are due that were changed, where that is sooner than is noted."""
    if due:
        await session.run(
            "fading_sooner", namespace_id=namespace_id, ids=[one for one, _ in due], due_at=[at for _, at in due]
        )


async def soon(session: WriteSession, namespace_id: int, ids: Sequence[int]) -> None:
    """Look at these in the next pass."""
    await session.run("fading_soon", namespace_id=namespace_id, ids=list(ids))


async def clear(session: WriteSession, namespace_id: int, limit: int) -> int:
    """Forget when up to `limit` memories are due; how many that were."""
    return len(await session.rows("fading_clear", namespace_id=namespace_id, limit=limit))


async def due(session: Session, namespace_id: int, now: datetime, limit: int) -> list[MemoryId]:
    """Up to `limit` memories that are due, and as many that were forgotten; first come first."""
    rows = await session.rows("fading_due", namespace_id=namespace_id, now=now, limit=limit)
    return [row[0] for row in rows]


async def least(session: Session, namespace_id: int, limit: int) -> list[tuple[MemoryId, datetime]]:
    """The memories that are due first, and when, as noted."""
    rows = await session.rows("fading_least", namespace_id=namespace_id, limit=limit)
    return [(row[0], row[1]) for row in rows]


async def of(session: Session, namespace_id: int, ids: Iterable[int]) -> list[Faded]:
    """Memories with what their retention depends on, in order."""
    return [_faded(row) for row in await session.rows("fading_of", namespace_id=namespace_id, ids=list(ids))]


async def page(session: Session, namespace_id: int, after: int, limit: int) -> list[MemoryId]:
    """The next memories by id."""
    return [row[0] for row in await session.rows("fading_page", namespace_id=namespace_id, after=after, limit=limit)]


async def count(session: Session, namespace_id: int) -> int:
    """How many memories a namespace with a limit holds, those of this transaction with them."""
    return int((await session.one("memory_counts_sum", namespace_id=namespace_id))[0])


async def expired(
    session: Session, now: datetime, limit: int, namespace: str | None = None, put_off: Sequence[int] = ()
) -> dict[str, list[MemoryId]]:
    """Up to `limit` memories whose time is over, by namespace, but those that are put off."""
    found: dict[str, list[MemoryId]] = {}
    for name, memory_id in await session.rows(
        "fading_expired", now=now, limit=limit, namespace=namespace, put_off=list(put_off)
    ):
        found.setdefault(name, []).append(memory_id)
    return found


async def names(database: Database, name: str, **parameters: object) -> list[str]:
    """The namespaces that a statement lists."""
    async with database.read() as session:
        return [row[0] for row in await session.rows(name, **parameters)]


def _faded(row: Row) -> Faded:
    (
        id_, due_at, step, stepped_at, touched_at, kind, importance, touched, accesses, degree, held, key, title,
    ) = row  # fmt: skip
    vitals = None if kind is None else Vitals(MemoryKind(kind), importance, touched, accesses, degree)
    faded = Faded(MemoryId(id_), due_at, Step(step or Step.WHOLE), stepped_at, touched_at, vitals, held, key, title)
    return faded.seen()
