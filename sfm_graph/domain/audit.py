"""The audit log's rows."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """A denied action, or one of an administrator. `namespace` None: it was about none in particular.

    `target`: what else it was about, such as the name of a key.
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
