"""One transaction's links into one namespace: checked, resolved, and made wave by wave."""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

from sfm_graph.domain import inputs
from sfm_graph.domain.identity import LinkId, MemoryId, MemoryRef
from sfm_graph.domain.link import Link, NewLink, StoredLink
from sfm_graph.domain.memory import BulkResult, FailedItem, WriteOperation
from sfm_graph.domain.namespace import Namespace
from sfm_graph.domain.states import link_from_state, link_state
from sfm_graph.errors import Conflict, MemoryNotFound, SfmError, VersionConflict
from sfm_graph.services.functional_links import Closing, FunctionalLinks
from sfm_graph.services.offload import offload
from sfm_graph.services.refusals import failed_items, refuse
from sfm_graph.store import links, memories
from sfm_graph.store.database import WriteSession
from sfm_graph.store.links import LinkRow

BulkLinks = BulkResult[StoredLink]


@dataclass(frozen=True, slots=True)
class LinkRequest:
    """One link to make as a caller describes it: raw references and fields, validated by the service."""

    source: Any
    target: Any
    fields: Mapping[str, Any]


def checked(
    namespace: str, requests: Sequence[LinkRequest], partial: bool
) -> tuple[dict[int, NewLink], dict[int, SfmError]]:
    """What is asked for and what is refused, by place in the request; about 0.01 ms for each."""
    given: dict[int, NewLink] = {}
    failed: dict[int, SfmError] = {}
    for index, request in enumerate(requests):
        try:
            source = inputs.memory_ref(namespace, request.source)
            target = inputs.memory_ref(namespace, request.target)
            given[index] = inputs.new_link(source, target, request.fields)
        except SfmError as error:
            refuse(failed, index, error, partial)
    return given, failed


async def make(
    session: WriteSession,
    scope: Namespace,
    given: Mapping[int, NewLink],
    failed: dict[int, SfmError],
    *,
    partial: bool,
    skip: bool,
) -> BulkLinks:
    """Make checked links as if one after the other."""
    functional = FunctionalLinks(session, scope)
    await functional.hold(one.source for one in given.values() if functional.concerns(one.type))
    ends = await memories.resolve(
        session, scope.id, [ref for one in given.values() for ref in (one.source, one.target)]
    )
    rows = await offload(len(given), _rows, scope, given, ends, failed, partial)
    functional.require_held(rows.values())
    done: dict[int, StoredLink] = {}
    for wave in waves(rows, functional):
        pairs = functional.pairs(wave.values())
        locked = await links.lock(session, scope.id, scope.name, list(wave.values()), open_of=pairs)
        prior = {links.identity_of(one): one for one in locked}
        work = _Wave(session, scope, functional, prior, failed, partial=partial, skip=skip)
        done |= await work.write(given, wave)
    return BulkResult(
        tuple(done[index] for index in sorted(done)),
        failed_items(failed),
    )


def _rows(
    scope: Namespace,
    given: Mapping[int, NewLink],
    ends: Mapping[MemoryRef, MemoryId],
    failed: dict[int, SfmError],
    partial: bool,
) -> dict[int, LinkRow]:
    """The links with their ends resolved; what misses an end is noted, or raised."""
    rows: dict[int, LinkRow] = {}
    for index, one in given.items():
        missing = [ref for ref in (one.source, one.target) if ref not in ends]
        if missing:
            error = MemoryNotFound(
                f"cannot link: no memory with {missing[0]} in {scope.name!r}", namespace=scope.name
            )
            refuse(failed, index, error, partial)
        else:
            rows[index] = LinkRow(
                ends[one.source], ends[one.target], one.type, one.weight, one.properties or {},
                one.valid_from, one.valid_to, one.agent,
            )  # fmt: skip
    return rows


@dataclass(slots=True, kw_only=True)
class _Writes:
    """What a wave does, by place in the request; `closed`: links that end to make room."""

    inserts: dict[int, LinkRow] = field(default_factory=dict)
    updates: dict[int, tuple[LinkId, LinkRow]] = field(default_factory=dict)
    closed: list[Closing] = field(default_factory=list)


@dataclass(slots=True)
class _Wave:
    """Links of which none concerns another. `prior`: those that are stored, locked, by identity."""

    _session: WriteSession
    _scope: Namespace
    _functional: FunctionalLinks
    _prior: Mapping[tuple[Any, ...], Link]
    _failed: dict[int, SfmError]
    _: KW_ONLY
    partial: bool
    skip: bool

    async def write(self, given: Mapping[int, NewLink], wave: Mapping[int, LinkRow]) -> dict[int, StoredLink]:
        """What became of each, by place in the request."""
        done: dict[int, StoredLink] = {}
        writes = _Writes()
        for index, row in wave.items():
            try:
                kept = self._decide(index, given[index], row, writes)
            except Conflict as error:
                refuse(self._failed, index, error, self.partial)
                continue
            if kept is not None:
                done[index] = StoredLink(kept, WriteOperation.UNCHANGED)
        return done | await self._carry_out(writes)

    def _decide(self, index: int, given: NewLink, row: LinkRow, writes: _Writes) -> Link | None:
        """Note what to write, or give the link that stays as it is. Raises Conflict."""
        row, closed = self._functional.room_for(row, self._prior)
        stored = self._prior.get(row.identity)
        conflict = version_conflict(given.expected_version, stored)
        if conflict is not None:
            raise conflict
        if stored is not None and self.skip and not closed and _same(stored, row):
            return stored
        writes.closed += closed
        if stored is None:
            writes.inserts[index] = row
        else:
            writes.updates[index] = (stored.id, row)
        return None

    async def _carry_out(self, writes: _Writes) -> dict[int, StoredLink]:
        session, scope = self._session, self._scope
        written: dict[tuple[Any, ...], Link] = {}
        if writes.inserts:
            made = await links.insert(session, scope.id, scope.name, list(writes.inserts.values()))
            written |= {links.identity_of(one): one for one in made}
        if writes.updates or writes.closed:
            rows = [*writes.updates.values(), *writes.closed]
            changed = await links.update(session, scope.id, scope.name, rows)
            written |= {links.identity_of(one): one for one in changed}
        created = {
            index: StoredLink(written[row.identity], WriteOperation.CREATED) for index, row in writes.inserts.items()
        }
        return created | {
            index: StoredLink(written[row.identity], WriteOperation.UPDATED)
            for index, (_, row) in writes.updates.items()
        }


def waves(rows: Mapping[int, LinkRow], functional: FunctionalLinks) -> list[dict[int, LinkRow]]:
    """Rows grouped so that no group holds an identity twice, nor two links of a functional type from one memory; one
    group after the other equals one by one."""
    result: list[dict[int, LinkRow]] = []
    times: dict[tuple[Any, ...], int] = {}
    for index, row in rows.items():
        one = (row.source_id, row.type) if functional.concerns(row.type) else row.identity
        wave = times.get(one, 0)
        times[one] = wave + 1
        if wave == len(result):
            result.append({})
        result[wave][index] = row
    return result


def version_conflict(expected: int | None, stored: Link | None) -> VersionConflict | None:
    """The conflict of a conditional change, if there is one."""
    actual = stored.version if stored else None
    if expected is None or expected == actual:
        return None
    return VersionConflict(f"version {expected} was expected, {actual} is stored", expected=expected, actual=actual)


def _same(stored: Link, row: LinkRow) -> bool:
    same = (stored.weight, stored.properties, stored.valid_to) == (row.weight, row.properties, row.valid_to)
    return same and stored.maker is None


def encode_bulk(result: BulkLinks) -> dict[str, Any]:
    """The JSON of a result that is kept for an idempotency key."""
    return {
        "stored": [[link_state(one.link), one.operation] for one in result.stored],
        "failed": [[one.index, one.code, one.message] for one in result.failed],
    }


def decode_bulk(namespace: str, kept: Mapping[str, Any]) -> BulkLinks:
    """The result that was kept."""
    return BulkResult(
        tuple(StoredLink(link_from_state(namespace, one), WriteOperation(done)) for one, done in kept["stored"]),
        tuple(FailedItem(*one) for one in kept["failed"]),
    )
