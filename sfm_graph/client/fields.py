"""The named arguments of the memory system's methods."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, TypedDict

from sfm_graph.domain.memory import MemoryKind

MemoryType = MemoryKind

Json = dict[str, Any]
Reference = Sequence[float] | Mapping[str, Any] | str
Time = datetime | str


class MemoryFields(TypedDict, total=False):
    """What else a memory may be given. Times: datetime or ISO 8601, UTC without an offset.

    expires_at: when it is forgotten by itself. agent: who writes.
    """

    content: str | None
    title: str | None
    importance: float | None
    valid_from: Time | None
    valid_to: Time | None
    expires_at: Time | None
    agent: str | None
    embedding: Sequence[float] | None
    expected_version: int | None


class StoredFields(MemoryFields, total=False):
    """What an update may replace; None clears title, valid_from, valid_to and expires_at."""

    kind: MemoryKind | str
    payload: Mapping[str, Any]


class LinkFields(TypedDict, total=False):
    """What else a link may be given."""

    valid_from: Time | None
    valid_to: Time | None
    agent: str | None
    expected_version: int | None


class AsOf(TypedDict, total=False):
    """As of when something is read. valid_at: when it was true; listings without it give what is not valid too.

    known_at: when it was known, as far back as changes are kept. Each now by default.
    """

    valid_at: Time | None
    known_at: Time | None


class RecallOptions(AsOf, total=False):
    """How to recall. kind: one or several. hybrid: True by default; False searches by vectors alone.

    weights: how much each part counts, by the names of RecallWeights. near: a memory, or any coordinate, that hits
    should rather be near to. expand: up to so many linked memories come along. diversity: in [0, 1], how much
    likeness to better hits costs. fold: near-duplicates of a better hit are left out. rerank: True by default.
    """

    kind: MemoryKind | str | Sequence[MemoryKind | str] | None
    filters: Mapping[str, Any] | None
    hybrid: bool
    embedding: Sequence[float] | None
    weights: Mapping[str, Any] | None
    near: Any
    expand: int
    diversity: float
    fold: bool
    rerank: bool
