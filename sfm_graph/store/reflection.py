"""What reflection reads in Postgres. Every statement is bounded."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple

from sfm_graph.domain.identity import LinkId, MemoryId
from sfm_graph.domain.insights import Judged
from sfm_graph.store.database import Row, Session

MAX_OUTCOMES: Final = 1_000
MAX_RECENT: Final = 50
MAX_LINKS: Final = 100
# Superseded and ended memories whose links are looked at, the latest first.
MAX_ENDS: Final = 1_000
# These are about what was: they do not go stale.
_QUIET_TYPES: Final = (
    "supersedes", "contradicts", "derived_from", "predicted_from", "outcome_of", "evidenced_by", "copied_from",
    "duplicate_of", "next", "about",
)  # fmt: skip


class OldLink(NamedTuple):
    """A link that holds, and the end of it that does not; `by`: what supersedes that, None where it has just
    ended."""

    id: LinkId
    source: MemoryId
    target: MemoryId
    type: str
    end: MemoryId
    by: MemoryId | None


class Rivals(NamedTuple):
    """Links of a functional type out of one memory, by id, and their targets."""

    source: MemoryId
    type: str
    ids: Sequence[LinkId]
    targets: Sequence[MemoryId]


async def judged(session: Session, namespace_id: int, since: datetime) -> list[Judged]:
    """The latest outcomes, 1,000 at most, each with its prediction; those whose figures are none are left out."""
    rows = await session.rows("reflection_outcomes", namespace_id=namespace_id, since=since, limit=MAX_OUTCOMES)
    return [one for row in rows if (one := _judged(row)) is not None]


def _judged(row: Row) -> Judged | None:
    outcome, properties, prediction, payload = row
    error, method = properties.get("error"), payload.get("method", "caller")
    if isinstance(error, bool) or not isinstance(error, int | float) or not 0 <= error <= 1:
        return None
    model = payload.get("model")
    name = f"{method} {model}" if isinstance(model, str) else f"{method}"
    return Judged(outcome, prediction, name[:200], float(error))


async def recent(session: Session, namespace_id: int, since: datetime) -> list[MemoryId]:
    """The latest episodes, 50 at most."""
    rows = await session.rows("reflection_recent", namespace_id=namespace_id, since=since, limit=MAX_RECENT)
    return [row[0] for row in rows]


async def stale(session: Session, namespace_id: int, now: datetime) -> list[OldLink]:
    """Links that hold though an end of them does not, up to 100 for each reason."""
    bounds = {"now": now, "ends": MAX_ENDS, "limit": MAX_LINKS, "quiet": list(_QUIET_TYPES)}
    superseded = await session.rows("reflection_superseded", namespace_id=namespace_id, **bounds)
    ended = await session.rows("reflection_ended", namespace_id=namespace_id, **bounds)
    found = {row[0]: OldLink(*row) for row in superseded}
    return [*found.values(), *(OldLink(*row) for row in ended if row[0] not in found)]


async def contradicting(
    session: Session, namespace_id: int, now: datetime
) -> list[tuple[LinkId, MemoryId, MemoryId]]:
    """Links of type `contradicts`, the latest 100: id and ends."""
    rows = await session.rows("reflection_contradicting", namespace_id=namespace_id, now=now, limit=MAX_LINKS)
    return [(id_, source, target) for id_, source, target in rows]


async def rivals(session: Session, namespace_id: int, types: Sequence[str], now: datetime) -> list[Rivals]:
    """Memories with several links of a functional type at once, up to 100."""
    if not types:
        return []
    rows = await session.rows(
        "reflection_functional", namespace_id=namespace_id, types=list(types), now=now, limit=MAX_LINKS
    )
    return [Rivals(*row) for row in rows]
