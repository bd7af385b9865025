"""The audit log in Postgres: append only."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sfm_graph.domain.access import Principal, Reach
from sfm_graph.domain.audit import AuditFilter, AuditRecord
from sfm_graph.ports.policy import Action, Decision
from sfm_graph.store.database import Database, Row, Session

Entry = tuple[Principal, Action, Decision]

# What is written of a text: more is of no use to a reader.
MAX_CHARS = 1_000
# Removed by one statement, which takes less than a second.
MAX_PRUNED = 5_000


async def write(session: Session, entries: Sequence[Entry]) -> None:
    """Append decisions, in order, by one statement."""
    await session.run(
        "audit_write",
        principals=[_clean(principal.name) for principal, _, _ in entries],
        actions=[_clean(action.name) for _, action, _ in entries],
        scopes=[action.scope.value for _, action, _ in entries],
        namespaces=[None if action.namespace is None else _clean(action.namespace) for _, action, _ in entries],
        targets=[None if action.target is None else _clean(action.target) for _, action, _ in entries],
        allowed=[decision.allowed for _, _, decision in entries],
        reasons=[_clean(decision.reason) for _, _, decision in entries],
    )


async def page(session: Session, reach: Reach, wanted: AuditFilter, before: int, limit: int) -> list[AuditRecord]:
    """Up to `limit` of the wanted records with an id below `before`, the newest first: those on namespaces within
    reach, and for a reach of all namespaces also those on none."""
    return [AuditRecord(*row) for row in await _rows(session, reach, wanted, before, limit)]


async def _rows(session: Session, reach: Reach, wanted: AuditFilter, before: int, limit: int) -> list[Row]:
    given: dict[str, Any] = {"denied": wanted.denied, "since": wanted.since, "before": before, "limit": limit}
    if wanted.namespace is not None:
        if not reach.covers(wanted.namespace):
            return []
        # By its index, of which a condition on many namespaces could make no use.
        if wanted.principal is None:
            return await session.rows("audit_page_in", namespace=wanted.namespace, **given)
        given |= {"everywhere": False, "names": [wanted.namespace], "prefixes": []}
    else:
        given |= {"everywhere": reach.is_everywhere, "names": reach.names, "prefixes": reach.prefixes}
    if wanted.principal is None:
        return await session.rows("audit_page", **given)
    return await session.rows("audit_page_of", principal=wanted.principal, **given)


async def prune(database: Database, before: datetime) -> int:
    """Remove the records from before a moment, as the owner of the table; how many. In batches, each committed."""
    if not (await database.single("audit_any", before=before) or (False,))[0]:
        return 0
    removed = 0
    async with database.owned() as connection:
        while True:
            async with connection.transaction():
                await connection.execute("set local sfm.audit_prune = 'on'")
                gone = len(await Session(connection).rows("audit_prune", before=before, limit=MAX_PRUNED))
            removed += gone
            if gone < MAX_PRUNED:
                return removed


def _clean(text: str) -> str:
    # One text that Postgres cannot hold would cost the others of the statement their rows.
    return text[:MAX_CHARS].replace("\x00", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()
