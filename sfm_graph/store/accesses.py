"""How often and when last memories were recalled, in Postgres."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from sfm_graph.store.database import Database, Session


class AccessKey(NamedTuple):
    """What is counted by itself: a memory, and who recalled it; agent "" for one that does not say."""

    namespace_id: int
    memory_id: int
    agent: str


@dataclass(frozen=True, slots=True)
class Access:
    """`count` recalls, at least 1; the last of them at `last_at`."""

    count: int
    last_at: datetime


async def add(database: Database, accesses: Mapping[AccessKey, Access]) -> None:
    """Add to what is counted, by one statement in a transaction of its own; what is no memory any more is left out.

    Nothing that readers of changes wait for: no change, no commit's stamp. Raises Unavailable, DatabaseFailure.
    """
    keys = sorted(accesses)
    async with database.raw() as connection:
        await Session(connection).run(
            "accesses_add",
            namespace_ids=[key.namespace_id for key in keys],
            memory_ids=[key.memory_id for key in keys],
            agents=[key.agent for key in keys],
            counts=[accesses[key].count for key in keys],
            times=[accesses[key].last_at for key in keys],
        )


async def of_memories(session: Session, namespace_id: int, ids: Sequence[int]) -> dict[int, Access]:
    """The recalls of each memory by all agents together; one that was never recalled is missing."""
    rows = await session.rows("accesses_of", namespace_id=namespace_id, ids=list(ids))
    return {row[0]: Access(row[1], row[2]) for row in rows}
