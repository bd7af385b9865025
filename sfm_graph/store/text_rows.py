"""Reading a namespace's words and vectors in bulk: one binary COPY each, decoded with numpy."""

import asyncio
import struct
from collections.abc import AsyncIterator, Sequence

import numpy as np
from numpy.typing import NDArray
from psycopg import sql

from sfm_graph.domain.documents import Documents
from sfm_graph.store.database import ReadSession

_HEADER = 19  # signature, flags and the length of an empty extension
_TRAILER = b"\xff\xff"

_WORDS = sql.SQL("""copy (
    select m.id, w.length, extract(epoch from m.valid_from)::float8, extract(epoch from m.valid_to)::float8, w.terms
    from memories m join words w on w.namespace_id = {namespace} and w.memory_id = m.id
    where m.namespace_id = {namespace} and {chosen} order by m.id) to stdout (format binary)""")
_VECTORS = sql.SQL("""copy (
    select m.memory_id, m.embedding from embeddings m
    where m.namespace_id = {namespace} and m.model_id = {model} and {chosen} order by m.memory_id, m.part
    ) to stdout (format binary)""")


async def read_documents(
    session: ReadSession, namespace_id: int, *, model: tuple[int, int] | None, ids: Sequence[int] | None
) -> Documents:
    """Words, validity and, with `model` = (row id, dimension), vectors of all memories or of those in `ids`."""
    words = await _copied(session, _WORDS, namespace_id, 0, "m.id", ids)
    vectors = b""
    if model is not None:
        vectors = await _copied(session, _VECTORS, namespace_id, model[0], "m.memory_id", ids)
    # 4 us a memory: a cold load would stall the event loop for most of a second.
    return await asyncio.to_thread(decode_documents, words, vectors, model[1] if model else 0)


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


def decode_documents(words: bytes, vectors: bytes, dimension: int) -> Documents:
    """Documents from the two COPY streams. Takes about 4 us a memory."""
    ids, lengths, starts_at, ends_at, counts = [], [], [], [], [0]
    id_parts: list[bytes] = []
    value_parts: list[bytes] = []
    # int16 fields, (int32 size, value) for bigint, integer, 2 x float8, and the sparsevec's size and header
    row = struct.Struct(">hiqiiididiiii")
    place = _HEADER
    while words[place : place + 2] != _TRAILER:
        _, _, id_, _, length, _, start, _, end, _, _, count, _ = row.unpack_from(words, place)
        place += row.size
        ids.append(id_)
        lengths.append(length)
        starts_at.append(start)
        ends_at.append(end)
        counts.append(count)
        id_parts.append(words[place : place + 4 * count])
        value_parts.append(words[place + 4 * count : place + 8 * count])
        place += 8 * count
    owners, matrix = _decode_vectors(vectors, dimension)
    return Documents(
        np.array(ids, np.int64),
        np.array(lengths, np.float32),
        np.array(starts_at, np.float64),
        np.array(ends_at, np.float64),
        np.cumsum(np.array(counts, np.int64)),
        (np.frombuffer(b"".join(id_parts), ">i4").astype(np.int64) + 1).astype(np.uint32),
        np.frombuffer(b"".join(value_parts), ">f4").astype(np.float32),
        owners,
        matrix,
    )


def _decode_vectors(data: bytes, dimension: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    record = np.dtype(
        [("fields", ">i2"), ("id_size", ">i4"), ("id", ">i8"), ("size", ">i4"), ("dim", ">i2"), ("zero", ">i2"),
         ("vector", ">f2", (dimension,))]
    )  # fmt: skip
    body = data[_HEADER : len(data) - len(_TRAILER)]
    rows = np.frombuffer(body, record)
    return rows["id"].astype(np.int64), rows["vector"].astype(np.float32)
