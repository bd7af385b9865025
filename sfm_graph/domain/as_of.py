"""The two times of a question: when it was true, and when it was known."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class AsOf:
    """`valid`: what was true then. `known`: what was known then, by the order of commits. None: now."""

    valid: datetime | None = None
    known: datetime | None = None


NOW = AsOf()
