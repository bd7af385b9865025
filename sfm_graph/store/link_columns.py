"""Reading a namespace's links in bulk: one binary COPY, decoded with numpy.

A row of the COPY holds the columns of some 30,000 links as arrays: a row for each link would cost 0.8 us in the
driver, most of a second for a million links. Types travel as 64-bit hashes with a seed drawn for each read, so that
nobody can choose names that collide; their names are looked up afterwards.
"""

import asyncio
import secrets
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from psycopg import sql

from sfm_graph.domain.link_columns import ALWAYS_FROM, ALWAYS_TO, LinkColumns
from sfm_graph.store.database import ReadSession, Row

Ints = NDArray[np.int64]

_HEADER = 19  # signature, flags and the length of an empty extension
_ARRAY_HEADER = 20  # dimensions, flags, element type, length, lower bound
# Up to so many types are told apart by comparing, a millisecond each for a million links, before sorting pays.
_FEW_TYPES = 32

_LINKS = sql.SQL("""copy (
    select array_agg(l.id), array_agg(l.source_id), array_agg(l.target_id),
           array_agg(hashtextextended(l.type, {seed})), array_agg(l.weight),
           array_agg(l.id) filter (where {bounded}), array_agg(l.valid_from) filter (where {bounded}),
           array_agg(l.valid_to) filter (where {bounded})
    from links l where l.namespace_id = {namespace} group by l.id >> 15) to stdout (format binary)""")
_BOUNDED = sql.SQL("l.valid_from > '-infinity' or l.valid_to < 'infinity'")


async def read_all_links(session: ReadSession, namespace_id: int) -> LinkColumns:
    """Every link of a namespace. About 0.7 us a link, most of it in the database."""
    await session.run("bulk_read_memory")
    query = _LINKS.format(namespace=namespace_id, seed=secrets.randbits(62), bounded=_BOUNDED)
    chunks = [bytes(chunk) async for chunk in session.copy_out(query)]
    read = await asyncio.to_thread(_decoded, chunks)
    names: dict[int, str] = dict(
        await session.mapped("link_types", _pair, namespace_id=namespace_id, ids=read.examples.tolist())
    )
    type_names = [names[one] for one in read.examples.tolist()]
    return LinkColumns(
        read.ids, read.sources, read.targets, read.types, read.weights, type_names, read.valid_from, read.valid_to
    )


async def read_links(session: ReadSession, namespace_id: int, chosen: Sequence[int]) -> LinkColumns:
    """Those of the links with these ids that exist."""
    listed = "{" + ",".join(map(str, chosen)) + "}"
    rows = await session.mapped("link_columns", tuple, namespace_id=namespace_id, ids=listed)
    return await asyncio.to_thread(_columns, rows)


def _columns(rows: Sequence[Row]) -> LinkColumns:
    names = list(dict.fromkeys(row[3] for row in rows))
    codes = {name: code for code, name in enumerate(names)}
    ids, sources, targets, valid_from, valid_to = (
        np.array([row[at] for row in rows], np.int64) for at in (0, 1, 2, 5, 6)
    )
    types = np.array([codes[row[3]] for row in rows], np.int64)
    weights = np.array([row[4] for row in rows], np.float64)
    bounded = bool((valid_from > ALWAYS_FROM).any() or (valid_to < ALWAYS_TO).any())
    return LinkColumns(
        ids, sources, targets, types, weights, names, valid_from if bounded else None, valid_to if bounded else None
    )


@dataclass(frozen=True, slots=True)
class _Read:
    """As LinkColumns, but for the names: `examples` holds for each type the id of a link that has it."""

    ids: Ints
    sources: Ints
    targets: Ints
    types: Ints
    weights: NDArray[np.float64]
    valid_from: Ints | None
    valid_to: Ints | None
    examples: Ints


def _decoded(chunks: Sequence[bytes]) -> _Read:
    groups = sorted(_groups(b"".join(chunks)), key=lambda group: int(group[0][0]))
    columns = [np.concatenate(column) for column in zip(*groups, strict=True)] or [np.empty(0, np.int64)] * 8
    ids, sources, targets, hashes, weights, *bounded = columns
    if not (ids[1:] > ids[:-1]).all():
        order = np.argsort(ids)
        ids, sources, targets, hashes, weights = (
            column[order] for column in (ids, sources, targets, hashes, weights)
        )
    types, examples = _typed(hashes, ids)
    return _Read(ids, sources, targets, types, weights.view(np.float64), *_validity(ids, *bounded), examples)


def _pair(row: Row) -> tuple[int, str]:
    return row[0], row[1]


def _groups(data: bytes) -> Iterator[list[Ints]]:
    """The columns of each row of the COPY."""
    place = _HEADER
    element = np.dtype([("size", ">i4"), ("value", ">i8")])
    while (fields := struct.unpack_from(">h", data, place)[0]) != -1:
        place += 2
        columns = []
        for _ in range(fields):
            (size,) = struct.unpack_from(">i", data, place)
            place += 4
            count = max(0, size - _ARRAY_HEADER) // element.itemsize
            # Doubles as well: eight bytes in network order, seen as numbers again at the end.
            values = np.frombuffer(data, element, count, place + _ARRAY_HEADER if count else 0)["value"]
            columns.append(values.astype(np.int64))
            place += max(0, size)
        yield columns


def _typed(hashes: Ints, ids: Ints) -> tuple[Ints, Ints]:
    """A code for each link, and for each code the id of a link that has it."""
    codes = np.full(len(hashes), -1, np.int64)
    examples: list[int] = []
    left = np.arange(len(hashes))
    while len(left) and len(examples) < _FEW_TYPES:
        same = hashes[left] == hashes[left[0]]
        codes[left[same]] = len(examples)
        examples.append(int(ids[left[0]]))
        left = left[~same]
    if len(left):
        _, firsts, inverse = np.unique(hashes[left], return_index=True, return_inverse=True)
        codes[left] = len(examples) + inverse
        examples += ids[left[firsts]].tolist()
    return codes, np.array(examples, np.int64)


def _validity(ids: Ints, bounded: Ints, starts: Ints, ends: Ints) -> tuple[Ints | None, Ints | None]:
    if not len(bounded):
        return None, None
    valid_from, valid_to = np.full(len(ids), ALWAYS_FROM), np.full(len(ids), ALWAYS_TO)
    places = np.searchsorted(ids, bounded)
    valid_from[places], valid_to[places] = starts, ends
    return valid_from, valid_to
