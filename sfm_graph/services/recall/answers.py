"""Answered recalls, kept for those who ask the same of a namespace that has not changed.

Only the outline is kept, under a key of all that the answer depends on; memories are read in the request's own
snapshot. What a cache gives is taken for this service's when it bears the signature that belongs to the key.
"""

import hmac
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import blake2b
from uuid import UUID

from sfm_graph.domain.as_of import NOW
from sfm_graph.domain.namespace import Namespace
from sfm_graph.domain.recall import Recall, RecallQuery
from sfm_graph.domain.recall_outline import FORMAT, MAX_BYTES, outlined, read_outline
from sfm_graph.ports.cache import Cache
from sfm_graph.services.indexing import Indexing
from sfm_graph.services.view import View
from sfm_graph.store import memories

# To be raised whenever equal memories come to be ranked otherwise than before.
RANKING = 2
_MAC_BYTES = 16


@dataclass(frozen=True, slots=True)
class Computed:
    """A recall; `lasting`: whoever asks the same at the same version may be given it."""

    recall: Recall
    lasting: bool


@dataclass(frozen=True, slots=True)
class _Version:
    """What decides how a namespace looks in a view. Two that are equal, and settled, look the same.

    `newest`: its latest change's transaction and time. `pruned`: up to which transaction the log may have lost
    changes. `boundary`: the latest moment, by the clocks of service and database, at which something in it began or
    ceased to be valid; `clear` False: the clocks are on two sides of one.
    """

    epoch: UUID
    secret: bytes
    pruned: int
    pruned_at: datetime | None
    standby: bool
    newest: int | None
    newest_at: datetime | None
    boundary: datetime | None
    clear: bool

    def is_settled(self, view: View) -> bool:
        """Whether no transaction that is still to end can change what the version names.

        The latest change alone is no version: one that began before it may be committed after it.
        """
        return (
            not self.standby
            and self.clear
            and view.snapshot.covers(self.newest)
            and view.snapshot.covers(self.pruned)
        )


@dataclass(frozen=True, slots=True)
class _Place:
    """Where one answer is kept, and with what it is signed."""

    key: str
    secret: bytes

    def sealed(self, text: bytes) -> bytes:
        return self._mac(text) + text

    def opened(self, value: bytes) -> bytes:
        """Raises ValueError for what was not sealed here."""
        mac, text = value[:_MAC_BYTES], value[_MAC_BYTES:]
        if not hmac.compare_digest(mac, self._mac(text)):
            raise ValueError("not signed with the log's key")
        return text

    def _mac(self, text: bytes) -> bytes:
        return blake2b(
            self.key.encode() + text, key=self.secret, digest_size=_MAC_BYTES, person=b"sfm answer"
        ).digest()


class Answers:
    """Recalls by way of a cache.

    A recall is neither looked for nor kept when its answer changes with every moment (`recency`), while a transaction
    at work may still change what its snapshot's latest change stands for, or when it was not found in memory whole.
    """

    def __init__(self, cache: Cache, indexing: Indexing, *, setup: str) -> None:
        """`setup`: what answers depend on beside namespace and query, such as the reranker."""
        self._cache = cache
        self._indexing = indexing
        self._setup = setup
        self._counters = {"hits": 0, "misses": 0, "refused": 0, "damaged": 0}

    @property
    def counters(self) -> Mapping[str, int]:
        """`hits`; `misses`; `refused`: recalls that were not looked for; `damaged`: misses for what was no answer."""
        return self._counters

    async def recall(
        self, view: View, namespace: Namespace, query: RecallQuery, compute: Callable[[], Awaitable[Computed]]
    ) -> Recall:
        """The kept answer, or else the computed one. Raises what `compute` does."""
        place = await self._place(view, namespace, query)
        if place is None:
            self._counters["refused"] += 1
            return (await compute()).recall
        kept = await self._kept(view, namespace, place)
        if kept is not None:
            self._counters["hits"] += 1
            return kept
        self._counters["misses"] += 1
        computed = await compute()
        outline = outlined(computed.recall) if computed.lasting else None
        if outline is not None:
            await self._cache.put(place.key, place.sealed(outline))
        return computed.recall

    async def _place(self, view: View, namespace: Namespace, query: RecallQuery) -> _Place | None:
        if query.weights.recency > 0 or view.as_of != NOW:
            return None
        version = await _version(view, namespace)
        if not version.is_settled(view):
            return None
        rules = self._indexing
        said = repr((
            RANKING, FORMAT, self._setup, version.epoch, version.newest, version.newest_at, version.pruned,
            version.pruned_at, version.boundary, namespace, rules.rules(namespace).model, rules.knows(namespace),
            rules.dense_share(namespace), replace(query, embedding=None),
        ))  # fmt: skip
        key = blake2b(said.encode("utf-8", "surrogatepass"), key=version.secret, person=b"sfm place")
        if query.embedding is not None:
            key.update(b"\0" + query.embedding.dtype.str.encode() + b"\0" + query.embedding.tobytes())
        return _Place(f"sfm:recall:{key.hexdigest()}", version.secret)

    async def _kept(self, view: View, namespace: Namespace, place: _Place) -> Recall | None:
        value = await self._cache.get(place.key, most_bytes=_MAC_BYTES + MAX_BYTES)
        if value is None:
            return None
        try:
            outline = read_outline(place.opened(value))
            found = await memories.by_ids(view.session, namespace.id, namespace.name, sorted(outline.ids))
            return outline.filled(found)
        except (ValueError, LookupError):
            self._counters["damaged"] += 1
            return None


async def _version(view: View, namespace: Namespace) -> _Version:
    row = await view.session.one("namespace_version", namespace_id=namespace.id, now=view.now)
    epoch, secret, *rest = row
    return _Version(epoch, bytes(secret), *rest)
