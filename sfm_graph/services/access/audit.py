"""The audit log: denied actions and those of administrators, in the database and as lines of the log."""

import json
import logging
from typing import Final

from sfm_graph.domain import validate
from sfm_graph.domain.access import Principal, Scope
from sfm_graph.domain.audit import AuditFilter, AuditRecord
from sfm_graph.domain.page import Page, cut_page, decode_cursor, encode_cursor
from sfm_graph.errors import SfmError
from sfm_graph.ports.policy import Action, Decision
from sfm_graph.services.access.audit_writer import AuditWriter
from sfm_graph.services.access.guard import needs, reach
from sfm_graph.services.view import View
from sfm_graph.store import audit
from sfm_graph.store.database import Database

log = logging.getLogger("sfm_graph.audit")

ALL: Final = AuditFilter()
_MAX_ID: Final = 2**63 - 1
# Of an issuer's name and a subject.
_MAX_PRINCIPAL_CHARS: Final = audit.MAX_CHARS


class AuditLog:
    """An Audit over the database. Each record is also a line `audit {...}` of the log `sfm_graph.audit`, as JSON."""

    def __init__(self, database: Database, *, writer: AuditWriter | None = None) -> None:
        self._writer = writer or AuditWriter(database)

    async def record(self, principal: Principal, action: Action, decision: Decision) -> None:
        """As the port says. What is denied stays denied when it cannot be written down, and raises nothing."""
        _say(principal, action, decision)
        try:
            await self._writer.write((principal, action, decision))
        except SfmError as error:
            log.error("a decision could not be written to the audit log: %s", error.message)  # noqa: TRY400 - expected
            if decision.allowed:
                raise

    @needs(Scope.ADMIN)
    async def list(
        self, view: View, *, first: int, after: str | None, wanted: AuditFilter = ALL
    ) -> Page[AuditRecord]:
        """A page of records, the newest first: those on namespaces that the caller reaches, and for who reaches all
        of them also those on none. Raises InvalidInput, InvalidCursor."""
        place = decode_cursor("audit_log", after)
        before = validate.integer(place[0], "cursor", low=0, high=_MAX_ID) if place else _MAX_ID
        rows = await audit.page(view.session, reach(), _checked(wanted), before, first + 1)
        return cut_page(rows, [encode_cursor("audit_log", [row.id]) for row in rows], first)

    async def aclose(self) -> None:
        """Give the connection back."""
        await self._writer.aclose()


def _checked(wanted: AuditFilter) -> AuditFilter:
    principal, namespace = wanted.principal, wanted.namespace
    return AuditFilter(
        None if principal is None else validate.name(principal, "principal", max_chars=_MAX_PRINCIPAL_CHARS),
        None if namespace is None else validate.namespace(namespace),
        wanted.denied,
        validate.moment(wanted.since, "since"),
    )


def _say(principal: Principal, action: Action, decision: Decision) -> None:
    fields = {
        "principal": principal.name,
        "principal_name": principal.label or None,
        "action": action.name,
        "scope": action.scope.value,
        "namespace": action.namespace,
        "target": action.target,
        "allowed": decision.allowed,
        "reason": decision.reason,
    }
    # As JSON nothing that a caller sends looks like another line.
    level = logging.INFO if decision.allowed else logging.WARNING
    log.log(level, "audit %s", json.dumps(fields), extra={"audit": fields})
