"""Background work of a namespace, as callers see it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class Job:
    """One kind of work. `error`: why the last run failed, None when it did not. `due_at`: when it runs again, None
    for at once; `ran_at`: when it last ended, None for never. `progress`: figures of its own."""

    name: str
    due_at: datetime | None
    ran_at: datetime | None
    error: str | None
    progress: Mapping[str, Any]
