"""Binary forms of pgvector's types, so that vectors travel without being printed and parsed.

`halfvec`: int16 dimension, int16 zero, then big-endian half floats.
`sparsevec`: int32 dimension, int32 count, int32 zero, count int32 indices from 0, count big-endian floats.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from psycopg import AsyncConnection
from psycopg.adapt import Dumper
from psycopg.pq import Format
from psycopg.types import TypeInfo

from sfm_graph.errors import DatabaseUnavailable

SPARSE_DIMENSION = 1_000_000_000
_BIGINT, _BIGINT_ARRAY = 20, 1016


@dataclass(frozen=True, slots=True)
class HalfVector:
    """A halfvec value in its binary form."""

    data: bytes


@dataclass(frozen=True, slots=True)
class SparseVector:
    """A sparsevec value in its binary form."""

    data: bytes


@dataclass(frozen=True, slots=True)
class IdArray:
    """A bigint[] value in its binary form: a list of 100k numbers takes 20 ms to convert, an array 0.5 ms."""

    data: bytes


class _BinaryDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: HalfVector | SparseVector | IdArray) -> bytes:
        return obj.data


async def register_vector_types(connection: AsyncConnection) -> None:
    """Teach a connection to send HalfVector and SparseVector, alone and in lists, and IdArray."""
    connection.adapters.register_dumper(IdArray, type("IdArrayDumper", (_BinaryDumper,), {"oid": _BIGINT_ARRAY}))
    for type_name, value_class in (("halfvec", HalfVector), ("sparsevec", SparseVector)):
        info = await TypeInfo.fetch(connection, type_name)
        if info is None:
            raise DatabaseUnavailable("the pgvector extension (>= 0.8) is not installed in this database")
        info.register(connection)
        dumper = type(f"{value_class.__name__}Dumper", (_BinaryDumper,), {"oid": info.oid})
        connection.adapters.register_dumper(value_class, dumper)


def half_vectors(vectors: NDArray[np.float32]) -> list[HalfVector]:
    """The rows of a (count, dimension) array."""
    prefix = struct.pack(">hh", vectors.shape[1], 0)
    return [HalfVector(prefix + row.tobytes()) for row in vectors.astype(">f2")]


def id_array(ids: NDArray[np.int64]) -> IdArray:
    """The ids of a (count,) array."""
    values = np.empty(len(ids), [("size", ">i4"), ("value", ">i8")])
    values["size"], values["value"] = 8, ids
    shape = (1, 0, _BIGINT, len(ids), 1) if len(ids) else (0, 0, _BIGINT)
    return IdArray(struct.pack(f">{len(shape)}i", *shape) + values.tobytes())


def sparse_counts(counts: Mapping[int, int]) -> SparseVector:
    """Term occurrences by term id; term id t in [1, 10^9] is index t - 1."""
    terms = sorted(counts)
    indices = [term - 1 for term in terms]
    values = map(counts.__getitem__, terms)
    count = len(terms)
    return SparseVector(struct.pack(f">iii{count}i{count}f", SPARSE_DIMENSION, count, 0, *indices, *values))
