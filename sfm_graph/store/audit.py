"""The audit log in Postgres: append only."""

from collections.abc import Sequence

from sfm_graph.domain.access import Principal, Reach
from sfm_graph.domain.audit import AuditRecord
from sfm_graph.ports.policy import Action, Decision
from sfm_graph.store.database import Session

Entry = tuple[Principal, Action, Decision]

# What is written of a text: more is of no use to a reader.
MAX_CHARS = 1_000


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


async def page(session: Session, reach: Reach, before: int, limit: int) -> list[AuditRecord]:
    """Up to `limit` of the records with an id below `before`, the newest first: those on namespaces within reach, and
    for a reach of all namespaces also those on none."""
    rows = await session.rows(
        "audit_page", everywhere=reach.is_everywhere, names=reach.names, prefixes=reach.prefixes, before=before,
        limit=limit,
    )  # fmt: skip
    return [AuditRecord(*row) for row in rows]


def _clean(text: str) -> str:
    # One text that Postgres cannot hold would cost the others of the statement their rows.
    return text[:MAX_CHARS].replace("\x00", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()
