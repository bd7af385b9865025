"""A collection for each model, a tenant for each namespace and kind of vector."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qdrant_client import AsyncQdrantClient, models
from qdrant_client.common.client_exceptions import QdrantException
from qdrant_client.http.exceptions import ApiException, UnexpectedResponse

from sfm_graph.errors import VectorIndexUnavailable
from sfm_graph.ports.vector_index import Collection, Ints, Near, Points

log = logging.getLogger(__name__)

MEMORY, TENANT = "memory_id", "tenant"
# As of pgvector's indexes (store/vector_indexes.py).
LINKS_PER_ROW = 24
CANDIDATES = 128
# What a search looks at beside what it is asked for.
LEAST_SEARCHED = 150
WRITE_SECONDS = 60
SCROLLED = 1_000
_NAME = re.compile(r"sfm_([0-9a-f]+)_(\d+)_(\d+)", re.ASCII)
_TENANT = re.compile(r"(\d{1,10})(w?)", re.ASCII)
# What Postgres's integers and bigints hold.
_MAX_NAMESPACE, _MAX_ID = 2**31 - 1, 2**63 - 1
# Of no memory: stands for what a foreign point is about.
_NOTHING = 0


class QdrantIndex:
    """A Qdrant server. What is searched is an alias, which a collection gets when it is complete."""

    def __init__(self, client: AsyncQdrantClient) -> None:
        self._client = client
        self._told = False

    async def nearest(
        self, collection: Collection, namespace_id: int, vector: NDArray[np.float32], limit: int, *,
        windows: bool, exact: bool = False,
    ) -> Near | None:  # fmt: skip
        """As the port says."""
        try:
            with _translated():
                answer = await self._client.query_points(
                    _alias(collection),
                    # As Postgres rounds it, or the two would not agree on the last digits.
                    query=vector.astype(np.float16).astype(float).tolist(),
                    query_filter=_where(TENANT, _tenant(namespace_id, windows)),
                    search_params=models.SearchParams(exact=True)
                    if exact
                    else models.SearchParams(hnsw_ef=max(limit, LEAST_SEARCHED)),
                    limit=limit,
                    with_payload=[MEMORY],
                )
        except _Missing:
            return None
        found = answer.points
        memory_ids = [_whole((point.payload or {}).get(MEMORY), _MAX_ID) for point in found]
        self._tell_of_foreign(memory_ids.count(None))
        return Near(
            np.array([_NOTHING if one is None else one for one in memory_ids], np.int64),
            np.array([point.score for point in found], np.float64),
            len(found) < limit,
        )

    async def ping(self) -> None:
        """As the port says."""
        with _translated():
            await self._client.get_aliases()

    async def aclose(self) -> None:
        """As the port says."""
        await self._client.close()

    async def collections(self, log: str) -> dict[Collection, bool]:
        """As the port says."""
        with _translated():
            present = [one.name for one in (await self._client.get_collections()).collections]
            aliases = {one.alias_name for one in (await self._client.get_aliases()).aliases}
        named = {name: _collection(name) for name in present}
        return {one: _alias(one) in aliases for one in named.values() if one is not None and one.log == log}

    async def create(self, collection: Collection) -> None:
        """As the port says."""
        name = _name(collection)
        with _translated():
            if not await self._client.collection_exists(name):
                await self._create(name, collection.dimension)
            # Also of one that is there: whoever made it may have ended before it came to this.
            for field, schema in (
                (TENANT, models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=True)),
                (MEMORY, models.IntegerIndexParams(type=models.IntegerIndexType.INTEGER, lookup=True, range=False)),
            ):
                await self._client.create_payload_index(name, field, field_schema=schema, timeout=WRITE_SECONDS)

    async def _create(self, name: str, dimension: int) -> None:
        try:
            await self._client.create_collection(
                name,
                vectors_config=models.VectorParams(
                    size=dimension,
                    # Of unit vectors the cosine. Qdrant's own cosine would scale what Postgres has rounded.
                    distance=models.Distance.DOT,
                    datatype=models.Datatype.FLOAT16,
                    on_disk=True,
                ),
                # Graphs within tenants alone: no search looks across them.
                hnsw_config=models.HnswConfigDiff(m=0, payload_m=LINKS_PER_ROW, ef_construct=CANDIDATES),
                on_disk_payload=True,
                timeout=WRITE_SECONDS,
            )
        except UnexpectedResponse as error:
            if error.status_code != 409:  # Another process was first.
                raise

    async def publish(self, collection: Collection) -> None:
        """As the port says."""
        alias = models.CreateAlias(collection_name=_name(collection), alias_name=_alias(collection))
        with _translated():
            await self._client.update_collection_aliases(
                [models.CreateAliasOperation(create_alias=alias)], timeout=WRITE_SECONDS
            )

    async def put(self, collection: Collection, points: Points, vectors: NDArray[np.float32]) -> None:
        """As the port says."""
        if not len(points):
            return
        payloads = [
            {MEMORY: memory_id, TENANT: _tenant(namespace_id, window)}
            for memory_id, namespace_id, window in zip(
                points.memory_ids.tolist(), points.namespace_ids.tolist(), points.windows.tolist(), strict=True
            )
        ]
        batch = models.Batch(ids=points.ids.tolist(), vectors=vectors.tolist(), payloads=payloads)
        with _translated():
            await self._client.upsert(_name(collection), batch, wait=True, timeout=WRITE_SECONDS)

    async def remove(self, collection: Collection, ids: Ints) -> None:
        """As the port says."""
        if len(ids):
            await self._delete(collection, models.PointIdsList(points=ids.tolist()))

    async def remove_namespace(self, collection: Collection, namespace_id: int) -> None:
        """As the port says."""
        tenants = models.MatchAny(any=[_tenant(namespace_id, False), _tenant(namespace_id, True)])
        where = models.Filter(must=[models.FieldCondition(key=TENANT, match=tenants)])
        await self._delete(collection, models.FilterSelector(filter=where))

    async def _delete(self, collection: Collection, selector: models.PointIdsList | models.FilterSelector) -> None:
        with _translated():
            await self._client.delete(_name(collection), selector, wait=True, timeout=WRITE_SECONDS)

    async def of_memories(self, collection: Collection, memory_ids: Ints) -> Points:
        """As the port says."""
        wanted = models.MatchAny(any=memory_ids.tolist())
        where = models.Filter(must=[models.FieldCondition(key=MEMORY, match=wanted)])
        return await self._all(collection, where, 0, None)

    async def page(self, collection: Collection, after: int, limit: int) -> Points:
        """As the port says."""
        return await self._all(collection, None, after + 1, limit)

    async def _all(
        self, collection: Collection, where: models.Filter | None, first: int, limit: int | None
    ) -> Points:
        """The points that this service made, the first `limit` of them; those between them that others made do not
        count."""
        rows: list[_Row] = []
        place: int | None = first
        while place is not None and (limit is None or len(rows) < limit):
            wanted = SCROLLED if limit is None else limit - len(rows)
            found, place = await self._scroll(collection, where, place, wanted)
            own = [row for row in map(_row, found) if row is not None]
            self._tell_of_foreign(len(found) - len(own))
            rows += own
        return _points(rows)

    async def _scroll(
        self, collection: Collection, where: models.Filter | None, first: int, limit: int
    ) -> tuple[list[models.Record], int | None]:
        with _translated():
            found, after = await self._client.scroll(
                _name(collection), scroll_filter=where, limit=limit, offset=first, with_payload=True,
                timeout=WRITE_SECONDS,
            )  # fmt: skip
        # Points with UUIDs come behind all that have numbers, and none of them is ours.
        return found, after if isinstance(after, int) and after > first else None

    def _tell_of_foreign(self, count: int) -> None:
        if count and not self._told:
            self._told = True
            log.warning("Qdrant has points in this service's collections that it did not make; they are passed over")


class _Missing(VectorIndexUnavailable):
    """The collection, or its alias, does not exist: also for who was about to write to it."""


@contextmanager
def _translated() -> Iterator[None]:
    """Wrap the client's errors at the border."""
    try:
        yield
    except (ApiException, QdrantException, ValueError, RuntimeError, AssertionError) as exc:
        # The client's local mode says it with a ValueError, and that it is closed with a RuntimeError. An answer
        # without a result fails an assertion of the client's.
        if isinstance(exc, UnexpectedResponse) and exc.status_code == 404:
            raise _Missing("Qdrant does not have the collection") from exc
        if isinstance(exc, ValueError) and str(exc).endswith("not found"):
            raise _Missing("Qdrant does not have the collection") from exc
        raise VectorIndexUnavailable("Qdrant cannot be reached, or refused a request", reason=_reason(exc)) from exc


def _reason(error: Exception) -> str:
    if isinstance(error, UnexpectedResponse):
        return f"it answered {error.status_code}"
    return type(getattr(error, "source", error)).__name__


def _alias(collection: Collection) -> str:
    return f"sfm_{collection.log}_{collection.model_id}_{collection.dimension}"


def _name(collection: Collection) -> str:
    return f"{_alias(collection)}_points"


def _collection(name: str) -> Collection | None:
    match = _NAME.fullmatch(name.removesuffix("_points"))
    return Collection(match[1], int(match[2]), int(match[3])) if match and name.endswith("_points") else None


def _tenant(namespace_id: int, windows: bool) -> str:
    return f"{namespace_id}w" if windows else str(namespace_id)


def _where(field: str, value: str) -> models.Filter:
    return models.Filter(must=[models.FieldCondition(key=field, match=models.MatchValue(value=value))])


_Row = tuple[int, int, int, bool]


def _whole(value: object, largest: int) -> int | None:
    """A row's id; None for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= largest else None


def _row(record: models.Record) -> _Row | None:
    """A point as a row: id, namespace, memory, whether of a window; None for one that this service did not make."""
    payload: dict[str, Any] = record.payload or {}
    tenant = payload.get(TENANT)
    match = _TENANT.fullmatch(tenant) if isinstance(tenant, str) else None
    id_, memory_id = _whole(record.id, _MAX_ID), _whole(payload.get(MEMORY), _MAX_ID)
    if match is None or id_ is None or memory_id is None or int(match[1]) > _MAX_NAMESPACE:
        return None
    return id_, int(match[1]), memory_id, bool(match[2])


def _points(rows: list[_Row]) -> Points:
    ids, namespace_ids, memory_ids, windows = zip(*rows, strict=True) if rows else ((), (), (), ())
    return Points(
        np.array(ids, np.int64),
        np.array(namespace_ids, np.int64),
        np.array(memory_ids, np.int64),
        np.array(windows, np.bool_),
    )
