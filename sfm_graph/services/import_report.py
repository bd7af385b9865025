"""What an import did."""

from dataclasses import asdict, dataclass, field
from typing import Any

from sfm_graph.domain.memory import WriteOperation

MAX_KEPT_FAILURES = 1_000


@dataclass(slots=True)
class Counts:
    """What was done to the memories, or to the links, of an import."""

    created: int = 0
    updated: int = 0
    unchanged: int = 0

    def add(self, operation: WriteOperation) -> None:
        """Count one."""
        setattr(self, operation.value, getattr(self, operation.value) + 1)


@dataclass(frozen=True, slots=True)
class ImportFailure:
    """A record that was refused, by the line (from 1) of its file or stream."""

    line: int
    code: str
    message: str


@dataclass(slots=True)
class ImportReport:
    """What an import has done so far. `failures` are the first 1,000 of `failed`."""

    memories: Counts = field(default_factory=Counts)
    links: Counts = field(default_factory=Counts)
    failed: int = 0
    failures: list[ImportFailure] = field(default_factory=list)

    @property
    def records(self) -> int:
        """How many records have been dealt with."""
        done = (self.memories, self.links)
        return self.failed + sum(counts.created + counts.updated + counts.unchanged for counts in done)

    def fail(self, line: int, code: str, message: str) -> None:
        """Note a refused record."""
        self.failed += 1
        if len(self.failures) < MAX_KEPT_FAILURES:
            self.failures.append(ImportFailure(line, code, message))

    def as_json(self) -> dict[str, Any]:
        """The form in which every face shows it."""
        return asdict(self)
