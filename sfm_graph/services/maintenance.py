"""Work that no request should wait for: vector indexes, window vectors that are due, what is outdated."""

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace

from sfm_graph.domain.joining import joined
from sfm_graph.errors import Unavailable
from sfm_graph.services.access.audit_retention import AuditRetention
from sfm_graph.services.changes.retention import Retention
from sfm_graph.services.indexing import Indexing
from sfm_graph.services.tasks import attempted, repeated
from sfm_graph.services.windows import Windows
from sfm_graph.store import vector_indexes
from sfm_graph.store.database import Database, WriteSession
from sfm_graph.store.vector_indexes import Range, Span

log = logging.getLogger(__name__)


# A tail that grows without a pause is looked at this often, in rounds.
PATIENCE = 15
# A namespace that has not grown for so many rounds has its short tail indexed too, and its ranges joined further.
QUIET = 30
QUIET_SHARE = 8
# A range is joined with an older one that is less than so many times as large.
BUSY_FACTOR, QUIET_FACTOR = 2, 8


@dataclass(slots=True)
class _Watch:
    last_id: int = 0
    rounds: int = 0
    unchanged: int = 0
    counted_at: int = -1
    quiet_at: int = -1

    def again(self) -> None:
        """What is known may have changed though nothing was stored."""
        self.counted_at = self.quiet_at = -1


@dataclass(slots=True)
class _Live:
    """Rows of a range that still exist, counted when so many vectors had been deleted in all."""

    count: int
    deleted: int


@dataclass(slots=True)
class _Holding:
    """What is known of a namespace's vectors of one model: indexed ranges in order, and the span after them."""

    ranges: list[Range] = field(default_factory=list)
    tail: Span | None = None


class Maintenance:
    """A background loop; one process of all that share a database builds at a time."""

    def __init__(
        self,
        database: Database,
        indexing: Indexing,
        windows: Windows,
        retention: Retention,
        *,
        audit_retention: AuditRetention,
        tail: int,
        interval_ms: int,
        indexes_vectors: bool = True,
        rounds: Sequence[Callable[[], Awaitable[None]]] = (),
    ) -> None:
        """`indexes_vectors` False: they are searched elsewhere. `rounds`: work of others, each of it bounded."""
        self._database = database
        self._retention = retention
        self._audit_retention = audit_retention
        self._indexing = indexing
        self._windows = windows
        self._least = tail
        self._indexes_vectors = indexes_vectors
        self._interval = interval_ms / 1000
        self._rounds = rounds
        self._watched: dict[tuple[int, int], _Watch] = {}
        self._live: dict[str, _Live] = {}
        # Why the last round failed, for health; None when it did not.
        self.problem: str | None = None

    async def run(self) -> None:
        """Work until cancelled. What fails is shown in `problem` and tried again in the next round."""
        await repeated("maintenance", self.round, self._interval, self._report)

    def _report(self, problem: str | None) -> None:
        self.problem = problem

    async def round(self) -> None:
        """Do everything that is due once. Raises Unavailable with the last trouble, after all was tried."""
        trouble = await self._troubles(self._windows.fill_all())
        trouble = await self._troubles(vector_indexes.drop_unfinished(self._database)) or trouble
        holdings = await self._holdings() if self._indexes_vectors else {}
        for holding in holdings.values():
            # One namespace whose vectors cannot be indexed must not keep the others waiting.
            trouble = await self._troubles(self._index(holding)) or trouble
        self._watched = {key: watch for key, watch in self._watched.items() if key in holdings}
        await self._database.write(self._prune)
        trouble = await self._troubles(self._retention.round()) or trouble
        trouble = await self._troubles(self._audit_retention.round()) or trouble
        for one in self._rounds:
            trouble = await self._troubles(one()) or trouble
        if trouble:
            raise Unavailable(trouble)

    @staticmethod
    async def _troubles(work: Awaitable[object]) -> str | None:
        return await attempted("maintenance", work)

    async def _holdings(self) -> dict[tuple[int, int], _Holding]:
        found: dict[tuple[int, int], _Holding] = {}
        serving = await vector_indexes.ranges(self._database)
        for one in serving:
            found.setdefault((one.span.namespace_id, one.span.model_id), _Holding()).ranges.append(one)
        for tail in await vector_indexes.tails(self._database):
            found.setdefault((tail.namespace_id, tail.model_id), _Holding()).tail = tail
        self._live = {one.name: self._live[one.name] for one in serving if one.name in self._live}
        return found

    async def _index(self, holding: _Holding) -> None:
        """Index what is due of one namespace and model: its tail, with ranges of similar size, or just those."""
        span = holding.tail or holding.ranges[-1].span
        watch = self._watched.setdefault((span.namespace_id, span.model_id), _Watch())
        sizes = [await self._live_rows(one, watch) for one in holding.ranges]
        if holding.tail is None and not any(sizes):
            await vector_indexes.retire(self._database, holding.ranges)
            return
        pace = self._pace(watch, span.last_id)
        if pace is None:
            return
        factor, share = pace
        hollow = [2 * size < one.built for one, size in zip(holding.ranges, sizes, strict=True)]
        tail = await self._tail_rows(holding, share)
        capacity = await vector_indexes.capacity(self._database, span.identity)
        chosen = joined([*sizes, tail], hollow, factor=factor, capacity=capacity)
        if chosen is not None:
            await self._build(holding, chosen, capacity)
            watch.again()

    async def _build(self, holding: _Holding, chosen: tuple[int, int], capacity: int) -> None:
        first, end = chosen
        parts = [one.span for one in holding.ranges] + ([holding.tail] if holding.tail else [])
        span = replace(parts[first], last_id=parts[end - 1].last_id)
        if first == len(holding.ranges):
            # A tail that no build can hold is indexed piece by piece.
            span = await vector_indexes.cut(self._database, span, capacity)
        log.info("indexing the vectors of namespace %d in (%d, %d]", span.namespace_id, span.after, span.last_id)
        await vector_indexes.build(self._database, span, holding.ranges[first:end])

    @staticmethod
    def _pace(watch: _Watch, last_id: int) -> tuple[int, int] | None:
        """By what factor to join, and from which share of a full tail on to index one; None while nothing is due.

        Due is what has settled, or has grown for long, since it was last looked at; and once more what stays quiet.
        """
        settled, watch.last_id = watch.last_id == last_id, last_id
        watch.rounds += 1
        watch.unchanged = watch.unchanged + 1 if settled else 0
        if watch.unchanged >= QUIET and watch.quiet_at != last_id:
            watch.quiet_at = watch.counted_at = last_id
            return QUIET_FACTOR, QUIET_SHARE
        if watch.counted_at == last_id or not (settled or watch.rounds >= PATIENCE):
            return None
        watch.counted_at, watch.rounds = last_id, 0
        return BUSY_FACTOR, 1

    async def _tail_rows(self, holding: _Holding, share: int) -> int:
        """How many rows of the tail are to be indexed: all or 0."""
        if holding.tail is None:
            return 0
        count = await vector_indexes.length(self._database, holding.tail)
        if not holding.ranges and count <= self._indexing.exact_scan_limit(holding.tail.identity):
            return 0
        return count if count * share >= self._least else 0

    async def _live_rows(self, one: Range, watch: _Watch) -> int:
        """Rows of a range that exist; counted again when more were deleted than could matter to it."""
        known = self._live.get(one.name)
        # The database forgets its counter in a crash: it may have shrunk.
        if known is None or abs(one.deleted - known.deleted) > max(one.built, self._least) // 4:
            known = _Live(await vector_indexes.length(self._database, one.span), one.deleted)
            self._live[one.name] = known
            watch.again()
        return known.count

    @staticmethod
    async def _prune(session: WriteSession) -> None:
        await session.run("idempotent_prune")
