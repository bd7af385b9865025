"""What linkers read and write in Postgres: names, words and places of memories, and the links that linkers make."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from sfm_graph.domain.identity import MemoryId
from sfm_graph.domain.memory import Memory, MemoryKind
from sfm_graph.domain.names import Name, name_id
from sfm_graph.domain.windows import Place
from sfm_graph.store.database import Row, Session, WriteSession
from sfm_graph.store.rows import memory_from_row

# Beside the namespace's id; sequences are locked by the hash of their name.
NAMES_LOCK = 0x6E616D65
# More searches than this pay for sorting the words that wait to enter the index.
FEW_SEARCHES = 20


class Known(NamedTuple):
    """What is stored of a memory that linkers ask for: its kind, its names, its place in a sequence."""

    kind: MemoryKind
    names: frozenset[Name]
    place: Place | None


class Called(NamedTuple):
    """Those who are called by a name, by id and whether they are of kind ENTITY; of many only the first so read."""

    ids: Sequence[MemoryId]
    entities: Sequence[bool]


class LinkToPut(NamedTuple):
    """A link that a linker wants."""

    source: MemoryId
    target: MemoryId
    weight: float
    properties: dict[str, Any]


async def begin(session: WriteSession) -> None:
    """Plan the rest of the transaction for few rows: to call before the other functions of this module."""
    await session.rows("linking_plans")


async def begin_locked(session: WriteSession, namespace_id: int, *, exclusive: bool) -> None:
    """As `begin`, and until the end nobody else changes names; with `exclusive` nobody else relies on them either."""
    name = "linking_lock" if exclusive else "linking_lock_shared"
    await session.rows(name, namespace_id=namespace_id, key=NAMES_LOCK)


async def known(session: WriteSession, namespace_id: int, ids: Iterable[int]) -> dict[MemoryId, Known]:
    """What is stored of memories; unknown ids, and what this transaction wrote, are missing from the answer."""
    rows = await session.rows("linking_known", namespace_id=namespace_id, ids=list(ids))
    return {
        id_: Known(
            MemoryKind(kind), frozenset(map(name_from_text, names)),
            Place(sequence, position, id_) if sequence is not None else None,
        )
        for id_, kind, names, sequence, position in rows
    }  # fmt: skip


def name_from_text(text: str) -> Name:
    """A name from its stored form."""
    return tuple(text.split(" "))


async def texts(session: Session, namespace_id: int, ids: Iterable[int]) -> list[Row]:
    """Rows of id, kind, title, content, payload."""
    return await session.rows("linking_texts", namespace_id=namespace_id, ids=list(ids))


async def has_kind(session: Session, namespace_id: int, kind: MemoryKind) -> bool:
    """Whether there is a memory of a kind."""
    return bool((await session.one("linking_has_kind", namespace_id=namespace_id, kind=kind.value))[0])


async def names(
    session: Session, namespace_id: int, heads: Iterable[str], most: int
) -> tuple[dict[Name, Called], bool]:
    """The names with these heads, with up to `most` memories so called; and whether there are ENTITY memories."""
    # As one text: the driver takes 1 us for each item of a list.
    rows = await session.rows("linking_names", namespace_id=namespace_id, heads="\n".join(heads), most=most)
    found = {name_from_text(name): Called(ids, entities) for name, ids, entities in rows if name is not None}
    return found, any(name is None for name, *_ in rows)


async def holding(session: Session, namespace_id: int, queries: Sequence[str], most: int) -> list[Sequence[MemoryId]]:
    """For each query (see `words_query`) the memories that match, up to `most`, in any order."""
    if len(queries) > FEW_SEARCHES:
        await session.run("linking_flush")
    rows = await session.rows("linking_holding", namespace_id=namespace_id, queries=list(queries), most=most)
    return [row[0] or () for row in rows]


def words_query(namespace_id: int, alternatives: Iterable[Iterable[str]]) -> str:
    """The tsquery of memories in the namespace that hold all words of one alternative, with accents or without."""
    quoted = ((word.replace("\\", "\\\\").replace("'", "''") for word in one) for one in alternatives)
    spelled = (" & ".join(f"('{word}' | '~{word}')" for word in one) for one in quoted)
    return f"'@{namespace_id}' & ({' | '.join(f'({one})' for one in spelled)})"


async def put_referents(
    session: WriteSession, namespace_id: int, owners: Iterable[int], given: Sequence[tuple[int, Name]]
) -> None:
    """Replace the dates and numbers that `owners` are called by."""
    await session.run(
        "linking_referents", namespace_id=namespace_id, owners=list(owners), ids=[one for one, _ in given],
        names=[name[0] for _, name in given], name_ids=[name_id(name) for _, name in given],
    )  # fmt: skip


async def right_before(session: Session, namespace_id: int, places: Sequence[Place]) -> set[MemoryId]:
    """The memories that stand right before places in sequences."""
    rows = await session.rows(
        "linking_before", namespace_id=namespace_id, sequences=[place.sequence for place in places],
        positions=[place.position for place in places], ids=[place.id for place in places],
    )  # fmt: skip
    return {row[0] for row in rows}


async def right_after(session: Session, namespace_id: int, ids: Iterable[int]) -> dict[MemoryId, MemoryId]:
    """Of memories the next ones in their sequence; those without are missing from the answer."""
    return dict(await session.rows("linking_next", namespace_id=namespace_id, ids=list(ids)))


async def vectors(
    session: Session, namespace_id: int, model_id: int, ids: Iterable[int]
) -> dict[MemoryId, NDArray[np.float32]]:
    """The vectors of memories, one row a part; those without are missing from the answer."""
    rows = await session.rows("linking_vectors", namespace_id=namespace_id, model_id=model_id, ids=list(ids))
    found: dict[MemoryId, list[Sequence[float]]] = {}
    for memory_id, _, vector in rows:
        found.setdefault(memory_id, []).append(vector)
    return {memory_id: np.array(parts, np.float32) for memory_id, parts in found.items()}


async def made_from(session: Session, namespace_id: int, maker: str, ids: Iterable[int]) -> list[Row]:
    """Rows of source, target, weight: a linker's links out of memories."""
    return await session.rows("linking_made_from", namespace_id=namespace_id, maker=maker, ids=list(ids))


async def made_to(session: Session, namespace_id: int, maker: str, ids: Iterable[int]) -> set[MemoryId]:
    """The sources of a linker's links into memories."""
    rows = await session.rows("linking_made_to", namespace_id=namespace_id, maker=maker, ids=list(ids))
    return {row[0] for row in rows}


async def put(
    session: WriteSession,
    namespace_id: int,
    maker: str,
    type_: str,
    stale: Iterable[int],
    wanted: Sequence[LinkToPut],
) -> None:
    """Store what a linker wants, each pair of ends once; remove what it has out of `stale` and wants no more."""
    await session.run(
        "linking_put", namespace_id=namespace_id, maker=maker, type=type_, stale=list(stale),
        sources=[one.source for one in wanted], targets=[one.target for one in wanted],
        weights=[one.weight for one in wanted], properties=[orjson.dumps(one.properties).decode() for one in wanted],
    )  # fmt: skip


async def drop_others(session: WriteSession, namespace_id: int, ids: Iterable[int], makers: Iterable[str]) -> None:
    """Remove the links out of memories that other linkers than `makers` made."""
    await session.run("linking_drop", namespace_id=namespace_id, ids=list(ids), makers=list(makers))


async def page(session: WriteSession, namespace_id: int, namespace: str, after: int, limit: int) -> list[Memory]:
    """Up to `limit` memories with id > `after`, by id, locked against changes."""
    rows = await session.rows("linking_page", namespace_id=namespace_id, after=after, limit=limit)
    return [memory_from_row(namespace, row) for row in rows]
