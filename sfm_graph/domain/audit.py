"""The audit log's rows."""

from dataclasses import dataclass
from datetime import datetime

from sfm_graph.domain import validate


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """The decision on a denied action, or on one of an administrator.

    `namespace` None: it was about none in particular.
    `target`: what else it was about, such as the name of a key.
    `label`: the name of the key that `principal` is.
    """

    id: int
    at: datetime
    principal: str
    action: str
    scope: str
    namespace: str | None
    target: str | None
    allowed: bool
    reason: str
    label: str | None = None


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which records to list; None leaves something open. `principal`: its name, or that of a key."""

    principal: str | None = None
    namespace: str | None = None
    denied: bool = False
    since: datetime | None = None


def start(value: str | None, now: datetime) -> datetime | None:
    """The moment that `30d`, `12h`, `90m` or `2w` ago or an ISO 8601 time means; None stays None.

    Raises InvalidInput.
    """
    return None if value is None else validate.moment_from(value, "since", now, ahead=False)
