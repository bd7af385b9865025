"""Reading a namespace's words and vectors in bulk: one binary COPY each, decoded with numpy."""

import asyncio
import struct
from collections.abc import AsyncIterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from psycopg import sql

from sfm_graph.domain.documents import Documents, Lists, OwnedVectors
from sfm_graph.store.database import ReadSession

_HEADER = 19  # signature, flags and the length of an empty extension
_TRAILER = b"\xff\xff"
_SIZE = struct.Struct(">i")
_ONCE = np.empty(0, np.float32)

_WORDS = sql.SQL("""copy (
    select m.id, w.length, coalesce(w.window_length, -1), extract(epoch from m.valid_from)::float8,
           extract(epoch from m.valid_to)::float8, coalesce(w.author, -1), w.date, m.importance,
           extract(epoch from m.created_at)::float8,
           w.terms, coalesce(w.window_terms, '{{}}/1000000000'), w.proper_names
    from memories m join words w on w.namespace_id = {namespace} and w.memory_id = m.id
    where m.namespace_id = {namespace} and {chosen} order by m.id) to stdout (format binary)""")
_NAMES = sql.SQL("""copy (
    select m.memory_id, m.name_id from names m where m.namespace_id = {namespace} and {chosen}
    order by m.memory_id) to stdout (format binary)""")
_VECTORS = sql.SQL("""copy (
    select m.memory_id, m.part, m.embedding from embeddings m
    where m.namespace_id = {namespace} and m.model_id = {model} and {chosen} order by m.memory_id, m.part
    ) to stdout (format binary)""")


async def read_documents(
    session: ReadSession, namespace_id: int, *, model: tuple[int, int] | None, ids: Sequence[int] | None
) -> Documents:
    """Words, cues and, with `model` = (row id, dimension), vectors of all memories or of those in `ids`."""
    words = await _copied(session, _WORDS, namespace_id, 0, "m.id", ids)
    names = await _copied(session, _NAMES, namespace_id, 0, "m.memory_id", ids)
    vectors = b""
    if model is not None:
        vectors = await _copied(session, _VECTORS, namespace_id, model[0], "m.memory_id", ids)
    # 4 us a memory: a cold load would stall the event loop for most of a second.
    return await asyncio.to_thread(decode_documents, words, names, vectors, model[1] if model else 0)


async def _copied(
    session: ReadSession,
    query: sql.SQL,
    namespace_id: int,
    model_id: int,
    column: str,
    ids: Sequence[int] | None,
) -> bytes:
    chosen: sql.Composable = sql.SQL("true")
    if ids is not None:
        listed = "{" + ",".join(map(str, ids)) + "}"
        chosen = sql.SQL(column) + sql.SQL(" = any({}::bigint[])").format(sql.Literal(listed))
    built = query.format(namespace=namespace_id, model=model_id, chosen=chosen)
    chunks: AsyncIterator[memoryview] = session.copy_out(built)
    return b"".join([bytes(chunk) async for chunk in chunks])


def decode_documents(words: bytes, names: bytes, vectors: bytes, dimension: int) -> Documents:
    """Documents from the three COPY streams. Takes about 5 us a memory."""
    # int16 fields, then (int32 size, value) of nine columns, and the size of the first list
    row = struct.Struct(">hiqiiiiididiqiiididi")
    fixed: list[tuple[Any, ...]] = []
    terms, window_terms, proper_names = _SparseLists(), _SparseLists(), _NumberLists()
    place = _HEADER
    while words[place : place + 2] != _TRAILER:
        values = row.unpack_from(words, place)
        fixed.append(values[2:19:2])
        place = terms.take(words, place + row.size, values[19])
        (size,) = _SIZE.unpack_from(words, place)
        place = window_terms.take(words, place + 4, size)
        (size,) = _SIZE.unpack_from(words, place)
        place = proper_names.take(words, place + 4, size)
    columns = list(zip(*fixed, strict=True)) or [()] * 9
    ids = np.array(columns[0], np.int64)
    own, windows = _decode_vectors(vectors, dimension)
    return Documents(
        ids,
        np.array(columns[1], np.float32),
        np.array(columns[2], np.float32),
        np.array(columns[3], np.float64),
        np.array(columns[4], np.float64),
        np.array(columns[5], np.int64),
        np.array(columns[6], np.int32),
        np.array(columns[7], np.float64),
        np.array(columns[8], np.float64),
        terms.lists(),
        window_terms.lists(),
        proper_names.lists(),
        _decode_names(names, ids),
        own,
        windows,
    )


class _SparseLists:
    """Collects sparsevec values: int32 dimension, count and zero, then indices from 0, then floats."""

    def __init__(self) -> None:
        self._counts = [0]
        self._keys: list[bytes] = []
        self._values: list[bytes] = []

    def take(self, data: bytes, place: int, size: int) -> int:
        """Read a value at a place; the place behind it."""
        half = (size - 12) // 2
        self._counts.append(half // 4)
        self._keys.append(data[place + 12 : place + 12 + half])
        self._values.append(data[place + 12 + half : place + size])
        return place + size

    def lists(self) -> Lists:
        keys = (np.frombuffer(b"".join(self._keys), ">i4").astype(np.int64) + 1).astype(np.uint32)
        counts = np.frombuffer(b"".join(self._values), ">f4").astype(np.float32)
        return Lists(np.cumsum(np.array(self._counts, np.int64)), keys, counts)


class _NumberLists:
    """Collects bigint[] values: of an empty one 12 bytes, else 20 bytes and (int32 size, int64) for each number."""

    def __init__(self) -> None:
        self._counts = [0]
        self._items: list[bytes] = []

    def take(self, data: bytes, place: int, size: int) -> int:
        """Read a value at a place; the place behind it."""
        items = data[place + 20 : place + size]
        self._counts.append(len(items) // 12)
        self._items.append(items)
        return place + size

    def lists(self) -> Lists:
        items = np.frombuffer(b"".join(self._items), np.dtype([("size", ">i4"), ("number", ">i8")]))
        return Lists(np.cumsum(np.array(self._counts, np.int64)), items["number"].astype(np.int64), _ONCE)


def _decode_names(data: bytes, ids: NDArray[np.int64]) -> Lists:
    record = np.dtype([("fields", ">i2"), ("id_size", ">i4"), ("id", ">i8"), ("name_size", ">i4"), ("name", ">i8")])
    rows = np.frombuffer(data[_HEADER : len(data) - len(_TRAILER)], record)
    owners, names = rows["id"].astype(np.int64), rows["name"].astype(np.int64)
    starts = np.append(np.searchsorted(owners, ids), len(owners)).astype(np.int64)
    return Lists(starts, names, _ONCE)


def _decode_vectors(data: bytes, dimension: int) -> tuple[OwnedVectors, OwnedVectors]:
    record = np.dtype(
        [("fields", ">i2"), ("id_size", ">i4"), ("id", ">i8"), ("part_size", ">i4"), ("part", ">i2"),
         ("size", ">i4"), ("dim", ">i2"), ("zero", ">i2"), ("vector", ">f2", (dimension,))]
    )  # fmt: skip
    rows = np.frombuffer(data[_HEADER : len(data) - len(_TRAILER)], record)
    windows = rows["part"] < 0
    return _owned(rows[~windows]), _owned(rows[windows])


def _owned(rows: NDArray[np.void]) -> OwnedVectors:
    return OwnedVectors(rows["id"].astype(np.int64), rows["vector"].astype(np.float32))
